"""What the owners of a forward's two channels say to each other. Pure.

Every message names its forward and may come twice, late, or not at all: whoever waits for an answer
says it again. :class:`Offer` is answered by :class:`Taken` or :class:`Refused`, an :class:`Outcome`
by :class:`Noted`, as is a refusal.

::

    upstream                          downstream
       Offer  ------------------------->   commits the outgoing add and the pairing
              <-------------------------  Taken
              <-------------------------  Outcome   (durable: a preimage, or an irrevocable failure)
       commits the incoming HTLC's end
       Noted  ------------------------->   forgets
"""

from typing import Annotated, Literal, NamedTuple, Protocol, TypeAlias

from pydantic import Field

from back.channel.model import Failed, Fulfilled, Malformed, Resolution
from shared.fabric.envelope import NodeId
from shared.fabric.requests import Versioned

__all__ = [
    "MESSAGES",
    "Carrier",
    "ForwardId",
    "Noted",
    "Offer",
    "Outcome",
    "Refused",
    "Taken",
    "ToDownstream",
    "ToUpstream",
]

Hash = Annotated[bytes, Field(min_length=32, max_length=32)]
Kind: TypeAlias = Literal["fulfilled", "failed", "malformed", "gone"]
Number = Annotated[int, Field(ge=0, lt=1 << 64)]


class ForwardId(NamedTuple):
    """The name of a forward: its incoming HTLC.

    Attributes:
        key_index: of the incoming channel.
        htlc_id: in that channel.
    """

    key_index: int
    htlc_id: int


class _OfForward(Versioned):
    """A message about one forward."""

    key_index: Number
    """Of the incoming channel."""
    htlc_id: Number
    """In that channel."""

    @property
    def id(self) -> ForwardId:
        """The forward's name."""
        return ForwardId(self.key_index, self.htlc_id)


class Offer(_OfForward):
    """Upstream: forward this HTLC, or say what became of it; nothing happens twice."""

    in_node_id: NodeId
    """Who offered it to us: the answer goes to the owner of this peer's shard."""
    in_amount_msat: Number
    in_cltv_expiry: Number
    out_node_id: NodeId
    """The next peer: the offer goes to the owner of its shard."""
    short_channel_id: Number | None = None
    """The channel that the payer named, by any of its names; None: it named the peer."""
    amount_msat: Number
    cltv_expiry: Number
    payment_hash: Hash
    onion_routing_packet: bytes
    path_key: NodeId | None = None
    received_at_ms: Number
    """Unix milliseconds."""
    attempt: Number
    """Grows each time that the offer is made: only the answer to the last one may refuse it."""
    may_begin: bool = True
    """False: only say what became of it, the incoming channel takes nothing new."""


class Taken(_OfForward):
    """Downstream: the outgoing add is durable; an outcome will follow."""


class Refused(_OfForward):
    """Downstream: nothing was offered and nothing will be; ``failure`` says why (BOLT 4).

    Holds for the offer of this ``attempt`` and those before: a downstream that took over since may
    have taken a later one.
    """

    attempt: Number
    failure: bytes


class Outcome(_OfForward):
    """Downstream: how the outgoing HTLC ended, durably.

    ``data`` is the preimage, the error onion or sha256_of_onion; None where it ended without one.
    """

    out_node_id: NodeId
    """Whose peer it is: the answer goes to the owner of its shard."""
    kind: Kind
    data: bytes | None = Field(default=None, repr=False)
    failure_code: Number | None = None

    @classmethod
    def of(
        cls, forward_id: ForwardId, out_node_id: bytes, resolution: Resolution | None
    ) -> "Outcome":
        """Say how an HTLC ended; None: it never went out, or ended on chain without a preimage."""
        kind: Kind = "gone"
        data: bytes | None = None
        code: int | None = None
        match resolution:
            case Fulfilled(payment_preimage=preimage):
                kind, data = "fulfilled", preimage
            case Failed(reason=reason):
                kind, data = "failed", reason
            case Malformed(sha256_of_onion=digest, failure_code=failure_code):
                kind, data, code = "malformed", digest, failure_code
            case None:
                pass
        return cls(
            key_index=forward_id.key_index,
            htlc_id=forward_id.htlc_id,
            out_node_id=out_node_id,
            kind=kind,
            data=data,
            failure_code=code,
        )

    @property
    def resolution(self) -> Resolution | None:
        """How it ended, as the channel had it."""
        data = self.data or b""
        match self.kind:
            case "fulfilled":
                return Fulfilled(data)
            case "failed":
                return Failed(data)
            case "malformed":
                return Malformed(data, self.failure_code or 0)
            case "gone":
                return None


class Noted(_OfForward):
    """Upstream: the outcome, or the failure after a refusal, is durable in the incoming channel."""


ToDownstream: TypeAlias = Offer | Noted
ToUpstream: TypeAlias = Taken | Refused | Outcome


MESSAGES: "dict[str, type[Offer | Noted | Taken | Refused | Outcome]]" = {
    kind.__name__.lower(): kind for kind in (Offer, Noted, Taken, Refused, Outcome)
}
"""Every message by the last token of its subject."""


class Carrier(Protocol):
    """Brings messages to the other side; may lose them, never blocks."""

    def to_downstream(self, message: ToDownstream, out_node_id: bytes) -> None:
        """To the owner of the outgoing peer's shard."""

    def to_upstream(self, message: ToUpstream, in_node_id: bytes) -> None:
        """To the owner of the incoming peer's shard."""
