"""Peers: whose message goes where, and how they are reached again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.channels import opened, secret
from support.openings import begun, funded
from support.waiting import until

from back import peer as peers_module
from back.channel.events import Connected as ChannelConnected, Disconnected, Event, Received
from back.channel.model import Channel
from back.peer import Peers
from shared.errors import CommandError, FabricUnavailable
from shared.fabric.envelope import Connected, Direction, Reason
from shared.fabric.requests import ConnectReply, ConnectRequest, read
from shared.features import Feature, FeatureSet
from shared.wire import (
    ChannelReestablish,
    ChannelUpdate,
    Error,
    FundingCreated,
    Init,
    Message,
    OpenChannel,
    Shutdown,
    Warning as WarningMessage,
)

ALICE = b"\x02" + b"\xaa" * 32
OURS = FeatureSet.of(optional=(Feature.option_anchors, Feature.option_static_remotekey))


@dataclass(eq=False)
class Session:
    """A connection."""

    peer: bytes = ALICE
    front: str = "front-1"
    sent: list[Message] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close(self, _reason: Reason, detail: str = "") -> None:
        self.closed.append(detail)


@dataclass(eq=False)
class Runner:
    """A channel's inbox."""

    channel: Channel
    posted: list[Event] = field(default_factory=list)
    session: Any = None

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def connect(self, session: Any, event: Event) -> None:
        self.session = session
        self.posted.append(event)


@dataclass
class Steward:
    """The node."""

    is_ours: bool = True
    proposals: list[Message] = field(default_factory=list)
    created: list[Message] = field(default_factory=list)
    remembered: int = 0
    asked: int = 0

    def open_received(self, _peer: Any, message: OpenChannel) -> None:
        self.proposals.append(message)

    def funding_created(self, _runner: Any, message: FundingCreated) -> None:
        self.created.append(message)

    def remember(self, _peer: Any) -> None:
        self.remembered += 1

    async def may_speak(self, _node_id: bytes) -> bool:
        self.asked += 1
        return self.is_ours


