"""Invoices (BOLT 11): read, make, sign. Pure: the digest is signed elsewhere, by who holds the key.

* :mod:`.bits`: bech32 without a length limit, and streams of 5-bit groups.
* :mod:`.invoice`: the invoice and its encoding.
"""

from shared.bolt11.invoice import (
    Fallback,
    Invoice,
    RouteHint,
    assemble,
    decode,
    signing_digest,
)

__all__ = ["Fallback", "Invoice", "RouteHint", "assemble", "decode", "signing_digest"]
