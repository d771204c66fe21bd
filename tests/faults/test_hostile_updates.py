"""Attacks in an open channel: signatures, revocations, HTLCs and fees that break BOLT 2's rules."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.channels import Keys, secret
from support.hostile import (  # noqa: F401 - fixtures
    SPOILS,
    HostilePeer,
    Refused,
    Target,
    bitcoind,
    mallory,
    spoiled,
    target,
    unharmed,
)

from back.channel.effects import (
    Answer,
    HtlcReceived,
    Request,
    Revocation,
    RevokeLocalCommitment,
)
from back.channel.events import FailHtlc, FailMalformedHtlc, UpdateFeerate
from back.transactions.commitment import CommitmentType
from shared.crypto.shachain import commitment_secret
from shared.crypto.signature import public_key
from shared.wire import (
    ChannelReady,
    ClosingSigned,
    CommitmentSigned,
    Error,
    FundingCreated,
    FundingSigned,
    Message,
    RevokeAndAck,
    Shutdown,
    StartBatch,
    Stfu,
    TxAbort,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

HTLC_MSAT = 50_000_000
SMALL_MSAT = 20_000


async def back_again(peer: HostilePeer) -> None:
    """Come back after a warning, honestly: the channel is as good as before."""
    await peer.reestablish()
    await peer.works()


@pytest.fixture(params=list(CommitmentType), ids=lambda kind: kind.name.lower())
def kind(request: pytest.FixtureRequest) -> CommitmentType:
    chosen: CommitmentType = request.param
    return chosen


# --- commitment_signed


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_wrong_signature_of_our_commitment_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
    kind: CommitmentType,
    spoil: str,
) -> None:
    await mallory.open_channel(kind=kind)
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    assert isinstance(signed, CommitmentSigned)
    wrong = signed.model_copy(update={"signature": spoiled(signed.signature)[spoil]})
    mallory.core.roll_back()
    await mallory.say(add, wrong)
    await mallory.failed("signature is not valid for our commitment")
    await mallory.becomes("CLOSING")


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_wrong_signature_of_an_htlc_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
    kind: CommitmentType,
    spoil: str,
) -> None:
    await mallory.open_channel(kind=kind)
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    assert isinstance(signed, CommitmentSigned)
    (of_htlc,) = signed.htlc_signature
    wrong = signed.model_copy(update={"htlc_signature": [spoiled(of_htlc)[spoil]]})
    mallory.core.roll_back()
    await mallory.say(add, wrong)
    await mallory.failed("htlc_signature 0 is not valid")


@pytest.mark.parametrize("count", [0, 2, 483])
async def test_a_wrong_number_of_htlc_signatures_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
    count: int,
) -> None:
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    assert isinstance(signed, CommitmentSigned)
    wrong = signed.model_copy(update={"htlc_signature": signed.htlc_signature * count})
    mallory.core.roll_back()
    await mallory.say(add, wrong)
    await mallory.failed(f"{count} htlc_signatures for 1 HTLC outputs")


async def test_a_signature_without_any_update_is_taken_or_refused_but_harms_nobody(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.pay(SMALL_MSAT)
    stale = next(m for m in reversed(mallory.said) if isinstance(m, CommitmentSigned))
    await mallory.say(stale)
    complaint = await mallory.complaint()
    assert "signature is not valid" in complaint.data.decode()
    assert await mallory.funding_spent_by() == mallory.core.squalls_commitment


async def test_a_signature_for_another_funding_transaction_is_refused(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    await mallory.say(add, signed.model_copy(update={"funding_txid": secrets.token_bytes(32)}))
    await mallory.warned("funding_txid is not that of this channel")
    await back_again(mallory)


# --- revoke_and_ack


async def test_a_wrong_revocation_secret_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.node.call("payinvoice", invoice=mallory.bill(HTLC_MSAT))
    revoke = (await mallory.hold(CommitmentSigned))[0]
    assert isinstance(revoke, RevokeAndAck)
    await mallory.say(
        revoke.model_copy(update={"per_commitment_secret": mallory.core.keys.funding})
    )
    await mallory.failed("per_commitment_secret is not that of commitment 0", is_published=True)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32], ids=["zero", "above the order"])
async def test_a_revocation_secret_that_is_no_key_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
    secret: bytes,
) -> None:
    await mallory.open_channel()
    await mallory.node.call("payinvoice", invoice=mallory.bill(HTLC_MSAT))
    revoke = (await mallory.hold(CommitmentSigned))[0]
    await mallory.say(revoke.model_copy(update={"per_commitment_secret": secret}))
    await mallory.failed("per_commitment_secret is not that of commitment 0", is_published=True)


async def test_a_next_point_off_the_curve_ends_the_connection_and_no_more(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.node.call("payinvoice", invoice=mallory.bill(HTLC_MSAT))
    revoke = (await mallory.hold(CommitmentSigned))[0]
    await mallory.say(
        revoke.model_copy(update={"next_per_commitment_point": b"\x02" + b"\xff" * 32})
    )
    await mallory.warned("next_per_commitment_point")
    await mallory.reestablish()
    await mallory.talk_until(lambda: mallory.core.took(HtlcReceived))
    await mallory.talk_until(lambda: mallory.core.channel.unrevoked is None)
    await mallory.say(*mallory.do(mallory.settlement(mallory.core.took(HtlcReceived)[0])))
    await mallory.quiet()
    await mallory.works()


async def test_a_secret_that_is_valid_but_out_of_the_chain_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """Points and secrets that match each other, but not the shachain (BOLT 3)."""
    await mallory.open_channel(keys=Unchained(secrets.token_hex(8)))
    await mallory.pay(SMALL_MSAT)
    with pytest.raises(Refused, match="secret") as refused:
        await mallory.works()
    assert isinstance(refused.value.message, Error)
    await mallory.becomes("CLOSING")


class Unchained(Keys):
    """Keys whose secrets do not follow from each other, but for the first two."""

    def secret(self, number: int) -> bytes:
        return commitment_secret(self.seed if number < 2 else secret(self.name, number), number)

    def point(self, number: int) -> bytes:
        return public_key(self.secret(number))

    def answer(self, request: Request) -> Answer:
        if isinstance(request, RevokeLocalCommitment):
            number = request.number
            return Revocation(self.secret(number), self.point(number + 2))
        return super().answer(request)


async def test_a_revocation_of_nothing_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    keys = mallory.core.keys
    await mallory.say(
        RevokeAndAck(
            channel_id=mallory.channel_id,
            per_commitment_secret=secrets.token_bytes(32),
            next_per_commitment_point=keys.point(2),
        )
    )
    await mallory.warned("revoke_and_ack without a commitment_signed of ours")
    await back_again(mallory)


async def test_the_same_revocation_twice_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.earn(SMALL_MSAT)
    again = next(m for m in reversed(mallory.said) if isinstance(m, RevokeAndAck))
    await mallory.say(again)
    await mallory.warned("revoke_and_ack without")
    await back_again(mallory)


# --- update_add_htlc


Change = Callable[[UpdateAddHtlc], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _add: {"amount_msat": 0}, "amount_msat 0 is below 1"),
        (lambda _add: {"amount_msat": 600_000_001}, "msat would be left"),
        (lambda _add: {"amount_msat": 589_000_000}, "fee and reserve"),
        (lambda _add: {"amount_msat": 1_000_000_001}, "max_htlc_value_in_flight_msat"),
        (lambda _add: {"amount_msat": (1 << 64) - 1}, "amount_msat"),
        (lambda _add: {"cltv_expiry": 500_000_000}, "is not a height"),
        (lambda _add: {"cltv_expiry": 0xFFFFFFFF}, "is not a height"),
        (lambda add: {"id": add.id + 1}, "where 0 is next"),
        (lambda _add: {"id": (1 << 64) - 1}, "where 0 is next"),
    ],
    ids=[
        "nothing",
        "more than there is",
        "into the reserve",
        "more than may be in flight",
        "the largest number",
        "a time",
        "the end of time",
        "an id too far",
        "the largest id",
    ],
)
async def test_an_add_that_breaks_a_rule_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
    change: Change,
    words: str,
) -> None:
    await mallory.open_channel()
    add, _ = mallory.do(await mallory.offer(HTLC_MSAT))
    assert isinstance(add, UpdateAddHtlc)
    await mallory.say(add.model_copy(update=change(add)))
    await mallory.warned(words)
    mallory.core.roll_back()
    await back_again(mallory)


async def test_an_id_used_again_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.pay(SMALL_MSAT)
    await mallory.say(next(m for m in mallory.said if isinstance(m, UpdateAddHtlc)))
    await mallory.warned("id 0 where 1 is next")
    await back_again(mallory)


async def test_more_htlcs_than_accepted_end_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    most = mallory.core.channel.parameters.remote.max_accepted_htlcs  # type: ignore[union-attr]
    add, _ = mallory.do(await mallory.offer(SMALL_MSAT))
    await mallory.say(*(add.model_copy(update={"id": number}) for number in range(most + 1)))
    await mallory.warned(f"more than max_accepted_htlcs {most}")
    mallory.core.roll_back()
    await back_again(mallory)


async def test_an_onion_of_garbage_fails_that_htlc_alone(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    offers = [await mallory.offer(SMALL_MSAT) for _ in range(4)]
    garbage = [
        bytes(1366),
        b"\xff" * 1366,
        b"\x00" + offers[2].onion_routing_packet[1:33] + secrets.token_bytes(1333),
        offers[3].onion_routing_packet[:-1] + b"\x00",
    ]
    spoilt = [
        replace(offer, onion_routing_packet=onion)
        for offer, onion in zip(offers, garbage, strict=True)
    ]
    await mallory.say(*mallory.do(*spoilt))
    await mallory.quiet()
    assert mallory.core.failed_origins == [offer.origin for offer in offers]
    await mallory.works()


async def test_an_onion_for_another_hash_or_a_replayed_one_fails_that_htlc_alone(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    offer = await mallory.offer(SMALL_MSAT)
    await mallory.say(*mallory.do(offer))
    await mallory.quiet()
    replayed = replace(offer, origin="replayed")
    elsewhere = replace(offer, origin="elsewhere", payment_hash=secrets.token_bytes(32))
    await mallory.say(*mallory.do(replayed, elsewhere))
    await mallory.quiet()
    assert sorted(mallory.core.failed_origins) == ["elsewhere", "replayed"]
    await mallory.works()


# --- removals


async def test_a_wrong_preimage_ends_the_connection_and_pays_nothing(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    await mallory.say(
        UpdateFulfillHtlc(
            channel_id=mallory.channel_id,
            id=received.htlc.id,
            payment_preimage=secrets.token_bytes(32),
        )
    )
    await mallory.warned("payment_preimage is not that of HTLC 0")
    payment_hash = received.htlc.payment_hash.hex()
    (attempt,) = await target.node.call("getsentinfo", paymentHash=payment_hash)
    assert attempt["status"]["type"] == "pending"
    await mallory.reestablish()
    await mallory.say(*mallory.do(mallory.settlement(received)))
    await mallory.quiet()
    assert await mallory.outcome(received.htlc.payment_hash) == "sent"


def removals(channel_id: bytes, htlc_id: int) -> dict[str, Message]:
    return {
        "fulfil": UpdateFulfillHtlc(channel_id=channel_id, id=htlc_id, payment_preimage=bytes(32)),
        "fail": UpdateFailHtlc(channel_id=channel_id, id=htlc_id, reason=bytes(292)),
        "malformed": UpdateFailMalformedHtlc(
            channel_id=channel_id, id=htlc_id, sha256_of_onion=bytes(32), failure_code=0x8005
        ),
    }


@pytest.mark.parametrize("how", list(removals(bytes(32), 0)))
@pytest.mark.parametrize("htlc_id", [0, 7, (1 << 64) - 1])
async def test_removing_an_htlc_that_is_not_there_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
    how: str,
    htlc_id: int,
) -> None:
    await mallory.open_channel()
    await mallory.say(removals(mallory.channel_id, htlc_id)[how])
    await mallory.warned(f"HTLC {htlc_id} is not there to be removed")
    await back_again(mallory)


@pytest.mark.parametrize("how", ["fail", "malformed"])
async def test_removing_its_own_htlc_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
    how: str,
) -> None:
    """The adder cannot take an HTLC back, fulfilled or not."""
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    await mallory.say(add, signed, removals(mallory.channel_id, 0)[how])
    await mallory.warned("HTLC 0 is not there to be removed")
    await mallory.reestablish()
    await mallory.quiet()
    await mallory.works()


async def test_removing_twice_ends_the_connection_and_settles_once(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    fulfil, signed = mallory.do(mallory.settlement(received))
    await mallory.say(fulfil, fulfil, signed)
    await mallory.warned("HTLC 0 is not there to be removed")
    await mallory.reestablish()
    await mallory.quiet()
    assert await mallory.outcome(received.htlc.payment_hash) == "sent"
    await mallory.works()


async def test_failing_after_the_preimage_was_shown_ends_the_connection_and_is_paid(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    fulfil, _signed = mallory.do(mallory.settlement(received))
    await mallory.say(fulfil)
    assert await mallory.outcome(received.htlc.payment_hash) == "sent"
    mallory.core.roll_back()
    mallory.cut()
    await mallory.reestablish()
    await mallory.say(removals(mallory.channel_id, 0)["fail"])
    await mallory.warned("fails after its preimage was shown")
    await mallory.reestablish()
    await mallory.say(*mallory.do(mallory.settlement(received)))
    await mallory.quiet()
    await mallory.works()


@pytest.mark.parametrize("code", [0, 5, 0x4005, 0x7FFF])
async def test_malformed_without_badonion_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
    code: int,
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    await mallory.say(
        UpdateFailMalformedHtlc(
            channel_id=mallory.channel_id,
            id=received.htlc.id,
            sha256_of_onion=bytes(32),
            failure_code=code,
        )
    )
    await mallory.warned("lacks BADONION")
    await mallory.reestablish()
    await mallory.say(*mallory.do(mallory.settlement(received)))
    await mallory.quiet()


@pytest.mark.parametrize(
    "reason", [b"", bytes(1), bytes(292), secrets.token_bytes(64_000)], ids=len
)
async def test_a_failure_that_cannot_be_read_fails_the_payment_all_the_same(
    mallory: HostilePeer,  # noqa: F811
    reason: bytes,
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    await mallory.say(*mallory.do(FailHtlc(received.htlc.id, reason)))
    await mallory.quiet()
    assert await mallory.outcome(received.htlc.payment_hash) == "failed"
    await mallory.works()


async def test_malformed_with_a_hash_of_nothing_fails_the_payment(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    received = await mallory.be_paid(HTLC_MSAT)
    await mallory.say(*mallory.do(FailMalformedHtlc(received.htlc.id, bytes(32), 0xC005)))
    await mallory.quiet()
    assert await mallory.outcome(received.htlc.payment_hash) == "failed"
    await mallory.works()


# --- update_fee


@pytest.mark.parametrize(
    ("feerate", "words"),
    [
        (0, "feerate 0/kw is below 253"),
        (252, "feerate 252/kw is below 253"),
        (0xFFFFFFFF, "is above 100000"),
        (100_001, "is above 100000"),
    ],
)
async def test_an_absurd_feerate_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
    feerate: int,
    words: str,
) -> None:
    await mallory.open_channel()
    await mallory.say(UpdateFee(channel_id=mallory.channel_id, feerate_per_kw=feerate))
    await mallory.warned(words)
    await back_again(mallory)


async def test_a_feerate_that_the_opener_cannot_pay_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel(push_msat=960_000_000)
    await mallory.say(UpdateFee(channel_id=mallory.channel_id, feerate_per_kw=99_999))
    await mallory.warned("the opener has")
    await mallory.reestablish()
    await mallory.earn(SMALL_MSAT)


async def test_update_fee_of_the_side_that_does_not_pay_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.accept_channel(pushMsat=300_000_000)
    await mallory.say(UpdateFee(channel_id=mallory.channel_id, feerate_per_kw=3_000))
    await mallory.warned("update_fee by the side that does not pay")
    await back_again(mallory)


async def test_a_hundred_feerates_in_one_batch_count_as_the_last(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    final, signed = mallory.do(UpdateFeerate(5_000))
    many = [final.model_copy(update={"feerate_per_kw": 3_000 + i}) for i in range(100)]
    await mallory.say(*many, final, signed)
    await mallory.quiet()
    await mallory.works()


# --- messages out of place


@pytest.mark.parametrize("name", ["funding", "closing_signed", "stfu", "tx_abort", "created"])
async def test_a_message_that_is_illegal_in_an_open_channel_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
    name: str,
) -> None:
    await mallory.open_channel()
    channel_id = mallory.channel_id
    illegal: dict[str, Message] = {
        "funding": FundingSigned(channel_id=channel_id, signature=bytes(64)),
        "created": FundingCreated(
            temporary_channel_id=channel_id,
            funding_txid=bytes(32),
            funding_output_index=0,
            signature=bytes(64),
        ),
        "closing_signed": ClosingSigned(
            channel_id=channel_id, fee_satoshis=500, signature=bytes(64)
        ),
        "stfu": Stfu(channel_id=channel_id, initiator=1),
        "tx_abort": TxAbort(channel_id=channel_id, data=b"no"),
    }
    await mallory.say(illegal[name])
    await mallory.warned("is not legal in NORMAL")
    await back_again(mallory)


async def test_a_batch_that_is_broken_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    add, _ = mallory.do(await mallory.offer(SMALL_MSAT))
    start = StartBatch(channel_id=mallory.channel_id, batch_size=3, message_type=132)
    await mallory.say(start, add)
    await mallory.warned("update_add_htlc inside a batch")
    mallory.core.roll_back()
    await mallory.reestablish()
    await mallory.say(start.model_copy(update={"batch_size": 65_535}))
    await mallory.warned("batch_size 65535 is above 20")
    await back_again(mallory)


async def test_a_message_before_the_reestablish_ends_the_connection(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.reconnect()
    await mallory.say(UpdateFee(channel_id=mallory.channel_id, feerate_per_kw=3_000))
    await mallory.warned("before channel_reestablish")
    await back_again(mallory)


async def test_the_channel_of_another_peer_cannot_be_spoken_to(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    victim = target.honest.channel_id
    for message in (
        UpdateFee(channel_id=victim, feerate_per_kw=3_000),
        Shutdown(channel_id=victim, scriptpubkey=b"\0\x14" + bytes(20)),
        ChannelReady(channel_id=victim, second_per_commitment_point=public_key(b"\1" * 32)),
    ):
        await mallory.connect()
        await mallory.say(message)
        await mallory.warned("unknown channel")
    await mallory.connect()
    await mallory.say(Error(channel_id=victim, data=b"close it"))
    await mallory.say(Error(channel_id=bytes(32), data=b"close them all"))
    await mallory.open_channel()
    assert (await target.honest.state()) == "NORMAL"


async def test_an_error_for_all_channels_closes_those_of_this_peer_only(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    await mallory.pay(SMALL_MSAT)
    await mallory.say(Error(channel_id=bytes(32), data=b"all of them"))
    assert await mallory.funding_spent_by() == mallory.core.squalls_commitment
    await mallory.becomes("CLOSING")
    assert (await target.honest.state()) == "NORMAL"


async def test_after_our_error_nothing_is_heard_and_the_error_is_repeated(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    add, signed = mallory.do(await mallory.offer(HTLC_MSAT))
    mallory.core.roll_back()
    await mallory.say(add, signed.model_copy(update={"signature": bytes(64)}))
    first = await mallory.failed("signature is not valid")
    await mallory.say(add, signed, *await mallory.reconnect())
    again = await mallory.complaint()
    assert isinstance(again, Error)
    assert again == first
    assert await mallory.state() == "CLOSING"


async def test_everybody_pays_while_one_attacks(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """One peer breaks a rule twenty times; the honest one does not wait for it."""
    await mallory.open_channel()
    for _ in range(20):
        await mallory.say(removals(mallory.channel_id, 3)["fail"])
        await target.honest.pay(SMALL_MSAT)
        await mallory.warned("is not there")
        await target.honest.earn(SMALL_MSAT)
        await mallory.reestablish()
    await mallory.works()
