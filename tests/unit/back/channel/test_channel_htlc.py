"""Adding and removing HTLCs (BOLT 2 § Adding an HTLC, § Removing an HTLC)."""

from dataclasses import replace
from hashlib import sha256

import pytest
from support.channels import (
    ANCHORS,
    ONION,
    POLICY,
    STATIC,
    End,
    deliver_all,
    messages_named,
    offered,
    opened,
    preimage,
    settle,
    wired,
)

from back.channel import machine
from back.channel.effects import (
    CloseConnection,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    OfferRefused,
    Publish,
)
from back.channel.events import (
    BlockConnected,
    FailHtlc,
    FailMalformedHtlc,
    FulfillHtlc,
    OfferHtlc,
    Received,
)
from back.channel.model import Fulfilled, Phase
from shared.errors import Action, CommandError, PeerError
from shared.wire import (
    Message,
    Shutdown,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFulfillHtlc,
)

RESERVE = 10_000_000
BALANCE = 600_000_000
"""Of the opener."""


def reason(end: End) -> str:
    """Why the last offer was refused; empty if none was."""
    refused = [e for e in end.effects if isinstance(e, OfferRefused)]
    return refused[-1].reason if refused else ""


def an_add(channel_id: bytes, **fields: object) -> UpdateAddHtlc:
    values = {
        "channel_id": channel_id,
        "id": 0,
        "amount_msat": 10_000_000,
        "payment_hash": sha256(preimage("p")).digest(),
        "cltv_expiry": 500,
        "onion_routing_packet": ONION,
    }
    return UpdateAddHtlc.model_validate(values | fields)


def refusal(end: End, message: Message) -> PeerError:
    """The error that ``message`` meets; it must not cost the channel."""
    with pytest.raises(PeerError) as caught:
        machine.apply(end.channel, Received(message))
    assert caught.value.action is Action.DISCONNECT
    end.do(Received(message))
    assert end.took(CloseConnection)
    assert end.channel.phase is Phase.NORMAL
    return caught.value


# --- offering ---------------------------------------------------------------------------------


def test_an_offer_leaves_with_its_signature_and_is_told_as_a_fact() -> None:
    opener, _ = wired(opened())
    opener.offer("p1", 50_000_000)
    assert messages_named(opener.sent) == ["update_add_htlc", "commitment_signed"]
    (fact,) = opener.took(HtlcOffered)
    assert fact.htlc.origin == "p1"
    assert (fact.htlc.id, fact.htlc.remote_first) == (0, 1)


def test_offers_wait_while_the_peer_has_not_revoked_and_then_share_one_signature() -> None:
    opener, fundee = wired(opened())
    for origin in ("p1", "p2", "p3"):
        opener.offer(origin, 5_000_000)
    assert messages_named(opener.sent) == ["update_add_htlc", "commitment_signed"]
    assert [update.origin for update in opener.channel.queue] == ["p2", "p3"]
    fundee.receive()
    opener.receive()
    assert messages_named(opener.sent)[2:] == [
        "revoke_and_ack",
        "update_add_htlc",
        "update_add_htlc",
        "commitment_signed",
    ]
    assert [m.id for m in opener.sent if isinstance(m, UpdateAddHtlc)] == [0, 1, 2]


def test_a_payment_hash_may_be_offered_twice() -> None:
    opener, fundee = wired(opened())
    opener.do(offered("p1", 5_000_000), offered("p1", 5_000_000))
    settle(opener, fundee)
    assert opener.channel.local_msat == BALANCE - 10_000_000


@pytest.mark.parametrize(
    ("amount_msat", "cltv_expiry", "why"),
    [
        (0, 500, "htlc_minimum_msat"),
        (999, 500, "htlc_minimum_msat"),
        (5_000_000, 500_000_000, "not a height"),
    ],
)
def test_an_impossible_offer_is_refused_at_once(
    amount_msat: int, cltv_expiry: int, why: str
) -> None:
    opener, _ = wired(opened(fundee_limits={"htlc_minimum_msat": 1_000}))
    opener.offer("p1", amount_msat, cltv_expiry)
    assert why in reason(opener)
    assert not opener.sent


