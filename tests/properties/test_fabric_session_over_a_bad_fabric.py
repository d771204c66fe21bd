"""A session over a fabric that loses, duplicates and reorders is ordered and complete, or ended."""

import random

from hypothesis import HealthCheck, given, settings, strategies as st
from support.sessions import EPOCH, FRONT, PEER, SESSION, Fate, World, body

from shared.fabric.envelope import Reason, decode
from shared.fabric.numbering import NARROW, WIDE, Arrived, Incoming, Outgoing
from shared.fabric.session import BackSession, Deliver, Ended, Publish
from shared.fabric.subjects import parse_inbound, parse_outbound

PROPERTY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

seeds = st.integers(0, 2**32)
chances = st.floats(0, 0.4)


def bad_fabric(seed: int, loss: float, copies: float, disorder_s: float):
    """Return a fate by dice: reproducible from the seed alone."""
    dice = random.Random(seed)  # noqa: S311  # reproducible on purpose

    def fate(_side: str, _subject: str) -> Fate:
        if dice.random() < loss:
            return Fate(())
        number = 2 if dice.random() < copies else 1
        return Fate(tuple(0.001 + dice.random() * disorder_s for _ in range(number)))

    return fate


def check(world: World, sent: dict[str, list[bytes]]) -> None:
    """Whatever arrived is a prefix of what was sent: in order, once, without holes."""
    assert world.back_got == sent["front"][: len(world.back_got)]
    assert world.front_got == sent["back"][: len(world.front_got)]


actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(["front", "back"]), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.floats(0.001, 2.0), st.none()),
        st.tuples(st.just("broker"), st.sampled_from(["front", "back", "both"]), st.floats(0, 20)),
        st.tuples(st.just("stuck"), st.floats(0, 3), st.none()),
    ),
    min_size=2,
    max_size=12,
)


def perform(world: World, script: list, sent: dict[str, list[bytes]]) -> None:
    """Play a script of sends, waits, broker restarts and sockets that do not drain."""
    for action, first, second in script:
        if action == "send":
            for _ in range(second):
                message = body(len(sent[first]))
                if not (world.front if first == "front" else world.back).ended:
                    sent[first].append(message)
                world.send(first, message, size=1500)
        elif action == "wait":
            world.run(first)
        elif action == "broker":
            sides = ("front", "back") if first == "both" else (first,)
            world.lose_broker(*sides)
            world.run(second)
            world.find_broker(*sides)
        else:
            world.drains = False
            world.run(first)
            world.drains = True
            world.write()
        check(world, sent)


def perform_survivably(world: World, script: list, sent: dict[str, list[bytes]]) -> None:
    """Play a script without what may rightly end a session."""
    for action, who, amount in script:
        # The clocks of both run while only one is cut off; both may be away as long as they like.
        bounded = min(amount, 6.0) if action == "broker" and who != "both" else amount
        perform(world, [(action, who, bounded)], sent)
        world.run(3)


@PROPERTY
@given(seeds, chances, chances, st.floats(0, 2), st.booleans(), actions)
def test_everything_arrives_once_in_order_complete_or_the_session_ends(
    seed, loss, copies, disorder_s, has_channels, script
) -> None:
    world = World(fate=bad_fabric(seed, loss, copies, disorder_s), has_channels=has_channels)
    sent: dict[str, list[bytes]] = {"front": [], "back": []}
    world.connect()
    perform(world, script, sent)
    world.run(120)
    check(world, sent)
    if world.front_ended is None and world.back_ended is None:
        assert world.back_got == sent["front"]
        assert world.front_got == sent["back"]


@PROPERTY
@given(seeds, chances, st.floats(0, 1), actions)
def test_a_fabric_that_recovers_loses_no_session(seed, copies, disorder_s, script) -> None:
    """Duplicates, disorder under a second and broker restarts alone never end a session."""
    world = World(fate=bad_fabric(seed, 0.0, copies, disorder_s))
    sent: dict[str, list[bytes]] = {"front": [], "back": []}
    world.connect()
    perform_survivably(world, script, sent)
    world.run(60)
    assert world.front_ended is None
    assert world.back_ended is None
    assert world.back_got == sent["front"]
    assert world.front_got == sent["back"]


