"""Kinds of payments to us. Pure."""

from enum import Enum

__all__ = ["InvoiceKind"]


class InvoiceKind(Enum):
    """How a payment was asked for, and so what proves that a payer means it."""

    BOLT11 = "bolt11"
    """By its payment_secret."""
    BOLT12 = "bolt12"
    """By the path_id of its blinded paths, which only we can have written."""
    KEYSEND = "keysend"
    """Not at all: the payer chose the preimage and sent it along."""
