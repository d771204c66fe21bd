"""Whatever comes and goes, no limit is exceeded and no place is lost."""

from collections import Counter

from hypothesis import given, strategies as st

from front.admission import Admission, Limits, Ticket

LIMITS = Limits(
    connections=6, handshakes=3, per_address=2, rate_per_address=0.5, burst_per_address=4.0
)
HOSTS = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "::ffff:192.0.2.1"]
SAME = {"2001:db8::2": "2001:db8::1", "::ffff:192.0.2.1": "192.0.2.1"}
"""Hosts that count as one."""

steps = st.lists(
    st.tuples(
        st.sampled_from(["enter", "authenticate", "leave"]),
        st.integers(0, 9),
        st.sampled_from(HOSTS),
        st.floats(0, 2),
    ),
    max_size=60,
)


@given(steps)
def test_no_sequence_of_events_breaks_a_limit(events):
    admission = Admission(LIMITS)
    now = 0.0
    inside: list[tuple[Ticket, str]] = []
    in_handshake: set[int] = set()
    for action, which, host, pause in events:
        now += pause
        if action == "enter":
            ticket = admission.enter()
            if isinstance(ticket, Ticket):
                if admission.identify(ticket, host, now) is None:
                    inside.append((ticket, SAME.get(host, host)))
                    in_handshake.add(id(ticket))
                else:
                    admission.leave(ticket)
        elif inside:
            ticket, _ = inside[which % len(inside)]
            if action == "authenticate":
                admission.authenticated(ticket)
            else:
                admission.leave(ticket)
                inside.pop(which % len(inside))
            in_handshake.discard(id(ticket))
        assert admission.connections == len(inside) <= LIMITS.connections
        assert admission.in_handshake == len(in_handshake) <= LIMITS.handshakes
        assert all(n <= LIMITS.per_address for n in Counter(h for _, h in inside).values())
    for ticket, _ in inside:
        admission.leave(ticket)
    assert admission.connections == admission.in_handshake == 0
    assert isinstance(admission.enter(), Ticket)