@PROPERTY
@given(
    seeds, chances, chances, st.floats(0, 2), actions, st.sampled_from(["front", "close", "reset"])
)
def test_both_sides_learn_of_the_end_and_are_finished(
    seed, loss, copies, disorder_s, script, how
) -> None:
    world = World(fate=bad_fabric(seed, loss, copies, disorder_s))
    sent: dict[str, list[bytes]] = {"front": [], "back": []}
    world.connect()
    perform(world, script, sent)
    if how == "front" and not world.front.ended:
        world.do("front", world.front.disconnect(Reason.PEER_CLOSED, "", world.now))
    elif how == "close":
        world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "", world.now))
    else:
        world.do("back", world.back.reset(Reason.INVALID, "", world.now))
    world.run(200)
    check(world, sent)
    if how == "front":
        assert world.front.finished
    else:
        assert world.back.finished
        assert world.back_ended is not None
    for session in (world.front, world.back):
        assert not session.finished or session.next_deadline() is None


@PROPERTY
@given(seeds, chances, actions)
def test_a_polite_close_loses_nothing_that_was_sent_before_it(seed, copies, script) -> None:
    world = World(fate=bad_fabric(seed, 0.0, copies, 0.5))
    sent: dict[str, list[bytes]] = {"front": [], "back": []}
    world.connect()
    perform_survivably(world, script, sent)
    world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "", world.now))
    world.run(60)
    assert world.front_got == sent["back"]
    assert world.front_ended is not None
    assert world.back_ended is not None


@PROPERTY
@given(seeds, st.sampled_from(["front", "back"]), st.integers(0, 30), st.integers(1, 30))
def test_a_single_lost_message_is_never_noticed_by_the_peers(seed, side, before, after) -> None:
    del seed
    world = World()
    world.connect()
    sent: dict[str, list[bytes]] = {"front": [], "back": []}
    perform(world, [("send", side, before)] if before else [], sent)
    world.fate = lambda _side, _subject: Fate(())
    perform(world, [("send", side, 1)], sent)
    world.fate = lambda _side, _subject: Fate()
    perform(world, [("send", side, after)], sent)
    world.run(0.1)
    got = world.back_got if side == "front" else world.front_got
    assert got == sent[side]
    assert world.side(side).resent == 1


@PROPERTY
@given(
    st.booleans(),
    st.lists(st.integers(0, 70_000), min_size=1, max_size=400),
    st.lists(st.integers(1, 400), max_size=20),
)
def test_what_is_under_way_never_exceeds_the_window(wide, sizes, acks) -> None:
    window = WIDE if wide else NARROW
    outgoing = Outgoing(window)
    under_way: dict[int, int] = {}
    waiting = list(acks)
    for size in sizes:
        for message in outgoing.add("m", None, b"{}", size, 0.0):
            under_way[message.seq] = message.size
        total = sum(under_way.values())
        assert len(under_way) <= window.messages
        assert total <= window.size or len(under_way) == 1
        if waiting and outgoing.is_over_window:
            ack = min(max(under_way), outgoing.acked + waiting.pop())
            under_way = {seq: s for seq, s in under_way.items() if seq > ack}
            for message in outgoing.acknowledge(ack, 0.0):
                under_way[message.seq] = message.size


@PROPERTY
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n)))))
def test_any_order_and_repetition_is_put_in_order(case) -> None:
    _, arrivals = case
    incoming = Incoming()
    got: list[int] = []
    for seq in arrivals:
        got += [m.seq for m in incoming.take(Arrived(seq, "m", None, b"{}"), 0.0)]
    prefix = 0
    while prefix + 1 in arrivals:
        prefix += 1
    assert got == list(range(1, prefix + 1))
    asked = incoming.ask(0.0)
    later = [seq for seq in arrivals if seq > prefix + 1]
    assert asked == ((prefix + 1, min(later) - 1) if later else None)


