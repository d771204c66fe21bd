"""What can happen to a channel."""

from dataclasses import dataclass, field

from shared.features import Feature
from shared.wire import Message

__all__ = [
    "AbandonOpening",
    "BlockConnected",
    "Close",
    "Command",
    "Connected",
    "Disconnected",
    "Event",
    "FailHtlc",
    "FailMalformedHtlc",
    "FeerateChanged",
    "ForceClose",
    "FulfillHtlc",
    "FundingConfirmed",
    "FundingDeep",
    "FundingFailed",
    "FundingSpent",
    "FundingTransactionMade",
    "OfferHtlc",
    "Received",
    "TransactionConfirmed",
    "Update",
    "UpdateFeerate",
]


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the peer, for this channel.

    Attributes:
        is_secret_ours: for channel_reestablish only: whether your_last_per_commitment_secret is the
            secret of our commitment ``next_revocation_number - 1``. Only the signer can tell; see
            :func:`machine.prepare`.
    """

    message: Message
    is_secret_ours: bool | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """A session of the peer opened and both inits are exchanged."""

    features: frozenset[Feature]
    """Negotiated on this connection."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session ended: uncommitted updates of the peer are forgotten (BOLT 2)."""


@dataclass(frozen=True, slots=True)
class FundingTransactionMade:
    """The wallet's answer to :class:`effects.MakeFundingTransaction`: signed, not broadcast."""

    transaction: bytes
    output_index: int


@dataclass(frozen=True, slots=True)
class FundingFailed:
    """The wallet could not fund the channel."""

    reason: str


@dataclass(frozen=True, slots=True)
class OfferHtlc:
    """Add an HTLC. Refusal comes as :class:`effects.OfferRefused` with the same origin."""

    amount_msat: int
    payment_hash: bytes
    cltv_expiry: int
    onion_routing_packet: bytes
    origin: str
    """What to remember with the HTLC; opaque to the channel, unique to the asker."""
    path_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class FulfillHtlc:
    """Settle a received HTLC. Idempotent: an HTLC that is resolved or gone is left alone.

    The decision is durable with its step, also while the peer is away.
    """

    id: int
    payment_preimage: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FailHtlc:
    """Fail a received HTLC with an encrypted error onion. Idempotent."""

    id: int
    reason: bytes


@dataclass(frozen=True, slots=True)
class FailMalformedHtlc:
    """Fail a received HTLC whose onion cannot be read. Idempotent."""

    id: int
    sha256_of_onion: bytes
    failure_code: int


@dataclass(frozen=True, slots=True)
class UpdateFeerate:
    """Propose a feerate (opener only)."""

    feerate_per_kw: int


Update = OfferHtlc | FulfillHtlc | FailHtlc | FailMalformedHtlc | UpdateFeerate
"""Our own updates: they leave with the next signature."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close cooperatively.

    Attributes:
        script: our shutdown scriptpubkey; must equal upfront_shutdown_script where one was given.
        feerate_range_per_kw: minimum, preferred, maximum; None: from the present estimate.
    """

    script: bytes
    feerate_range_per_kw: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class ForceClose:
    """Publish our commitment."""

    reason: str


@dataclass(frozen=True, slots=True)
class AbandonOpening:
    """Give a channel up whose funding was never published; any other is left as it is."""

    reason: str


Command = Update | Close | ForceClose | AbandonOpening


@dataclass(frozen=True, slots=True)
class BlockConnected:
    """The chain grew (or shrank) to ``height``."""

    height: int


@dataclass(frozen=True, slots=True)
class FeerateChanged:
    """The present estimate for a commitment transaction."""

    feerate_per_kw: int


@dataclass(frozen=True, slots=True)
class FundingConfirmed:
    """The funding transaction is at ``minimum_depth`` blocks.

    Attributes:
        height: of the block that holds it.
        transaction_index: its place in that block.
        transaction: raw.
    """

    height: int
    transaction_index: int
    transaction: bytes


@dataclass(frozen=True, slots=True)
class FundingDeep:
    """The funding transaction has the 6 confirmations that an announcement needs (BOLT 7).

    Attributes:
        height: of the block that holds it.
        transaction_index: its place in that block.
    """

    height: int
    transaction_index: int


@dataclass(frozen=True, slots=True)
class FundingSpent:
    """A transaction that spends the funding output was seen; height None in the mempool."""

    transaction: bytes
    height: int | None


@dataclass(frozen=True, slots=True)
class TransactionConfirmed:
    """A closing or commitment transaction is deep enough to be final."""

    txid: bytes
    height: int


Event = (
    Received
    | Connected
    | Disconnected
    | FundingTransactionMade
    | FundingFailed
    | Update
    | Close
    | ForceClose
    | AbandonOpening
    | BlockConnected
    | FeerateChanged
    | FundingConfirmed
    | FundingDeep
    | FundingSpent
    | TransactionConfirmed
)
