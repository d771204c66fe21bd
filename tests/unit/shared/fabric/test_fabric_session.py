"""The rules of a session, one by one."""

import pytest
from support.sessions import CONNECTED, EPOCH, FRONT, PEER, SESSION, Fate, World, bodies, body, gone

from shared.errors import FabricError
from shared.fabric.envelope import Ack, Close, Envelope, Reason, Reset, decode, encode
from shared.fabric.numbering import NARROW, WIDE
from shared.fabric.session import (
    BackSession,
    Deliver,
    Ended,
    FrontSession,
    Made,
    Publish,
    Reopen,
    gone_for_unknown,
    replaces,
    reset_for_unknown,
)
from shared.fabric.subjects import parse_inbound, parse_outbound


def connected(**how) -> World:
    world = World(**how)
    world.connect()
    world.run(0.2)
    return world


def names(effects) -> list[str]:
    return [e.subject.rpartition(".")[2] for e in effects if isinstance(e, Publish)]


def test_messages_of_both_sides_arrive_in_order() -> None:
    world = connected()
    for n in range(10):
        world.send("front", body(n))
        world.send("back", body(n))
    world.run(1)
    assert world.back_got == world.front_got == bodies(range(10))


def test_numbers_start_at_one_with_connected() -> None:
    front = FrontSession(SESSION, FRONT, PEER)
    front.opened(EPOCH, True, 0.0)
    (first,) = front.send("connected", None, CONNECTED, 0, 0.0)
    (second,) = front.send("shutdown", b"\x01" * 32, b"{}", 40, 0.0)
    assert (decode(first.payload).seq, decode(second.payload).seq) == (1, 2)
    assert parse_inbound(second.subject).channel == b"\x01" * 32


def test_an_older_message_is_dropped_and_acked_again() -> None:
    world = connected()
    world.send("front", body(1))
    world.run(0.2)
    acks = world.count("back", "ack")
    again = Envelope(SESSION, EPOCH, 2, 0, body(1), FRONT)
    world.do("back", world.back.receive("update_fee", b"\x22" * 32, again, world.now))
    world.run(0.2)
    assert world.back_got == [body(1)]
    assert world.count("back", "ack") == acks + 1


def test_a_gap_is_asked_for_once_and_only_what_is_missing() -> None:
    back = BackSession(SESSION, FRONT, PEER, EPOCH, True)
    back.receive("connected", None, Envelope(SESSION, EPOCH, 1, 0, CONNECTED, FRONT), 0.0)
    asked = []
    for seq in (4, 5, 6):
        envelope = Envelope(SESSION, EPOCH, seq, 0, body(seq), FRONT)
        asked += back.receive("update_fee", b"\x22" * 32, envelope, 0.01)
    (resend,) = asked
    assert names(asked) == ["resend"]
    assert decode(resend.payload).body == b'{"from_seq":2,"to_seq":3}'


def test_a_resend_request_that_is_lost_is_repeated_after_half_a_second() -> None:
    back = BackSession(SESSION, FRONT, PEER, EPOCH, True)
    back.receive("connected", None, Envelope(SESSION, EPOCH, 1, 0, CONNECTED, FRONT), 0.0)
    back.receive("update_fee", None, Envelope(SESSION, EPOCH, 3, 0, body(3), FRONT), 0.0)
    assert "resend" not in names(back.poll(0.4))
    assert "resend" in names(back.poll(0.5))


def test_only_the_missing_messages_are_sent_again() -> None:
    lost = {"shutdown"}
    world = connected(
        fate=lambda _s, subject: Fate(()) if subject.rpartition(".")[2] in lost else Fate()
    )
    world.do("front", world.front.send("shutdown", None, body(0), 10, world.now))
    lost.clear()
    for n in range(1, 6):
        world.send("front", body(n))
    world.run(0.1)
    assert world.back_got == bodies(range(6))
    assert world.front.resent == 1


