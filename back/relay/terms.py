"""What we take for forwarding into a channel (BOLT 7 § HTLC Fees). Pure."""

from dataclasses import dataclass

__all__ = ["ChannelTerms"]


@dataclass(frozen=True, slots=True)
class ChannelTerms:
    """The terms of one channel in our direction, as a channel_update says them.

    Attributes:
        cltv_expiry_delta: blocks between the expiries of the two HTLCs.
        htlc_minimum_msat: the smallest outgoing HTLC.
        htlc_maximum_msat: the largest.
    """

    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int
    htlc_minimum_msat: int
    htlc_maximum_msat: int

    def fee_msat(self, amount_msat: int) -> int:
        """Return what we take for an outgoing HTLC of this amount."""
        return self.fee_base_msat + amount_msat * self.fee_proportional_millionths // 1_000_000
