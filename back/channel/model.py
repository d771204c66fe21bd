"""What a channel is: frozen values, cheap to replace, one row each where they grow.

Amounts are in the unit that their name says. "Local" is ours, "remote" the peer's; "offered" means
added by us. A commitment's holder is the one who can publish it.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from back.channel.policy import ChannelPolicy
from back.transactions.commitment import CommitmentType
from shared.chain import Outpoint
from shared.crypto.shachain import ShachainStore
from shared.features import Feature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from back.channel.events import OfferHtlc, UpdateFeerate

__all__ = [
    "AnnouncementTurn",
    "Batch",
    "Channel",
    "ChannelParameters",
    "ClosingNegotiation",
    "Failed",
    "FeeState",
    "FeeUpdate",
    "Fulfilled",
    "Funding",
    "Htlc",
    "HtlcKey",
    "HtlcState",
    "Link",
    "LocalCommitment",
    "Malformed",
    "PartyParameters",
    "Phase",
    "RemoteCommitment",
    "Resolution",
    "UnrevokedCommitment",
]


class Phase(Enum):
    """Where a channel stands in its life; durable. Names as Eclair's API shows them."""

    WAIT_FOR_ACCEPT_CHANNEL = "WAIT_FOR_ACCEPT_CHANNEL"
    WAIT_FOR_FUNDING_INTERNAL = "WAIT_FOR_FUNDING_INTERNAL"
    """Opener: the wallet is making the funding transaction."""
    WAIT_FOR_FUNDING_CREATED = "WAIT_FOR_FUNDING_CREATED"
    WAIT_FOR_FUNDING_SIGNED = "WAIT_FOR_FUNDING_SIGNED"
    WAIT_FOR_FUNDING_CONFIRMED = "WAIT_FOR_FUNDING_CONFIRMED"
    WAIT_FOR_CHANNEL_READY = "WAIT_FOR_CHANNEL_READY"
    """We sent channel_ready, the peer has not."""
    NORMAL = "NORMAL"
    SHUTDOWN = "SHUTDOWN"
    """Both shutdowns are out, HTLCs remain."""
    NEGOTIATING = "NEGOTIATING"
    """closing_signed is being negotiated."""
    CLOSING = "CLOSING"
    """A closing or commitment transaction is published, or one of the peer is awaited."""
    CLOSED = "CLOSED"
    """Over: nothing of ours is left in it."""
    WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT = "WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT"
    """We lost data: only the peer may close (BOLT 2 § Message Retransmission)."""


class Link(Enum):
    """Where the connection stands; never stored, OFFLINE at load."""

    OFFLINE = "OFFLINE"
    SYNCING = "SYNCING"
    """Connected; our channel_reestablish is sent, theirs awaited."""
    ONLINE = "ONLINE"


class AnnouncementTurn(Enum):
    """Whether this connection brings the peer our announcement_signatures; never stored."""

    OWED = 1
    """They go out as soon as BOLT 7 lets them."""
    SENT = 2
    KEPT = 3
    """The announcement is complete, and the peer has not asked by sending its own."""


class HtlcState(Enum):
    """Where one HTLC stands in the two commitments (BOLT 2 § Normal Operation).

    The first half of each list adds it, the second removes it. Three states of other programs do
    not exist here: our own update is never sent without a signature (rule 2 of
    :mod:`back.channel`), and we revoke in the very step that takes the peer's signature, so there
    is nothing between "received in a commitment_signed" and "revocation sent". The transitions are
    tables in :mod:`.commitments`.
    """

    # Offered by us.
    SENT_ADD_COMMIT = 1
    """In the remote commitment that we signed; the peer has not revoked the one before."""
    RCVD_ADD_REVOCATION = 2
    """In the remote commitment for good; the peer's next signature puts it into ours."""
    SENT_ADD_ACK_REVOCATION = 4
    """Irrevocably committed."""
    RCVD_REMOVE_HTLC = 5
    """The peer fulfilled or failed it, in no commitment yet; taken back at a disconnection."""
    SENT_REMOVE_REVOCATION = 7
    """Gone from our commitment for good; our next signature takes it out of the remote one."""
    SENT_REMOVE_ACK_COMMIT = 8
    """Gone from the remote commitment that we signed; the peer has not revoked the one before."""
    # Offered by the peer.
    RCVD_ADD_HTLC = 11
    """Received, in no commitment; forgotten at a disconnection."""
    SENT_ADD_REVOCATION = 13
    """In our commitment for good; our next signature puts it into the remote one."""
    SENT_ADD_ACK_COMMIT = 14
    """In the remote commitment that we signed too; the peer has not revoked the one before."""
    RCVD_ADD_ACK_REVOCATION = 15
    """Irrevocably committed. With a resolution: our next signature takes it out."""
    SENT_REMOVE_COMMIT = 16
    """Gone from the remote commitment that we signed; the peer has not revoked the one before."""
    RCVD_REMOVE_REVOCATION = 17
    """Gone from the remote commitment for good; the peer's next signature takes it out of ours."""


