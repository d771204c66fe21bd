"""Channel establishment v1 (BOLT 2 § Channel Establishment v1), as opener and as accepter.

::

    opener                                   accepter
    propose ── open_channel ──────────────▶  accept
    ◀───────── accept_channel ─────────────
    (the wallet makes the funding transaction, unpublished)
    ────────── funding_created ───────────▶  (stored: from here the accepter watches)
    ◀───────── funding_signed ─────────────
    (stored, then published)
    ◀───────── channel_ready ─────────────▶  each at minimum_depth
"""

from dataclasses import dataclass, replace

from back.channel import acceptance
from back.channel.acceptance import ANNOUNCE_CHANNEL
from back.channel.effects import MakeFundingTransaction, Send
from back.channel.model import (
    Channel,
    ChannelParameters,
    FeeState,
    FeeUpdate,
    Link,
    LocalCommitment,
    PartyParameters,
    Phase,
    RemoteCommitment,
)
from back.channel.policy import (
    MAX_FUNDING_WITHOUT_WUMBO_SAT,
    ChannelPolicy,
    channel_type_bits,
    commitment_type,
)
from back.channel.rules import Step, moved
from back.transactions.commitment import CommitmentType
from back.transactions.scripts import funding_script_pubkey
from back.transactions.weights import opener_cost_sat
from shared.errors import Action, CommandError, ProtocolViolation
from shared.features import Feature
from shared.wire import (
    AcceptChannel,
    OpenChannel,
)

__all__ = ["LocalKeys", "Proposal", "Reception", "accept", "accept_received", "check", "propose"]

OPEN = "BOLT 2 § open_channel"
ACCEPT = "BOLT 2 § accept_channel"


@dataclass(frozen=True, slots=True)
class LocalKeys:
    """Our public keys of a new channel, from the signer.

    Attributes:
        key_index: names them to the signer.
        first_point, second_point: per_commitment_point of our commitments 0 and 1.
    """

    key_index: int
    funding_pubkey: bytes
    revocation_basepoint: bytes
    payment_basepoint: bytes
    delayed_payment_basepoint: bytes
    htlc_basepoint: bytes
    first_point: bytes
    second_point: bytes


@dataclass(frozen=True, slots=True)
class Proposal:
    """A channel that the operator wants.

    Attributes:
        features: negotiated with the peer on this connection.
        local_alias: the scid_alias that we shall give, unique on this node.
        shutdown_script: where our money goes at a cooperative close; promised to the peer where
            option_upfront_shutdown_script is negotiated.
        commitment_type: None: the best that both sides speak.
    """

    node_id: bytes
    temporary_channel_id: bytes
    funding_satoshis: int
    push_msat: int
    announce: bool
    features: frozenset[Feature]
    feerate_per_kw: int
    height: int
    local_alias: int
    shutdown_script: bytes = b""
    commitment_type: CommitmentType | None = None


def propose(proposal: Proposal, keys: LocalKeys, policy: ChannelPolicy) -> Step:
    """Start a channel as opener.

    Raises:
        CommandError: what the operator asked cannot be proposed to this peer.
    """
    kind = _chosen_type(proposal, policy)
    _check_proposal(proposal, kind)
    channel_type = channel_type_bits(kind)
    upfront = _upfront(proposal.features, proposal.shutdown_script)
    local = _local_party(keys, policy, proposal.funding_satoshis, upfront)
    channel = Channel(
        channel_id=proposal.temporary_channel_id,
        parameters=ChannelParameters(
            node_id=proposal.node_id,
            temporary_channel_id=proposal.temporary_channel_id,
            key_index=keys.key_index,
            is_opener=True,
            commitment_type=kind,
            channel_type=channel_type,
            funding_satoshis=proposal.funding_satoshis,
            push_msat=proposal.push_msat,
            announce=proposal.announce,
            local=local,
            remote=None,
            created_height=proposal.height,
            default_shutdown_script=proposal.shutdown_script,
        ),
        phase=Phase.WAIT_FOR_ACCEPT_CHANNEL,
        policy=policy,
        link=Link.ONLINE,
        features=proposal.features,
        local_msat=proposal.funding_satoshis * 1000 - proposal.push_msat,
        remote_msat=proposal.push_msat,
        fees=(FeeUpdate(proposal.feerate_per_kw, FeeState.COMMITTED),),
        local_commitment=LocalCommitment(
            0, current_point=keys.first_point, next_point=keys.second_point
        ),
        local_alias=proposal.local_alias,
        height=proposal.height,
        feerate_per_kw=proposal.feerate_per_kw,
    )
    message = OpenChannel(
        chain_hash=policy.chain_hash,
        temporary_channel_id=proposal.temporary_channel_id,
        funding_satoshis=proposal.funding_satoshis,
        push_msat=proposal.push_msat,
        dust_limit_satoshis=local.dust_limit_satoshis,
        max_htlc_value_in_flight_msat=local.max_htlc_value_in_flight_msat,
        channel_reserve_satoshis=local.channel_reserve_satoshis,
        htlc_minimum_msat=local.htlc_minimum_msat,
        feerate_per_kw=proposal.feerate_per_kw,
        to_self_delay=local.to_self_delay,
        max_accepted_htlcs=local.max_accepted_htlcs,
        funding_pubkey=local.funding_pubkey,
        revocation_basepoint=local.revocation_basepoint,
        payment_basepoint=local.payment_basepoint,
        delayed_payment_basepoint=local.delayed_payment_basepoint,
        htlc_basepoint=local.htlc_basepoint,
        first_per_commitment_point=keys.first_point,
        channel_flags=ANNOUNCE_CHANNEL if proposal.announce else 0,
        upfront_shutdown_script=upfront,
        channel_type=channel_type,
    )
    return Step(channel, (Send(message),))


