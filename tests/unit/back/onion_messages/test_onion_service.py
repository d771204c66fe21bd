"""Onion messages of a node: to whom they go, what they cost, who hears of those to us."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from support.onion_peer import Keys
from support.waiting import until

from back.onion_messages import ways
from back.onion_messages.intake import MAX_WAITING, Intake
from back.onion_messages.outbox import Outbox
from back.onion_messages.rules import OnionRules
from back.onion_messages.service import OnionMessages
from back.onion_messages.ways import Ways
from shared.crypto import onion_message
from shared.crypto.onion_message import Delivered, Forwarded
from shared.errors import BackendError, CommandError
from shared.fabric import subjects
from shared.fabric.envelope import Envelope, encode
from shared.fabric.interface import Received
from shared.features import Feature, FeatureSet
from shared.gossip.record import Change, ChannelRecord, Kind
from shared.gossip.table import Table
from shared.onion_budget import OnionLimits
from shared.wire import (
    Address,
    BlindedPath,
    ChannelAnnouncement,
    NodeAnnouncement,
    OnionMessage,
    encode as wire_encode,
    pack_addresses,
    to_json,
)

HELLO = {1001: b"hello"}
SCID = 7 << 40
ANSWERS = 100


@dataclass(eq=False)
class Session:
    """A peer's session: takes what it is sent."""

    peer: bytes
    front: str = "f1"
    connected: object = True
    has_channels: bool = True
    is_over: bool = False
    room: bool = True
    sent: list[OnionMessage] = field(default_factory=list)
    closed: bool = False

    def has_room(self, size: int) -> bool:
        return self.room and size > 0

    def send(self, message: OnionMessage) -> None:
        self.sent.append(message)

    def close(self, reason: object, detail: str) -> None:
        self.closed = True


class Scene:
    """A node with peers.

    Attributes:
        us: our keys.
        told: messages to us that nobody claimed.
        counts: outcomes.
        speaks: whether a commit shows that peers are ours.
    """

    def __init__(self, **rules: Any) -> None:
        self.us = Keys()
        self.told: list[Delivered] = []
        self.counts: Counter[str] = Counter()
        self.speaks = True
        self.commits = 0
        self.dialled: list[tuple[bytes, list[str]]] = []
        self.known: dict[bytes, Any] = {}
        self.table = Table()
        self.channels: dict[int, bytes] = {}
        peers: Any = SimpleNamespace(known=self.known, connect=self.connect)
        names: Any = SimpleNamespace(find=self.find)
        connects = rules.pop("connects", True)
        self.ways = Ways(self.us.node_id, peers, names, lambda: self.table, connects=connects)
        outbox = Outbox(self.may_speak, self.count)
        signer: Any = self.us
        settings = OnionRules(**({"reply_timeout_s": 0.05} | rules))
        self.messages = OnionMessages(signer, self.ways, outbox, settings, self.tell, self.count)

    def count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    async def tell(self, delivered: Delivered) -> None:
        self.told.append(delivered)

    async def may_speak(self, node_id: bytes) -> bool:
        self.commits += 1
        return self.speaks

    def find(self, scid: int) -> Any:
        node_id = self.channels.get(scid)
        if node_id is None:
            return None
        return SimpleNamespace(channel=SimpleNamespace(parameters=SimpleNamespace(node_id=node_id)))

    def join(self, keys: Keys, *, onions: bool = True, channels: bool = True) -> Session:
        """Let a peer be connected."""
        session = Session(keys.node_id)
        self.known[keys.node_id] = SimpleNamespace(
            node_id=keys.node_id,
            session=session,
            features=frozenset({Feature.option_onion_messages} if onions else ()),
            runners={b"x": None} if channels else {},
            addresses=[],
        )
        return session

    async def connect(self, node_id: bytes, addresses: list[str]) -> Any:
        self.dialled.append((node_id, addresses))
        raise BackendError("no front is up")

    def arrives(
        self, path: BlindedPath, contents: Mapping[int, bytes], reply: BlindedPath | None = None
    ) -> OnionMessage:
        """A message of some peer comes in; it begins with us."""
        message = onion_message.build(secrets.token_bytes(32), path, contents, reply)
        self.messages.handle(b"\x02" * 33, message)
        return message

    def answered(self, question: Delivered, contents: Mapping[int, bytes], *by: Keys) -> None:
        """Somebody answers by the reply path, whose nodes before us are these."""
        assert question.reply_path is not None
        message = onion_message.build(secrets.token_bytes(32), question.reply_path, contents)
        for keys in by:
            step = onion_message.unwrap(message, keys)
            assert isinstance(step, Forwarded)
            message = step.message
        self.messages.handle(b"\x02" * 33, message)