def test_the_peers_max_accepted_htlcs_holds() -> None:
    opener, fundee = wired(opened(fundee_limits={"max_accepted_htlcs": 2}))
    opener.do(*(offered(f"p{i}", 5_000_000) for i in range(3)))
    assert len(opener.took(HtlcOffered)) == 2
    assert "2 HTLCs of ours are pending: the peer's max_accepted_htlcs" in reason(opener)
    settle(opener, fundee)
    opener.offer("p9", 5_000_000)
    assert len(opener.took(HtlcOffered)) == 3, "room is there again"


def test_the_peers_max_htlc_value_in_flight_holds_to_the_last_msat() -> None:
    limits = {"max_htlc_value_in_flight_msat": 9_000_000}
    opener, _ = wired(opened(fundee_limits=limits))
    opener.do(offered("p1", 9_000_000), offered("p2", 1))
    assert [e.htlc.origin for e in opener.took(HtlcOffered)] == ["p1"]
    assert "max_htlc_value_in_flight_msat" in reason(opener)


def test_our_own_limits_hold_where_the_peer_allows_more() -> None:
    few = replace(POLICY, max_offered_htlcs=2)
    opener, _ = wired(opened(policy=few))
    opener.do(*(offered(f"p{i}", 5_000_000) for i in range(3)))
    assert len(opener.took(HtlcOffered)) == 2
    assert "max_offered_htlcs" in reason(opener)
    little = replace(POLICY, max_offered_in_flight_ratio=0.01)
    opener, _ = wired(opened(policy=little))
    opener.do(offered("p1", 10_000_000), offered("p2", 1))
    assert [e.htlc.origin for e in opener.took(HtlcOffered)] == ["p1"]
    assert "max_offered_in_flight_ratio" in reason(opener)


@pytest.mark.parametrize(
    ("kind", "cost_sat"),
    [
        # Twice the feerate of 1000/kw, with the HTLC itself and one more.
        (STATIC, 2 * (724 + 2 * 172)),
        (ANCHORS, 2 * (1124 + 2 * 172) + 660),
    ],
)
def test_the_opener_keeps_reserve_fee_and_a_buffer_for_a_fee_spike(
    kind: object, cost_sat: int
) -> None:
    most = BALANCE - RESERVE - cost_sat * 1000
    opener, fundee = wired(opened(kind))
    opener.offer("f1", most + 1)
    assert "the reserve is" in reason(opener)
    assert not opener.sent
    opener.offer("f2", most)
    settle(opener, fundee)
    assert opener.outcomes == {"f1": ["refused"], "f2": ["offered", "failed"]}


def test_the_fundee_keeps_only_its_reserve() -> None:
    opener, fundee = wired(opened())
    fundee.offer("f1", 400_000_000 - RESERVE + 1)
    fundee.offer("f2", 400_000_000 - RESERVE)
    settle(opener, fundee)
    assert fundee.outcomes == {"f1": ["refused"], "f2": ["offered", "failed"]}


def test_a_fundee_adds_nothing_whose_fee_the_opener_could_not_pay() -> None:
    # The opener has its reserve and the fee for no HTLC, and a satoshi less than for one.
    fee_sat = 724 + 172 - 1
    pushed = 1_000_000_000 - RESERVE - fee_sat * 1000
    opener, fundee = wired(opened(push_msat=pushed))
    fundee.offer("p1", 5_000_000)
    assert "could not pay" in reason(fundee)
    fundee.offer("p2", 500_000)  # trimmed: costs nothing
    settle(opener, fundee)
    assert fundee.outcomes["p2"] == ["offered", "fulfilled"]


def test_an_opener_below_its_reserve_can_be_paid() -> None:
    opener, fundee = wired(opened(push_msat=995_000_000))
    fundee.offer("p1", 50_000_000)
    settle(opener, fundee)
    assert opener.channel.local_msat == 55_000_000


