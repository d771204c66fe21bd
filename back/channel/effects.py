"""What a channel asks of the world, once its new value is durable.

Three kinds: *requests* are answered by the signer before the commit and never leave the step;
*facts* become rows of the same commit (a payment's attempt, a received preimage); the rest is done
after it. Everything but a message comes again from :func:`machine.resume` after a restart.
"""

from dataclasses import dataclass, field

from back.channel.model import Htlc, Phase
from back.transactions.closing import ClosingTransaction
from back.transactions.commitment import CommitmentTransaction
from shared.chain import Outpoint
from shared.wire import ChannelAnnouncement, Message

__all__ = [
    "Alarm",
    "AnnouncementSigned",
    "Answer",
    "ChannelAnnounced",
    "ChannelForgotten",
    "ChannelIdAssigned",
    "ChannelReady",
    "CheckSecret",
    "CloseConnection",
    "ClosingSignature",
    "CommitmentSignatures",
    "Effect",
    "FreeFunding",
    "HtlcFailed",
    "HtlcFulfilled",
    "HtlcOffered",
    "HtlcReceived",
    "MakeFundingTransaction",
    "OfferRefused",
    "PhaseChanged",
    "Publish",
    "Request",
    "Revocation",
    "RevokeLocalCommitment",
    "SecretCheck",
    "Send",
    "SignAnnouncement",
    "SignClosing",
    "SignFundingCreated",
    "SignFundingSigned",
    "SignLocalCommitment",
    "SignRemoteCommitment",
    "SignedCommitment",
    "WatchConfirmed",
    "WatchSpent",
]


# Requests: filled by the signer, see machine.fill.


@dataclass(frozen=True, slots=True)
class RevokeLocalCommitment:
    """Release the secret of our commitment ``number`` and give the point of ``number + 2``.

    Becomes ``Send(revoke_and_ack)``, byte for byte the same at each retransmission.
    """

    number: int


@dataclass(frozen=True, slots=True)
class SignRemoteCommitment:
    """Sign the peer's next commitment and its HTLC transactions.

    Becomes the ``Send`` of each update and of commitment_signed, and :attr:`Channel.unrevoked`.
    The updates are at hand: an HTLC's onion is not repeated in :class:`model.Htlc`.
    """

    commitment: CommitmentTransaction
    per_commitment_point: bytes
    number: int
    updates: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class SignFundingCreated:
    """Opener: sign the peer's commitment 0. Becomes ``Send(funding_created)``."""

    commitment: CommitmentTransaction
    per_commitment_point: bytes


@dataclass(frozen=True, slots=True)
class SignFundingSigned:
    """Fundee: sign the peer's commitment 0. Becomes ``Send(funding_signed)``."""

    commitment: CommitmentTransaction
    per_commitment_point: bytes


@dataclass(frozen=True, slots=True)
class SignClosing:
    """Sign a closing transaction. Becomes ``Send(closing_signed)`` where ``is_sent``.

    ``remote_signature`` is set where the peer agreed to this fee: the signed transaction is then
    kept in the channel and published.
    """

    closing: ClosingTransaction
    fee_satoshis: int
    is_sent: bool
    fee_range_satoshis: tuple[int, int] | None = None
    remote_signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class SignLocalCommitment:
    """Sign and assemble our commitment. Becomes ``Publish``; the signer refuses a revoked one."""

    commitment: CommitmentTransaction
    number: int
    remote_signature: bytes


@dataclass(frozen=True, slots=True)
class SignAnnouncement:
    """Make our node_signature and bitcoin_signature of a channel_announcement (BOLT 7).

    Becomes ``Send(announcement_signatures)`` where ``is_sent``. ``remote_signatures`` is set where
    the peer's two are there and right: the whole announcement is then kept in the channel.
    """

    announcement: ChannelAnnouncement
    is_sent: bool
    remote_signatures: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class CheckSecret:
    """Say whether ``secret`` is the per_commitment_secret of our commitment ``number``.

    Never part of a step: :func:`machine.prepare` asks it before a channel_reestablish is applied.
    """

    number: int
    secret: bytes = field(repr=False)


Request = (
    RevokeLocalCommitment
    | SignRemoteCommitment
    | SignFundingCreated
    | SignFundingSigned
    | SignClosing
    | SignLocalCommitment
    | SignAnnouncement
    | CheckSecret
)


# Answers of the signer, one a request.


@dataclass(frozen=True, slots=True)
class Revocation:
    """To RevokeLocalCommitment: the secret of ``number`` and the point of ``number + 2``."""

    per_commitment_secret: bytes = field(repr=False)
    next_per_commitment_point: bytes


