"""The seed file: made once, kept private, never guessed."""

import os
import stat
from pathlib import Path

import pytest
from embit import bip39

from back.signer import seed as seeds
from back.signer.seed import create_seed, load_or_create_seed, load_seed, seed_from_mnemonic
from shared.errors import SeedRefused

ZOO = " ".join(["abandon"] * 11 + ["about"])
# The published BIP 39 vector (Trezor's list): 16 zero bytes, passphrase TREZOR.
TREZOR_SEED = (
    "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
    "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "seed"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_private_file_of_24_words(path: Path) -> None:
    seed = load_or_create_seed(path)
    assert mode(path) == 0o600
    words = path.read_text().splitlines()[-1]
    assert len(words.split()) == 24
    assert seed == seed_from_mnemonic(words) == load_seed(path)
    assert os.listdir(path.parent) == ["seed"]


def test_a_loose_umask_does_not_loosen_the_file(path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_seed(path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700


def test_the_second_start_reads_what_the_first_made(path: Path) -> None:
    assert load_or_create_seed(path) == load_or_create_seed(path)


def test_two_nodes_have_two_seeds(tmp_path: Path) -> None:
    assert load_or_create_seed(tmp_path / "a") != load_or_create_seed(tmp_path / "b")


def test_words_come_from_the_randomness(path: Path) -> None:
    load_or_create_seed(path, lambda size: b"\x07" * size)
    assert path.read_text().endswith(bip39.mnemonic_from_bytes(b"\x07" * 32) + "\n")


def test_a_mnemonic_gives_the_seed_of_the_bip_39_vector() -> None:
    assert seed_from_mnemonic(ZOO, "TREZOR").hex() == TREZOR_SEED
    assert seed_from_mnemonic(f"  {ZOO.upper()}\n", "TREZOR").hex() == TREZOR_SEED


@pytest.mark.parametrize("passphrase", ["", "TREZOR"])
def test_a_restored_mnemonic_is_read_back(path: Path, passphrase: str) -> None:
    seed = create_seed(path, ZOO, passphrase)
    assert seed == load_seed(path) == seed_from_mnemonic(ZOO, passphrase)
    assert mode(path) == 0o600


def test_a_seed_is_never_overwritten(path: Path) -> None:
    first = load_or_create_seed(path)
    with pytest.raises(FileExistsError):
        create_seed(path, ZOO)
    assert load_seed(path) == first
    assert os.listdir(path.parent) == ["seed"]


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o620, 0o601, 0o666, 0o644])
def test_a_file_that_others_may_touch_is_refused(path: Path, loose: int) -> None:
    load_or_create_seed(path)
    path.chmod(loose)
    with pytest.raises(SeedRefused, match=f"{loose:04o}"):
        load_or_create_seed(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing but a comment\n",
        b"abandon ability able\n",
        " ".join(["abandon"] * 12).encode(),
        f"{ZOO}\n{ZOO}".encode(),
        b"ab" * 31,
        b"ab" * 33,
        b"zz" * 32,
        b"\xff\xfe",
        b"#" * 5000,
    ],
)
def test_what_holds_no_seed_is_refused_and_not_repeated(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SeedRefused) as refused:
        load_seed(path)
    assert "abandon" not in str(refused.value)
    assert b"ab" * 8 not in str(refused.value).encode()


@pytest.mark.parametrize("size", [32, 64])
def test_a_seed_in_hex_is_read(path: Path, size: int) -> None:
    path.parent.mkdir()
    path.write_text("# restored\n\n" + "5a" * size + "\n")
    path.chmod(0o600)
    assert load_seed(path) == b"\x5a" * size


def test_a_folder_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises((SeedRefused, IsADirectoryError)):
        load_seed(path)


def test_the_slower_of_two_first_starts_takes_the_seed_of_the_faster(path: Path) -> None:
    faster: list[bytes] = []

    def overtaken(size: int) -> bytes:
        faster.append(create_seed(path, ZOO))
        return b"\x07" * size

    assert load_or_create_seed(path, overtaken) == faster[0]


def test_a_write_that_fails_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(seeds.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        load_or_create_seed(path)
    assert os.listdir(path.parent) == []


def test_the_file_and_its_folder_are_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(seeds.os, "fsync", noted)
    load_or_create_seed(path)
    assert synced == [False, True]
