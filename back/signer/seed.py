"""The node's seed: made at the first start, or restored from a BIP 39 mnemonic.

The file holds the seed in hex: 32 random bytes, or the 64 bytes of a mnemonic. Losing it loses the
money; showing it gives the money away.
"""

import os
import secrets
import stat
from pathlib import Path

from embit import bip39

from shared.errors import CommandError

__all__ = ["create_seed", "load_or_create_seed", "load_seed", "seed_from_mnemonic"]

SIZES = (32, 64)


def load_or_create_seed(path: Path) -> bytes:
    """Return the seed in ``path``; at the first start make it there.

    Raises:
        CommandError: the file is readable by others, or not a seed.
    """
    if not path.exists():
        create_seed(path, secrets.token_bytes(32))
    return load_seed(path)


def create_seed(path: Path, seed: bytes) -> None:
    """Write a seed to a new file of mode 0600, durably.

    Raises:
        CommandError: something is there already: a seed is never overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # link, unlike rename, fails where the name is taken.
            os.link(draft, path)
        except FileExistsError:
            raise CommandError(f"{path} exists: a seed is never overwritten") from None
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_seed(path: Path) -> bytes:
    """Read the seed.

    Raises:
        CommandError: the file is readable by others, or not a seed.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise CommandError(f"{path} has mode {mode:o}: others may read the seed; chmod 600 it")
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except ValueError:
        raise CommandError(f"{path} does not hold a seed in hex") from None
    if len(seed) not in SIZES:
        raise CommandError(f"{path} holds {len(seed)} bytes, a seed has 32 or 64")
    return seed


def seed_from_mnemonic(words: str, passphrase: str = "") -> bytes:
    """Return the 64-byte seed of a BIP 39 mnemonic.

    Raises:
        CommandError: a word or the checksum is wrong.
    """
    normal = " ".join(words.split())
    try:
        seed: bytes = bip39.mnemonic_to_seed(normal, passphrase)
    except ValueError as error:
        raise CommandError(f"not a BIP 39 mnemonic: {error}") from None
    return seed
