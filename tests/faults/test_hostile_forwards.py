"""Onions made to break us: each HTLC has one answer of BOLT 4's kind, whatever is inside."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from structlog.testing import capture_logs
from support.channels import opened
from support.payment_lines import FEATURES, HEIGHT, Line, Node, Sent, ended, line_of_nodes
from support.waiting import until

from back import htlcs as intake
from back.channel.effects import HtlcFailed, HtlcReceived
from back.channel.events import FailHtlc, FailMalformedHtlc, OfferHtlc
from back.channel.model import Failed, Htlc, HtlcState, Link
from back.htlcs import Htlcs
from back.relay import downstream
from back.relay.onion import Final
from back.relay.service import Relay
from back.signer.signer import Signer
from shared.chain import REGTEST
from shared.crypto import blinding, sphinx
from shared.crypto.failures import decode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.crypto.recipient_data import (
    PaymentConstraints,
    PaymentRelay,
    RecipientData,
    encode_recipient_data,
)
from shared.crypto.signature import public_key
from shared.wire import UpdateAddHtlc, decode, encode

US = Signer(hashlib.sha256(b"us").digest(), REGTEST.coin_type)
NEXT = public_key(hashlib.sha256(b"next").digest())
KEY = hashlib.sha256(b"session").digest()
HASH = hashlib.sha256(b"hash").digest()
CHANNEL = opened()[1]
AMOUNT = 10_000_000


@dataclass
class Desk:
    """The intake with a real relay, of which every answer is kept.

    Attributes:
        posted: events for the incoming channel.
        finals: payments to us.
        offers: made to the other side of a forward.
    """

    posted: list[Any] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    offers: list[Any] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.channel = CHANNEL
        self.is_stopped = False
        out = SimpleNamespace(
            channel=replace(
                CHANNEL, parameters=replace(CHANNEL.parameters, node_id=NEXT), local_alias=7
            )
        )
        runners = {out.channel.channel_id: out}
        peers = SimpleNamespace(known={NEXT: SimpleNamespace(node_id=NEXT, runners=runners)})
        channels = SimpleNamespace(
            runners=runners, peers=peers, height=HEIGHT, by_key_index=lambda _: None
        )
        store = SimpleNamespace(lease=SimpleNamespace(shards=range(65), epoch=1))
        relay = Relay(store, channels, self._told)  # type: ignore[arg-type]
        relay.carrier.to_downstream = lambda message, _: self.offers.append(message)  # type: ignore[method-assign]
        receiver = SimpleNamespace(received=self._final)
        self.intake = Htlcs(US, receiver, None, relay)  # type: ignore[arg-type]

    def _told(self, _: str) -> None:
        self.refused += 1

    def _final(self, _runner: Any, final: Final, **_more: Any) -> None:
        self.finals.append(final)

    def post(self, event: Any, _writes: Sequence[Any] = ()) -> None:
        self.posted.append(event)

    def take(self, htlc: Htlc) -> Any:
        """Have an HTLC looked at; return its one answer."""
        self.intake._waiting.append((self, HtlcReceived(htlc)))  # type: ignore[arg-type]
        with capture_logs() as logs:
            self.intake._open()
        assert not [entry for entry in logs if entry["log_level"] in {"error", "critical"}], logs
        answers = [*self.posted, *self.finals, *self.offers]
        assert len(answers) == 1
        return answers[0]


def received(onion: bytes, path_key: bytes | None = None, **changed: Any) -> Htlc:
    htlc = Htlc(
        offered=False,
        id=0,
        amount_msat=AMOUNT,
        payment_hash=HASH,
        cltv_expiry=HEIGHT + 200,
        state=HtlcState.RCVD_ADD_ACK_REVOCATION,
        onion_routing_packet=onion,
        path_key=path_key,
    )
    return replace(htlc, **changed)


def check(answer: Any, htlc: Htlc) -> None:
    """Whatever it is, a channel and a peer can take it."""
    if isinstance(answer, FailMalformedHtlc):
        assert answer.failure_code & 0x8000
        assert answer.sha256_of_onion == hashlib.sha256(htlc.onion_routing_packet).digest()
    elif isinstance(answer, FailHtlc):
        assert htlc.path_key is None, "inside a blinded path nobody hears of more"
        assert len(answer.reason) >= 292
    elif not isinstance(answer, Final):
        add = UpdateAddHtlc(
            channel_id=bytes(32),
            id=0,
            amount_msat=answer.amount_msat,
            payment_hash=answer.payment_hash,
            cltv_expiry=answer.cltv_expiry,
            onion_routing_packet=answer.onion_routing_packet,
            path_key=answer.path_key,
        )
        assert decode(encode(add)) == add
        if answer.path_key is not None:
            # Another implementation reads it as a point or closes the connection.
            sphinx._blinded_key(KEY, answer.path_key)


def onion_of(payload: bytes, to: bytes, *, is_final: bool) -> bytes:
    hops = [sphinx.Hop(to, payload)]
    if not is_final:
        hops.append(sphinx.Hop(NEXT, encode_payload(Payload(amt_to_forward=1))))
    return sphinx.build(KEY, hops, HASH).packet


points = st.sampled_from([NEXT, US.node_id, b"\x02" + b"\xff" * 32, b"\x03" + bytes(32)])
u64 = st.one_of(st.integers(0, 3), st.just(AMOUNT), st.integers(0, 2**64 - 1))
u32 = st.one_of(st.integers(0, 3), st.just(HEIGHT + 100), st.integers(0, 2**32 - 1))
scids = st.sampled_from([7, 8, 0, 2**64 - 1])
relays = st.builds(
    PaymentRelay,
    cltv_expiry_delta=st.sampled_from([0, 40, 199, 310, 311, 65_535]),
    fee_proportional_millionths=st.one_of(st.just(0), st.integers(0, 2**32 - 1)),
    fee_base_msat=st.one_of(st.sampled_from([0, AMOUNT - 1, AMOUNT]), u32),
)
constraints = st.builds(PaymentConstraints, max_cltv_expiry=u32, htlc_minimum_msat=u64)


def maybe(strategy: Any) -> Any:
    return st.one_of(st.none(), strategy)


recipient_data = st.builds(
    RecipientData,
    padding=maybe(st.binary(max_size=20)),
    short_channel_id=maybe(scids),
    next_node_id=maybe(points),
    path_id=maybe(st.binary(max_size=20)),
    next_path_key_override=maybe(points),
    payment_relay=maybe(relays),
    payment_constraints=maybe(constraints),
    allowed_features=maybe(st.binary(max_size=3)),
)
payloads = st.builds(
    Payload,
    amt_to_forward=maybe(u64),
    outgoing_cltv_value=maybe(u32),
    short_channel_id=maybe(scids),
    current_path_key=maybe(points),
    payment_metadata=maybe(st.binary(max_size=20)),
    total_amount_msat=maybe(u64),
    payment_data=maybe(st.builds(PaymentData, payment_secret=st.just(HASH), total_msat=u64)),
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(payloads, st.booleans(), maybe(points))
def test_any_payload_has_one_answer(payload: Payload, is_final: bool, path_key: Any) -> None:
    onion = onion_of(encode_payload(payload), US.node_id, is_final=is_final)
    htlc = received(onion, path_key)
    check(Desk().take(htlc), htlc)


@FUZZ
@given(st.binary(min_size=2, max_size=200), st.booleans())
def test_any_bytes_for_a_payload_have_one_answer(payload: bytes, is_final: bool) -> None:
    htlc = received(onion_of(payload, US.node_id, is_final=is_final))
    check(Desk().take(htlc), htlc)


@FUZZ
@given(st.one_of(recipient_data, st.binary(max_size=60)), payloads, st.booleans(), st.booleans())
def test_anything_sealed_to_us_has_one_answer(
    sealed: "RecipientData | bytes", payload: Payload, is_final: bool, is_introduction: bool
) -> None:
    data = sealed if isinstance(sealed, bytes) else encode_recipient_data(sealed)
    path = blinding.blind(KEY, [(US.node_id, data)])
    hop = path.path[0]
    fields: dict[str, Any] = {"encrypted_recipient_data": hop.encrypted_recipient_data}
    if payload.payment_metadata is None:
        # As honest payers have it, so that what is sealed counts.
        payload = Payload()
    if is_introduction:
        fields["current_path_key"] = path.first_path_key
    elif payload.payment_metadata is None:
        fields["current_path_key"] = None
    if is_final:
        amounts = {"amt_to_forward": 1, "outgoing_cltv_value": 1, "total_amount_msat": 1}
        fields |= amounts
    to = US.node_id if is_introduction else hop.blinded_node_id
    encoded = encode_payload(payload.model_copy(update=fields))
    onion = onion_of(encoded, to, is_final=is_final)
    htlc = received(onion, None if is_introduction else path.first_path_key)
    answer = Desk().take(htlc)
    check(answer, htlc)
    if not isinstance(answer, FailHtlc | FailMalformedHtlc | Final):
        assert 0 < answer.amount_msat <= AMOUNT
        assert 0 < answer.cltv_expiry <= htlc.cltv_expiry


@FUZZ
@given(st.one_of(st.binary(max_size=80), st.binary(min_size=1366, max_size=1366)), maybe(points))
def test_any_packet_has_one_answer(packet: bytes, path_key: bytes | None) -> None:
    htlc = received(packet, path_key)
    check(Desk().take(htlc), htlc)


def test_an_override_that_is_no_point_is_not_passed_on() -> None:
    """The next peer could not read our message: its connection would end, again and again."""
    data = RecipientData(
        short_channel_id=7,
        payment_relay=PaymentRelay(
            cltv_expiry_delta=40, fee_proportional_millionths=0, fee_base_msat=0
        ),
        next_path_key_override=b"\x02" + b"\xff" * 32,
    )
    path = blinding.blind(KEY, [(US.node_id, encode_recipient_data(data))])
    hop = path.path[0]
    payload = Payload(encrypted_recipient_data=hop.encrypted_recipient_data)
    onion = onion_of(encode_payload(payload), hop.blinded_node_id, is_final=False)
    assert isinstance(Desk().take(received(onion, path.first_path_key)), FailMalformedHtlc)


# --- what it costs --------------------------------------------------------------------------------


async def test_a_full_commitment_of_onions_holds_the_loop_in_short_turns() -> None:
    payload = Payload(amt_to_forward=1, outgoing_cltv_value=5, short_channel_id=99)
    onion = onion_of(encode_payload(payload), US.node_id, is_final=False)
    desk = Desk()
    for number in range(483):
        desk.intake.perform(desk, HtlcReceived(received(onion, id=number)))  # type: ignore[arg-type]
    assert not desk.posted
    turns, before = 0, time.perf_counter()
    while len(desk.posted) < 483:
        await asyncio.sleep(0)
        turns += 1
    spent = time.perf_counter() - before
    assert turns > 1
    assert spent < 483 * 0.005, "5 ms for each are more than any of ours needs"
    assert spent / turns < 4 * intake.TURN_S
    assert [event.id for event in desk.posted] == list(range(483))


def test_what_is_refused_leaves_nothing_behind_and_no_line_in_the_log() -> None:
    desk = Desk()
    kinds = [
        received(bytes(1366)),
        received(onion_of(b"\x02\x00", US.node_id, is_final=False)),
        received(
            onion_of(
                encode_payload(
                    Payload(amt_to_forward=1, outgoing_cltv_value=5, short_channel_id=99)
                ),
                US.node_id,
                is_final=False,
            )
        ),
    ]
    with capture_logs() as logs:
        for number in range(300):
            htlc = replace(kinds[number % 3], id=number)
            desk.intake._received(desk, HtlcReceived(htlc))  # type: ignore[arg-type]
    assert len(desk.posted) == 300
    assert {entry["log_level"] for entry in logs} <= {"debug"}
    relay = desk.intake._relay
    assert not relay.upstream.pending
    assert not relay.downstream._refused
    assert not relay.downstream._closed


def test_what_is_kept_of_forwards_that_are_over_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downstream, "KEPT_CLOSED", 50)
    monkeypatch.setattr(downstream, "KEPT_REFUSALS", 50)
    carrier = SimpleNamespace(to_upstream=lambda *_: None)
    market = SimpleNamespace(ways=lambda _: [])
    side = downstream.Downstream(carrier, market)  # type: ignore[arg-type]
    desk = Desk()
    payload = Payload(amt_to_forward=AMOUNT, outgoing_cltv_value=150, short_channel_id=7)
    onion = onion_of(encode_payload(payload), US.node_id, is_final=False)
    offer = desk.take(received(onion))
    for number in range(200):
        side.receive(offer.model_copy(update={"htlc_id": number}))
        if number % 2:
            side.receive(downstream.Noted(key_index=offer.key_index, htlc_id=number))
    assert 0 < len(side._refused) <= 50
    assert len(side._closed) == 50
    assert not side.pending


# --- through a node ---------------------------------------------------------------------------


def send_blinded(line: Line, relay: PaymentRelay, *, amount_msat: int, expiry: int) -> Sent:
    """Pay the last node by a path that begins at the middle one, as its maker wrote it."""
    first, middle, last = line.nodes
    scid = line.scids[1][0]
    data = [
        RecipientData(short_channel_id=scid, payment_relay=relay),
        RecipientData(path_id=bytes(32)),
    ]
    ids = [middle.node_id, last.node_id]
    sealed = [encode_recipient_data(each) for each in data]
    path = blinding.blind(KEY, list(zip(ids, sealed, strict=True)))
    introduction, end = path.path
    payloads = [
        Payload(
            encrypted_recipient_data=introduction.encrypted_recipient_data,
            current_path_key=path.first_path_key,
        ),
        Payload(
            encrypted_recipient_data=end.encrypted_recipient_data,
            amt_to_forward=AMOUNT,
            outgoing_cltv_value=HEIGHT + 40,
            total_amount_msat=AMOUNT,
        ),
    ]
    hops = [
        sphinx.Hop(to, encode_payload(payload))
        for to, payload in zip([middle.node_id, end.blinded_node_id], payloads, strict=True)
    ]
    onion = sphinx.build(KEY, hops, HASH)
    sent = Sent(f"test:{amount_msat}", HASH, onion.shared_secrets)
    first.runner(middle).post(OfferHtlc(amount_msat, HASH, expiry, onion.packet, sent.origin))
    return sent


def terms(**changed: int) -> PaymentRelay:
    values = {"cltv_expiry_delta": 40, "fee_proportional_millionths": 200, "fee_base_msat": 1_000}
    return PaymentRelay(**(values | changed))


async def failed_with(line: Line, sent: Sent) -> tuple[int, str]:
    """Who failed it, and with what."""
    outcome = await ended(line, sent)
    assert isinstance(outcome, HtlcFailed)
    assert isinstance(outcome.htlc.resolution, Failed)
    error = sphinx.unwrap_error(sent.secrets, outcome.htlc.resolution.reason)
    assert error is not None
    return error.hop + 1, decode_failure(error.message).name


def adds(node: Node, other: Node) -> int:
    """How many HTLCs a node was offered by another."""
    return other.wires[node.node_id].sent.count("update_add_htlc")


async def test_a_blinded_forward_reaches_a_peer_that_can_read_it(tmp_path: Path) -> None:
    async with line_of_nodes(tmp_path) as line:
        sent = send_blinded(line, terms(), amount_msat=AMOUNT + 3_000, expiry=HEIGHT + 80)
        # The last node knows no such path; what it says is told as the first node of the path may.
        assert await failed_with(line, sent) == (1, "invalid_onion_blinding")
        assert adds(line.nodes[2], line.nodes[1]) == 1
        await line.quiet()


async def test_no_blinded_forward_goes_to_a_peer_that_cannot_read_it(tmp_path: Path) -> None:
    """path_key is an even field: such a peer would close the connection, again and again."""
    async with line_of_nodes(tmp_path) as line:
        _, middle, last = line.nodes
        runner = middle.runner(last)
        assert runner.channel.features == FEATURES
        runner.channel = replace(runner.channel, features=frozenset())
        sent = send_blinded(line, terms(), amount_msat=AMOUNT + 3_000, expiry=HEIGHT + 80)
        assert await failed_with(line, sent) == (1, "invalid_onion_blinding")
        assert adds(last, middle) == 0
        assert runner.channel.link is Link.ONLINE


@pytest.mark.parametrize(
    ("relay", "amount_msat", "expiry"),
    [
        pytest.param(terms(fee_base_msat=0), AMOUNT + 3_000, HEIGHT + 80, id="too low base"),
        pytest.param(
            terms(fee_proportional_millionths=0), AMOUNT + 3_000, HEIGHT + 80, id="too low ppm"
        ),
        pytest.param(terms(cltv_expiry_delta=39), AMOUNT + 3_000, HEIGHT + 80, id="too short"),
        pytest.param(terms(cltv_expiry_delta=0), AMOUNT + 3_000, HEIGHT + 80, id="no delta"),
        pytest.param(terms(cltv_expiry_delta=65_535), AMOUNT, HEIGHT + 80, id="huge delta"),
        pytest.param(terms(fee_base_msat=2**32 - 1), AMOUNT, HEIGHT + 80, id="huge base"),
        pytest.param(terms(fee_proportional_millionths=2**32 - 1), 999, HEIGHT + 80, id="huge ppm"),
        pytest.param(terms(cltv_expiry_delta=40), AMOUNT, HEIGHT + 42, id="expires at once"),
        pytest.param(terms(cltv_expiry_delta=40), AMOUNT, HEIGHT + 2_017, id="held for weeks"),
    ],
)
async def test_a_path_whose_maker_asks_for_too_much_fails_as_any_other(
    tmp_path: Path, relay: PaymentRelay, amount_msat: int, expiry: int
) -> None:
    async with line_of_nodes(tmp_path) as line:
        before = line.balances()
        sent = send_blinded(line, relay, amount_msat=amount_msat, expiry=expiry)
        assert await failed_with(line, sent) == (1, "invalid_onion_blinding")
        assert adds(line.nodes[2], line.nodes[1]) == 0
        await line.quiet()
        assert line.balances() == before


@pytest.mark.parametrize("amount_msat", [0, AMOUNT + 3_001, 2**63, 2**64 - 1])
async def test_amounts_that_do_not_fit_what_came_in_are_refused(
    tmp_path: Path, amount_msat: int
) -> None:
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        payload = Payload(
            amt_to_forward=amount_msat,
            outgoing_cltv_value=HEIGHT + 40,
            short_channel_id=line.scids[1][0],
        )
        hops = [
            sphinx.Hop(middle.node_id, encode_payload(payload)),
            sphinx.Hop(last.node_id, encode_payload(Payload(amt_to_forward=1))),
        ]
        onion = sphinx.build(KEY, hops, HASH)
        sent = Sent("test:amount", HASH, onion.shared_secrets)
        offer = OfferHtlc(AMOUNT + 3_000, HASH, HEIGHT + 80, onion.packet, sent.origin)
        first.runner(middle).post(offer)
        hop, code = await failed_with(line, sent)
        assert hop == 1
        assert code in {"amount_below_minimum", "fee_insufficient", "temporary_channel_failure"}
        assert adds(last, middle) == 0


async def test_an_onion_that_the_next_peer_cannot_read_is_told_as_ours(tmp_path: Path) -> None:
    """Whoever made the onion may have spoiled what is inside: nobody is closed for it."""
    async with line_of_nodes(tmp_path) as line:
        first, middle, last = line.nodes
        payload = Payload(
            amt_to_forward=AMOUNT,
            outgoing_cltv_value=HEIGHT + 40,
            short_channel_id=line.scids[1][0],
        )
        hops = [
            sphinx.Hop(middle.node_id, encode_payload(payload)),
            sphinx.Hop(public_key(KEY), encode_payload(Payload(amt_to_forward=1))),
        ]
        onion = sphinx.build(KEY, hops, HASH)
        sent = Sent("test:spoiled", HASH, onion.shared_secrets)
        offer = OfferHtlc(AMOUNT + 3_000, HASH, HEIGHT + 80, onion.packet, sent.origin)
        first.runner(middle).post(offer)
        assert await failed_with(line, sent) == (1, "invalid_onion_hmac")
        await line.quiet()
        await until(lambda: not middle.relay.downstream.pending, "nothing is left")
        assert last.channel(middle).link is Link.ONLINE
