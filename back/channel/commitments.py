"""Signatures and revocations (BOLT 2 § Committing Updates So Far, § Completing the Transition).

The life of an HTLC and of a feerate is three tables here: what our signature, the peer's signature
(which we answer with a revocation in the same step) and the peer's revocation make of each state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from back.channel import htlc as updates, outgoing
from back.channel.effects import (
    Effect,
    HtlcFailed,
    RevokeLocalCommitment,
    SignRemoteCommitment,
)
from back.channel.model import (
    Batch,
    Channel,
    FeeState,
    FeeUpdate,
    Fulfilled,
    Htlc,
    HtlcKey,
    HtlcState,
    Link,
    LocalCommitment,
    Phase,
    RemoteCommitment,
    UnrevokedCommitment,
)
from back.channel.rules import Step, legal
from back.channel.spec import CommitmentSpec, local_spec, remote_party, remote_spec
from back.transactions.commitment import (
    CommitmentParameters,
    CommitmentTransaction,
    HtlcOutput,
    build_commitment,
    commitment_keys,
)
from shared.crypto.keys import derive_public_key, is_valid_point
from shared.crypto.shachain import index_of
from shared.crypto.signature import public_key, verify_compact
from shared.errors import Action, InvariantError, ProtocolViolation
from shared.wire import CommitmentSigned, Message, RevokeAndAck, StartBatch

__all__ = [
    "check_batch",
    "has_pending_remote_updates",
    "has_uncommitted_remote_adds",
    "is_empty_and_clean",
    "is_funding_signature_valid",
    "is_online",
    "local_commitment",
    "remote_commitment",
    "sign_if_due",
]

SIGNED = "BOLT 2 § commitment_signed"
REVOKE = "BOLT 2 § revoke_and_ack"
BATCH = "BOLT 2 § start_batch"
MAX_BATCH_SIZE = 20

SIGNING = (Phase.NORMAL, Phase.SHUTDOWN)
"""Phases in which commitments change."""

S = HtlcState

ON_OUR_SIGNATURE: Mapping[HtlcState, HtlcState] = MappingProxyType(
    {
        S.SENT_REMOVE_REVOCATION: S.SENT_REMOVE_ACK_COMMIT,
        S.SENT_ADD_REVOCATION: S.SENT_ADD_ACK_COMMIT,
    }
)
"""Besides these our own updates: a new HTLC starts in SENT_ADD_COMMIT, and a received one that has
a
resolution goes from RCVD_ADD_ACK_REVOCATION to SENT_REMOVE_COMMIT."""

ON_THEIR_SIGNATURE: Mapping[HtlcState, HtlcState | None] = MappingProxyType(
    {
        S.RCVD_ADD_REVOCATION: S.SENT_ADD_ACK_REVOCATION,
        S.RCVD_REMOVE_HTLC: S.SENT_REMOVE_REVOCATION,
        S.RCVD_ADD_HTLC: S.SENT_ADD_REVOCATION,
        S.RCVD_REMOVE_REVOCATION: None,
    }
)
"""None: gone from both commitments."""

ON_THEIR_REVOCATION: Mapping[HtlcState, HtlcState | None] = MappingProxyType(
    {
        S.SENT_ADD_COMMIT: S.RCVD_ADD_REVOCATION,
        S.SENT_REMOVE_ACK_COMMIT: None,
        S.SENT_ADD_ACK_COMMIT: S.RCVD_ADD_ACK_REVOCATION,
        S.SENT_REMOVE_COMMIT: S.RCVD_REMOVE_REVOCATION,
    }
)


@dataclass(frozen=True, slots=True)
class FeeTable:
    """What becomes of a feerate; the opener's own proposal starts in IN_FUNDEE."""

    on_our_signature: Mapping[FeeState, FeeState]
    on_their_signature: Mapping[FeeState, FeeState]
    on_their_revocation: Mapping[FeeState, FeeState]


F = FeeState
FEES_OF_OPENER = FeeTable(
    on_our_signature={},
    on_their_signature={F.FUNDEE_REVOKED: F.COMMITTED},
    on_their_revocation={F.IN_FUNDEE: F.FUNDEE_REVOKED},
)
FEES_OF_FUNDEE = FeeTable(
    on_our_signature={F.FUNDEE_REVOKED: F.IN_BOTH},
    on_their_signature={F.PROPOSED: F.FUNDEE_REVOKED},
    on_their_revocation={F.IN_BOTH: F.COMMITTED},
)


def _fee_table(channel: Channel) -> FeeTable:
    return FEES_OF_OPENER if channel.parameters.is_opener else FEES_OF_FUNDEE