@dataclass(frozen=True, slots=True)
class Fulfilled:
    """The HTLC was paid: its preimage."""

    payment_preimage: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The HTLC failed; ``reason`` is the encrypted error onion of update_fail_htlc."""

    reason: bytes


@dataclass(frozen=True, slots=True)
class Malformed:
    """The HTLC's onion could not be read (update_fail_malformed_htlc)."""

    sha256_of_onion: bytes
    failure_code: int


Resolution = Fulfilled | Failed | Malformed

HtlcKey = tuple[bool, int]
"""(offered, id): ids count per direction."""


@dataclass(frozen=True, slots=True)
class Htlc:
    """One HTLC: one row.

    Attributes:
        offered: by us.
        id: as in update_add_htlc, per direction.
        onion_routing_packet: kept while a received HTLC has no resolution; empty otherwise.
        origin: what our side wants remembered of an offered HTLC (opaque here).
        resolution: how it ends. Of a received HTLC: set as soon as our side decides, and sent with
            the next signature. Of an offered one: what the peer said; a preimage is kept for ever,
            also where a disconnection takes the update back.
        remote_first: number of the first remote commitment that holds it, None before.
        remote_last: number of the last remote commitment that held it, None while it is in.
            With these two, the HTLCs of each revoked remote commitment are known for ever, at two
            integers a row (BOLT 5's penalties need them).
    """

    offered: bool
    id: int
    amount_msat: int
    payment_hash: bytes
    cltv_expiry: int
    state: HtlcState
    onion_routing_packet: bytes = b""
    path_key: bytes | None = None
    origin: str | None = None
    resolution: Resolution | None = None
    remote_first: int | None = None
    remote_last: int | None = None

    @property
    def key(self) -> HtlcKey:
        """The key in :attr:`Channel.htlcs`."""
        return (self.offered, self.id)


class FeeState(Enum):
    """Where a feerate stands; the states of an added HTLC, named from the opener's side."""

    PROPOSED = 1
    """Fundee: received, in no commitment; forgotten at a disconnection."""
    IN_FUNDEE = 2
    """In the fundee's commitment (signed)."""
    FUNDEE_REVOKED = 3
    IN_BOTH = 4
    """Signed into the opener's commitment too."""
    COMMITTED = 5
    """Irrevocable; the one before it is dropped."""


@dataclass(frozen=True, slots=True)
class FeeUpdate:
    """A feerate and how far it has come. The opener alone proposes (update_fee)."""

    feerate_per_kw: int
    state: FeeState


@dataclass(frozen=True, slots=True)
class PartyParameters:
    """What one side demanded and showed in open_channel or accept_channel (BOLT 2), verbatim names.

    ``channel_reserve_satoshis`` and ``to_self_delay`` bind the *other* side, as on the wire.
    """

    funding_pubkey: bytes
    revocation_basepoint: bytes
    payment_basepoint: bytes
    delayed_payment_basepoint: bytes
    htlc_basepoint: bytes
    dust_limit_satoshis: int
    max_htlc_value_in_flight_msat: int
    channel_reserve_satoshis: int
    htlc_minimum_msat: int
    to_self_delay: int
    max_accepted_htlcs: int
    upfront_shutdown_script: bytes = b""
    """Empty: none was given."""


@dataclass(frozen=True, slots=True)
class ChannelParameters:
    """What never changes once both sides agreed."""

    node_id: bytes
    """The peer."""
    temporary_channel_id: bytes
    key_index: int
    """Names our channel keys to the signer."""
    is_opener: bool
    commitment_type: CommitmentType
    channel_type: bytes
    """Feature bits of option_channel_type, as on the wire."""
    funding_satoshis: int
    push_msat: int
    announce: bool
    local: PartyParameters
    remote: PartyParameters | None
    """None until accept_channel (opener)."""
    minimum_depth: int = 0
    """As the accepter demanded."""
    default_shutdown_script: bytes = b""
    """Where our money goes at a cooperative close, unless the operator names another script."""
    created_height: int = 0


@dataclass(frozen=True, slots=True)
class Funding:
    """The funding output and what became of it."""

    outpoint: Outpoint
    transaction: bytes = b""
    """Raw and signed (opener), empty at the fundee until it is seen."""
    is_published: bool = False
    confirmed_height: int | None = None
    short_channel_id: int | None = None
    """The real one, once confirmed at minimum_depth."""
    spent_by: bytes | None = None
    """txid of the transaction that spends it."""
    deep_short_channel_id: int | None = None
    """The real one as it stood at 6 confirmations: no other may be announced."""


@dataclass(frozen=True, slots=True)
class LocalCommitment:
    """Our current commitment: what we could publish now."""

    number: int
    signature: bytes = b""
    """The peer's, 64 bytes compact; empty before the first."""
    htlc_signatures: tuple[bytes, ...] = ()
    current_point: bytes = b""
    """Our per_commitment_point of ``number``."""
    next_point: bytes = b""
    """Of ``number + 1``: the peer signs the next one with it. Empty while our revocation of
    ``number - 1`` waits for the signer."""


