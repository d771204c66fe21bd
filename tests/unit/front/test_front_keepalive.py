import pytest

from front.transport.keepalive import NO_PONG, Keepalive, Timing
from shared.errors import ProtocolViolation
from shared.wire import Ping, Pong

TIMING = Timing(interval_s=30.0, timeout_s=20.0, pings_per_s=1.0, ping_burst=3.0)


def ping(num_pong_bytes: int) -> Ping:
    return Ping(num_pong_bytes=num_pong_bytes, ignored=b"")


def test_pings_after_an_idle_interval_and_not_before():
    keepalive = Keepalive(TIMING, now=0.0)
    assert keepalive.next_deadline() == 30.0
    assert keepalive.due(29.9, 5) is None
    assert keepalive.due(30.0, 5) == ping(5)


def test_anything_heard_postpones_the_ping():
    keepalive = Keepalive(TIMING, now=0.0)
    keepalive.heard(10.0)
    assert keepalive.due(30.0, 5) is None
    assert keepalive.next_deadline() == 40.0


def test_a_peer_that_answers_nothing_is_gone():
    keepalive = Keepalive(TIMING, now=0.0)
    keepalive.due(30.0, 5)
    assert keepalive.due(49.9, 5) is None
    with pytest.raises(ProtocolViolation, match="nothing heard for 50 s"):
        keepalive.due(50.0, 5)


def test_a_peer_that_talks_without_answering_is_alive():
    keepalive = Keepalive(TIMING, now=0.0)
    keepalive.due(30.0, 5)
    keepalive.heard(45.0)
    assert keepalive.due(50.0, 5) is None
    assert keepalive.next_deadline() == 65.0


def test_the_right_pong_starts_the_next_interval():
    keepalive = Keepalive(TIMING, now=0.0)
    keepalive.due(30.0, 5)
    keepalive.heard(31.0)
    keepalive.pong_received(Pong(ignored=bytes(5)))
    assert keepalive.next_deadline() == 61.0


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_pong_of_another_size_is_a_violation(size: int):
    keepalive = Keepalive(TIMING, now=0.0)
    keepalive.due(30.0, 5)
    with pytest.raises(ProtocolViolation, match=f"pong of {size} bytes, asked for 5"):
        keepalive.pong_received(Pong(ignored=bytes(size)))


def test_a_pong_that_nobody_asked_for_is_a_violation():
    with pytest.raises(ProtocolViolation, match="pong without a ping"):
        Keepalive(TIMING, now=0.0).pong_received(Pong(ignored=b""))


def test_a_pong_answers_one_ping_only():
    keepalive = Keepalive(TIMING, now=0.0)
    keepalive.due(30.0, 0)
    keepalive.pong_received(Pong(ignored=b""))
    with pytest.raises(ProtocolViolation, match="pong without a ping"):
        keepalive.pong_received(Pong(ignored=b""))


@pytest.mark.parametrize("size", [0, 1, NO_PONG - 1])
def test_answers_a_ping_with_as_many_zeros_as_it_asks_for(size: int):
    assert Keepalive(TIMING, now=0.0).ping_received(ping(size), 0.0) == Pong(ignored=bytes(size))


@pytest.mark.parametrize("size", [NO_PONG, 65535])
def test_a_ping_that_asks_for_too_much_gets_no_answer(size: int):
    assert Keepalive(TIMING, now=0.0).ping_received(ping(size), 0.0) is None


def test_a_flood_of_pings_is_a_violation_even_when_they_want_no_answer():
    keepalive = Keepalive(TIMING, now=0.0)
    for _ in range(3):
        keepalive.ping_received(ping(65535), 0.0)
    with pytest.raises(ProtocolViolation, match="more than 3 pings at once"):
        keepalive.ping_received(ping(65535), 0.0)


def test_steady_pings_within_the_rate_are_no_flood():
    keepalive = Keepalive(TIMING, now=0.0)
    assert all(keepalive.ping_received(ping(1), float(second)) for second in range(100))


def test_first_pings_are_spread_and_later_ones_keep_the_interval():
    early = Keepalive(TIMING, now=0.0, stagger=0.0)
    assert early.next_deadline() == 15.0
    early.due(15.0, 0)
    early.heard(15.0)
    early.pong_received(Pong(ignored=b""))
    assert early.next_deadline() == 45.0
