"""Channels in the making: two cores, and each step of an opening."""

from dataclasses import replace
from typing import Any

from support.channels import POLICY, STATIC, End, Keys, deliver_all, secret

from back.channel import opening
from back.channel.effects import MakeFundingTransaction, Send
from back.channel.events import FundingConfirmed, FundingTransactionMade
from back.channel.model import Phase
from back.channel.policy import ChannelPolicy
from back.transactions.commitment import CommitmentType
from back.transactions.transaction import Input, Output, legacy_bytes
from shared.chain import Outpoint
from shared.crypto.signature import public_key
from shared.features import Feature
from shared.wire import AcceptChannel, OpenChannel, encode

FEATURES = frozenset(Feature)
SCRIPT = b"\0\x14" + bytes(20)


def proposal(**changes: Any) -> opening.Proposal:
    """What an operator asks for: a million satoshis, 400,000 of them pushed."""
    usual = opening.Proposal(
        node_id=public_key(secret("fundee", "node")),
        temporary_channel_id=secret("temporary"),
        funding_satoshis=1_000_000,
        push_msat=400_000_000,
        announce=False,
        features=FEATURES,
        feerate_per_kw=1_000,
        height=100,
        local_alias=1,
        shutdown_script=SCRIPT,
        commitment_type=STATIC,
    )
    return replace(usual, **changes)


def reception(**changes: Any) -> opening.Reception:
    """What the accepter knows."""
    usual = opening.Reception(
        node_id=public_key(secret("opener", "node")),
        features=FEATURES,
        feerate_per_kw=1_000,
        height=100,
        local_alias=2,
        shutdown_script=SCRIPT,
    )
    return replace(usual, **changes)


def proposed(policy: ChannelPolicy = POLICY, **changes: Any) -> tuple[End, OpenChannel]:
    """The opener, and its open_channel."""
    keys = Keys("opener")
    policy = replace(policy, node_id=public_key(keys.node))
    step = opening.propose(proposal(**changes), keys.opening_keys(), policy)
    (message,) = (e.message for e in step.effects if isinstance(e, Send))
    assert isinstance(message, OpenChannel)
    return End(step.channel, keys), message


def accepted(
    message: OpenChannel, policy: ChannelPolicy = POLICY, **changes: Any
) -> tuple[End, AcceptChannel]:
    """The accepter, and its accept_channel."""
    keys = Keys("fundee")
    policy = replace(policy, node_id=public_key(keys.node))
    step = opening.accept(message, reception(**changes), keys.opening_keys(), policy)
    (answer,) = (e.message for e in step.effects if isinstance(e, Send))
    assert isinstance(answer, AcceptChannel)
    return End(step.channel, keys), answer


def begun(
    kind: CommitmentType = STATIC, *, policy: ChannelPolicy = POLICY, **changes: Any
) -> tuple[End, End]:
    """(opener, fundee), wired; the opener knows the answer and waits for its wallet."""
    opener, message = proposed(policy, commitment_type=kind, **changes)
    fundee, answer = accepted(message, policy)
    opener.peer, fundee.peer = fundee, opener
    opener.wire.append(encode(answer))
    opener.receive()
    assert opener.channel.phase is Phase.WAIT_FOR_FUNDING_INTERNAL
    return opener, fundee


def funding_transaction(opener: End, *, more_sat: int = 0) -> bytes:
    """What the wallet makes: the channel is its only output."""
    wanted = opener.took(MakeFundingTransaction)[-1]
    assert isinstance(wanted, MakeFundingTransaction)
    return legacy_bytes(
        (Input(Outpoint(secret("coin"), 0), 0),),
        (Output(wanted.amount_sat + more_sat, wanted.script_pubkey),),
        0,
    )


def funded(
    kind: CommitmentType = STATIC, *, policy: ChannelPolicy = POLICY, **changes: Any
) -> tuple[End, End, bytes]:
    """(opener, fundee, funding transaction), both waiting for its confirmations."""
    opener, fundee = begun(kind, policy=policy, **changes)
    transaction = funding_transaction(opener)
    opener.do(FundingTransactionMade(transaction, 0))
    deliver_all(fundee, opener)
    for end in (opener, fundee):
        assert end.channel.phase is Phase.WAIT_FOR_FUNDING_CONFIRMED
    return opener, fundee, transaction


def opened_by_messages(
    kind: CommitmentType = STATIC, *, policy: ChannelPolicy = POLICY, **changes: Any
) -> tuple[End, End]:
    """Open a channel as two nodes do, up to both channel_ready: (opener, fundee), wired."""
    opener, fundee, transaction = funded(kind, policy=policy, **changes)
    for end in (opener, fundee):
        end.do(FundingConfirmed(101, 1, transaction))
    deliver_all(opener, fundee)
    for end in (opener, fundee):
        assert end.channel.phase is Phase.NORMAL
        end.effects.clear()
    return opener, fundee