def path(*nodes: Keys, path_id: bytes | None = None) -> BlindedPath:
    ids = [keys.node_id for keys in nodes]
    return onion_message.path_through(secrets.token_bytes(32), ids, path_id)


async def sent_to(session: Session, number: int = 1) -> OnionMessage:
    await until(lambda: len(session.sent) >= number, "a message to the peer")
    return session.sent[number - 1]


# --- passing on -----------------------------------------------------------------------------------


async def test_a_message_for_a_peer_goes_to_it_after_a_commit() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    scene.arrives(path(scene.us, carol), HELLO)
    assert not session.sent
    heard = onion_message.unwrap(await sent_to(session), carol)
    assert isinstance(heard, Delivered)
    assert heard.contents == HELLO
    assert scene.commits == 1
    assert scene.counts == {"relayed": 1, "sent": 1}


async def test_many_messages_to_many_peers_share_commits() -> None:
    scene = Scene()
    sessions = []
    for _ in range(40):
        keys = Keys()
        sessions.append(scene.join(keys))
        scene.arrives(path(scene.us, keys), HELLO)
    for session in sessions:
        await sent_to(session)
    assert scene.commits <= subjects.SHARDS


async def test_nothing_is_said_by_a_back_that_lost_its_shards() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    scene.speaks = False
    scene.arrives(path(scene.us, carol), HELLO)
    await until(lambda: scene.commits, "the commit")
    await asyncio.sleep(0.05)
    assert not session.sent


async def test_the_next_peer_may_be_named_by_a_channel() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    scene.channels[SCID] = carol.node_id
    for scid, outcome in ((SCID, "relayed"), (SCID + 1, "dropped_unknown_next")):
        told = onion_message.RecipientData(short_channel_id=scid)
        data = onion_message.encode_padded([told, onion_message.RecipientData()])
        named = onion_message.blind(
            secrets.token_bytes(32), [(scene.us.node_id, data[0]), (carol.node_id, data[1])]
        )
        scene.arrives(named, HELLO)
        assert scene.counts[outcome] == 1
    assert isinstance(onion_message.unwrap(await sent_to(session), carol), Delivered)


@pytest.mark.parametrize("why", ["away", "without the feature", "slow"])
async def test_a_message_for_who_cannot_take_it_is_dropped_and_nobody_is_dialled(why: str) -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol, onions=why != "without the feature")
    if why == "away":
        scene.known[carol.node_id].session = None
    session.room = why != "slow"
    scene.arrives(path(scene.us, carol), HELLO)
    await asyncio.sleep(0.05)
    assert not session.sent
    assert not scene.dialled
    outcome = "dropped_slow" if why == "slow" else "dropped_next_away"
    assert scene.counts == {outcome: 1}


async def test_layers_for_ourselves_are_taken_off_but_not_without_end() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    scene.arrives(path(scene.us, scene.us, scene.us, carol), HELLO)
    assert isinstance(onion_message.unwrap(await sent_to(session), carol), Delivered)
    before = scene.counts["dropped_next_away"]
    scene.arrives(path(*[scene.us] * 8), HELLO)
    assert scene.counts["dropped_next_away"] == before + 1
    assert not scene.told


async def test_a_replayed_message_is_read_once_and_garbage_poisons_nothing() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    message = onion_message.build(secrets.token_bytes(32), path(scene.us, carol), HELLO)
    mac = message.onion_message_packet[-32:]
    garbage = OnionMessage(
        path_key=message.path_key,
        onion_message_packet=bytes(len(message.onion_message_packet) - 32) + mac,
    )
    for one in (garbage, garbage, message, message, message):
        scene.messages.handle(b"\x02" * 33, one)
    await sent_to(session)
    assert scene.counts["dropped_invalid"] == 2
    assert scene.counts["dropped_replayed"] == 2
    assert scene.counts["relayed"] == 1