@pytest.mark.parametrize(("messages", "within_s"), [(64, 0.01), (1, 0.06)])
def test_a_bare_ack_comes_after_64_messages_or_50_ms(messages: int, within_s: float) -> None:
    world = connected()
    acks = world.count("back", "ack")
    for n in range(messages):
        world.send("front", body(n))
    world.run(within_s)
    assert world.count("back", "ack") == acks + 1


def test_63_messages_are_not_acked_before_50_ms() -> None:
    world = connected()
    acks = world.count("back", "ack")
    for n in range(63):
        world.send("front", body(n))
    world.run(0.045)
    assert world.count("back", "ack") == acks


def test_an_ack_rides_on_a_message_that_goes_the_other_way() -> None:
    world = connected()
    acks = world.count("back", "ack")
    world.send("front", body(0))
    world.run(0.01)
    world.send("back", body(1))
    world.run(0.5)
    assert world.count("back", "ack") == acks
    assert world.front.resent == 0


def test_the_oldest_unacked_is_sent_again_after_1_s_and_then_ever_later() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    start = world.now
    world.send("front", body(0))
    world.send("front", body(1))
    world.run(9.5)
    times = [
        round(t - start, 3) for s, n, t in world.published if (s, n) == ("front", "update_fee")
    ]
    assert times == [0, 0, 1.0, 3.0, 7.0]


def test_a_lost_last_message_arrives_a_second_later() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.send("back", body(7))
    world.fate = lambda _side, _subject: Fate()
    world.run(0.99)
    assert world.front_got == []
    world.run(0.1)
    assert world.front_got == [body(7)]


@pytest.mark.parametrize("side", ["front", "back"])
def test_ten_seconds_without_an_ack_end_the_session(side: str) -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.send(side, body(0))
    world.run(9.99)
    assert (world.front_ended, world.back_ended) == (None, None)
    world.run(0.02)
    ended = world.front_ended if side == "front" else world.back_ended
    assert ended.reason is Reason.UNACKED


def test_the_ten_seconds_start_when_the_broker_is_back() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.send("front", body(0))
    world.run(9)
    world.lose_broker()
    world.run(60)
    world.find_broker()
    world.run(9.9)
    assert world.front_ended is None
    world.run(0.2)
    assert world.front_ended.reason is Reason.UNACKED


def test_nothing_is_published_while_the_broker_is_away() -> None:
    world = connected()
    world.lose_broker()
    before = len(world.published)
    for n in range(5):
        world.send("front", body(n))
        world.send("back", body(n))
    world.run(30)
    assert len(world.published) == before
    world.find_broker()
    world.run(0.5)
    assert world.back_got == world.front_got == bodies(range(5))


def test_the_front_acks_only_what_it_has_written() -> None:
    world = connected()
    world.drains = False
    world.send("back", body(0))
    world.run(0.5)
    assert world.front_got == [body(0)]
    assert world.count("front", "ack") == 0
    world.drains = True
    world.write()
    world.run(0.1)
    assert world.count("front", "ack") == 1


def test_a_socket_that_does_not_drain_for_ten_seconds_ends_the_session() -> None:
    world = connected()
    world.drains = False
    world.send("back", body(0))
    world.run(11)
    assert world.back_ended.reason is Reason.UNACKED
    assert world.front_ended.reason is Reason.UNKNOWN_SESSION


@pytest.mark.parametrize(("has_channels", "window"), [(True, WIDE), (False, NARROW)])
def test_the_window_counts_messages(has_channels: bool, window) -> None:
    world = connected(has_channels=has_channels)
    world.fate = lambda _side, _subject: Fate(())
    for n in range(window.messages):
        world.send("front", body(n), size=1)
    assert world.front.writable
    assert world.count("front", "update_fee") == window.messages
    world.send("front", body(-1), size=1)
    assert not world.front.writable
    assert world.count("front", "update_fee") == window.messages