def test_dust_exposure_is_bounded_in_both_commitments() -> None:
    policy = replace(POLICY, max_dust_exposure_msat=1_000_000)
    opener, fundee = wired(opened(policy=policy))
    # Trimmed below 354 + 663 sat in ours and below 354 + 703 sat in theirs.
    opener.do(offered("p1", 600_000), offered("p2", 400_000), offered("p3", 1))
    assert "without an output" in reason(opener)
    assert opener.outcomes["p3"] == ["refused"]
    settle(opener, fundee)
    opener.offer("p4", 1_017_000)  # an output in ours, none in theirs
    assert opener.outcomes["p4"] == ["refused"]
    opener.offer("p5", 1_057_000)
    assert opener.outcomes["p5"] == ["offered"]


def test_queued_offers_are_refused_when_the_peer_goes_away() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 5_000_000)
    opener.offer("p2", 5_000_000)
    opener.cut()
    assert opener.outcomes == {"p1": ["offered"], "p2": ["refused"]}
    opener.offer("p3", 5_000_000)
    assert "OFFLINE" in reason(opener)
    settle(opener, fundee)
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_nothing_is_offered_once_either_side_wants_to_close() -> None:
    opener, fundee = wired(opened())
    script = fundee.channel.parameters.default_shutdown_script
    opener.offer("f1", 5_000_000)
    opener.offer("f2", 5_000_000)
    opener.do(Received(Shutdown(channel_id=opener.channel.channel_id, scriptpubkey=script)))
    assert opener.outcomes["f2"] == ["refused"]
    opener.offer("f3", 5_000_000)
    assert "about to close" in reason(opener)


def test_more_than_a_full_commitment_of_offers_does_not_queue() -> None:
    opener, _ = wired(opened(push_msat=0))
    opener.offer("p0", 5_000_000)
    for i in range(484):
        opener.offer(f"p{i}", 100)
    assert "wait already" in reason(opener)


# --- a peer that adds ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"amount_msat": 0}, "amount_msat 0"),
        ({"amount_msat": 999}, "amount_msat 999 is below 1000"),
        ({"cltv_expiry": 500_000_000}, "not a height"),
        ({"id": 1}, "id 1 where 0 is next"),
        ({"amount_msat": 300_000_001}, "max_htlc_value_in_flight_msat"),
        ({"amount_msat": 290_000_000}, "fee and reserve"),
    ],
)
def test_an_add_against_a_limit_costs_the_connection_only(
    fields: dict[str, object], why: str
) -> None:
    limits = {"htlc_minimum_msat": 1_000, "max_htlc_value_in_flight_msat": 300_000_000}
    _, fundee = wired(opened(push_msat=700_000_000, fundee_limits=limits))
    error = refusal(fundee, an_add(fundee.channel.channel_id, **fields))
    assert why in str(error)


def test_an_opener_may_add_up_to_its_reserve_and_fee() -> None:
    """We ask of ourselves for a buffer, of the peer for no more than BOLT 2 does."""
    most = BALANCE - RESERVE - (724 + 172) * 1000
    _, fundee = wired(opened())
    add = an_add(fundee.channel.channel_id, amount_msat=most)
    assert fundee.do(Received(add)).channel.htlcs[False, 0].amount_msat == most
    _, fundee = wired(opened())
    refusal(fundee, an_add(fundee.channel.channel_id, amount_msat=most + 1))


def test_more_adds_than_we_accept_cost_the_connection() -> None:
    _, fundee = wired(opened(fundee_limits={"max_accepted_htlcs": 1}))
    fundee.do(Received(an_add(fundee.channel.channel_id)))
    error = refusal(fundee, an_add(fundee.channel.channel_id, id=1))
    assert "max_accepted_htlcs 1" in str(error)


def test_an_add_after_shutdown_costs_the_connection() -> None:
    opener, fundee = wired(opened())
    script = opener.channel.parameters.default_shutdown_script
    channel_id = fundee.channel.channel_id
    shut = replace(fundee.channel, remote_shutdown_script=script)
    with pytest.raises(PeerError, match="after shutdown"):
        machine.apply(shut, Received(an_add(channel_id)))