@dataclass(frozen=True, slots=True)
class RemoteCommitment:
    """The peer's last commitment that it has not revoked."""

    number: int
    current_point: bytes = b""
    next_point: bytes = b""
    """Of ``number + 1``, signed next or signed and unrevoked. Empty until channel_ready."""


@dataclass(frozen=True, slots=True)
class UnrevokedCommitment:
    """The batch that signs remote commitment ``number``; the peer has not revoked ``number - 1``.

    ``messages`` are the encoded updates and the commitment_signed (or start_batch and several), in
    order: what a reconnection sends again, byte for byte.
    """

    number: int
    messages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ClosingNegotiation:
    """closing_signed so far (BOLT 2 § Closing Negotiation); starts anew at each connection."""

    last_sent_fee_satoshis: int | None = None
    last_received_fee_satoshis: int | None = None
    sent_fees_satoshis: tuple[int, ...] = ()
    """All that we signed, so that a published one of them is recognised."""
    transaction: bytes = b""
    """The fully signed closing transaction, once agreed."""
    since_height: int | None = None
    """The first block of the negotiation, over all connections."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is left of a start_batch (BOLT 2 § Batching channel messages)."""

    left: int
    has_current: bool = False
    """Whether the commitment_signed of our funding transaction was in it."""


DEFAULT_POLICY = ChannelPolicy(chain_hash=bytes(32))


def _no_htlcs() -> "Mapping[HtlcKey, Htlc]":
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: everything its rules look at.

    Attributes:
        channel_id: temporary_channel_id until the funding outpoint is known.
        local_msat: our balance with every HTLC that is gone from both sides settled. One that we
            offered counts as ours until then, so the two balances always add up to the funding.
        remote_msat: the peer's.
        htlcs: those that are in a commitment or on their way; never mutated in place.
        fees: at most one irrevocable feerate, first, and what is on its way to replace it.
        queue: our own adds and feerates that wait for the next signature (not stored; removals wait
            as :attr:`Htlc.resolution`).
        unrevoked: what we signed last, while the peer has not revoked.
        is_revoke_last: whether revoke_and_ack went out after the last commitment_signed: the order
            of a retransmission.
    """

    channel_id: bytes
    parameters: ChannelParameters
    phase: Phase
    policy: ChannelPolicy = DEFAULT_POLICY
    """What this node accepts (not stored: whoever makes or loads a channel sets it)."""
    link: Link = Link.OFFLINE
    features: frozenset[Feature] = frozenset()
    """Negotiated on the present connection (not stored)."""
    funding: Funding | None = None
    local_msat: int = 0
    remote_msat: int = 0
    htlcs: "Mapping[HtlcKey, Htlc]" = field(default_factory=_no_htlcs)
    next_local_htlc_id: int = 0
    next_remote_htlc_id: int = 0
    fees: tuple[FeeUpdate, ...] = ()
    local_commitment: LocalCommitment = LocalCommitment(0)
    remote_commitment: RemoteCommitment = RemoteCommitment(0)
    remote_secrets: ShachainStore = field(default_factory=ShachainStore)
    unrevoked: UnrevokedCommitment | None = None
    is_revoke_last: bool = False
    queue: "tuple[OfferHtlc | UpdateFeerate, ...]" = ()
    batch: Batch | None = None
    """Of a start_batch that is not complete (not stored)."""
    local_alias: int | None = None
    """The scid_alias that we gave in channel_ready."""
    remote_alias: int | None = None
    """The peer's last one: for route hints of private channels."""
    is_channel_ready_sent: bool = False
    is_channel_ready_received: bool = False
    remote_announcement_signatures: bytes | None = None
    """Encoded announcement_signatures, possibly early and then unchecked (BOLT 7)."""
    channel_announcement: bytes | None = None
    """Encoded, with all four signatures."""
    announcement_turn: AnnouncementTurn = AnnouncementTurn.OWED
    """Of the present connection (not stored)."""
    remote_channel_update: bytes | None = None
    """The direct peer's last channel_update, encoded."""
    local_shutdown_script: bytes | None = None
    remote_shutdown_script: bytes | None = None
    is_shutdown_sent: bool = False
    closing: ClosingNegotiation | None = None
    closing_feerate_range_per_kw: tuple[int, int, int] | None = None
    """Minimum, preferred, maximum, when the operator asked for one."""
    sent_error: bytes | None = None
    """The encoded `error` that we sent: repeated in the error state, all else ignored."""
    received_error: bytes | None = None
    local_force_close: bytes = b""
    """Our commitment, fully signed, once it had to be published."""
    published: tuple[bytes, ...] = ()
    """txids of commitment or closing transactions that we published or saw."""
    height: int = 0
    """Of the chain, as the channel last heard."""
    feerate_per_kw: int = 0
    """What we would use for a commitment now, as the channel last heard (not stored)."""

    def with_htlcs(self, *changed: Htlc) -> "Channel":
        """Return the channel with HTLCs added, or replaced by those of the same key."""
        htlcs = {**self.htlcs, **{htlc.key: htlc for htlc in changed}}
        return replace(self, htlcs=MappingProxyType(htlcs))