# --- to us ----------------------------------------------------------------------------------------


async def test_a_message_to_us_goes_to_who_subscribed_to_its_field() -> None:
    scene = Scene()
    heard: list[Delivered] = []
    scene.messages.subscribe(64, heard.append)
    with pytest.raises(ValueError, match="64"):
        scene.messages.subscribe(64, heard.append)
    back = path(Keys())
    scene.arrives(path(scene.us, path_id=b"ours"), {64: b"invoice request"}, back)
    assert [dict(one.contents) for one in heard] == [{64: b"invoice request"}]
    assert heard[0].path_id == b"ours"
    assert heard[0].reply_path == back
    scene.arrives(path(scene.us), {66: b"an invoice that nobody asked for"})
    await until(lambda: scene.told, "the event")
    assert [dict(one.contents) for one in scene.told] == [{66: b"an invoice that nobody asked for"}]


async def test_a_handler_that_breaks_breaks_nothing_else() -> None:
    scene = Scene()
    heard: list[Delivered] = []

    def breaks(delivered: Delivered) -> None:
        heard.append(delivered)
        raise RuntimeError("a bug")

    scene.messages.subscribe(64, breaks)
    for _ in range(2):
        scene.arrives(path(scene.us), {64: b""})
    assert len(heard) == 2


async def test_strangers_cannot_fill_the_log_of_events() -> None:
    scene = Scene()
    for _ in range(200):
        scene.arrives(path(scene.us), HELLO)
    await asyncio.sleep(0)
    assert len(scene.told) <= 51
    assert scene.counts["untold"] >= 149


# --- ours -----------------------------------------------------------------------------------------


async def test_a_message_of_ours_goes_straight_to_a_peer() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    assert await scene.messages.send(carol.node_id, HELLO) == ()
    heard = carol.unwrap(await sent_to(session))
    assert isinstance(heard, Delivered)
    assert heard.contents == HELLO


async def test_a_message_of_ours_to_ourselves_arrives() -> None:
    scene = Scene()
    await scene.messages.send(scene.us.node_id, HELLO)
    await scene.messages.send(path(scene.us, path_id=b"x"), HELLO)
    await until(lambda: len(scene.told) == 2, "both")
    assert scene.told[1].path_id == b"x"


async def test_a_path_that_begins_with_us_is_followed() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    await scene.messages.send(path(scene.us, carol, path_id=b"hers"), HELLO)
    heard = carol.unwrap(await sent_to(session))
    assert isinstance(heard, Delivered)
    assert heard.path_id == b"hers"


async def test_a_message_goes_through_given_nodes_into_anothers_path() -> None:
    scene, bob, carol, dave = Scene(), Keys(), Keys(), Keys()
    session = scene.join(bob)
    through = [bob.node_id]
    await scene.messages.send(path(carol, dave, path_id=b"d"), HELLO, through=through)
    message = await sent_to(session)
    for keys in (bob, carol):
        step = onion_message.unwrap(message, keys)
        assert isinstance(step, Forwarded)
        message = step.message
    heard = onion_message.unwrap(message, dave)
    assert isinstance(heard, Delivered)
    assert (heard.contents, heard.path_id) == (HELLO, b"d")


async def test_a_path_may_begin_at_one_end_of_a_channel_of_ours() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    scene.channels[SCID] = carol.node_id
    side = sorted((scene.us.node_id, carol.node_id)).index(carol.node_id)
    hers = path(carol).model_copy(update={"first_node_id": bytes([side]) + SCID.to_bytes(8, "big")})
    await scene.messages.send(hers, HELLO)
    assert isinstance(carol.unwrap(await sent_to(session)), Delivered)
    unknown = hers.model_copy(update={"first_node_id": bytes(9)})
    with pytest.raises(CommandError, match="channel"):
        await scene.messages.send(unknown, HELLO)


