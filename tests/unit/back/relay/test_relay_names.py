"""Which channel a payer means (BOLT 2 § channel_ready, BOLT 4)."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from support.channels import opened, secret

from back.channel.model import Channel, Funding
from back.channel.policy import channel_type_bits
from back.relay.names import REBUILT_S, Names, names_of
from back.transactions.commitment import CommitmentType
from shared.chain import Outpoint

REAL, ALIAS = (100 << 40) | (1 << 16), 0xDEAD_BEEF_0000_0001


def channel(number: int = 0, *, scid_alias: bool = False, **changed: Any) -> Channel:
    made = opened()[0]
    kind = channel_type_bits(CommitmentType.ANCHORS_ZERO_FEE_HTLC, scid_alias=scid_alias)
    funding = Funding(Outpoint(secret(number), 0), short_channel_id=REAL + number)
    values: dict[str, Any] = {
        "channel_id": secret("id", number),
        "parameters": replace(made.parameters, channel_type=kind),
        "funding": funding,
        "local_alias": ALIAS + number,
    }
    return replace(made, **(values | changed))


def runner(given: Channel) -> Any:
    return SimpleNamespace(channel=given)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_channel_goes_by_its_alias_and_its_real_name() -> None:
    assert set(names_of(channel())) == {REAL, ALIAS}


def test_a_channel_that_hides_behind_its_alias_has_no_other_name() -> None:
    assert set(names_of(channel(scid_alias=True))) == {ALIAS}


def test_a_channel_that_is_not_confirmed_goes_by_its_alias() -> None:
    unconfirmed = Funding(Outpoint(secret("f"), 0))
    assert set(names_of(channel(funding=unconfirmed))) == {ALIAS}


def test_every_channel_is_found_by_each_of_its_names() -> None:
    first, second = runner(channel(1)), runner(channel(2, scid_alias=True))
    names = Names({r.channel.channel_id: r for r in (first, second)})
    assert names.find(REAL + 1) is first
    assert names.find(ALIAS + 1) is first
    assert names.find(ALIAS + 2) is second
    assert names.find(REAL + 2) is None


def test_unknown_names_do_not_make_it_look_at_every_channel_each_time() -> None:
    looks = 0

    class Runners(dict[bytes, Any]):
        def values(self) -> Any:
            nonlocal looks
            looks += 1
            return super().values()

    clock = Clock()
    one = runner(channel())
    names = Names(Runners({one.channel.channel_id: one}), monotonic=clock)
    for number in range(1_000):
        assert names.find(number) is None
    assert looks == 1
    assert names.find(REAL) is one
    clock.now += REBUILT_S
    assert names.find(1) is None
    assert looks == 2


def test_a_new_channel_is_found_within_a_second_and_a_closed_one_at_once_no_more() -> None:
    clock = Clock()
    one, new = runner(channel(1)), runner(channel(2))
    runners = {one.channel.channel_id: one}
    names = Names(runners, monotonic=clock)
    assert names.find(REAL + 1) is one
    runners[new.channel.channel_id] = new
    clock.now += REBUILT_S
    assert names.find(REAL + 2) is new
    del runners[one.channel.channel_id]
    assert names.find(REAL + 1) is None


def test_a_name_that_a_reorg_took_away_is_none_any_more() -> None:
    clock = Clock()
    one = runner(channel())
    names = Names({one.channel.channel_id: one}, monotonic=clock)
    assert names.find(REAL) is one
    moved = replace(one.channel.funding, short_channel_id=REAL + 7)
    one.channel = replace(one.channel, funding=moved)
    assert names.find(REAL) is None
    clock.now += REBUILT_S
    assert names.find(REAL + 7) is one
