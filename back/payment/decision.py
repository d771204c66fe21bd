"""How a received HTLC ends here, and the event that carries it out (BOLT 2). Pure."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from back.channel.events import FailHtlc, FailMalformedHtlc, FulfillHtlc
from back.channel.model import Htlc
from shared.crypto.failures import BADONION, encode_failure
from shared.crypto.sphinx import create_error
from shared.errors import InvalidOnion

__all__ = ["Decision", "Fail", "Fulfil", "Malformed", "settlement", "unreadable"]


@dataclass(frozen=True, slots=True)
class Fulfil:
    """The HTLC is paid."""

    payment_preimage: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fail:
    """The HTLC fails with a message that only the payer can read."""

    message: bytes
    """Failure code and data."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """The onion cannot be read; told in the open."""

    code: int


Decision: TypeAlias = Fulfil | Fail | Malformed


def unreadable(error: InvalidOnion) -> Decision:
    """Answer an onion that could not be peeled."""
    if error.code & BADONION:
        return Malformed(error.code)
    return Fail(encode_failure("invalid_onion_payload", type=0, offset=0))


def settlement(
    htlc: Htlc, decision: Decision, shared_secret: bytes
) -> FulfillHtlc | FailHtlc | FailMalformedHtlc:
    """Return the event that carries a decision out.

    Args:
        htlc: what was decided on.
        decision: how.
        shared_secret: of our layer; not looked at for Fulfil and Malformed.
    """
    match decision:
        case Fulfil(payment_preimage=preimage):
            return FulfillHtlc(htlc.id, preimage)
        case Fail(message=message):
            return FailHtlc(htlc.id, create_error(shared_secret, message))
        case Malformed(code=code):
            digest = sha256(htlc.onion_routing_packet).digest()
            return FailMalformedHtlc(htlc.id, digest, code)
