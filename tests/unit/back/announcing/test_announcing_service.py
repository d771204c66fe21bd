"""Our announcements: stored before anybody hears, said once, and never with an older timestamp."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.announcements import SCID, public_channel, ready_channel
from support.channels import Keys
from support.waiting import until

from back.announcing.nodes import OurNode
from back.announcing.service import REPEAT_S, Announcing
from back.announcing.updates import DISABLE, DONT_FORWARD, REFRESH_S, Terms
from back.channel.model import Channel, Link, Phase
from back.channel.policy import channel_type_bits
from back.storage.announcements import load_node
from back.storage.relay_fees import SetFees
from back.storage.statements import Write
from back.storage.store import NODE_SHARD
from back.transactions.commitment import CommitmentType
from shared.crypto.signature import public_key, sign_compact
from shared.errors import LeaseLost, StorageUnavailable
from shared.fabric.subjects import shard
from shared.features import FeatureSet
from shared.gossip.record import Change, Kind
from shared.gossip.signed import digest, verify
from shared.gossip.view import node_view, update_view
from shared.units import ShortChannelId
from shared.wire import ChannelUpdate, Message, decode, encode

NODE_ID = public_key(Keys("opener").node)
TERMS = Terms(disable_after_s=600.0)
START = 1_700_000_000


@dataclass(eq=False)
class Runner:
    """A channel's end as the service sees it; ``sent`` is what its peer got."""

    channel: Channel
    session: object = field(default_factory=object)
    sent: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)


@dataclass
class World:
    """A node around the service: its clocks, its database, its graph.

    Attributes:
        updates, node: as stored.
        rows: of the tables that are read with a query, by table and key.
        commits: the shards of every commit.
        failure: what the database answers with.
        told: what the graph got, in order.
    """

    runners: dict[bytes, Runner] = field(default_factory=dict)
    now: float = 50.0
    unix: float = START
    updates: dict[int, bytes] = field(default_factory=dict)
    node: bytes | None = None
    rows: dict[str, dict[object, dict[str, object]]] = field(default_factory=dict)
    commits: list[int] = field(default_factory=list)
    failure: Exception | None = None
    told: list[Change] = field(default_factory=list)
    alias: str = "squall"

    def add(self, channel: Channel) -> Runner:
        runner = self.runners[channel.channel_id] = Runner(channel)
        return runner

    async def submit(self, shards: int | set[int], writes: Sequence[Write] = ()) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.commits += [shards] if isinstance(shards, int) else sorted(shards)
        for write in writes:
            values = dict(write.values)
            match write.statement.table.name:
                case "own_node":
                    assert shards == NODE_SHARD
                    assert isinstance(values["raw"], bytes)
                    self.node = values["raw"]
                case table:
                    key = values[write.statement.order]
                    self.rows.setdefault(table, {})[key] = values
                    if table == "own_updates":
                        self.updates[int(str(key))] = values["raw"]  # type: ignore[assignment]

    async def read(self, query: Callable[[Any], Any]) -> Any:
        return self.node if query is load_node else query(self)

    def execute(self, statement: Any) -> list[SimpleNamespace]:
        """Answer the queries of a start."""
        text = str(statement)
        if "own_updates" in text:
            before = self.rows.get("own_updates", {})
            return [
                SimpleNamespace(
                    **{"former": "[]", **before.get(key, {}), "key_index": key, "raw": raw}
                )
                for key, raw in self.updates.items()
            ]
        (table,) = (name for name in ("peer_fees", "channel_fees") if name in text)
        rows = self.rows.get(table, {}).values()
        return [SimpleNamespace(**row) for row in rows if "fee_base_msat" in row]

    def announce_own(self, changes: Iterable[Change]) -> None:
        for change in changes:
            # Persist before you speak.
            if change.kind is Kind.NODE:
                assert change.value == self.node
            elif change.kind is Kind.UPDATE and change.value is not None:
                assert change.value in self.updates.values() or not is_ours(change.value)
            self.told.append(change)

    def sign(self, message: Any) -> Any:
        signature = sign_compact(Keys("opener").node, digest(encode(message)))
        return message.model_copy(update={"signature": signature})

    def service(self) -> Announcing:
        store = SimpleNamespace(
            read=self.read,
            lease=SimpleNamespace(shards=(0,)),
            committer=SimpleNamespace(submit=self.submit),
        )
        signer = SimpleNamespace(sign_channel_update=self.sign, sign_node_announcement=self.sign)
        node = OurNode.of(NODE_ID, self.alias, "#000000", FeatureSet(), ("192.0.2.1",))
        return Announcing(
            store,  # type: ignore[arg-type]
            signer,  # type: ignore[arg-type]
            self.runners,  # type: ignore[arg-type]
            self,
            node,
            TERMS,
            monotonic=lambda: self.now,
            unix=lambda: self.unix,
        )

    @asynccontextmanager
    async def running(self):
        """The service with its first look done; ``look`` is what its task does each second."""
        service = self.service()
        service._run = self.nothing  # type: ignore[method-assign]
        await service.start()
        look = Look(self, service)
        await look()
        yield look
        await service.stop()

    async def nothing(self) -> None:
        """In place of the task: tests look themselves."""

    def last(self, kind: Kind) -> Any:
        return next(change for change in reversed(self.told) if change.kind is kind)


