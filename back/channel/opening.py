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

from back.channel import commitments
from back.channel.effects import (
    ChannelForgotten,
    ChannelIdAssigned,
    ChannelReady,
    CloseConnection,
    Effect,
    FreeFunding,
    MakeFundingTransaction,
    PhaseChanged,
    Publish,
    Send,
    SignFundingCreated,
    SignFundingSigned,
    WatchConfirmed,
    WatchSpent,
)
from back.channel.events import (
    Disconnected,
    FundingConfirmed,
    FundingFailed,
    FundingTransactionMade,
)
from back.channel.model import (
    Channel,
    ChannelParameters,
    FeeState,
    FeeUpdate,
    Funding,
    Link,
    LocalCommitment,
    PartyParameters,
    Phase,
    RemoteCommitment,
)
from back.channel.policy import (
    FUNDEE_PATIENCE_BLOCKS,
    MAX_ACCEPTED_HTLCS,
    MAX_FUNDING_WITHOUT_WUMBO_SAT,
    MIN_DUST_LIMIT_SATOSHIS,
    ChannelPolicy,
    channel_type_bits,
    commitment_type,
)
from back.channel.rules import Step, legal, moved
from back.transactions.commitment import CommitmentType
from back.transactions.scripts import (
    funding_script_pubkey,
    is_standard_shutdown_script,
)
from back.transactions.transaction import parse_transaction
from back.transactions.weights import commitment_fee_sat
from shared.chain import Outpoint
from shared.crypto.keys import is_valid_point
from shared.errors import Action, CommandError, ProtocolViolation
from shared.features import Feature, FeatureSet
from shared.units import ShortChannelId
from shared.wire import (
    AcceptChannel,
    ChannelReady as ChannelReadyMessage,
    FundingCreated,
    FundingSigned,
    OpenChannel,
)

__all__ = ["LocalKeys", "Proposal", "accept", "channel_id", "propose"]

ANNOUNCE_CHANNEL = 1
OPEN = "BOLT 2 § open_channel"
ACCEPT = "BOLT 2 § accept_channel"
CREATED = "BOLT 2 § funding_created"
SIGNED = "BOLT 2 § funding_signed"
READY = "BOLT 2 § channel_ready"

UNFUNDED = (
    Phase.WAIT_FOR_ACCEPT_CHANNEL,
    Phase.WAIT_FOR_FUNDING_INTERNAL,
    Phase.WAIT_FOR_FUNDING_CREATED,
    Phase.WAIT_FOR_FUNDING_SIGNED,
)
"""Phases without a published funding transaction: a disconnection ends the channel."""


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