async def test_what_cannot_be_sent_says_why() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    with pytest.raises(CommandError, match="no way"):
        await scene.messages.send(Keys().node_id, HELLO)
    with pytest.raises(CommandError, match="fit"):
        await scene.messages.send(carol.node_id, {1001: bytes(40_000)})
    with pytest.raises(CommandError, match="carry"):
        await scene.messages.send(carol.node_id, {4: b""})
    with pytest.raises(CommandError, match="not connected"):
        await scene.messages.send(carol.node_id, HELLO, through=[Keys().node_id])
    session.room = False
    with pytest.raises(CommandError, match="read"):
        await scene.messages.send(carol.node_id, HELLO)
    with pytest.raises(CommandError):
        await scene.messages.send(b"\x02" + b"\xff" * 32, HELLO, through=[])


async def test_a_node_that_nobody_reaches_is_dialled_only_where_that_is_allowed() -> None:
    for connects in (True, False):
        scene, carol = Scene(connects=connects), Keys()
        scene.known[carol.node_id] = SimpleNamespace(
            node_id=carol.node_id, session=None, features=frozenset(), addresses=["1.2.3.4:9735"]
        )
        with pytest.raises(CommandError):
            await scene.messages.send(carol.node_id, HELLO)
        assert bool(scene.dialled) is connects


async def test_an_answer_comes_by_a_path_through_a_peer() -> None:
    scene, carol = Scene(reply_timeout_s=5.0), Keys()
    session = scene.join(carol)
    asking = asyncio.create_task(scene.messages.ask(carol.node_id, HELLO))
    question = carol.unwrap(await sent_to(session))
    assert isinstance(question, Delivered)
    assert question.reply_path is not None
    assert question.reply_path.first_node_id == carol.node_id
    scene.answered(question, {1003: b"yes"}, carol)
    answer = await asking
    assert answer is not None
    assert answer.contents == {1003: b"yes"}
    # The path was good for one answer.
    scene.answered(question, {1003: b"once more"}, carol)
    await until(lambda: len(scene.told) == 2, "both become events")


async def test_what_is_not_answered_is_sent_again_and_given_up() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    assert await scene.messages.ask(carol.node_id, HELLO) is None
    await sent_to(session, 3)
    questions = [carol.unwrap(message) for message in session.sent]
    ids = set()
    for question in questions:
        assert isinstance(question, Delivered)
        assert question.reply_path is not None
        ids.add(question.reply_path.first_path_key)
    assert len(ids) == 3
    # An answer that comes too late is nobody's.
    assert isinstance(questions[0], Delivered)
    scene.answered(questions[0], {1003: b"late"}, carol)
    await until(lambda: scene.told, "an event")


async def test_a_message_that_cannot_be_sent_is_not_waited_for() -> None:
    scene = Scene()
    with pytest.raises(CommandError):
        await scene.messages.ask(Keys().node_id, HELLO)


async def test_a_question_is_answered_by_its_reply_path() -> None:
    scene, carol = Scene(), Keys()
    session = scene.join(carol)
    scene.messages.subscribe(64, lambda asked: scene.messages.answer(asked, {66: b"invoice"}))
    scene.arrives(path(scene.us), {64: b""}, path(carol, path_id=b"mine"))
    scene.arrives(path(scene.us), {64: b""})
    heard = carol.unwrap(await sent_to(session))
    assert isinstance(heard, Delivered)
    assert (heard.contents, heard.path_id) == ({66: b"invoice"}, b"mine")


async def test_a_path_to_us_begins_with_a_peer_that_can_pass_messages_on() -> None:
    scene, plain, carol = Scene(), Keys(), Keys()
    scene.join(plain, onions=False)
    alone = scene.messages.path_to_us(b"x")
    assert alone.first_node_id == scene.us.node_id
    scene.join(carol, channels=False)
    made = scene.messages.path_to_us(b"x")
    assert made.first_node_id == carol.node_id
    assert len({len(hop.encrypted_recipient_data) for hop in made.path}) == 1


# --- the way in -----------------------------------------------------------------------------------


