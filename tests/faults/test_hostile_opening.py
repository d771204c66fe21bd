"""Attacks while a channel is being opened: the attempt ends, clearly, and nothing else does."""

import asyncio
import secrets
from typing import Any

import pytest
from support.hostile import (  # noqa: F401 - fixtures
    SPOILS,
    HostilePeer,
    Refused,
    Target,
    bitcoind,
    funding_transaction,
    mallory,
    spoiled,
    target,
    unharmed,
)

from back.channel.effects import MakeFundingTransaction
from back.channel.events import Received
from back.channel.model import Link, Phase
from back.channels import MAX_PENDING_PER_PEER
from back.demo.cluster import until
from shared.chain import MAINNET
from shared.errors import CommandError
from shared.wire import (
    AcceptChannel,
    ChannelReady,
    ChannelReestablish,
    CommitmentSigned,
    Error,
    FundingCreated,
    FundingSigned,
    OpenChannel,
    Shutdown,
    UpdateFee,
    Warning as WarningMessage,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

NO_POINT = b"\x02" + b"\xff" * 32
POINTS = (
    "funding_pubkey",
    "revocation_basepoint",
    "payment_basepoint",
    "delayed_payment_basepoint",
    "htlc_basepoint",
    "first_per_commitment_point",
)


# --- as opener


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chain_hash": MAINNET.chain_hash}, "is not ours"),
        ({"funding_satoshis": 99_999}, "funding_satoshis"),
        ({"funding_satoshis": 1 << 24}, "option_support_large_channel"),
        ({"funding_satoshis": (1 << 64) - 1}, "funding_satoshis"),
        ({"push_msat": 1_000_000_001}, "push_msat"),
        ({"push_msat": (1 << 64) - 1}, "push_msat"),
        ({"push_msat": 1_000_000_000}, "the opener keeps 0 msat"),
        ({"dust_limit_satoshis": 353}, "dust_limit_satoshis"),
        ({"dust_limit_satoshis": 10_001}, "dust_limit_satoshis"),
        ({"channel_reserve_satoshis": 353}, "channel_reserve_satoshis"),
        ({"channel_reserve_satoshis": 900_000}, "channel_reserve_satoshis"),
        ({"htlc_minimum_msat": 1_000_000_001}, "htlc_minimum_msat"),
        ({"feerate_per_kw": 252}, "feerate"),
        ({"feerate_per_kw": 0xFFFFFFFF}, "feerate"),
        ({"to_self_delay": 2017}, "to_self_delay"),
        ({"max_accepted_htlcs": 0}, "max_accepted_htlcs"),
        ({"max_accepted_htlcs": 484}, "max_accepted_htlcs"),
        ({"channel_type": None}, "channel_type is missing"),
        ({"channel_type": b""}, "channel_type"),
        ({"channel_type": b"\xff" * 20}, "channel_type"),
        ({"upfront_shutdown_script": b"\x6a\x01\x00"}, "upfront_shutdown_script"),
        *(({name: NO_POINT}, name) for name in POINTS),
        *(({name: bytes(33)}, name) for name in POINTS[:1]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
async def test_a_proposal_that_breaks_a_rule_is_refused_by_name(
    mallory: HostilePeer,  # noqa: F811
    change: dict[str, Any],
    words: str,
) -> None:
    proposal = (await mallory.propose()).model_copy(update=change)
    await mallory.say(proposal)
    refusal = await mallory.complaint()
    if isinstance(refusal, Error):
        assert refusal.channel_id == proposal.temporary_channel_id
    assert words in refusal.data.decode()
    # The connection was not the culprit: it may try again.
    if isinstance(refusal, Error):
        await mallory.open_channel()


async def test_a_temporary_id_of_zeros_cannot_make_us_fail_all_channels(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    first = mallory.engine
    bad = (await mallory.propose()).model_copy(
        update={"temporary_channel_id": bytes(32), "to_self_delay": 9999}
    )
    await mallory.say(bad)
    refusal = await mallory.complaint()
    # An `error` for channel 0 would be one for all channels.
    assert isinstance(refusal, WarningMessage)
    assert b"temporary_channel_id is zero" in refusal.data
    mallory.engine = first
    await mallory.reestablish()
    await mallory.works()


async def test_a_reestablish_for_a_channel_of_zeros_gets_no_error_for_all(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    (honest,) = await mallory.reconnect()
    assert isinstance(honest, ChannelReestablish)
    await mallory.say(honest.model_copy(update={"channel_id": bytes(32)}), honest)
    await mallory.talk_until(lambda: mallory.core.channel.link is Link.ONLINE)
    await mallory.works()


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_wrong_signature_in_funding_created_ends_the_attempt(
    mallory: HostilePeer,  # noqa: F811
    spoil: str,
) -> None:
    await mallory.say(await mallory.propose())
    created = await mallory.fund(await mallory.hear(AcceptChannel))
    assert isinstance(created, FundingCreated)
    await mallory.say(created.model_copy(update={"signature": spoiled(created.signature)[spoil]}))
    with pytest.raises(Refused, match="signature of the first commitment"):
        await mallory.hear(FundingSigned)
    assert await mallory.state() == ""
    await mallory.open_channel()


async def test_a_funding_that_pays_too_little_is_failed_once_it_is_seen(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.say(await mallory.propose())
    accepted = await mallory.hear(AcceptChannel)
    real = mallory.core
    created = await mallory.fund(accepted, amount_sat=100_000)
    await mallory.say(created)
    mallory.answer(await mallory.hear(FundingSigned))
    transaction = real.channel.funding.transaction  # type: ignore[union-attr]
    await mallory.bitcoind.call("sendrawtransaction", transaction.hex())
    await mallory.bitcoind.mine(1)
    await mallory.failed("does not pay 1000000 sat", is_published=False)
    await mallory.becomes("CLOSING")


async def test_a_funding_that_pays_to_another_script_never_opens(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.say(await mallory.propose())
    assert not mallory.core.do(Received(await mallory.hear(AcceptChannel)))
    wanted = mallory.core.took(MakeFundingTransaction)[-1]
    elsewhere = b"\0\x20" + secrets.token_bytes(32)
    transaction, index = await funding_transaction(target.bitcoind, elsewhere, wanted.amount_sat)
    from back.channel.events import FundingTransactionMade

    (created,) = mallory.do(FundingTransactionMade(transaction, index))
    await mallory.say(created)
    mallory.answer(await mallory.hear(FundingSigned))
    await target.bitcoind.call("sendrawtransaction", transaction.hex())
    await target.bitcoind.mine(1)
    with pytest.raises((Refused, TimeoutError)):
        await mallory.hear(ChannelReady, timeout_s=1.5)
    assert await mallory.state() != "NORMAL"


async def test_a_funding_output_that_does_not_exist_never_opens(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """An index beyond the outputs: the first commitment can be signed all the same."""
    from dataclasses import replace

    from back.channel import commitments
    from back.channel.funding import channel_id
    from back.channel.model import Funding
    from shared.chain import Outpoint
    from shared.crypto.signature import sign_compact

    await mallory.say(await mallory.propose())
    created = await mallory.fund(await mallory.hear(AcceptChannel))
    core = mallory.core
    funding = core.channel.funding
    assert funding is not None
    beyond = Outpoint(funding.outpoint.txid, 7)
    core.channel = replace(
        core.channel, channel_id=channel_id(beyond), funding=Funding(beyond, funding.transaction)
    )
    point = core.channel.remote_commitment.current_point
    commitment = commitments.remote_commitment(core.channel, 0, point)
    signature = sign_compact(core.keys.funding, commitment.sighash)
    assert isinstance(created, FundingCreated)
    await mallory.say(
        created.model_copy(update={"funding_output_index": 7, "signature": signature})
    )
    mallory.answer(await mallory.hear(FundingSigned))
    await target.bitcoind.call("sendrawtransaction", funding.transaction.hex())
    await target.bitcoind.mine(1)
    with pytest.raises((Refused, TimeoutError)):
        await mallory.hear(ChannelReady, timeout_s=1.5)
    assert await mallory.state() != "NORMAL"


async def test_an_outpoint_of_zeros_is_refused(mallory: HostilePeer) -> None:  # noqa: F811
    """It would give the channel the id that means all channels."""
    await mallory.say(await mallory.propose())
    created = await mallory.fund(await mallory.hear(AcceptChannel))
    assert isinstance(created, FundingCreated)
    nowhere = {"funding_txid": bytes(32), "funding_output_index": 0}
    await mallory.say(created.model_copy(update=nowhere))
    refusal = await mallory.complaint()
    assert "no transaction has this funding_txid" in refusal.data.decode()
    assert refusal.channel_id == created.temporary_channel_id


async def test_the_outpoint_of_another_channel_cannot_be_used_again(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    """channel_id follows from the outpoint, which anybody may name."""
    from dataclasses import replace

    from back.channel import commitments
    from back.channel.model import Funding
    from shared.crypto.signature import sign_compact

    await mallory.say(await mallory.propose())
    created = await mallory.fund(await mallory.hear(AcceptChannel))
    core, victim = mallory.core, target.honest.core.channel
    funding = victim.funding
    assert funding is not None
    core.channel = replace(
        core.channel, channel_id=victim.channel_id, funding=Funding(funding.outpoint, b"")
    )
    commitment = commitments.remote_commitment(
        core.channel, 0, core.channel.remote_commitment.current_point
    )
    assert isinstance(created, FundingCreated)
    await mallory.say(
        created.model_copy(
            update={
                "funding_txid": funding.outpoint.txid,
                "funding_output_index": funding.outpoint.index,
                "signature": sign_compact(core.keys.funding, commitment.sighash),
            }
        )
    )
    refusal = await mallory.complaint()
    assert "outpoint" in refusal.data.decode() or "channel_id" in refusal.data.decode()
    shown = await target.node.call("channels")
    of_victim = [c for c in shown if c["channelId"] == victim.channel_id.hex()]
    assert [c["nodeId"] for c in of_victim] == [target.honest.node_id.hex()]
    assert of_victim[0]["state"] == "NORMAL"


async def test_the_channel_id_of_another_peer_is_no_temporary_id(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    victim = target.honest.channel_id
    await mallory.say((await mallory.propose()).model_copy(update={"temporary_channel_id": victim}))
    await mallory.listen()
    await mallory.close()

    async def is_shown() -> bool:
        found = [c for c in await target.node.call("channels") if c["channelId"] == victim.hex()]
        return [c["nodeId"] for c in found] == [target.honest.node_id.hex()]

    await until("the victim's channel", is_shown, 5)
    channel = await target.node.call("channel", channelId=victim.hex())
    assert channel["nodeId"] == target.honest.node_id.hex()
    assert channel["state"] == "NORMAL"


async def test_a_temporary_id_of_another_peer_stays_with_that_peer(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    other = target.peer("other")
    await other.connect()
    shared_id = secrets.token_bytes(32)
    await other.say(await other.propose(temporary_channel_id=shared_id))
    accepted = await other.hear(AcceptChannel)
    await mallory.say(await mallory.propose(temporary_channel_id=shared_id))
    assert "temporary_channel_id is in use" in (await mallory.complaint()).data.decode()
    await mallory.close()
    await other.say(await other.fund(accepted))
    other.answer(await other.hear(FundingSigned))
    await other.say(await other.confirm())
    await other.talk_until(lambda: other.core.channel.phase is Phase.NORMAL)
    await other.becomes("NORMAL")
    await other.works()


async def test_the_same_temporary_id_twice_is_refused_and_the_first_opens(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    proposal = await mallory.propose()
    await mallory.say(proposal, proposal, proposal)
    answers = [await mallory.listen() for _ in range(3)]
    accepted = [a for a in answers if isinstance(a, AcceptChannel)]
    assert len(accepted) == 1
    assert (
        sum(
            "temporary_channel_id is in use" in a.data.decode()
            for a in answers
            if isinstance(a, Error)
        )
        == 2
    )


async def test_a_flood_of_proposals_is_bounded(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    proposals = [await mallory.propose() for _ in range(5 * MAX_PENDING_PER_PEER)]
    await mallory.say(*proposals)
    answers = [await mallory.listen() for _ in proposals]
    accepted = [a for a in answers if isinstance(a, AcceptChannel)]
    refused = [a for a in answers if isinstance(a, Error)]
    assert len(accepted) == MAX_PENDING_PER_PEER
    assert len(refused) == len(proposals) - MAX_PENDING_PER_PEER
    assert all("under way" in e.data.decode() for e in refused)
    await target.honest.works()
    # A disconnection forgets them all, and the peer may come again.
    await mallory.close()

    async def forgotten() -> bool:
        shown = await target.node.call("channels")
        return not [c for c in shown if c["nodeId"] == mallory.node_id.hex()]

    await until("the openings to be forgotten", forgotten, 5)
    await mallory.connect()
    await mallory.open_channel()
    await mallory.works()


@pytest.mark.parametrize("kind", [FundingCreated, CommitmentSigned, ChannelReady, Shutdown])
async def test_a_message_before_its_time_is_refused(
    mallory: HostilePeer,  # noqa: F811
    kind: type,
) -> None:
    proposal = await mallory.propose()
    await mallory.say(proposal)
    await mallory.hear(AcceptChannel)
    early = {
        FundingCreated: FundingSigned(
            channel_id=proposal.temporary_channel_id, signature=bytes(64)
        ),
        CommitmentSigned: CommitmentSigned(
            channel_id=proposal.temporary_channel_id, signature=bytes(64), htlc_signature=[]
        ),
        ChannelReady: ChannelReady(
            channel_id=proposal.temporary_channel_id,
            second_per_commitment_point=proposal.funding_pubkey,
        ),
        Shutdown: Shutdown(channel_id=proposal.temporary_channel_id, scriptpubkey=b""),
    }[kind]
    await mallory.say(early)
    await mallory.warned("is not legal in WAIT_FOR_FUNDING_CREATED")


@pytest.mark.parametrize("point", [NO_POINT, bytes(33), b"\x04" + b"\x11" * 32])
async def test_channel_ready_with_a_point_off_the_curve_fails_the_channel(
    mallory: HostilePeer,  # noqa: F811
    point: bytes,
) -> None:
    await mallory.say(await mallory.propose())
    await mallory.say(await mallory.fund(await mallory.hear(AcceptChannel)))
    mallory.answer(await mallory.hear(FundingSigned))
    ready = await mallory.confirm()
    await mallory.say(ready.model_copy(update={"second_per_commitment_point": point}))
    complaint = await mallory.complaint()
    if isinstance(complaint, Error):
        assert "second_per_commitment_point" in complaint.data.decode()
        assert await mallory.funding_spent_by() == mallory.core.squalls_commitment
    else:
        # Not a message at all: the front refused it, and the channel waits for a better one.
        assert "channel_ready" in complaint.data.decode()


async def test_channel_ready_twice_with_another_point_changes_nothing(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    await mallory.open_channel()
    again = ChannelReady(
        channel_id=mallory.channel_id,
        second_per_commitment_point=mallory.core.keys.point(5),
        short_channel_id=4711,
    )
    await mallory.say(again)
    await mallory.works()


# --- as accepter


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dust_limit_satoshis": 353}, "dust_limit_satoshis"),
        ({"dust_limit_satoshis": 20_000}, "dust_limit_satoshis"),
        ({"channel_reserve_satoshis": 300}, "channel_reserve_satoshis"),
        ({"channel_reserve_satoshis": 500_000}, "channel_reserve_satoshis"),
        ({"to_self_delay": 65_535}, "to_self_delay"),
        ({"max_accepted_htlcs": 0}, "max_accepted_htlcs"),
        ({"minimum_depth": 145}, "minimum_depth"),
        ({"channel_type": None}, "channel_type"),
        ({"channel_type": b"\x10"}, "channel_type"),
        ({"upfront_shutdown_script": b"\x51"}, "upfront_shutdown_script"),
        *(({name: NO_POINT}, name) for name in POINTS),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
async def test_an_answer_that_breaks_a_rule_costs_no_money(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
    change: dict[str, Any],
    words: str,
) -> None:
    before = await target.node.call("onchainbalance")
    asked = asyncio.create_task(mallory.ask_to_open())
    answer = mallory.receive_proposal(await mallory.hear(OpenChannel))
    await mallory.say(answer.model_copy(update=change))
    assert words in (await mallory.complaint()).data.decode()
    if not asked.done():
        await mallory.close()
    with pytest.raises(CommandError, match="the channel was not opened"):
        await asked
    assert await target.node.call("onchainbalance") == before
    assert await target.locked() == []


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_wrong_signature_in_funding_signed_publishes_nothing(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
    spoil: str,
) -> None:
    before = await target.node.call("onchainbalance")
    asked = asyncio.create_task(mallory.ask_to_open())
    await mallory.say(mallory.receive_proposal(await mallory.hear(OpenChannel)))
    (signed,) = mallory.answer(await mallory.hear(FundingCreated))
    assert isinstance(signed, FundingSigned)
    await mallory.say(signed.model_copy(update={"signature": spoiled(signed.signature)[spoil]}))
    assert "signature of the first commitment" in (await mallory.complaint()).data.decode()
    with pytest.raises(CommandError, match="the channel was not opened"):
        await asked
    await target.nothing_locked()
    assert await target.node.call("onchainbalance") == before


async def test_silence_and_death_before_funding_signed_free_the_money(
    target: Target,  # noqa: F811
    mallory: HostilePeer,  # noqa: F811
) -> None:
    asked = asyncio.create_task(mallory.ask_to_open())
    await mallory.say(mallory.receive_proposal(await mallory.hear(OpenChannel)))
    await mallory.hear(FundingCreated)
    assert await target.locked() != []
    await mallory.close()
    with pytest.raises(CommandError, match="disconnected"):
        await asked
    await target.nothing_locked()


async def test_accept_channel_for_nothing_ends_the_connection(mallory: HostilePeer) -> None:  # noqa: F811
    asked = asyncio.create_task(mallory.ask_to_open())
    accept = mallory.receive_proposal(await mallory.hear(OpenChannel))
    await mallory.say(accept.model_copy(update={"temporary_channel_id": secrets.token_bytes(32)}))
    await mallory.warned("unknown channel")
    with pytest.raises(CommandError):
        await asked


async def test_a_message_for_a_channel_that_never_was(mallory: HostilePeer) -> None:  # noqa: F811
    await mallory.say(UpdateFee(channel_id=secrets.token_bytes(32), feerate_per_kw=253))
    await mallory.warned("unknown channel")


async def test_an_error_for_a_channel_that_never_was_is_only_noted(
    mallory: HostilePeer,  # noqa: F811
) -> None:
    for channel_id in (secrets.token_bytes(32), bytes(32)):
        await mallory.say(Error(channel_id=channel_id, data=b"\xff\x00 go away"))
        await mallory.say(WarningMessage(channel_id=channel_id, data=b"\x1b[31m" * 100))
    await mallory.open_channel()
    await mallory.works()
