"""updaterelayfee over HTTP: what is set, for whom, and what the caller hears."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.api import Api, api_of
from support.payment_nodes import Pair, pair_of_nodes

from back.storage.relay_fees import SetFees, load_fees
from back.storage.store import ALL_SHARDS
from shared.errors import StorageUnavailable

NOBODY = "02" + "ab" * 32
FEES = {"feeBaseMsat": 4_200, "feeProportionalMillionths": 123_456}


@dataclass
class Rig:
    """A node with one channel, and its API."""

    pair: Pair
    api: Api

    @property
    def peer(self) -> str:
        return self.pair.bob.node_id.hex()

    @property
    def channel_id(self) -> str:
        return self.pair.alice.channel().channel_id.hex()

    async def announced(self) -> dict[str, Any]:
        """What is announced, once it was looked at."""
        await self.api.node.announcing.look(list(self.pair.alice.channels.runners.values()))
        [shown] = await self.api.call("channels")
        update: dict[str, Any] = shown["data"]["channelUpdate"]
        return update

    async def stored(self) -> Any:
        return await self.pair.alice.store.read(lambda c: load_fees(c, ALL_SHARDS))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with pair_of_nodes(tmp_path) as pair, api_of(pair.alice) as api:
        yield Rig(pair, api)


async def test_a_channel_shows_what_we_take_once_that_is_announced(rig: Rig) -> None:
    [before] = await rig.api.call("channels")
    assert "channelUpdate" not in before["data"]
    update = await rig.announced()
    assert update["feeBaseMsat"] == 1_000
    assert update["feeProportionalMillionths"] == 200
    assert update["cltvExpiryDelta"] == 144
    one = await rig.api.call("channel", channelId=rig.channel_id)
    assert one["data"]["channelUpdate"] == update


async def test_fees_of_a_peer_hold_in_its_channels_and_are_kept(rig: Rig) -> None:
    answer = await rig.api.call("updaterelayfee", nodeId=rig.peer, **FEES)
    assert answer == {rig.channel_id: "ok"}
    update = await rig.announced()
    assert {name: update[name] for name in FEES} == FEES
    assert update["cltvExpiryDelta"] == 144
    assert (await rig.stored()).peers == {rig.pair.bob.node_id: SetFees(4_200, 123_456)}


async def test_fees_may_be_set_for_peers_that_have_no_channel_yet(rig: Rig) -> None:
    answer = await rig.api.call("updaterelayfee", nodeIds=f"{NOBODY},{NOBODY}", **FEES)
    assert answer == {}
    assert (await rig.stored()).peers == {bytes.fromhex(NOBODY): SetFees(4_200, 123_456)}


async def test_fees_of_a_channel_count_before_its_peers_until_they_are_reset(rig: Rig) -> None:
    await rig.api.call("updaterelayfee", nodeId=rig.peer, **FEES)
    answer = await rig.api.call(
        "updaterelayfee",
        channelIds=f"{rig.channel_id},{'ab' * 32}",
        feeBaseMsat=1,
        feeProportionalMillionths=2,
        cltvExpiryDelta=40,
    )
    assert answer == {rig.channel_id: "ok", "ab" * 32: f"channel {'ab' * 32} not found"}
    update = await rig.announced()
    assert (update["feeBaseMsat"], update["cltvExpiryDelta"]) == (1, 40)
    answer = await rig.api.call("updaterelayfee", shortChannelId="100x0x0", reset="true")
    assert answer == {"100x0x0": "ok"}
    update = await rig.announced()
    assert (update["feeBaseMsat"], update["cltvExpiryDelta"]) == (4_200, 144)
    await rig.api.call("updaterelayfee", nodeId=rig.peer, reset="true")
    assert (await rig.announced())["feeBaseMsat"] == 1_000
    stored = await rig.stored()
    assert (stored.peers, stored.channels) == ({}, {})


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (FEES, "Give either 'nodeId' (or 'nodeIds') or 'channelId'"),
        ({"nodeId": NOBODY, "channelId": "ab" * 32, **FEES}, "Give either"),
        ({"nodeId": NOBODY}, "missing required form field 'feeBaseMsat'"),
        ({"nodeId": NOBODY, "feeBaseMsat": 1}, "'feeProportionalMillionths'"),
        ({"nodeId": NOBODY, **FEES, "feeBaseMsat": -1}, "'feeBaseMsat' was malformed"),
        ({"nodeId": NOBODY, **FEES, "feeBaseMsat": 1 << 32}, "'feeBaseMsat' was malformed"),
        ({"nodeId": NOBODY, **FEES, "cltvExpiryDelta": 17}, "'cltvExpiryDelta' was malformed"),
        ({"nodeId": NOBODY, **FEES, "reset": "true"}, "either fees or 'reset'"),
        ({"nodeId": "05" * 33, **FEES}, "begins with 02 or 03"),
    ],
)
async def test_what_makes_no_sense_is_refused(rig: Rig, form: dict[str, Any], why: str) -> None:
    assert why in await rig.api.refused("updaterelayfee", **form)
    stored = await rig.stored()
    assert (stored.peers, stored.channels) == ({}, {})


async def test_while_the_database_is_away_nothing_changes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit(*_: object) -> None:
        raise StorageUnavailable("the database is away")

    monkeypatch.setattr(rig.pair.alice.store.committer, "submit", submit)
    why = await rig.api.refused("updaterelayfee", 503, nodeId=rig.peer, **FEES)
    assert "away" in why
    monkeypatch.undo()
    assert (await rig.announced())["feeBaseMsat"] == 1_000