def test_our_own_htlc_in_flight_is_not_held_against_the_peer() -> None:
    """An opener that adds all it has cannot know of an HTLC of ours that makes its fee higher."""
    opener, fundee = wired(opened())
    fundee.offer("f1", 50_000_000)
    most = BALANCE - RESERVE - (724 + 172) * 1000
    fundee.do(Received(an_add(fundee.channel.channel_id, amount_msat=most)))
    assert not fundee.took(CloseConnection)
    assert opener is fundee.peer


def test_an_uncommitted_add_is_forgotten_with_the_connection_and_its_id_comes_again() -> None:
    _, fundee = wired(opened())
    fundee.do(Received(an_add(fundee.channel.channel_id)))
    fundee.cut()
    assert not fundee.channel.htlcs
    assert fundee.channel.next_remote_htlc_id == 0


def test_too_much_dust_is_told_with_the_htlc() -> None:
    policy = replace(POLICY, max_dust_exposure_msat=600_000)
    ends = opened()
    opener, fundee = wired((ends[0], replace(ends[1], policy=policy)))
    opener.do(offered("f1", 600_000))
    deliver_all(opener, fundee)
    opener.do(offered("f2", 600_000), offered("f3", 60_000_000))
    deliver_all(opener, fundee)
    assert [(e.htlc.id, e.exceeds_dust_exposure) for e in fundee.took(HtlcReceived)] == [
        (0, False),
        (1, True),
        (2, False),
    ]


# --- removing --------------------------------------------------------------------------------


@pytest.fixture
def committed() -> tuple[End, End]:
    """An HTLC of the opener, p1, irrevocably committed and not decided."""
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    deliver_all(opener, fundee)
    assert fundee.undecided
    return opener, fundee


def test_a_preimage_is_told_at_once_and_a_failure_only_when_it_is_irrevocable(
    committed: tuple[End, End],
) -> None:
    opener, fundee = committed
    opener.offer("f2", 50_000_000)
    deliver_all(opener, fundee)
    fundee.decide()
    opener.receive(2)
    (fact,) = opener.took(HtlcFulfilled)
    assert fact.payment_preimage == preimage("p1")
    assert not opener.took(HtlcFailed)
    assert len(opener.channel.htlcs) == 2
    opener.receive()
    deliver_all(opener, fundee)
    (failed,) = opener.took(HtlcFailed)
    assert failed.htlc.resolution.reason == b"reason of f2"
    assert not opener.channel.htlcs
    assert not fundee.channel.htlcs


def test_a_decision_is_kept_while_the_peer_is_away(committed: tuple[End, End]) -> None:
    opener, fundee = committed
    opener.cut()
    fundee.decide()
    assert fundee.channel.htlcs[False, 0].resolution == Fulfilled(preimage("p1"))
    fundee.restart()
    assert not fundee.undecided, "the decision is durable"
    settle(opener, fundee)
    assert opener.outcomes["p1"] == ["offered", "fulfilled"]


def test_deciding_again_changes_nothing(committed: tuple[End, End]) -> None:
    opener, fundee = committed
    fundee.decide()
    before = fundee.channel
    assert machine.apply(before, FailHtlc(0, b"late")).channel is before
    deliver_all(opener, fundee)
    before = fundee.channel
    assert machine.apply(before, FulfillHtlc(0, preimage("p1"))).channel is before


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (FulfillHtlc(0, bytes(32)), "preimage"),
        (FulfillHtlc(7, bytes(32)), "no received HTLC 7"),
        (FailMalformedHtlc(0, bytes(32), 5), "BADONION"),
    ],
)
def test_an_impossible_decision_is_refused(
    committed: tuple[End, End], command: object, why: str
) -> None:
    _, fundee = committed
    fundee.do(command)
    ((index, error),) = fundee.refusals
    assert index == 0
    assert isinstance(error, CommandError)
    assert why in str(error)
    assert fundee.channel.htlcs[False, 0].resolution is None