@dataclass
class Fabric:
    """Fronts that take orders.

    Attributes:
        orders: what they were asked.
        refuse: why they do not dial.
        is_empty: no front is up.
    """

    orders: list[ConnectRequest] = field(default_factory=list)
    refuse: str = ""
    is_empty: bool = False

    async def request(self, _subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        del timeout_s
        if self.is_empty:
            raise FabricUnavailable("nobody listens")
        order = read(ConnectRequest, payload)
        self.orders.append(order)
        reply = ConnectReply(
            dial_id=order.dial_id, front="front-1", accepted=not self.refuse, why=self.refuse
        )
        return reply.to_bytes()


@dataclass
class Rig:
    """Peers among fakes."""

    fabric: Fabric = field(default_factory=Fabric)
    steward: Steward = field(default_factory=Steward)
    peers: Peers = field(init=False)

    def __post_init__(self) -> None:
        self.peers = Peers(self.fabric, OURS, self.steward)  # type: ignore[arg-type]

    def connect(
        self,
        session: Session | None = None,
        *,
        direction: Direction = Direction.INBOUND,
        dial_id: bytes | None = None,
        features: FeatureSet = OURS,
    ) -> Session:
        """A connection of the peer, both inits exchanged."""
        session = session or Session()
        init = Init(globalfeatures=b"", features=features.to_bytes())
        connected = Connected(
            front="front-1",
            direction=direction,
            address="192.0.2.1:9735",
            our_init=init,
            their_init=init,
            dial_id=dial_id,
        )
        self.peers.connected(session, connected)  # type: ignore[arg-type]
        return session

    def channel(self, channel: Channel | None = None) -> Runner:
        """A channel with the peer."""
        channel = channel or opened()[0]
        runner = Runner(channel)
        self.peers.get(ALICE).runners[channel.channel_id] = runner  # type: ignore[assignment]
        return runner

    def receive(self, session: Session, message: Message) -> None:
        self.peers.received(session, message)  # type: ignore[arg-type]

    def leave(self, session: Session) -> None:
        self.peers.disconnected(session, Reason.PEER_CLOSED, "")  # type: ignore[arg-type]

    async def settled(self) -> None:
        await until(lambda: not len(self.peers._tasks), "nothing more is to be said")


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        await made.peers.stop()
        assert not len(made.peers._tasks)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(peers_module, "LAST_RETRY_S", 0.01)
    monkeypatch.setattr(peers_module, "CONNECT_TIMEOUT_S", 0.02)


def error(channel_id: bytes) -> Error:
    return Error(channel_id=channel_id, data=b"no")


# --- connections ---------------------------------------------------------------------------------


async def test_every_channel_hears_of_the_connection_and_of_its_end() -> None:
    async with rig() as r:
        runner = r.channel()
        session = r.connect()
        assert runner.session is session
        assert [type(event) for event in runner.posted] == [ChannelConnected]
        r.leave(session)
        assert [type(event) for event in runner.posted] == [ChannelConnected, Disconnected]


async def test_features_are_those_that_both_sides_offer() -> None:
    async with rig() as r:
        runner = r.channel()
        theirs = FeatureSet.of(optional=(Feature.option_anchors, Feature.option_quiesce))
        r.connect(features=theirs)
        assert runner.posted == [ChannelConnected(frozenset({Feature.option_anchors}))]


async def test_a_newer_connection_ends_the_older_one_first() -> None:
    async with rig() as r:
        runner = r.channel()
        old, new = r.connect(), r.connect()
        kinds = [type(event) for event in runner.posted]
        assert kinds == [ChannelConnected, Disconnected, ChannelConnected]
        # The old one's late end changes nothing, nor do its messages.
        r.leave(old)
        r.receive(old, error(runner.channel.channel_id))
        assert len(runner.posted) == 3
        assert r.peers.known[ALICE].session is new


async def test_a_peer_without_channels_is_forgotten_when_it_leaves() -> None:
    async with rig() as r:
        r.leave(r.connect())
        assert not r.peers.known
        r.channel()
        r.leave(r.connect())
        assert ALICE in r.peers.known


# --- messages ------------------------------------------------------------------------------------


async def test_messages_go_to_their_channel_and_updates_to_all() -> None:
    async with rig() as r:
        one, two = r.channel(), r.channel(replace(opened()[0], channel_id=secret("two")))
        session = r.connect()
        one.posted.clear()
        two.posted.clear()
        shutdown = Shutdown(channel_id=secret("two"), scriptpubkey=b"")
        r.receive(session, shutdown)
        assert (one.posted, two.posted) == ([], [Received(shutdown)])
        update = ChannelUpdate(
            signature=bytes(64),
            chain_hash=bytes(32),
            short_channel_id=1,
            timestamp=1,
            message_flags=1,
            channel_flags=0,
            cltv_expiry_delta=6,
            htlc_minimum_msat=1,
            fee_base_msat=0,
            fee_proportional_millionths=0,
            htlc_maximum_msat=1,
        )
        r.receive(session, update)
        assert one.posted[-1] == two.posted[-1] == Received(update)


async def test_openings_are_the_nodes_business() -> None:
    async with rig() as r:
        runner = r.channel(begun()[1].channel)
        session = r.connect()
        runner.posted.clear()
        created = FundingCreated(
            temporary_channel_id=runner.channel.channel_id,
            funding_txid=bytes(32),
            funding_output_index=0,
            signature=bytes(64),
        )
        r.receive(session, created)
        assert r.steward.created == [created]
        assert not runner.posted


async def test_an_error_reaches_the_channel_that_it_names_or_all() -> None:
    async with rig() as r:
        one, two = r.channel(), r.channel(replace(opened()[0], channel_id=secret("two")))
        session = r.connect()
        for message, told in (
            (error(secret("two")), [two]),
            (error(bytes(32)), [one, two]),
            (error(secret("none")), []),
            (WarningMessage(channel_id=secret("two"), data=b"hm"), []),
        ):
            one.posted.clear()
            two.posted.clear()
            r.receive(session, message)
            assert [x for x in (one, two) if x.posted] == told


async def test_an_error_may_name_an_opening_by_its_temporary_id() -> None:
    """BOLT 1: the fundee calls it so until funding_signed, we as opener know it by both names."""
    async with rig() as r:
        opener, fundee, _ = funded()
        temporary = opener.channel.parameters.temporary_channel_id
        early = r.channel(begun()[0].channel)
        r.peers.known[ALICE].runners[secret("final")] = early  # type: ignore[assignment]
        session = r.connect()
        early.posted.clear()
        r.receive(session, error(temporary))
        assert early.posted == [Received(error(temporary))]
        # Afterwards that name means nothing any more.
        r.peers.known[ALICE].runners.clear()
        late = r.channel(fundee.channel)
        r.receive(session, error(temporary))
        assert not late.posted


async def test_the_words_of_a_peer_are_kept_printable_and_few() -> None:
    async with rig() as r:
        session = r.connect()
        for number in range(40):
            data = f"\x1b[2J{number}".encode() + b"\xff" * 2_000
            r.receive(session, WarningMessage(channel_id=bytes(32), data=data))
        kept = r.peers.known[ALICE].recent_warnings
        assert len(kept) == 16
        assert all(len(text) <= 500 and text.isprintable() for text in kept)


def reestablish(channel_id: bytes) -> ChannelReestablish:
    return ChannelReestablish(
        channel_id=channel_id,
        next_commitment_number=1,
        next_revocation_number=0,
        your_last_per_commitment_secret=bytes(32),
        my_current_per_commitment_point=b"\x02" + bytes(31) + b"\x01",
    )


async def test_an_unknown_channel_is_answered_once_a_commit_has_shown_that_we_own_it() -> None:
    async with rig() as r:
        session = r.connect()
        r.receive(session, reestablish(secret("old")))
        await r.settled()
        assert session.sent == [Error(channel_id=secret("old"), data=b"unknown channel")]
        assert r.steward.asked == 1
        assert not session.closed
        r.receive(session, Shutdown(channel_id=secret("old"), scriptpubkey=b""))
        await r.settled()
        assert isinstance(session.sent[-1], WarningMessage)
        assert session.closed


async def test_who_lost_the_lease_says_nothing() -> None:
    async with rig() as r:
        r.steward.is_ours = False
        session = r.connect()
        r.receive(session, reestablish(secret("old")))
        r.receive(session, Shutdown(channel_id=secret("old"), scriptpubkey=b""))
        await r.settled()
        assert not session.sent
        assert not session.closed


async def test_we_never_send_an_error_for_all_channels() -> None:
    async with rig() as r:
        session = r.connect()
        r.receive(session, reestablish(bytes(32)))
        await r.settled()
        assert not session.sent
        r.peers.say(session, error(bytes(32)))  # type: ignore[arg-type]
        await r.settled()
        assert session.sent == [WarningMessage(channel_id=bytes(32), data=b"no")]
        assert session.closed


# --- reaching out --------------------------------------------------------------------------------


async def test_a_dial_that_connects_returns_the_peer() -> None:
    async with rig() as r:
        asked = asyncio.create_task(r.peers.connect(ALICE, ["192.0.2.1:9735"]))
        await until(lambda: r.fabric.orders, "a front is asked")
        (order,) = r.fabric.orders
        assert r.peers.is_ours(order.dial_id, ALICE)
        assert not r.peers.is_ours(order.dial_id, b"\x02" + bytes(32))
        r.connect(direction=Direction.OUTBOUND, dial_id=order.dial_id)
        assert (await asked).addresses == ["192.0.2.1:9735"]
        assert not r.peers.dials


@pytest.mark.parametrize("how", ["unreachable", "front gone"])
async def test_a_dial_that_fails_says_why(how: str) -> None:
    async with rig() as r:
        asked = asyncio.create_task(r.peers.connect(ALICE, ["192.0.2.1:9735"]))
        await until(lambda: any(d.front for d in r.peers.dials.values()), "a front dials")
        if how == "unreachable":
            r.peers.unreachable(r.fabric.orders[0].dial_id, "refused")
        else:
            r.peers.front_gone("another front")
            r.peers.front_gone("front-1")
        with pytest.raises(CommandError, match=r"refused|is gone"):
            await asked
        assert not r.peers.dials
        assert not r.peers.known


async def test_a_front_that_refuses_and_no_front_at_all_are_said() -> None:
    async with rig() as r:
        r.fabric.refuse = "too busy"
        with pytest.raises(CommandError, match="too busy"):
            await r.peers.connect(ALICE, ["192.0.2.1:9735"])
        r.fabric.is_empty = True
        with pytest.raises(Exception, match="no front answers"):
            await r.peers.connect(ALICE, ["192.0.2.1:9735"])
        with pytest.raises(CommandError, match="no address"):
            await r.peers.connect(ALICE)


async def test_a_peer_with_channels_is_dialled_until_it_is_back() -> None:
    async with rig() as r:
        r.channel()
        r.fabric.is_empty = True
        r.leave(r.connect(direction=Direction.OUTBOUND))
        redial = r.peers.known[ALICE].redial
        assert redial is not None
        await asyncio.sleep(0.1)
        assert not redial.done()
        r.fabric.is_empty = False
        await until(lambda: r.fabric.orders, "a front is there")
        r.connect(direction=Direction.OUTBOUND, dial_id=r.fabric.orders[-1].dial_id)
        await until(lambda: r.peers.known[ALICE].redial is None, "nobody dials any more")


async def test_a_dial_of_which_nothing_is_heard_is_ordered_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`unreachable` is not numbered: it may be lost, or its front die."""
    monkeypatch.setattr(peers_module, "DIAL_PATIENCE_S", 0.05)
    async with rig() as r:
        r.channel()
        r.leave(r.connect(direction=Direction.OUTBOUND))
        await until(lambda: len(r.fabric.orders) >= 3, "it is ordered again and again")


async def test_dialling_goes_on_after_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as r:
        r.channel()
        working, r.fabric.request = r.fabric.request, None  # type: ignore[method-assign]
        with capture_logs() as logs:
            r.leave(r.connect(direction=Direction.OUTBOUND))
            await until(lambda: r.peers.known[ALICE].redial is None, "it broke")
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["task_failed"]
        r.fabric.request = working  # type: ignore[method-assign]
        r.leave(r.connect(direction=Direction.OUTBOUND))
        await until(lambda: r.fabric.orders, "the next disconnection begins anew")


async def test_nobody_is_dialled_without_channels_or_addresses() -> None:
    async with rig() as r:
        r.leave(r.connect(direction=Direction.OUTBOUND))
        r.channel()
        r.leave(r.connect(direction=Direction.INBOUND))
        assert r.peers.known[ALICE].redial is None
        assert not r.fabric.orders


async def test_the_address_that_worked_last_comes_first_and_few_are_kept() -> None:
    async with rig() as r:
        peer = r.peers.get(ALICE)
        for number in (1, 2, 3, 4, 5, 3):
            r.peers.reached(peer, f"192.0.2.{number}:9735")
        assert peer.addresses == [f"192.0.2.{number}:9735" for number in (3, 5, 4, 2)]
        assert r.steward.remembered == 6
