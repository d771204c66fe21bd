"""``squall tap``: what it asks the broker for."""

import pytest

from back.tap import Filter
from shared.errors import CommandError
from shared.fabric import subjects

PEER = b"\x03" + b"\x22" * 32
CHANNEL = b"\x44" * 32


def test_a_tap_hears_everything_by_default() -> None:
    assert Filter().subjects == ("ln.in.*.*.*.*", "ln.out.*.*.*.*")


def test_each_part_of_a_filter_narrows_it() -> None:
    wanted = Filter(PEER.hex(), CHANNEL.hex(), "update_fee")
    tail = f"{PEER.hex()}.{CHANNEL.hex()}.update_fee"
    assert wanted.subjects == (f"ln.in.*.{tail}", f"ln.out.*.{tail}")
    sent = subjects.outbound("f1", PEER, CHANNEL, "update_fee").split(".")
    asked = wanted.subjects[1].split(".")
    assert all(want in {"*", got} for want, got in zip(asked, sent, strict=True))


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(peer="*"),
        Filter(peer="02ab"),
        Filter(peer="xyz"),
        Filter(channel=">"),
        Filter(channel="44" * 31),
        Filter(message="update.fee"),
        Filter(message="*"),
    ],
    ids=str,
)
def test_a_filter_that_names_nothing_is_refused(wanted: Filter) -> None:
    with pytest.raises(CommandError, match="nothing like that"):
        _ = wanted.subjects