def test_an_htlc_that_is_not_irrevocable_cannot_be_decided() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    fundee.receive()
    with pytest.raises(CommandError, match="irrevocably"):
        machine.apply(fundee.channel, FailHtlc(0, b""))


@pytest.mark.parametrize("name", ["unknown", "preimage", "badonion"])
def test_a_wrong_removal_costs_the_connection_only(committed: tuple[End, End], name: str) -> None:
    opener, _ = committed
    channel_id = opener.channel.channel_id
    message = {
        "unknown": UpdateFailHtlc(channel_id=channel_id, id=1, reason=b""),
        "preimage": UpdateFulfillHtlc(channel_id=channel_id, id=0, payment_preimage=bytes(32)),
        "badonion": UpdateFailMalformedHtlc(
            channel_id=channel_id, id=0, sha256_of_onion=bytes(32), failure_code=5
        ),
    }[name]
    refusal(opener, message)
    assert opener.channel.htlcs[True, 0].resolution is None


def test_an_htlc_cannot_be_removed_before_it_is_irrevocable_nor_twice() -> None:
    opener, fundee = wired(opened())
    opener.offer("p1", 50_000_000)
    paid = UpdateFulfillHtlc(
        channel_id=opener.channel.channel_id, id=0, payment_preimage=preimage("p1")
    )
    with pytest.raises(PeerError, match="not there to be removed"):
        machine.apply(opener.channel, Received(paid))
    deliver_all(opener, fundee)
    opener.do(Received(paid))
    with pytest.raises(PeerError, match="not there to be removed"):
        machine.apply(opener.channel, Received(paid))


def test_a_preimage_is_never_forgotten_and_its_htlc_never_fails(
    committed: tuple[End, End],
) -> None:
    opener, _ = committed
    channel_id = opener.channel.channel_id
    opener.do(
        Received(UpdateFulfillHtlc(channel_id=channel_id, id=0, payment_preimage=preimage("p1")))
    )
    opener.restart()
    facts = machine.resume(opener.channel)
    assert [f.payment_preimage for f in facts if isinstance(f, HtlcFulfilled)] == [preimage("p1")]
    online = replace(opener.channel, link=committed[1].channel.link.ONLINE)
    with pytest.raises(PeerError, match="after its preimage was shown"):
        machine.apply(online, Received(UpdateFailHtlc(channel_id=channel_id, id=0, reason=b"")))


# --- deadlines -----------------------------------------------------------------------------------


def test_an_offered_htlc_that_times_out_fails_the_channel(committed: tuple[End, End]) -> None:
    opener, fundee = committed
    opener.do(BlockConnected(501))
    assert opener.channel.phase is Phase.NORMAL
    opener.do(BlockConnected(502))
    assert opener.channel.phase is Phase.CLOSING
    assert [p.what for p in opener.took(Publish)] == ["commitment"]
    assert messages_named(opener.sent)[-1] == "error"
    fundee.do(BlockConnected(502))
    assert fundee.channel.phase is Phase.NORMAL, "an HTLC that it did not pay is no risk to it"


def test_a_paid_htlc_that_the_peer_does_not_settle_fails_the_channel(
    committed: tuple[End, End],
) -> None:
    _, fundee = committed
    fundee.cut()
    fundee.decide()
    fundee.do(BlockConnected(481))
    assert fundee.channel.phase is Phase.NORMAL
    fundee.do(BlockConnected(482))
    assert fundee.channel.phase is Phase.CLOSING


def test_an_offer_keeps_its_path_key() -> None:
    opener, fundee = wired(opened())
    point = opener.channel.local_commitment.current_point
    opener.do(replace(offered("p1", 5_000_000), path_key=point))
    deliver_all(opener, fundee)
    (fact,) = fundee.took(HtlcReceived)
    assert fact.htlc.path_key == point
    assert fact.htlc.onion_routing_packet == ONION
    assert isinstance(offered("p1", 1), OfferHtlc)