def _chosen_type(proposal: Proposal, policy: ChannelPolicy) -> CommitmentType:
    features = proposal.features
    kind = proposal.commitment_type
    if kind is None:
        speaks_anchors = Feature.option_anchors in features and policy.accepts_anchors
        kind = (
            CommitmentType.ANCHORS_ZERO_FEE_HTLC
            if speaks_anchors
            else CommitmentType.STATIC_REMOTEKEY
        )
    needed = (
        Feature.option_anchors
        if kind is CommitmentType.ANCHORS_ZERO_FEE_HTLC
        else Feature.option_static_remotekey
    )
    if needed not in features:
        raise CommandError(f"the peer has not negotiated {needed.name}")
    if not policy.accepts(kind):
        raise CommandError(f"this node opens no channels of the type {kind.value}")
    return kind


def _check_proposal(proposal: Proposal, kind: CommitmentType) -> None:
    if (
        proposal.funding_satoshis > MAX_FUNDING_WITHOUT_WUMBO_SAT
        and Feature.option_support_large_channel not in proposal.features
    ):
        raise CommandError(
            f"{proposal.funding_satoshis} sat needs option_support_large_channel on both sides;"
            f" without it the most is {MAX_FUNDING_WITHOUT_WUMBO_SAT} sat"
        )
    if proposal.push_msat > proposal.funding_satoshis * 1000:
        raise CommandError(
            f"cannot push {proposal.push_msat} msat of {proposal.funding_satoshis} sat"
        )
    cost_sat = opener_cost_sat(kind, proposal.feerate_per_kw)
    left_msat = proposal.funding_satoshis * 1000 - proposal.push_msat
    if left_msat < cost_sat * 1000:
        raise CommandError(
            f"{left_msat} msat would remain, the first commitment alone costs {cost_sat} sat"
        )


def _upfront(features: frozenset[Feature], script: bytes) -> bytes:
    """With option_upfront_shutdown_script the TLV must be there, empty or not."""
    return script if Feature.option_upfront_shutdown_script in features else b""


def _local_party(
    keys: LocalKeys,
    policy: ChannelPolicy,
    funding_satoshis: int,
    upfront: bytes,
    remote_dust_limit_satoshis: int = 0,
) -> PartyParameters:
    return PartyParameters(
        funding_pubkey=keys.funding_pubkey,
        revocation_basepoint=keys.revocation_basepoint,
        payment_basepoint=keys.payment_basepoint,
        delayed_payment_basepoint=keys.delayed_payment_basepoint,
        htlc_basepoint=keys.htlc_basepoint,
        dust_limit_satoshis=policy.dust_limit_satoshis,
        max_htlc_value_in_flight_msat=policy.max_htlc_value_in_flight_msat(funding_satoshis),
        channel_reserve_satoshis=policy.reserve_satoshis(
            funding_satoshis, remote_dust_limit_satoshis
        ),
        htlc_minimum_msat=policy.htlc_minimum_msat,
        to_self_delay=policy.to_self_delay,
        max_accepted_htlcs=policy.max_accepted_htlcs,
        upfront_shutdown_script=upfront,
    )


def _remote_party(message: OpenChannel | AcceptChannel) -> PartyParameters:
    return PartyParameters(
        funding_pubkey=message.funding_pubkey,
        revocation_basepoint=message.revocation_basepoint,
        payment_basepoint=message.payment_basepoint,
        delayed_payment_basepoint=message.delayed_payment_basepoint,
        htlc_basepoint=message.htlc_basepoint,
        dust_limit_satoshis=message.dust_limit_satoshis,
        max_htlc_value_in_flight_msat=message.max_htlc_value_in_flight_msat,
        channel_reserve_satoshis=message.channel_reserve_satoshis,
        htlc_minimum_msat=message.htlc_minimum_msat,
        to_self_delay=message.to_self_delay,
        max_accepted_htlcs=message.max_accepted_htlcs,
        upfront_shutdown_script=message.upfront_shutdown_script or b"",
    )


# --- accepter -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reception:
    """What the accepter knows beside the message: see :class:`Proposal` for the fields."""

    node_id: bytes
    features: frozenset[Feature]
    feerate_per_kw: int
    height: int
    local_alias: int
    shutdown_script: bytes = b""