@pytest.mark.parametrize(("has_channels", "window"), [(True, WIDE), (False, NARROW)])
def test_the_window_counts_bytes_of_the_wire(has_channels: bool, window) -> None:
    world = connected(has_channels=has_channels)
    world.fate = lambda _side, _subject: Fate(())
    world.send("front", body(0), size=window.size - 1)
    world.send("front", body(1), size=1)
    assert world.front.writable
    world.send("front", body(2), size=1)
    assert not world.front.writable


def test_one_message_always_fits() -> None:
    world = connected(has_channels=False)
    world.send("front", body(0), size=NARROW.size + 1)
    assert world.front.writable
    world.run(0.1)
    assert world.back_got == [body(0)]


def test_acks_open_the_window_again() -> None:
    world = connected(has_channels=False)
    for n in range(100):
        world.send("front", body(n))
    world.run(1)
    assert world.front.writable
    assert world.back_got == bodies(range(100))


def test_a_front_over_its_window_for_5_s_ends_the_session() -> None:
    world = connected(has_channels=False)
    world.drains = False
    world.fate = lambda side, _s: Fate() if side == "front" else Fate(())
    for n in range(17):
        world.send("front", body(n))
    world.run(4.9)
    assert world.front_ended is None
    world.run(0.2)
    assert world.front_ended.reason is Reason.OVER_WINDOW


def test_close_writes_everything_up_to_the_last_number_first() -> None:
    world = connected()
    world.drains = False
    world.send("back", body(0))
    world.send("back", body(1))
    world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "bye", world.now))
    world.run(0.2)
    assert world.front_ended is None
    world.drains = True
    world.write()
    assert world.front_got == bodies(range(2))
    assert world.front_ended == Ended(Reason.CLOSED_BY_OWNER, "bye")
    world.run(0.2)
    assert world.back_ended == Ended(Reason.CLOSED_BY_OWNER, "bye")
    assert world.back.finished
    assert world.front.finished


def test_close_makes_the_front_ask_for_what_is_missing() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.send("back", body(0))
    world.fate = lambda _side, _subject: Fate()
    world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "", world.now))
    world.run(0.1)
    assert world.front_got == [body(0)]
    assert world.front_ended is not None


def test_a_lost_close_is_repeated() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "", world.now))
    world.fate = lambda _side, _subject: Fate()
    world.run(1.1)
    assert world.front_ended is not None
    assert world.back_ended is not None


def test_a_close_that_is_never_confirmed_ends_after_ten_seconds() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "", world.now))
    world.run(10.1)
    assert world.back_ended.reason is Reason.CLOSED_BY_OWNER
    world.run(30)
    assert world.back.finished


def test_nothing_is_sent_after_close() -> None:
    world = connected()
    world.do("back", world.back.close(Reason.CLOSED_BY_OWNER, "", world.now))
    world.send("back", body(0))
    world.run(1)
    assert world.front_got == []


def test_reset_ends_both_sides_and_is_repeated() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.do("back", world.back.reset(Reason.INVALID, "nonsense", world.now))
    assert world.back_ended == Ended(Reason.INVALID, "nonsense")
    world.fate = lambda _side, _subject: Fate()
    world.run(1.1)
    assert world.front_ended.reason is Reason.UNKNOWN_SESSION
    world.run(15)
    assert world.front.finished
    assert world.back.finished


def test_disconnected_comes_after_everything_before_it() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.send("front", body(0))
    world.fate = lambda _side, _subject: Fate()
    world.do("front", world.front.disconnect(Reason.PEER_CLOSED, "eof", world.now))
    world.run(2)
    assert world.back_got == [body(0)]
    assert world.back_ended == Ended(Reason.PEER_CLOSED, "eof")
    assert world.front.finished


def test_a_front_that_cannot_reach_the_back_stops_trying_after_a_minute() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.do("front", world.front.disconnect(Reason.PEER_CLOSED, "", world.now))
    world.run(59.9)
    assert not world.front.finished
    world.run(0.2)
    assert world.front.finished