@dataclass
class Look:
    world: World
    service: Announcing

    async def __call__(self, seconds: float = 0.0) -> list[Change]:
        """Let time go by and look at all channels; return what the graph got."""
        self.world.now += seconds
        self.world.unix += seconds
        before = len(self.world.told)
        await self.service.look(list(self.world.runners.values()))  # type: ignore[arg-type]
        return self.world.told[before:]


def is_ours(raw: object) -> bool:
    assert isinstance(raw, bytes)
    return verify(raw, NODE_ID)


def changed(runner: Runner, **changes: Any) -> None:
    runner.channel = replace(runner.channel, **changes)


async def test_a_public_channel_is_announced_and_told_to_its_peer() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        assert [change.kind for change in world.told] == [Kind.CHANNEL, Kind.UPDATE, Kind.NODE]
        raw = world.updates[5]
        assert world.told[1].value == raw
        assert is_ours(raw)
        assert update_view(raw).timestamp == START
        assert runner.sent == [decode(raw)]
        assert world.told[2].value == world.node
        assert verify(world.node or b"")
        assert world.commits == [shard(runner.channel.parameters.node_id), NODE_SHARD]
        # Said once.
        assert await look(60) == []
        assert len(runner.sent) == 1


async def test_a_private_channel_is_told_to_its_peer_only() -> None:
    world = World()
    runner = world.add(ready_channel(remote_alias=77))
    async with world.running():
        assert world.told == []
        (update,) = runner.sent
        assert isinstance(update, ChannelUpdate)
        assert update.short_channel_id == 77
        assert update.message_flags & DONT_FORWARD
        assert world.node is None


async def test_payments_in_a_channel_cost_no_look() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        commits = len(world.commits)
        for _ in range(3):
            changed(runner, local_msat=runner.channel.local_msat - 1)
            assert await look(1) == []
        assert len(world.commits) == commits


async def test_each_connection_brings_the_peer_our_update_but_no_new_one() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        changed(runner, link=Link.OFFLINE)
        await look(5)
        runner.session = object()
        changed(runner, link=Link.ONLINE)
        assert await look(5) == []
        assert len(runner.sent) == 2
        assert runner.sent[0] == runner.sent[1]
        # Away and back between two looks.
        runner.session = object()
        changed(runner)
        await look(5)
        assert len(runner.sent) == 3


async def test_a_peer_that_is_away_for_long_is_disabled_and_enabled_when_it_is_back() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        changed(runner, link=Link.OFFLINE)
        assert await look(1) == []
        assert await look(TERMS.disable_after_s - 1) == []
        (_, told) = await look(1)
        assert isinstance(told.value, bytes)
        assert update_view(told.value).is_disabled
        assert await look(3000) == []
        changed(runner, link=Link.ONLINE)
        (_, told) = await look(1)
        assert isinstance(told.value, bytes)
        assert not update_view(told.value).is_disabled


# --- terms ------------------------------------------------------------------------------------

CHEAP = SetFees(fee_base_msat=1, fee_proportional_millionths=2, cltv_expiry_delta=40)