@dataclass(frozen=True, slots=True)
class CommitmentSignatures:
    """To SignRemoteCommitment, SignFundingCreated, SignFundingSigned: 64 bytes compact each.

    ``htlc_signatures`` are in the order of the commitment's HTLC outputs; none at the funding.
    """

    signature: bytes
    htlc_signatures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ClosingSignature:
    """To SignClosing; ``transaction`` is the signed one where ``remote_signature`` was given."""

    signature: bytes
    transaction: bytes = b""


@dataclass(frozen=True, slots=True)
class SignedCommitment:
    """To SignLocalCommitment: raw and final; empty where the signer refuses (recovery)."""

    transaction: bytes


@dataclass(frozen=True, slots=True)
class AnnouncementSigned:
    """To SignAnnouncement: 64 bytes compact each."""

    node_signature: bytes
    bitcoin_signature: bytes


@dataclass(frozen=True, slots=True)
class SecretCheck:
    """To CheckSecret."""

    is_ours: bool


Answer = (
    Revocation
    | CommitmentSignatures
    | ClosingSignature
    | SignedCommitment
    | AnnouncementSigned
    | SecretCheck
)


# Facts: rows of the same commit, and told after it.


@dataclass(frozen=True, slots=True)
class HtlcOffered:
    """Our HTLC goes out in this step: its asker's row is written in the same commit."""

    htlc: Htlc


@dataclass(frozen=True, slots=True)
class OfferRefused:
    """Our HTLC could not be added; nothing was sent."""

    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class HtlcReceived:
    """A received HTLC is irrevocably committed and has no resolution: decide. May come again.

    Attributes:
        exceeds_dust_exposure: it is too small for an output, and with those that are there already
            more than we would lose to a miner: BOLT 2 says to fail it.
    """

    htlc: Htlc
    exceeds_dust_exposure: bool = False


@dataclass(frozen=True, slots=True)
class HtlcFulfilled:
    """The peer gave the preimage of our HTLC (at update_fulfill_htlc). May come again."""

    htlc: Htlc
    payment_preimage: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HtlcFailed:
    """Our HTLC's removal is irrevocable and it was not paid. May come again.

    ``htlc.resolution`` is Failed or Malformed; None: it never went out or ended on chain.
    """

    htlc: Htlc


# To do after the commit.


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the peer, in order."""

    message: Message


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """End the session after what was sent; ``warning`` says why to the peer, empty for none."""

    warning: str = ""


@dataclass(frozen=True, slots=True)
class MakeFundingTransaction:
    """Ask the wallet; answered by FundingTransactionMade or FundingFailed."""

    script_pubkey: bytes
    amount_sat: int


@dataclass(frozen=True, slots=True)
class FreeFunding:
    """Unlock the inputs of a funding transaction that will never be published."""

    transaction: bytes


@dataclass(frozen=True, slots=True)
class Publish:
    """Broadcast, and again at each block until confirmed."""

    transaction: bytes
    what: str
    """``funding``, ``commitment``, ``closing``: for logs and the API."""


@dataclass(frozen=True, slots=True)
class WatchConfirmed:
    """Tell when it has ``depth`` confirmations, by the event that belongs to ``what``."""

    txid: bytes
    script_pubkey: bytes
    depth: int
    since_height: int
    what: str
    """``funding`` (FundingConfirmed), ``announcement`` (FundingDeep, of the same transaction) or
    ``closing`` (TransactionConfirmed)."""


@dataclass(frozen=True, slots=True)
class WatchSpent:
    """Tell when the outpoint is spent (FundingSpent)."""

    outpoint: Outpoint
    script_pubkey: bytes
    since_height: int


@dataclass(frozen=True, slots=True)
class ChannelIdAssigned:
    """The channel is known by ``channel_id`` from now on instead of its temporary one."""

    temporary_channel_id: bytes
    channel_id: bytes


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """For waiting API calls, logs, metrics and events."""

    channel_id: bytes
    before: Phase
    after: Phase
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Money may be lost: a human must look (BOLT 5 § General Requirements)."""

    channel_id: bytes
    what: str


@dataclass(frozen=True, slots=True)
class ChannelReady:
    """The channel may carry HTLCs now: both channel_ready are exchanged, or it is reestablished."""

    channel_id: bytes


@dataclass(frozen=True, slots=True)
class ChannelAnnounced:
    """All four signatures of the channel_announcement are there: the network may know."""

    channel_id: bytes


@dataclass(frozen=True, slots=True)
class ChannelForgotten:
    """Delete the channel: it never had money in it, or it is over."""

    channel_id: bytes
    reason: str


Effect = (
    Request
    | HtlcOffered
    | OfferRefused
    | HtlcReceived
    | HtlcFulfilled
    | HtlcFailed
    | Send
    | CloseConnection
    | MakeFundingTransaction
    | FreeFunding
    | Publish
    | WatchConfirmed
    | WatchSpent
    | ChannelIdAssigned
    | PhaseChanged
    | Alarm
    | ChannelReady
    | ChannelAnnounced
    | ChannelForgotten
)