def channel_id(outpoint: Outpoint) -> bytes:
    """Return the 32-byte channel_id of a funding outpoint (BOLT 2 § Definition of channel_id)."""
    tail = int.from_bytes(outpoint.txid[30:], "big") ^ outpoint.index
    return outpoint.txid[:30] + tail.to_bytes(2, "big")


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
    fee_sat = commitment_fee_sat(kind, proposal.feerate_per_kw, 0)
    left_msat = proposal.funding_satoshis * 1000 - proposal.push_msat
    if left_msat < fee_sat * 1000:
        raise CommandError(
            f"{left_msat} msat would remain, the commitment's fee alone is {fee_sat} sat"
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


# --- the peer's parameters ----------------------------------------------------------------------


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


def _party_refusal(
    message: OpenChannel | AcceptChannel, funding_satoshis: int, policy: ChannelPolicy
) -> str:
    """Say which demand of the peer is out of bounds, whichever side opens; empty if none."""
    most_reserve = max(int(funding_satoshis * policy.max_reserve_ratio), policy.dust_limit_satoshis)
    checks: tuple[tuple[bool, str], ...] = (
        (
            message.to_self_delay > policy.max_to_self_delay,
            f"to_self_delay {message.to_self_delay} is above {policy.max_to_self_delay}",
        ),
        (
            not 0 < message.max_accepted_htlcs <= MAX_ACCEPTED_HTLCS,
            f"max_accepted_htlcs {message.max_accepted_htlcs} is not in 1..{MAX_ACCEPTED_HTLCS}",
        ),
        (
            message.dust_limit_satoshis > message.channel_reserve_satoshis,
            f"dust_limit_satoshis {message.dust_limit_satoshis} is above"
            f" channel_reserve_satoshis {message.channel_reserve_satoshis}",
        ),
        (
            message.dust_limit_satoshis < MIN_DUST_LIMIT_SATOSHIS,
            f"dust_limit_satoshis {message.dust_limit_satoshis} is below {MIN_DUST_LIMIT_SATOSHIS}",
        ),
        (
            message.dust_limit_satoshis > policy.max_dust_limit_satoshis,
            f"dust_limit_satoshis {message.dust_limit_satoshis} is above"
            f" {policy.max_dust_limit_satoshis}",
        ),
        (
            message.channel_reserve_satoshis > most_reserve,
            f"channel_reserve_satoshis {message.channel_reserve_satoshis} is above {most_reserve}",
        ),
        (
            message.channel_reserve_satoshis < policy.dust_limit_satoshis,
            f"channel_reserve_satoshis {message.channel_reserve_satoshis} is below our"
            f" dust_limit_satoshis {policy.dust_limit_satoshis}",
        ),
        (
            message.htlc_minimum_msat > funding_satoshis * 1000,
            f"htlc_minimum_msat {message.htlc_minimum_msat} is above the capacity",
        ),
    )
    for is_wrong, why in checks:
        if is_wrong:
            return why
    for name in (
        "funding_pubkey",
        "revocation_basepoint",
        "payment_basepoint",
        "delayed_payment_basepoint",
        "htlc_basepoint",
        "first_per_commitment_point",
    ):
        if not is_valid_point(getattr(message, name)):
            return f"{name} is not a point on the curve"
    return ""


def _shutdown_script_refusal(
    message: OpenChannel | AcceptChannel, features: frozenset[Feature]
) -> str:
    script = message.upfront_shutdown_script
    anysegwit = Feature.option_shutdown_anysegwit in features
    if Feature.option_upfront_shutdown_script in features and script is None:
        return "upfront_shutdown_script is missing though negotiated"
    if script and not is_standard_shutdown_script(script, anysegwit=anysegwit):
        return "upfront_shutdown_script has a form that BOLT 2 does not allow"
    return ""


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


def accept(
    message: OpenChannel, reception: Reception, keys: LocalKeys, policy: ChannelPolicy
) -> Step:
    """Answer open_channel.

    Raises:
        ProtocolViolation: the proposal is refused; its action is FAIL_CHANNEL, for which nothing
            but an `error` with the temporary id is needed.
    """
    if why := _open_refusal(message, reception, policy):
        raise ProtocolViolation(why, bolt=OPEN, action=Action.FAIL_CHANNEL)
    assert message.channel_type is not None  # noqa: S101 - _open_refusal saw to it
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


def _open_refusal(message: OpenChannel, reception: Reception, policy: ChannelPolicy) -> str:
    """Say why a proposal is refused; empty if it is not."""
    funding = message.funding_satoshis
    if message.chain_hash != policy.chain_hash:
        return f"chain {message.chain_hash.hex()} is not ours"
    if why := _channel_type_refusal(message, reception.features, policy):
        return why
    if funding > MAX_FUNDING_WITHOUT_WUMBO_SAT and (
        Feature.option_support_large_channel not in reception.features
    ):
        return f"funding_satoshis {funding} needs option_support_large_channel"
    if not policy.min_funding_sat <= funding <= policy.max_funding_sat:
        return (
            f"funding_satoshis {funding} is not in"
            f" {policy.min_funding_sat}..{policy.max_funding_sat}"
        )
    if message.push_msat > funding * 1000:
        return f"push_msat {message.push_msat} is above the funding of {funding} sat"
    if why := _party_refusal(message, funding, policy):
        return why
    if why := _shutdown_script_refusal(message, reception.features):
        return why
    return _first_commitment_refusal(message, reception, policy)


def _channel_type_refusal(
    message: OpenChannel, features: frozenset[Feature], policy: ChannelPolicy
) -> str:
    if message.channel_type is None:
        return "channel_type is missing"
    bits = FeatureSet.from_bytes(message.channel_type)
    kind = commitment_type(message.channel_type)
    accepted = {
        CommitmentType.STATIC_REMOTEKEY: policy.accepts_static_remotekey,
        CommitmentType.ANCHORS_ZERO_FEE_HTLC: policy.accepts_anchors,
    }
    if kind is None or not accepted[kind]:
        return f"channel_type {message.channel_type.hex()} is not one that we speak"
    if any(f not in features for f in bits.features):
        return f"channel_type {message.channel_type.hex()} was not negotiated"
    if bits.requires(Feature.option_scid_alias) and message.channel_flags & ANNOUNCE_CHANNEL:
        return "channel_type has option_scid_alias, the channel is to be announced"
    return ""


def _first_commitment_refusal(
    message: OpenChannel, reception: Reception, policy: ChannelPolicy
) -> str:
    assert message.channel_type is not None  # noqa: S101 - checked before
    kind = commitment_type(message.channel_type)
    assert kind is not None  # noqa: S101 - checked before
    if why := policy.feerate_refusal(message.feerate_per_kw, reception.feerate_per_kw, kind):
        return why
    fee_sat = commitment_fee_sat(kind, message.feerate_per_kw, 0)
    opener_msat = message.funding_satoshis * 1000 - message.push_msat
    if opener_msat < fee_sat * 1000:
        return f"the opener keeps {opener_msat} msat, the first commitment's fee is {fee_sat} sat"
    reserve_msat = max(
        message.channel_reserve_satoshis,
        policy.reserve_satoshis(message.funding_satoshis, message.dust_limit_satoshis),
    ) * 1000
    if opener_msat - fee_sat * 1000 <= reserve_msat and message.push_msat <= reserve_msat:
        return "both sides would start at or below the reserve"
    return ""


# --- opener, after accept_channel -----------------------------------------------------------------


def accept_received(channel: Channel, message: AcceptChannel, policy: ChannelPolicy) -> Step:
    """Check accept_channel and ask the wallet for the funding transaction.

    Raises:
        ProtocolViolation: the channel fails; nothing is on chain yet.
    """
    ours = channel.parameters
    why = _party_refusal(message, ours.funding_satoshis, policy)
    if message.channel_type != ours.channel_type:
        why = why or "channel_type differs from the one in open_channel"
    if message.minimum_depth > policy.max_minimum_depth:
        why = why or f"minimum_depth {message.minimum_depth} is above {policy.max_minimum_depth}"
    if message.channel_reserve_satoshis < ours.local.dust_limit_satoshis:
        why = why or "channel_reserve_satoshis is below our dust_limit_satoshis"
    if ours.local.channel_reserve_satoshis < message.dust_limit_satoshis:
        why = why or "dust_limit_satoshis is above the reserve that we asked for"
    script = message.upfront_shutdown_script
    if script and not is_standard_shutdown_script(script, anysegwit=True):
        why = why or "upfront_shutdown_script has a form that BOLT 2 does not allow"
    if why:
        raise ProtocolViolation(why, bolt=ACCEPT, action=Action.FAIL_CHANNEL)
    parameters = replace(
        ours, remote=_remote_party(message), minimum_depth=message.minimum_depth
    )
    channel = replace(
        channel,
        parameters=parameters,
        remote_commitment=RemoteCommitment(0, current_point=message.first_per_commitment_point),
    )
    script_pubkey = funding_script_pubkey(
        ours.local.funding_pubkey, message.funding_pubkey
    )
    return moved(
        channel,
        Phase.WAIT_FOR_FUNDING_INTERNAL,
        MakeFundingTransaction(script_pubkey, ours.funding_satoshis),
    )


def funding_made(channel: Channel, event: FundingTransactionMade) -> Step:
    """The wallet signed: ask the signer for the peer's first commitment."""
    if channel.phase is not Phase.WAIT_FOR_FUNDING_INTERNAL:
        return Step(channel, (FreeFunding(event.transaction),))
    transaction = parse_transaction(event.transaction)
    outpoint = Outpoint(transaction.txid, event.output_index)
    funded = replace(
        channel,
        channel_id=channel_id(outpoint),
        funding=Funding(outpoint, event.transaction),
    )
    step = moved(
        funded,
        Phase.WAIT_FOR_FUNDING_SIGNED,
        ChannelIdAssigned(channel.channel_id, funded.channel_id),
    )
    remote = commitments.remote_commitment(funded, 0, funded.remote_commitment.current_point)
    request = SignFundingCreated(remote, funded.remote_commitment.current_point)
    return Step(step.channel, (*step.effects, request))


def funding_failed(channel: Channel, event: FundingFailed) -> Step:
    """The wallet could not: tell the peer and forget."""
    if channel.phase is not Phase.WAIT_FOR_FUNDING_INTERNAL:
        return Step(channel)
    return _forget(channel, f"funding failed: {event.reason}", tell_peer=True)


@legal((Phase.WAIT_FOR_FUNDING_CREATED,), FundingCreated)
def funding_created(channel: Channel, message: FundingCreated) -> Step:
    """Accepter: check the signature of our first commitment and sign the opener's."""
    outpoint = Outpoint(message.funding_txid, message.funding_output_index)
    funded = replace(channel, channel_id=channel_id(outpoint), funding=Funding(outpoint))
    funded = _with_first_signature(funded, message.signature, CREATED)
    step = moved(
        funded,
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        ChannelIdAssigned(channel.channel_id, funded.channel_id),
    )
    remote = commitments.remote_commitment(funded, 0, funded.remote_commitment.current_point)
    request = SignFundingSigned(remote, funded.remote_commitment.current_point)
    return Step(step.channel, (*step.effects, request, *watches(funded)))


@legal((Phase.WAIT_FOR_FUNDING_SIGNED,), FundingSigned)
def funding_signed(channel: Channel, message: FundingSigned) -> Step:
    """Opener: we can get our money back, so the funding transaction may be published."""
    funded = _with_first_signature(channel, message.signature, SIGNED)
    assert funded.funding is not None  # noqa: S101 - set in funding_made
    funding = replace(funded.funding, is_published=True)
    funded = replace(funded, funding=funding)
    return moved(
        funded,
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        Publish(funding.transaction, "funding"),
        *watches(funded),
    )


def _with_first_signature(channel: Channel, signature: bytes, bolt: str) -> Channel:
    local = commitments.local_commitment(channel, 0, channel.local_commitment.current_point)
    if not commitments.is_funding_signature_valid(channel, local, signature):
        raise ProtocolViolation(
            "signature of the first commitment is not valid",
            bolt=bolt,
            action=Action.FAIL_CHANNEL,
        )
    return replace(
        channel, local_commitment=replace(channel.local_commitment, signature=signature)
    )


def watches(channel: Channel) -> tuple[Effect, ...]:
    """What must be watched from the moment that the channel holds money."""
    parameters = channel.parameters
    if channel.funding is None or parameters.remote is None:
        return ()
    script_pubkey = funding_script_pubkey(
        parameters.local.funding_pubkey, parameters.remote.funding_pubkey
    )
    return (
        WatchSpent(channel.funding.outpoint, script_pubkey, parameters.created_height),
        WatchConfirmed(
            channel.funding.outpoint.txid,
            script_pubkey,
            max(parameters.minimum_depth, 1),
            parameters.created_height,
            "funding",
        ),
    )


# --- confirmation ------------------------------------------------------------------------------


def funding_confirmed(channel: Channel, event: FundingConfirmed) -> Step:
    """The funding transaction is deep enough: check what it pays, send channel_ready."""
    funding = channel.funding
    remote = channel.parameters.remote
    if funding is None or remote is None or channel.phase in UNFUNDED:
        return Step(channel)
    transaction = parse_transaction(event.transaction)
    script_pubkey = funding_script_pubkey(
        channel.parameters.local.funding_pubkey, remote.funding_pubkey
    )
    outputs = transaction.outputs
    if (
        transaction.txid != funding.outpoint.txid
        or funding.outpoint.index >= len(outputs)
        or outputs[funding.outpoint.index].value_sat != channel.parameters.funding_satoshis
        or outputs[funding.outpoint.index].script_pubkey != script_pubkey
    ):
        raise ProtocolViolation(
            f"output {funding.outpoint} does not pay {channel.parameters.funding_satoshis} sat"
            " to the channel",
            bolt=READY,
            action=Action.FAIL_CHANNEL,
        )
    scid = ShortChannelId(event.height, event.transaction_index, funding.outpoint.index)
    channel = replace(
        channel,
        funding=replace(
            funding,
            confirmed_height=event.height,
            short_channel_id=scid.pack(),
            transaction=event.transaction,
            is_published=True,
        ),
    )
    return ready_to_send(channel)


def ready_to_send(channel: Channel) -> Step:
    """Send channel_ready as soon as the funding is deep and the peer is there."""
    if channel.phase is not Phase.WAIT_FOR_FUNDING_CONFIRMED:
        return Step(channel)
    channel = replace(channel, is_channel_ready_sent=True)
    step = moved(channel, Phase.WAIT_FOR_CHANNEL_READY)
    effects: tuple[Effect, ...] = step.effects
    if commitments.is_online(channel):
        effects = (*effects, Send(channel_ready_message(channel)))
    if channel.is_channel_ready_received:
        normal = _normal(step.channel)
        return Step(normal.channel, (*effects, *normal.effects))
    return Step(step.channel, effects)


def channel_ready_message(channel: Channel) -> ChannelReadyMessage:
    """Our channel_ready; the same bytes at each retransmission.

    Only sent or repeated while our commitment number is 0, so next_point is of commitment 1.
    """
    return ChannelReadyMessage(
        channel_id=channel.channel_id,
        second_per_commitment_point=channel.local_commitment.next_point,
        short_channel_id=channel.local_alias,
    )


@legal(
    (
        Phase.WAIT_FOR_FUNDING_CONFIRMED,
        Phase.WAIT_FOR_CHANNEL_READY,
        Phase.NORMAL,
        Phase.SHUTDOWN,
        Phase.NEGOTIATING,
    ),
    ChannelReadyMessage,
)
def channel_ready(channel: Channel, message: ChannelReadyMessage) -> Step:
    """The peer saw the funding transaction; later ones only bring a new alias (BOLT 2)."""
    if message.short_channel_id is not None:
        channel = replace(channel, remote_alias=message.short_channel_id)
    if channel.is_channel_ready_received:
        return Step(channel)
    if not is_valid_point(message.second_per_commitment_point):
        raise ProtocolViolation(
            "second_per_commitment_point is not a point on the curve",
            bolt=READY,
            action=Action.FAIL_CHANNEL,
        )
    channel = replace(
        channel,
        is_channel_ready_received=True,
        remote_commitment=replace(
            channel.remote_commitment, next_point=message.second_per_commitment_point
        ),
    )
    if channel.phase is Phase.WAIT_FOR_CHANNEL_READY:
        return _normal(channel)
    return Step(channel)


def _normal(channel: Channel) -> Step:
    return moved(channel, Phase.NORMAL, ChannelReady(channel.channel_id))


# --- ends before the start ------------------------------------------------------------------------


def disconnected(channel: Channel, _event: Disconnected) -> Step | None:
    """End a channel whose funding was never published; None for all others."""
    if channel.phase not in UNFUNDED:
        return None
    return _forget(channel, "disconnected before the funding was signed", tell_peer=False)


def failed_early(channel: Channel, reason: str) -> Step | None:
    """End an unfunded channel after an error of either side; None for all others."""
    if channel.phase not in UNFUNDED:
        return None
    return _forget(channel, reason, tell_peer=False)


def is_fundee_out_of_patience(channel: Channel, height: int) -> bool:
    """Whether a fundee may forget a channel whose funding never showed (BOLT 2: 2016 blocks)."""
    funding = channel.funding
    return (
        not channel.parameters.is_opener
        and channel.phase in {Phase.WAIT_FOR_FUNDING_CONFIRMED, Phase.CLOSING}
        and funding is not None
        and funding.confirmed_height is None
        and funding.spent_by is None
        and height - channel.parameters.created_height > FUNDEE_PATIENCE_BLOCKS
    )


def forget_unconfirmed(channel: Channel) -> Step:
    """Fundee: the funding transaction did not come in time."""
    return _forget(channel, "the funding transaction did not confirm in time", tell_peer=False)


def _forget(channel: Channel, reason: str, *, tell_peer: bool) -> Step:
    effects: list[Effect] = []
    if tell_peer:
        effects.append(CloseConnection(reason))
    if channel.parameters.is_opener and channel.funding is not None and channel.funding.transaction:
        effects.append(FreeFunding(channel.funding.transaction))
    before = channel.phase
    closed = replace(channel, phase=Phase.CLOSED)
    effects.append(PhaseChanged(channel.channel_id, before, Phase.CLOSED, reason))
    effects.append(ChannelForgotten(channel.channel_id, reason))
    return Step(closed, tuple(effects))