def test_a_back_out_of_reach_for_half_a_minute_still_learns_of_the_end() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    world.send("front", body(0))
    world.run(30)
    assert world.front_ended.reason is Reason.UNACKED
    world.fate = lambda _side, _subject: Fate()
    world.run(10)
    assert world.back_ended.reason is Reason.UNACKED
    assert world.front.finished


def test_a_gap_that_is_never_filled_ends_the_session() -> None:
    front = FrontSession(SESSION, FRONT, PEER)
    front.opened(EPOCH, True, 0.0)
    front.receive("update_fee", None, Envelope(SESSION, EPOCH, 3, 0, body(3)), 0.0)
    assert "resend" in names(front.poll(9.9))
    assert not front.ended
    ended = [e for e in front.poll(10) if isinstance(e, Ended)]
    assert ended == [Ended(Reason.INCOMPLETE, "number 1 did not come for 10 s")]


def test_a_message_of_an_unknown_session_is_answered_with_reset() -> None:
    message = Envelope(SESSION, EPOCH, 5, 3, body(0), FRONT)
    answer = reset_for_unknown(PEER, "update_fee", message, EPOCH)
    assert parse_outbound(answer.subject).front == FRONT
    world = connected()
    effects = world.front.receive("reset", None, decode(answer.payload), world.now)
    assert effects[0].reason is Reason.UNKNOWN_SESSION
    assert world.front.disconnect(Reason.UNKNOWN_SESSION, "", world.now) == []
    assert world.front.finished


def test_unknown_sessions_are_not_talked_about_for_ever() -> None:
    gone_answer = gone_for_unknown(FRONT, PEER, "update_fee", Envelope(SESSION, EPOCH, 1, 0, b"{}"))
    envelope = decode(gone_answer.payload)
    assert reset_for_unknown(PEER, "disconnected", envelope, EPOCH) is None
    assert gone_for_unknown(FRONT, PEER, "reset", Envelope(SESSION, EPOCH, 0, 0, b"{}")) is None


def test_a_front_that_does_not_know_the_session_ends_it_at_the_back() -> None:
    world = connected()
    answer = gone_for_unknown(FRONT, PEER, "update_fee", Envelope(SESSION, EPOCH, 1, 0, b"{}"))
    effects = world.back.receive("disconnected", None, decode(answer.payload), world.now)
    assert effects == [Ended(Reason.UNKNOWN_SESSION, "")]
    assert world.back.finished


# --- epochs ---------------------------------------------------------------------------------------


def test_a_session_with_nothing_but_connected_moves_silently() -> None:
    world = connected()
    world.do("front", world.front.hello(EPOCH + 1, world.now))
    assert world.reopened == [EPOCH + 1]
    assert world.front_ended is None
    world.back = BackSession(SESSION, FRONT, PEER, EPOCH + 1, True)
    world.do("front", world.front.opened(EPOCH + 1, True, world.now))
    world.send("front", body(0))
    world.send("back", body(1))
    world.run(1)
    assert (world.back_got, world.front_got) == ([body(0)], [body(1)])


@pytest.mark.parametrize("what", ["sent", "received", "dropped", "sent long ago"])
def test_a_session_that_carried_anything_ends_at_the_next_epoch(what: str) -> None:
    world = connected()
    if what == "dropped":
        world.front.dropped()
    else:
        world.send("back" if what == "received" else "front", body(0))
    world.run(100 if what == "sent long ago" else 0.01)
    world.do("front", world.front.hello(EPOCH + 1, world.now))
    assert world.front_ended.reason is Reason.NEW_EPOCH
    assert world.reopened == []
    assert world.front.finished