def check(message: OpenChannel, reception: Reception, policy: ChannelPolicy) -> None:
    """See whether a proposal can be accepted, before anything is spent on it.

    Raises:
        ProtocolViolation: as :func:`accept`.
    """
    if why := acceptance.open_refusal(message, reception, policy):
        raise ProtocolViolation(why, bolt=OPEN, action=Action.FAIL_CHANNEL)


def accept(
    message: OpenChannel, reception: Reception, keys: LocalKeys, policy: ChannelPolicy
) -> Step:
    """Answer open_channel.

    Raises:
        ProtocolViolation: the proposal is refused; its action is FAIL_CHANNEL, for which nothing
            but an `error` with the temporary id is needed.
    """
    check(message, reception, policy)
    assert message.channel_type is not None  # noqa: S101 - open_refusal saw to it
    kind = commitment_type(message.channel_type)
    assert kind is not None  # noqa: S101 - the same
    upfront = _upfront(reception.features, reception.shutdown_script)
    local = _local_party(
        keys, policy, message.funding_satoshis, upfront, message.dust_limit_satoshis
    )
    channel = Channel(
        channel_id=message.temporary_channel_id,
        parameters=ChannelParameters(
            node_id=reception.node_id,
            temporary_channel_id=message.temporary_channel_id,
            key_index=keys.key_index,
            is_opener=False,
            commitment_type=kind,
            channel_type=message.channel_type,
            funding_satoshis=message.funding_satoshis,
            push_msat=message.push_msat,
            announce=bool(message.channel_flags & ANNOUNCE_CHANNEL),
            local=local,
            remote=_remote_party(message),
            minimum_depth=policy.minimum_depth,
            created_height=reception.height,
            default_shutdown_script=reception.shutdown_script,
        ),
        phase=Phase.WAIT_FOR_FUNDING_CREATED,
        policy=policy,
        link=Link.ONLINE,
        features=reception.features,
        local_msat=message.push_msat,
        remote_msat=message.funding_satoshis * 1000 - message.push_msat,
        fees=(FeeUpdate(message.feerate_per_kw, FeeState.COMMITTED),),
        local_commitment=LocalCommitment(
            0, current_point=keys.first_point, next_point=keys.second_point
        ),
        remote_commitment=RemoteCommitment(0, current_point=message.first_per_commitment_point),
        local_alias=reception.local_alias,
        height=reception.height,
        feerate_per_kw=reception.feerate_per_kw,
    )
    answer = AcceptChannel(
        temporary_channel_id=message.temporary_channel_id,
        dust_limit_satoshis=local.dust_limit_satoshis,
        max_htlc_value_in_flight_msat=local.max_htlc_value_in_flight_msat,
        channel_reserve_satoshis=local.channel_reserve_satoshis,
        htlc_minimum_msat=local.htlc_minimum_msat,
        minimum_depth=policy.minimum_depth,
        to_self_delay=local.to_self_delay,
        max_accepted_htlcs=local.max_accepted_htlcs,
        funding_pubkey=local.funding_pubkey,
        revocation_basepoint=local.revocation_basepoint,
        payment_basepoint=local.payment_basepoint,
        delayed_payment_basepoint=local.delayed_payment_basepoint,
        htlc_basepoint=local.htlc_basepoint,
        first_per_commitment_point=keys.first_point,
        upfront_shutdown_script=upfront,
        channel_type=message.channel_type,
    )
    return Step(channel, (Send(answer),))


# --- opener, after accept_channel -----------------------------------------------------------------


def accept_received(channel: Channel, message: AcceptChannel, policy: ChannelPolicy) -> Step:
    """Check accept_channel and ask the wallet for the funding transaction.

    Raises:
        ProtocolViolation: the channel fails; nothing is on chain yet.
    """
    ours = channel.parameters
    why = acceptance.party_refusal(message, ours.funding_satoshis, policy)
    if message.channel_type != ours.channel_type:
        why = why or "channel_type differs from the one in open_channel"
    if message.minimum_depth > policy.max_minimum_depth:
        why = why or f"minimum_depth {message.minimum_depth} is above {policy.max_minimum_depth}"
    if message.channel_reserve_satoshis < ours.local.dust_limit_satoshis:
        why = why or "channel_reserve_satoshis is below our dust_limit_satoshis"
    if ours.local.channel_reserve_satoshis < message.dust_limit_satoshis:
        why = why or "dust_limit_satoshis is above the reserve that we asked for"
    why = why or acceptance.shutdown_script_refusal(message, channel.features)
    if why:
        raise ProtocolViolation(why, bolt=ACCEPT, action=Action.FAIL_CHANNEL)
    parameters = replace(ours, remote=_remote_party(message), minimum_depth=message.minimum_depth)
    channel = replace(
        channel,
        parameters=parameters,
        remote_commitment=RemoteCommitment(0, current_point=message.first_per_commitment_point),
    )
    script_pubkey = funding_script_pubkey(ours.local.funding_pubkey, message.funding_pubkey)
    return moved(
        channel,
        Phase.WAIT_FOR_FUNDING_INTERNAL,
        MakeFundingTransaction(script_pubkey, ours.funding_satoshis),
    )
