"""The node's seed: one file, its only copy until the operator makes another.

The file has one line: a BIP 39 mnemonic (what the first start writes), or 32 or 64 bytes in hex
(64: the seed of a mnemonic with a passphrase). Lines that start with ``#`` are comments. It must
not be readable by others.
"""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from embit import bip39

from shared.errors import SeedRefused

__all__ = ["create_seed", "load_or_create_seed", "load_seed", "seed_from_mnemonic"]

ENTROPY_BYTES = 32
SEED_SIZES = (32, 64)
MAX_FILE_BYTES = 4096
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_COMMENT = "# Seed of a Squall node (BIP 39). Whoever reads it can take all its money.\n"


def seed_from_mnemonic(mnemonic: str, passphrase: str = "") -> bytes:
    """The 64-byte seed of a BIP 39 mnemonic of 12 to 24 English words.

    Raises:
        SeedRefused: a word or the checksum is wrong. The words are not repeated.
    """
    words = _words(mnemonic)
    if not bip39.mnemonic_is_valid(words):
        raise SeedRefused("not a BIP 39 mnemonic: a word or the checksum is wrong")
    seed: bytes = bip39.mnemonic_to_seed(words, passphrase)
    return seed


def _words(mnemonic: str) -> str:
    return " ".join(mnemonic.lower().split())


def load_or_create_seed(
    path: Path, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> bytes:
    """Return the seed in ``path``; at the first start make it there, as a mnemonic of 24 words.

    Raises:
        SeedRefused: the file is there and not to be used.
    """
    try:
        return load_seed(path)
    except FileNotFoundError:
        pass
    try:
        return create_seed(path, bip39.mnemonic_from_bytes(random_bytes(ENTROPY_BYTES)))
    except FileExistsError:
        # Another process was faster: its seed counts.
        return load_seed(path)


def load_seed(path: Path) -> bytes:
    """Read a seed file.

    Raises:
        FileNotFoundError: there is none.
        SeedRefused: others may read or write it, or it holds no seed.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise SeedRefused(f"{path} is not a regular file")
        if mode & OTHERS:
            raise SeedRefused(
                f"{path} has mode {stat.S_IMODE(mode):04o}: others may read or write it; chmod 600"
            )
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise SeedRefused(f"{path} is too long for a seed file")
    return _parse(content, path)


def create_seed(path: Path, mnemonic: str, passphrase: str = "") -> bytes:
    """Write a seed file with mode 0600: whole and durable, or not at all; never over another.

    Raises:
        FileExistsError: there is a file.
        SeedRefused: not a mnemonic.
    """
    seed = seed_from_mnemonic(mnemonic, passphrase)
    line = seed.hex() if passphrase else _words(mnemonic)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{_COMMENT}{line}\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails where the name is taken.
        os.link(draft, path)
    finally:
        draft.unlink()
    _sync_folder(path.parent)
    return seed


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(content: bytes, path: Path) -> bytes:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise SeedRefused(f"{path} is not a text file") from None
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) != 1:
        raise SeedRefused(f"{path} has {len(lines)} lines with a seed, not one")
    if " " in lines[0]:
        return seed_from_mnemonic(lines[0])
    try:
        secret = bytes.fromhex(lines[0])
    except ValueError:
        secret = b""
    if len(secret) not in SEED_SIZES:
        raise SeedRefused(f"{path} has neither a mnemonic nor 32 or 64 bytes in hex")
    return secret