def test_a_message_that_was_only_dropped_by_its_epoch_counts_as_passed() -> None:
    world = connected()
    stray = Envelope(SESSION, EPOCH - 1, 1, 0, body(0))
    assert world.front.receive("update_fee", None, stray, world.now) == []
    world.do("front", world.front.hello(EPOCH + 1, world.now))
    assert world.front_ended.reason is Reason.NEW_EPOCH


def test_the_same_or_a_lower_epoch_changes_nothing() -> None:
    world = connected()
    world.send("front", body(0))
    assert world.front.hello(EPOCH, world.now) == []
    assert world.front.hello(EPOCH - 1, world.now) == []
    assert world.front_ended is None


def test_messages_of_a_lower_epoch_are_dropped() -> None:
    world = connected()
    old = Envelope(SESSION, EPOCH - 1, 1, 0, body(0))
    assert world.front.receive("update_fee", None, old, world.now) == []
    assert (
        world.back.receive(
            "update_fee", None, Envelope(SESSION, EPOCH - 1, 2, 0, body(0), FRONT), world.now
        )
        == []
    )
    assert (world.front_got, world.back_got) == ([], [])


def test_an_owner_that_answers_open_with_an_old_epoch_is_asked_again() -> None:
    front = FrontSession(SESSION, FRONT, PEER)
    front.hello(EPOCH + 5, 0.0)
    assert front.opened(EPOCH, True, 0.0) == [Reopen(EPOCH + 5)]
    assert front.epoch == 0


def test_messages_before_the_first_owner_wait_and_arrive() -> None:
    world = World()
    world.do("front", world.front.send("connected", None, CONNECTED, 0, world.now))
    world.send("front", body(0))
    world.run(25)
    assert world.published == []
    world.do("front", world.front.opened(EPOCH, True, world.now))
    world.run(0.1)
    assert world.back_got == [body(0)]


def test_thirty_seconds_without_an_owner_end_only_what_carried_something() -> None:
    idle, busy = connected(), connected()
    busy.send("front", body(0))
    busy.run(0.1)
    idle.do("front", idle.front.owner_silent(idle.now))
    busy.do("front", busy.front.owner_silent(busy.now))
    assert idle.front_ended is None
    assert busy.front_ended.reason is Reason.OWNER_SILENT


# --- resume, invalid input ------------------------------------------------------------------------


def test_a_resume_brings_exactly_what_is_missing() -> None:
    world = connected()
    world.fate = lambda _side, _subject: Fate(())
    for n in range(4):
        world.send("front", body(n))
        world.send("back", body(n))
    world.lose_broker()
    world.fate = lambda _side, _subject: Fate()
    world.run(5)
    world.find_broker()
    world.run(0.05)
    assert world.back_got == world.front_got == bodies(range(4))


def test_a_resume_that_expects_what_was_never_sent_ends_the_session() -> None:
    world = connected()
    world.do("front", world.front.resumed(3, world.now))
    assert world.front_ended.reason is Reason.INVALID


def test_an_answer_to_resume_that_messages_have_overtaken_changes_nothing() -> None:
    world = connected()
    world.send("front", body(0))
    world.run(0.2)
    assert world.front.resumed(1, world.now) == []
    assert world.front_ended is None
    world.send("front", body(1))
    world.run(0.2)
    assert world.back_got == bodies(range(2))


@pytest.mark.parametrize(
    ("name", "envelope"),
    [
        ("update_fee", Envelope(SESSION, EPOCH, 0, 0, b"{}", FRONT)),
        ("ack", Envelope(SESSION, EPOCH, 3, 0, b"{}", FRONT)),
        ("close", Envelope(SESSION, EPOCH, 0, 0, b"{}", FRONT)),
        ("ack", Envelope(SESSION, EPOCH, 0, 99, b"{}", FRONT)),
        ("resend", Envelope(SESSION, EPOCH, 0, 0, b'{"from_seq":0}', FRONT)),
        ("ack", Envelope(SESSION, EPOCH, 0, 0, b"{}", "another")),
    ],
    ids=[
        "unnumbered message",
        "numbered ack",
        "wrong direction",
        "acks the future",
        "malformed",
        "another front",
    ],
)
def test_nonsense_is_refused_loudly_and_changes_nothing(name: str, envelope: Envelope) -> None:
    world = connected()
    before = world.back.expects
    with pytest.raises(FabricError):
        world.back.receive(name, None, envelope, world.now)
    assert world.back.expects == before
    world.send("front", body(0))
    world.run(0.1)
    assert world.back_got == [body(0)]