@PROPERTY
@given(st.lists(st.sampled_from(["take", "again", "wait"]), max_size=200))
def test_no_message_is_unacked_for_more_than_50_ms_or_64_messages(steps) -> None:
    back = BackSession(SESSION, FRONT, PEER, EPOCH, True)
    now, seq, acked = 0.0, 0, 0
    arrived: dict[int, float] = {}
    connected = World()
    connected.connect()
    first = next(p for _, p in [(0, e) for e in _published(connected)])
    for step in ["take", *steps]:
        if step == "take":
            seq += 1
        if step == "wait":
            now += 0.02
            effects = back.poll(now)
        elif seq == 1:
            effects = back.receive("connected", None, decode(first.payload), now)
        else:
            effects = back.receive("update_fee", None, _envelope(seq), now)
        arrived.setdefault(seq, now)
        for effect in effects:
            if isinstance(effect, Publish):
                acked = max(acked, decode(effect.payload).ack)
        unacked = [s for s in arrived if s > acked]
        assert len(unacked) < 64
        assert all(now - arrived[s] < 0.05 + 0.02 for s in unacked)


def _envelope(seq: int):
    outer = World()
    outer.front.opened(EPOCH, True, 0.0)
    (publish,) = outer.front.send("update_fee", None, body(seq), 10, 0.0)
    envelope = decode(publish.payload)
    return type(envelope)(SESSION, EPOCH, seq, 0, envelope.body, FRONT)


def _published(world: World) -> list[Publish]:
    return [item[3] for item in world._air]


@PROPERTY
@given(
    st.lists(st.sampled_from(["send", "receive", "drop", "ack", "hello", "silent"]), max_size=8),
)
def test_only_a_session_without_traffic_survives_a_new_epoch(history) -> None:
    world = World()
    world.connect()
    world.run(0.2)
    carried = False
    for what in history:
        if what == "send":
            world.send("front", body(0))
            carried = True
        elif what == "receive":
            world.send("back", body(0))
            world.run(0.01)
            carried = True
        elif what == "drop":
            world.front.dropped()
            carried = True
        elif what == "hello":
            world.do("front", world.front.hello(EPOCH, world.now))
        elif what == "ack":
            world.run(0.1)
        elif not carried:
            world.do("front", world.front.owner_silent(world.now))
    world.do("front", world.front.hello(EPOCH + 1, world.now))
    assert (world.front_ended is None) is (not carried)
    assert bool(world.reopened) is (not carried)


@PROPERTY
@given(seeds, st.integers(1, 50))
def test_a_new_owner_never_gets_what_belongs_to_the_former(seed, count) -> None:
    """Messages of an epoch reach nobody of another epoch, however late they are."""
    dice = random.Random(seed)  # noqa: S311  # reproducible on purpose
    world = World()
    world.connect()
    world.run(0.2)
    stale: list[Publish] = []
    for n in range(count):
        stale += world.front.send("update_fee", None, body(n), 10, 1.0)
    other = BackSession(SESSION, FRONT, PEER, EPOCH + 1, True)
    dice.shuffle(stale)
    for publish in stale:
        parsed = parse_inbound(publish.subject)
        effects = other.receive(parsed.name, parsed.channel, decode(publish.payload), 1.0)
        assert not any(isinstance(e, Deliver | Ended) for e in effects)
    for publish in world.back.send("update_fee", None, body(0), 10, 1.0):
        parsed = parse_outbound(publish.subject)
        mover = World(front_ended=None)
        mover.front.opened(EPOCH + 1, True, 0.0)
        assert mover.front.receive(parsed.name, None, decode(publish.payload), 1.0) == []