class Bulk:
    """A fabric that only remembers what is subscribed."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    async def subscribe(self, subject: str, handler: Any, *, group: str = "") -> Any:
        assert group == "back.5"
        self.handlers[subject] = handler
        return SimpleNamespace(close=self.closed)

    async def closed(self) -> None:
        self.handlers.clear()

    def publish(self, session: Session, message: OnionMessage, **changes: Any) -> None:
        shard = changes.pop("shard", subjects.shard(session.peer))
        body = changes.pop("body", to_json(message))
        envelope = Envelope(changes.pop("id", b"s" * 16), 5, 0, 0, body, session.front)
        subject = subjects.onion(shard)
        payload = changes.pop("payload", encode(envelope))
        self.handlers[subject](Received(subject, payload))


async def listening(
    session: Session, limits: OnionLimits | None = None
) -> tuple[Bulk, Intake, list[OnionMessage], Counter[str]]:
    bulk, heard, counts = Bulk(), [], Counter[str]()

    def handle(peer: bytes, message: OnionMessage) -> None:
        assert peer == session.peer
        heard.append(message)

    def count(outcome: str) -> None:
        counts[outcome] += 1

    sessions: Any = {b"s" * 16: session}
    fabric: Any = bulk
    intake = Intake(fabric, sessions, limits or OnionLimits(), handle, count)
    await intake.start(tuple(range(subjects.SHARDS)), 5)
    return bulk, intake, heard, counts


def some(number: int = 0) -> OnionMessage:
    return OnionMessage(
        path_key=b"\x02" + bytes(32), onion_message_packet=number.to_bytes(1366, "big")
    )


async def test_what_a_front_publishes_is_read_in_order() -> None:
    session = Session(Keys().node_id)
    bulk, intake, heard, _ = await listening(session)
    for number in range(5):
        bulk.publish(session, some(number))
    assert not heard
    await until(lambda: len(heard) == 5, "all")
    assert heard == [some(number) for number in range(5)]
    await intake.stop()
    assert not bulk.handlers


async def test_what_is_of_no_session_is_dropped() -> None:
    session = Session(Keys().node_id)
    bulk, intake, heard, counts = await listening(session)
    bulk.publish(session, some(), id=b"t" * 16)
    bulk.publish(session, some(), shard=(subjects.shard(session.peer) + 1) % subjects.SHARDS)
    session.front = "f2"
    stolen = Session(session.peer)
    bulk.publish(stolen, some())
    session.front, session.connected = "f1", None
    bulk.publish(session, some())
    session.connected, session.is_over = True, True
    bulk.publish(session, some())
    assert counts == {"dropped_no_session": 5}
    session.is_over = False
    bulk.publish(session, some(), payload=b"rubbish")
    bulk.publish(session, some(), body=b'{"path_key":"02"}')
    bulk.publish(session, some())
    await until(lambda: heard, "the right one")
    assert len(heard) == 1
    await intake.stop()


async def test_what_is_over_the_budget_is_dropped_before_it_is_read() -> None:
    session = Session(Keys().node_id, has_channels=False)
    bulk, intake, heard, counts = await listening(session)
    for number in range(100):
        bulk.publish(session, some(number))
    assert counts["dropped_over_peer"] == 100 - 13
    await until(lambda: len(heard) == 13, "the rest")
    await intake.stop()


async def test_a_queue_that_is_full_takes_no_more() -> None:
    session = Session(Keys().node_id)
    limits = OnionLimits(1e6, 1e6, 1e10, 1e6)
    bulk, intake, heard, counts = await listening(session, limits)
    for number in range(MAX_WAITING + 10):
        bulk.publish(session, some(number))
    assert counts["dropped_busy"] == 10
    await until(lambda: len(heard) == MAX_WAITING, "what waited")
    intake.mute()
    bulk.publish(session, some())
    await asyncio.sleep(0)
    assert len(heard) == MAX_WAITING
    await intake.stop()


# --- through the network --------------------------------------------------------------------------


def network_of(*pairs: tuple[Keys, Keys]) -> Table:
    """A routing table with these channels, all nodes of which pass messages on."""
    table = Table()
    for number, pair in enumerate(pairs, 1):
        one, other = sorted(keys.node_id for keys in pair)
        announcement = ChannelAnnouncement(
            node_signature_1=bytes(64),
            node_signature_2=bytes(64),
            bitcoin_signature_1=bytes(64),
            bitcoin_signature_2=bytes(64),
            features=b"",
            chain_hash=bytes(32),
            short_channel_id=number << 40,
            node_id_1=one,
            node_id_2=other,
            bitcoin_key_1=one,
            bitcoin_key_2=other,
        )
        record = ChannelRecord(wire_encode(announcement), 1_000_000, 0, bytes(32))
        table.apply(Change(Kind.CHANNEL, number << 40, record))
        for node_id in (one, other):
            node = NodeAnnouncement(
                signature=bytes(64),
                features=FeatureSet.of(optional=[Feature.option_onion_messages]).to_bytes(),
                timestamp=1,
                node_id=node_id,
                rgb_color=bytes(3),
                alias=bytes(32),
                addresses=pack_addresses({Address.parse("203.0.113.9:9735")}),
            )
            table.apply(Change(Kind.NODE, node_id, wire_encode(node)))
    return table


async def test_a_message_goes_through_the_network_where_its_recipient_is_not_a_peer() -> None:
    scene, bob, carol, dave = Scene(), Keys(), Keys(), Keys()
    scene.table = network_of((bob, carol), (carol, dave))
    session = scene.join(bob)
    assert await scene.messages.send(dave.node_id, HELLO) == (bob.node_id, carol.node_id)
    message = await sent_to(session)
    for keys in (bob, carol):
        step = onion_message.unwrap(message, keys)
        assert isinstance(step, Forwarded)
        message = step.message
    heard = onion_message.unwrap(message, dave)
    assert isinstance(heard, Delivered)
    assert heard.contents == HELLO
    assert not scene.dialled


async def test_a_question_that_is_not_answered_goes_another_way_the_next_time() -> None:
    scene, bob, carol, dave = Scene(), Keys(), Keys(), Keys()
    scene.table = network_of((bob, dave), (carol, dave))
    sessions = [scene.join(bob), scene.join(carol)]
    assert await scene.messages.ask(dave.node_id, HELLO) is None
    assert all(session.sent for session in sessions)


async def test_a_table_that_is_loaded_after_the_first_message_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "RENEWED_S", 0.0)
    scene, bob, carol = Scene(connects=False), Keys(), Keys()
    scene.join(bob)
    with pytest.raises(CommandError):
        await scene.messages.send(carol.node_id, HELLO)
    scene.table = network_of((bob, carol))
    assert await scene.messages.send(carol.node_id, HELLO) == (bob.node_id,)


async def test_for_an_answer_nobody_is_dialled_and_few_ways_are_searched() -> None:
    scene, bob, carol = Scene(), Keys(), Keys()
    scene.table = network_of((bob, carol))
    scene.join(Keys())
    scene.messages.subscribe(64, lambda asked: scene.messages.answer(asked, {66: b""}))
    for _ in range(ANSWERS):
        scene.arrives(path(scene.us), {64: b""}, path(carol))
    await until(lambda: scene.counts["dropped_answer"] == ANSWERS, "all answers to be dropped")
    assert not scene.dialled
    # Our own messages are not held up by it, and may dial.
    with pytest.raises(CommandError, match="front"):
        await scene.messages.send(carol.node_id, HELLO)
    assert scene.dialled == [(carol.node_id, ["203.0.113.9:9735"])]


async def test_answers_beyond_the_budget_are_not_searched_for() -> None:
    scene, bob, carol = Scene(), Keys(), Keys()
    scene.table = network_of((bob, carol))
    session = scene.join(bob)
    scene.messages.subscribe(64, lambda asked: scene.messages.answer(asked, {66: b""}))
    for _ in range(ANSWERS):
        scene.arrives(path(scene.us), {64: b""}, path(carol))
    await until(lambda: len(session.sent) + scene.counts["dropped_answer"] >= ANSWERS, "all")
    assert 50 <= len(session.sent) < ANSWERS