def test_a_session_that_does_not_begin_with_connected_is_reset() -> None:
    back = BackSession(SESSION, FRONT, PEER, EPOCH, True)
    effects = back.receive("update_fee", None, Envelope(SESSION, EPOCH, 1, 0, body(0), FRONT), 0.0)
    assert names(effects) == ["reset"]
    assert [e.reason for e in effects if isinstance(e, Ended)] == [Reason.INVALID]
    assert not any(isinstance(e, Deliver) for e in effects)


def test_a_second_connected_is_reset() -> None:
    back = BackSession(SESSION, FRONT, PEER, EPOCH, True)
    back.receive("connected", None, Envelope(SESSION, EPOCH, 1, 0, CONNECTED, FRONT), 0.0)
    effects = back.receive("connected", None, Envelope(SESSION, EPOCH, 2, 0, CONNECTED, FRONT), 0.0)
    assert "reset" in names(effects)


def test_a_connection_may_end_before_connected() -> None:
    back = BackSession(SESSION, FRONT, PEER, EPOCH, True)
    effects = back.receive("disconnected", None, Envelope(SESSION, EPOCH, 1, 0, gone(), FRONT), 0.0)
    assert Ended(Reason.PEER_CLOSED, "") in effects


# --- which connection stays -----------------------------------------------------------------------

LOW, HIGH = b"\x02" + b"\x01" * 32, b"\x03" + b"\x01" * 32


@pytest.mark.parametrize(
    ("old", "new", "local", "remote", "expected"),
    [
        (Made(0, True), Made(10.1, False), LOW, HIGH, True),
        (Made(0, False), Made(10.1, True), HIGH, LOW, True),
        (Made(0, True), Made(1, True), HIGH, LOW, True),
        (Made(0, False), Made(1, False), LOW, HIGH, True),
        (Made(0, True), Made(10, False), LOW, HIGH, False),
        (Made(0, False), Made(10, True), LOW, HIGH, True),
        (Made(0, True), Made(10, False), HIGH, LOW, True),
        (Made(0, False), Made(10, True), HIGH, LOW, False),
    ],
)
def test_the_newer_connection_wins_except_in_a_tie(old, new, local, remote, expected) -> None:
    assert replaces(old, new, local, remote) is expected


def test_both_nodes_keep_the_same_connection_of_a_tie() -> None:
    for first_low in (True, False):
        kept = []
        for local, remote in ((LOW, HIGH), (HIGH, LOW)):
            by_low = Made(0.0 if first_low else 3.0, outbound=local == LOW)
            by_high = Made(3.0 if first_low else 0.0, outbound=local == HIGH)
            old, new = (by_low, by_high) if first_low else (by_high, by_low)
            stays = new if replaces(old, new, local, remote) else old
            kept.append(stays is by_low)
        assert kept == [True, True]


def test_controls_have_stable_json() -> None:
    assert Ack().to_bytes() == b"{}"
    assert Close(last_seq=7, reason=Reason.REPLACED).to_bytes() == (
        b'{"last_seq":7,"reason":"replaced","detail":""}'
    )
    payload = encode(Envelope(SESSION, EPOCH, 0, 3, Reset(reason=Reason.INVALID).to_bytes()))
    assert payload == (
        b'{"v":1,"session":"000102030405060708090a0b0c0d0e0f","epoch":1700000000,"seq":0,"ack":3,'
        b'"message":{"reason":"invalid","detail":""}}'
    )