def accepted(look: "Look", runner: Runner) -> list[int]:
    """Base fees that HTLCs may pay now."""
    terms = look.service.accepted(runner.channel, look.world.unix)
    return [each.fee_base_msat for each in terms]


async def test_other_fees_are_stored_then_announced_at_once_and_the_former_hold_on() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        assert accepted(look, runner) == [1_000]
        await look.service.set_channel_fees([runner], CHEAP)  # type: ignore[list-item]
        assert world.rows["channel_fees"][5]["fee_base_msat"] == 1
        assert accepted(look, runner) == [1_000], "nobody has heard of the new terms"
        (_, told) = await look(1)
        assert isinstance(told.value, bytes)
        view = update_view(told.value)
        assert (view.fee_base_msat, view.fee_proportional_millionths) == (1, 2)
        assert view.cltv_expiry_delta == 40
        assert runner.sent[-1] == decode(told.value)
        # The new terms take whatever pays the former ones.
        assert accepted(look, runner) == [1]
        await look.service.set_channel_fees([runner], SetFees(5_000, 0))  # type: ignore[list-item]
        await look(1)
        assert accepted(look, runner) == [5_000, 1, 1_000]
        assert runner.sent[-1].cltv_expiry_delta == 40, "not named, so as before"  # type: ignore[attr-defined]
        await look(TERMS.grace_s - 1)
        assert accepted(look, runner) == [5_000, 1]
        await look(1)
        assert accepted(look, runner) == [5_000]


async def test_a_channels_fees_count_before_its_peers_and_those_before_the_default() -> None:
    world = World()
    runner = world.add(public_channel(5))
    other = world.add(public_channel(6))
    node_id = runner.channel.parameters.node_id
    async with world.running() as look:

        def bases() -> list[int]:
            return [each.sent[-1].fee_base_msat for each in (runner, other)]  # type: ignore[attr-defined]

        await look.service.set_peer_fees([node_id], SetFees(7, 7))
        await look(1)
        assert bases() == [7, 7]
        await look.service.set_channel_fees([runner], SetFees(8, 8, 30))  # type: ignore[list-item]
        await look.service.set_peer_fees([node_id], SetFees(9, 9, 50))
        await look(1)
        assert bases() == [8, 9]
        await look.service.set_channel_fees([runner], None)  # type: ignore[list-item]
        await look(1)
        assert bases() == [9, 9]
        await look.service.set_peer_fees([node_id], None)
        await look(1)
        assert bases() == [1_000, 1_000]
        # What is set for a peer holds for the channels that it will have.
        await look.service.set_peer_fees([node_id], SetFees(7, 7))
        late = world.add(public_channel(7))
        await look(1)
        assert late.sent[-1].fee_base_msat == 7  # type: ignore[attr-defined]


async def test_fees_and_the_grace_of_the_former_ones_outlive_a_restart() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        await look.service.set_channel_fees([runner], SetFees(5_000, 0))  # type: ignore[list-item]
        await look(1)
    world.now, world.unix = 0.0, world.unix + 300
    signed = world.updates[5]
    async with world.running() as look:
        assert world.updates[5] == signed
        assert accepted(look, runner) == [5_000, 1_000]
        await look(300)
        assert accepted(look, runner) == [5_000]


async def test_terms_are_known_as_soon_as_they_are_loaded() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        await look.service.set_channel_fees([runner], SetFees(5_000, 0))  # type: ignore[list-item]
        await look(1)
    service = world.service()
    await service.load()
    terms = service.accepted(runner.channel, world.unix)
    assert [each.fee_base_msat for each in terms] == [5_000, 1_000]
    assert service.own_update(runner.channel) == world.updates[5]


async def test_fees_that_cannot_be_stored_do_not_hold() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        world.failure = StorageUnavailable("away")
        with pytest.raises(StorageUnavailable):
            await look.service.set_channel_fees([runner], CHEAP)  # type: ignore[list-item]
        world.failure = None
        assert await look(1) == []
        assert accepted(look, runner) == [1_000]