# --- what others ask --------------------------------------------------------------------------


def is_online(channel: Channel) -> bool:
    """Whether messages of this channel may go out: connected, and reestablished where needed."""
    return channel.link is Link.ONLINE


def has_pending_remote_updates(channel: Channel) -> bool:
    """Whether updates of ours are not in the peer's commitment for good."""
    return channel.unrevoked is not None or bool(channel.queue)


def has_uncommitted_remote_adds(channel: Channel) -> bool:
    """Whether the peer added an HTLC that it has not signed."""
    return any(htlc.state is S.RCVD_ADD_HTLC for htlc in channel.htlcs.values())


def is_empty_and_clean(channel: Channel) -> bool:
    """Whether no HTLC is left and nothing waits for a signature or a revocation."""
    return not channel.htlcs and len(channel.fees) == 1 and not has_pending_remote_updates(channel)


# --- transactions -----------------------------------------------------------------------------


def local_commitment(channel: Channel, number: int, point: bytes) -> CommitmentTransaction:
    """Build our commitment ``number`` of the present states, with its per_commitment_point."""
    return _built(channel, local_spec(channel), number, point)


def remote_commitment(channel: Channel, number: int, point: bytes) -> CommitmentTransaction:
    """Build the peer's commitment ``number``: the one that we signed last, or the one before it."""
    return _built(channel, remote_spec(channel, number), number, point)


def _built(
    channel: Channel, spec: CommitmentSpec, number: int, point: bytes
) -> CommitmentTransaction:
    parameters, remote = channel.parameters, remote_party(channel)
    if channel.funding is None:
        raise InvariantError("a commitment is built before its funding output is known")
    holder, other = (parameters.local, remote) if spec.is_local else (remote, parameters.local)
    opener, accepter = (
        (parameters.local, remote) if parameters.is_opener else (remote, parameters.local)
    )
    keys = commitment_keys(
        point,
        local_delayed_payment_basepoint=holder.delayed_payment_basepoint,
        local_htlc_basepoint=holder.htlc_basepoint,
        local_funding_pubkey=holder.funding_pubkey,
        remote_payment_basepoint=other.payment_basepoint,
        remote_htlc_basepoint=other.htlc_basepoint,
        remote_revocation_basepoint=other.revocation_basepoint,
        remote_funding_pubkey=other.funding_pubkey,
    )
    balances = (spec.local_msat, spec.remote_msat)
    to_local_msat, to_remote_msat = balances if spec.is_local else reversed(balances)
    return build_commitment(
        CommitmentParameters(
            commitment_type=parameters.commitment_type,
            funding_outpoint=channel.funding.outpoint,
            funding_satoshis=parameters.funding_satoshis,
            number=number,
            opener_payment_basepoint=opener.payment_basepoint,
            accepter_payment_basepoint=accepter.payment_basepoint,
            holder_is_opener=holder is opener,
            to_self_delay=other.to_self_delay,
            dust_limit_satoshis=holder.dust_limit_satoshis,
            feerate_per_kw=spec.feerate_per_kw,
            to_local_msat=to_local_msat,
            to_remote_msat=to_remote_msat,
            htlcs=tuple(
                HtlcOutput(
                    htlc.id,
                    htlc.offered == spec.is_local,
                    htlc.amount_msat,
                    htlc.payment_hash,
                    htlc.cltv_expiry,
                )
                for htlc in spec.htlcs
            ),
            keys=keys,
        )
    )


def is_funding_signature_valid(
    channel: Channel, commitment: CommitmentTransaction, signature: bytes
) -> bool:
    """Whether the peer's signature on a commitment of ours is valid and low-S."""
    return verify_compact(remote_party(channel).funding_pubkey, commitment.sighash, signature)


# --- our signature ------------------------------------------------------------------------------


def sign_if_due(channel: Channel) -> Step:
    """Sign the peer's next commitment if anything in it would be new and its last one is revoked.

    Our own updates become messages here, together with the signature that covers them.
    """
    if channel.queue and not updates.may_offer(channel):
        return updates.refuse_all(channel).then(sign_if_due)
    if (
        channel.unrevoked is not None
        or channel.phase not in SIGNING
        or not is_online(channel)
        or not channel.remote_commitment.next_point
    ):
        return Step(channel)
    number, point = channel.remote_commitment.number + 1, channel.remote_commitment.next_point
    # machine.fill puts the batch into `unrevoked` once it is signed.
    signed = replace(
        _with_our_signature(channel),
        unrevoked=UnrevokedCommitment(number, ()),
        is_revoke_last=False,
    )
    taken = outgoing.taken(signed, number)
    if not taken.messages and not _has_news(channel):
        return Step(replace(channel, queue=()), taken.effects)
    commitment = remote_commitment(taken.channel, number, point)
    request = SignRemoteCommitment(commitment, point, number, taken.messages)
    return Step(taken.channel, (*taken.effects, request))


