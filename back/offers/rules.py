"""What the settings say of offers. Pure."""

from dataclasses import dataclass

from shared.bolt12.invoice import DEFAULT_EXPIRY_S

__all__ = ["OfferRules"]


@dataclass(frozen=True, slots=True)
class OfferRules:
    """How much others may ask for.

    Attributes:
        requests_per_s: requests for invoices that are looked at, of all offers; one offer may use
            half of it. Each costs signatures and, where there is an invoice, a commit.
        max_invoices: kept at a time, paid or not; each is forgotten some minutes after it expired.
        invoice_expiry_s: how long our invoices are valid.
    """

    requests_per_s: float = 10.0
    max_invoices: int = 100_000
    invoice_expiry_s: int = DEFAULT_EXPIRY_S
