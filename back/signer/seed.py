"""The node's seed: one file, its only copy until the operator makes another.

The file has one line: a BIP 39 mnemonic (what :func:`create` writes), or the 64-byte BIP 39 seed
in hex (for a mnemonic with a passphrase). Lines that start with ``#`` are comments. It must not be
readable by others.
"""

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from embit import bip39

from shared.errors import SeedRefused

__all__ = ["Seed", "create", "load", "load_or_create"]

ENTROPY_BYTES = 32
SEED_BYTES = 64
MAX_FILE_BYTES = 4096
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_COMMENT = "# Seed of a Squall node (BIP 39). Whoever reads it can take all its money.\n"


@dataclass(frozen=True, slots=True)
class Seed:
    """The 64 bytes that BIP 32 starts from."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_mnemonic(cls, mnemonic: str, passphrase: str = "") -> "Seed":
        """The seed of a BIP 39 mnemonic of 12 to 24 English words.

        Raises:
            SeedRefused: a word or the checksum is wrong. The words are not repeated.
        """
        words = " ".join(mnemonic.lower().split())
        if not bip39.mnemonic_is_valid(words):
            raise SeedRefused("not a BIP 39 mnemonic: a word or the checksum is wrong")
        return cls(bip39.mnemonic_to_seed(words, passphrase))


def load_or_create(
    path: Path, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[Seed, bool]:
    """Read the seed file; make it where there is none. Returns the seed and whether it is new.

    Raises:
        SeedRefused: the file is there and not to be used.
    """
    try:
        return load(path), False
    except FileNotFoundError:
        pass
    mnemonic = bip39.mnemonic_from_bytes(random_bytes(ENTROPY_BYTES))
    try:
        return create(path, mnemonic), True
    except FileExistsError:
        # Another process was faster: its seed counts.
        return load(path), False


def load(path: Path) -> Seed:
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


def create(path: Path, mnemonic: str, passphrase: str = "") -> Seed:
    """Write a seed file with mode 0600: whole and durable, or not at all; never over another.

    Raises:
        FileExistsError: there is a file.
        SeedRefused: not a mnemonic.
    """
    seed = Seed.from_mnemonic(mnemonic, passphrase)
    line = seed.secret.hex() if passphrase else " ".join(mnemonic.lower().split())
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


def _parse(content: bytes, path: Path) -> Seed:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise SeedRefused(f"{path} is not a text file") from None
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) != 1:
        raise SeedRefused(f"{path} has {len(lines)} lines with a seed, not one")
    if " " in lines[0]:
        return Seed.from_mnemonic(lines[0])
    try:
        secret = bytes.fromhex(lines[0])
    except ValueError:
        secret = b""
    if len(secret) != SEED_BYTES:
        raise SeedRefused(f"{path} has neither a mnemonic nor {SEED_BYTES} bytes in hex")
    return Seed(secret)