def _has_news(channel: Channel) -> bool:
    """Whether updates of the peer, which it revoked for, are missing in its own commitment."""
    return any(htlc.state in ON_OUR_SIGNATURE for htlc in channel.htlcs.values()) or any(
        fee.state in _fee_table(channel).on_our_signature for fee in channel.fees
    )


def _with_our_signature(channel: Channel) -> Channel:
    """Put the peer's updates that we acknowledged into its next commitment."""
    number = channel.remote_commitment.number + 1
    changed: dict[HtlcKey, Htlc] = {}
    for key, htlc in channel.htlcs.items():
        match htlc.state:
            case S.SENT_ADD_REVOCATION:
                changed[key] = replace(htlc, state=S.SENT_ADD_ACK_COMMIT, remote_first=number)
            case S.SENT_REMOVE_REVOCATION:
                changed[key] = replace(htlc, state=S.SENT_REMOVE_ACK_COMMIT, remote_last=number - 1)
    return replace(
        channel,
        htlcs=MappingProxyType({**channel.htlcs, **changed}) if changed else channel.htlcs,
        fees=advanced(channel.fees, _fee_table(channel).on_our_signature),
    )


# --- the peer's signature -----------------------------------------------------------------------


@legal(SIGNING, CommitmentSigned)
def commitment_signed(channel: Channel, message: CommitmentSigned) -> Step:
    """Check the peer's signatures on our next commitment, and revoke the one before."""
    txid = channel.funding.outpoint.txid if channel.funding else None
    if channel.batch is None:
        if message.funding_txid not in {None, txid}:
            raise ProtocolViolation("funding_txid is not that of this channel", bolt=SIGNED)
        return _commitment_signed(channel, message)
    if message.funding_txid is None:
        raise ProtocolViolation(
            "funding_txid is missing in a batch", bolt=SIGNED, action=Action.FAIL_CHANNEL
        )
    is_current = message.funding_txid == txid
    if is_current and channel.batch.has_current:
        raise ProtocolViolation("two of a batch are for the same funding_txid", bolt=SIGNED)
    batch = Batch(channel.batch.left - 1, channel.batch.has_current or is_current)
    if not batch.left and not batch.has_current:
        raise ProtocolViolation(
            "a batch has none for the current funding transaction",
            bolt=SIGNED,
            action=Action.FAIL_CHANNEL,
        )
    channel = replace(channel, batch=batch if batch.left else None)
    return _commitment_signed(channel, message) if is_current else Step(channel)


def _commitment_signed(channel: Channel, message: CommitmentSigned) -> Step:
    point, number = channel.local_commitment.next_point, channel.local_commitment.number + 1
    if not point:
        raise ProtocolViolation("commitment_signed before our revoke_and_ack", bolt=SIGNED)
    step = _transitioned(channel, ON_THEIR_SIGNATURE)
    table = _fee_table(channel).on_their_signature
    signed = replace(step.channel, fees=advanced(channel.fees, table))
    _check_signatures(signed, local_commitment(signed, number, point), point, message)
    signed = replace(
        signed,
        local_commitment=LocalCommitment(
            number, message.signature, tuple(message.htlc_signature), current_point=point
        ),
        is_revoke_last=True,
    )
    return replace(step, channel=signed, effects=(RevokeLocalCommitment(number - 1),))


def _check_signatures(
    channel: Channel, commitment: CommitmentTransaction, point: bytes, message: CommitmentSigned
) -> None:
    if not is_funding_signature_valid(channel, commitment, message.signature):
        raise _invalid("signature is not valid for our commitment")
    count = len(commitment.htlc_transactions)
    if len(message.htlc_signature) != count:
        raise _invalid(f"{len(message.htlc_signature)} htlc_signatures for {count} HTLC outputs")
    key = derive_public_key(remote_party(channel).htlc_basepoint, point)
    for index, (transaction, signature) in enumerate(
        zip(commitment.htlc_transactions, message.htlc_signature, strict=True)
    ):
        if not verify_compact(key, transaction.sighash, signature):
            raise _invalid(f"htlc_signature {index} is not valid")


def _invalid(why: str) -> ProtocolViolation:
    # BOLT 2 would let us close the connection instead; the peer would repeat the same bytes for
    # ever.
    return ProtocolViolation(why, bolt=SIGNED, action=Action.FAIL_CHANNEL)


# --- the peer's revocation ------------------------------------------------------------------------


