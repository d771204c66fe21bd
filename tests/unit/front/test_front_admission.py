from ipaddress import ip_network

import pytest

from front.admission import Admission, Limits, Refusal, Ticket, TokenBucket, contains

LIMITS = Limits(
    connections=4, handshakes=3, per_address=2, rate_per_address=1.0, burst_per_address=3.0
)


def entered(admission: Admission) -> Ticket:
    ticket = admission.enter()
    assert isinstance(ticket, Ticket)
    return ticket


def test_a_bucket_gives_its_burst_and_then_its_rate():
    bucket = TokenBucket(rate=2.0, burst=3.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)


def test_a_bucket_never_holds_more_than_its_burst():
    bucket = TokenBucket(rate=1.0, burst=2.0, now=0.0)
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


def test_a_clock_that_steps_back_gives_no_tokens():
    bucket = TokenBucket(rate=1.0, burst=1.0, now=10.0)
    assert bucket.take(10.0)
    assert not bucket.take(5.0)


def test_refuses_one_handshake_too_many_and_takes_it_once_another_is_finished():
    admission = Admission(LIMITS)
    first = entered(admission)
    entered(admission), entered(admission)
    assert admission.enter() is Refusal.HANDSHAKES
    admission.authenticated(first)
    assert isinstance(admission.enter(), Ticket)


def test_refuses_one_connection_too_many_and_takes_it_once_another_has_left():
    admission = Admission(LIMITS)
    tickets = []
    for _ in range(4):
        tickets.append(entered(admission))
        admission.authenticated(tickets[-1])
    assert admission.enter() is Refusal.CONNECTIONS
    admission.leave(tickets[0])
    assert isinstance(admission.enter(), Ticket)


def test_one_address_has_its_share_of_connections_and_no_more():
    admission = Admission(LIMITS)
    first, second, third = entered(admission), entered(admission), entered(admission)
    assert admission.identify(first, "192.0.2.1", 0.0) is None
    assert admission.identify(second, "192.0.2.1", 0.0) is None
    assert admission.identify(third, "192.0.2.1", 0.0) is Refusal.ADDRESS
    assert admission.identify(third, "192.0.2.2", 0.0) is None


def test_a_refused_connection_takes_no_share_of_its_address():
    admission = Admission(LIMITS)
    first, second, third = entered(admission), entered(admission), entered(admission)
    admission.identify(first, "192.0.2.1", 0.0)
    admission.identify(second, "192.0.2.1", 0.0)
    admission.identify(third, "192.0.2.1", 0.0)
    admission.leave(third)
    admission.leave(first)
    assert admission.identify(entered(admission), "192.0.2.1", 0.0) is None


def test_an_ipv6_customer_counts_as_one_address_and_its_neighbour_does_not():
    admission = Admission(LIMITS)
    first, second, third = entered(admission), entered(admission), entered(admission)
    assert admission.identify(first, "2001:db8:1:1::1", 0.0) is None
    assert admission.identify(second, "2001:db8:1:1:ffff::2", 0.0) is None
    assert admission.identify(third, "2001:db8:1:1::3", 0.0) is Refusal.ADDRESS
    assert admission.identify(third, "2001:db8:1:2::3", 0.0) is None


def test_an_address_that_connects_too_often_waits_for_its_rate():
    admission = Admission(LIMITS)
    for _ in range(3):
        ticket = entered(admission)
        assert admission.identify(ticket, "192.0.2.1", 0.0) is None
        admission.leave(ticket)
    ticket = entered(admission)
    assert admission.identify(ticket, "192.0.2.1", 0.5) is Refusal.RATE
    assert admission.identify(ticket, "192.0.2.1", 1.5) is None


def test_an_exempt_source_has_no_limits_of_its_own():
    exempt = Limits(9, 9, 1, 0.001, 1.0, (ip_network("127.0.0.0/8"),))
    admission = Admission(exempt)
    assert [admission.identify(entered(admission), "127.0.0.1", 0.0) for _ in range(5)] == [
        None
    ] * 5


def test_leaving_twice_counts_once():
    admission = Admission(LIMITS)
    ticket = entered(admission)
    admission.identify(ticket, "192.0.2.1", 0.0)
    admission.leave(ticket)
    admission.leave(ticket)
    assert admission.connections == admission.in_handshake == 0


@pytest.mark.parametrize(
    ("host", "inside"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("name", False)],
)
def test_networks_contain_mapped_addresses_and_no_names(host: str, inside: bool):
    assert contains((ip_network("10.0.0.0/8"),), host) is inside