async def test_an_update_that_cannot_be_stored_leaves_the_former_terms() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        await look.service.set_channel_fees([runner], SetFees(5_000, 0))  # type: ignore[list-item]
        world.failure = StorageUnavailable("away")
        await look(1)
        assert accepted(look, runner) == [1_000]
        world.failure = None
        await look(1)
        assert accepted(look, runner) == [5_000, 1_000]


async def test_a_channel_that_nothing_can_be_said_of_has_the_terms_that_would_be() -> None:
    world = World()
    hidden = ready_channel(5, remote_alias=None)
    bits = channel_type_bits(CommitmentType.STATIC_REMOTEKEY, scid_alias=True)
    runner = world.add(replace(hidden, parameters=replace(hidden.parameters, channel_type=bits)))
    unready = world.add(ready_channel(6, is_channel_ready_received=False, channel_id=bytes(32)))
    async with world.running() as look:
        assert runner.sent == []
        assert accepted(look, runner) == [1_000]
        assert accepted(look, unready) == []


# --- the balance --------------------------------------------------------------------------------


def maximum(runner: Runner) -> int:
    return runner.sent[-1].htlc_maximum_msat  # type: ignore[attr-defined, no-any-return]


async def test_htlc_maximum_follows_the_balance_once_in_a_while() -> None:
    world = World()
    runner = world.add(public_channel(5))
    remote = runner.channel.parameters.remote
    assert remote is not None
    most = runner.channel.parameters.funding_satoshis * 1000
    most -= remote.channel_reserve_satoshis * 1000
    async with world.running() as look:
        assert maximum(runner) == most // 2
        changed(runner, local_msat=100_000_000)
        assert await look(1) == [], "not yet"
        assert await look(TERMS.maximum_every_s - 2) == []
        # It was looked at before, and nothing has changed since.
        (_, told) = await look(1)
        assert isinstance(told.value, bytes)
        assert maximum(runner) == most >> 4
        former = [each.htlc_maximum_msat for each in look.service.accepted(runner.channel, 0)]
        assert former == [most >> 4, most // 2]
        # Any other reason takes the balance along.
        changed(runner, local_msat=most)
        await look.service.set_channel_fees([runner], CHEAP)  # type: ignore[list-item]
        await look(1)
        assert maximum(runner) == most


async def test_the_balance_of_a_private_channel_is_followed_too() -> None:
    world = World()
    runner = world.add(ready_channel(5, remote_alias=77))
    async with world.running() as look:
        before = maximum(runner)
        changed(runner, local_msat=1_000_000)
        await look(1)
        await look(TERMS.maximum_every_s)
        assert maximum(runner) < before


async def test_a_restart_is_no_reason_to_tell_the_balance_sooner() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running():
        pass
    changed(runner, local_msat=1_000_000)
    world.now, world.unix = 0.0, world.unix + 60
    signed = world.updates[5]
    async with world.running() as look:
        assert world.updates[5] == signed
        await look(TERMS.maximum_every_s - 61)
        assert world.updates[5] == signed
        await look(2)
        assert world.updates[5] != signed


async def test_a_clock_that_went_back_years_neither_stops_nor_speeds_it() -> None:
    world = World()
    runner = world.add(public_channel(5))
    async with world.running() as look:
        world.unix -= 100_000_000
        changed(runner, local_msat=1_000_000)
        await look(1)
        before = len(runner.sent)
        await look(TERMS.maximum_every_s)
        assert len(runner.sent) == before + 1
        changed(runner, local_msat=900_000_000)
        await look(1)
        assert len(runner.sent) == before + 1


async def test_a_restart_signs_nothing_again_and_announces_what_is_stored() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running():
        pass
    updates, node = dict(world.updates), world.node
    world.told.clear()
    runner.sent.clear()
    world.now, world.unix = 0.0, world.unix + 60
    async with world.running():
        assert (world.updates, world.node) == (updates, node)
        assert [change.value for change in world.told[1:]] == [updates[0], node]
        assert runner.sent == [decode(updates[0])]


async def test_a_restart_leaves_a_peer_that_is_away_as_it_was() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        changed(runner, link=Link.OFFLINE)
        await look(1)
        await look(TERMS.disable_after_s)
    disabled = dict(world.updates)
    assert update_view(disabled[0]).is_disabled
    async with world.running() as look:
        assert world.updates == disabled
        await look(3600)
        assert world.updates == disabled


async def test_the_clock_may_go_back_and_timestamps_do_not() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running():
        first = update_view(world.updates[0]).timestamp
    world.unix -= 1_000_000
    world.alias = "renamed"
    node = node_view(world.node or b"").timestamp
    changed(runner, is_shutdown_sent=True)
    async with world.running():
        assert update_view(world.updates[0]).timestamp == first + 1
        assert node_view(world.node or b"").timestamp == node + 1


async def test_updates_are_refreshed_before_others_forget_the_channel() -> None:
    world = World()
    world.add(public_channel())
    async with world.running() as look:
        first, node = world.updates[0], world.node
        await look(REFRESH_S - 1)
        assert (world.updates[0], world.node) == (first, node)
        told = await look(1)
        assert [change.kind for change in told] == [Kind.CHANNEL, Kind.UPDATE, Kind.NODE]
        assert world.updates[0] != first
        assert world.node != node


async def test_the_graph_is_given_again_what_it_should_have() -> None:
    world = World()
    world.add(public_channel())
    world.add(ready_channel(1))
    async with world.running() as look:
        stored = dict(world.updates)
        first = list(world.told)
        assert await look(REPEAT_S - 1) == []
        assert await look(1) == first[:2]
        assert await look(1) == []
        look.service.repeat()
        assert await look(1) == first
        assert await look(1) == []
        assert world.updates == stored


async def test_nothing_is_said_that_is_not_stored() -> None:
    world = World(failure=StorageUnavailable("away"))
    runner = world.add(public_channel())
    async with world.running() as look:
        assert world.told == []
        assert runner.sent == []
        world.failure = None
        assert len(await look(1)) == 3
        assert len(runner.sent) == 1


async def test_whoever_has_lost_the_lease_says_nothing_more() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        runner.session = object()
        changed(runner)
        world.failure = LeaseLost((0,))
        with pytest.raises(LeaseLost):
            await look(1)
        assert len(runner.sent) == 1


async def test_a_closing_channel_is_disabled_and_a_closed_one_forgotten() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        changed(runner, phase=Phase.NEGOTIATING, is_shutdown_sent=True)
        (_, told) = await look(1)
        assert isinstance(told.value, bytes)
        assert update_view(told.value).channel_flags & DISABLE
        changed(runner, phase=Phase.CLOSING)
        assert [change.kind for change in await look(1)] == [Kind.UPDATE]
        world.runners.clear()
        service = look.service
        service._forget_gone()
        assert service._known == {}


async def test_a_reorg_takes_the_old_place_back() -> None:
    world = World()
    runner = world.add(public_channel())
    async with world.running() as look:
        funding = runner.channel.funding
        assert funding is not None
        moved = replace(funding, short_channel_id=ShortChannelId(102, 3, 0).pack())
        changed(runner, funding=moved, channel_announcement=None)
        told = await look(1)
        gone = [change.key for change in told if change.value is None]
        assert gone == [SCID << 1, SCID << 1 | 1, SCID]
        assert len(told) == 3


async def test_what_cannot_be_read_is_made_again() -> None:
    world = World(node=b"garbage")
    world.updates[0] = b"\1\2garbage"
    world.add(public_channel())
    async with world.running():
        assert is_ours(world.updates[0])
        assert verify(world.node or b"")


async def test_a_bug_in_one_channel_keeps_no_other_from_being_announced() -> None:
    world = World()
    broken = world.add(public_channel(1))
    world.add(public_channel(2))
    broken.send = None  # type: ignore[assignment]
    async with world.running():
        assert 2 in world.updates
        assert [change.kind for change in world.told][:2] == [Kind.CHANNEL, Kind.UPDATE]


async def test_the_task_looks_at_once_at_what_it_is_told_of() -> None:
    world = World()
    service = world.service()
    await service.start()
    try:
        await asyncio.sleep(0)
        runner = world.add(public_channel())
        service.changed(runner)  # type: ignore[arg-type]
        await until(lambda: bool(runner.sent), "our update", 0.9)
    finally:
        await service.stop()