@legal(SIGNING, RevokeAndAck)
def revoke_and_ack(channel: Channel, message: RevokeAndAck) -> Step:
    """The peer's last commitment is worthless; what we signed is its current one."""
    remote = channel.remote_commitment
    if channel.unrevoked is None:
        raise ProtocolViolation("revoke_and_ack without a commitment_signed of ours", bolt=REVOKE)
    if not _is_secret_of(message.per_commitment_secret, remote.current_point):
        raise ProtocolViolation(
            f"per_commitment_secret is not that of commitment {remote.number}",
            bolt=REVOKE,
            action=Action.FAIL_CHANNEL,
        )
    if not is_valid_point(message.next_per_commitment_point):
        raise ProtocolViolation("next_per_commitment_point is not on the curve", bolt=REVOKE)
    secrets = channel.remote_secrets.insert(index_of(remote.number), message.per_commitment_secret)
    step = _transitioned(channel, ON_THEIR_REVOCATION)
    revoked = replace(
        step.channel,
        unrevoked=None,
        remote_secrets=secrets,
        remote_commitment=RemoteCommitment(
            remote.number + 1, remote.next_point, message.next_per_commitment_point
        ),
        fees=advanced(channel.fees, _fee_table(channel).on_their_revocation),
    )
    received = [
        htlc
        for key, htlc in revoked.htlcs.items()
        if htlc.state is S.RCVD_ADD_ACK_REVOCATION and htlc is not channel.htlcs[key]
    ]
    effects: list[Effect] = [
        HtlcFailed(htlc)
        for htlc in step.removed
        if htlc.offered and not isinstance(htlc.resolution, Fulfilled)
    ]
    effects.extend(updates.received(revoked, received))
    return replace(step, channel=revoked, effects=tuple(effects))


def _is_secret_of(secret: bytes, point: bytes) -> bool:
    try:
        return public_key(secret) == point
    except ValueError:
        return False


# --- tables at work -------------------------------------------------------------------------------


def _transitioned(channel: Channel, table: Mapping[HtlcState, HtlcState | None]) -> Step:
    """Move every HTLC as ``table`` says; settle those that are gone from both commitments."""
    htlcs: dict[HtlcKey, Htlc] = {}
    removed: list[Htlc] = []
    local_msat, remote_msat = channel.local_msat, channel.remote_msat
    for key, htlc in channel.htlcs.items():
        if htlc.state not in table:
            htlcs[key] = htlc
        elif (state := table[htlc.state]) is not None:
            htlcs[key] = replace(htlc, state=state)
        else:
            removed.append(htlc)
            if isinstance(htlc.resolution, Fulfilled):
                paid = -htlc.amount_msat if htlc.offered else htlc.amount_msat
                local_msat, remote_msat = local_msat + paid, remote_msat - paid
    moved = replace(
        channel, htlcs=MappingProxyType(htlcs), local_msat=local_msat, remote_msat=remote_msat
    )
    return Step(moved, removed=tuple(removed))


def advanced(
    fees: tuple[FeeUpdate, ...], table: Mapping[FeeState, FeeState]
) -> tuple[FeeUpdate, ...]:
    """Move feerates as ``table`` says; of several in one state the last one counts."""
    if not any(fee.state in table for fee in fees):
        return fees
    advanced: list[FeeUpdate] = []
    for fee in fees:
        now = replace(fee, state=table.get(fee.state, fee.state))
        if now.state is FeeState.COMMITTED:
            advanced.clear()
        if advanced and advanced[-1].state is now.state:
            advanced.pop()
        advanced.append(now)
    return tuple(advanced)


# --- batches ----------------------------------------------------------------------------------


@legal(SIGNING, StartBatch)
def start_batch(channel: Channel, message: StartBatch) -> Step:
    """The next messages belong together: commitment_signed of several funding transactions."""
    if message.batch_size <= 1:
        raise ProtocolViolation(
            f"batch_size {message.batch_size} is ignored", bolt=BATCH, action=Action.WARN
        )
    if message.batch_size > MAX_BATCH_SIZE:
        raise ProtocolViolation(
            f"batch_size {message.batch_size} is above {MAX_BATCH_SIZE}", bolt=BATCH
        )
    if message.message_type != CommitmentSigned.TYPE:
        return Step(channel)
    return Step(replace(channel, batch=Batch(message.batch_size)))


def check_batch(channel: Channel, message: Message) -> None:
    """Refuse anything but commitment_signed inside a batch."""
    if channel.batch is not None and not isinstance(message, CommitmentSigned):
        raise ProtocolViolation(f"{message.NAME} inside a batch", bolt=BATCH)
