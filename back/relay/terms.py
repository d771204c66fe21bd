"""What we take for forwarding into a channel, and what an HTLC may meet of it (BOLT 7). Pure.

A payer works with the `channel_update` that it has heard of, and a new one takes minutes to reach
everybody. So an HTLC may meet the update that holds, or one that held within the grace period
before (BOLT 7 § HTLC Fees: "SHOULD accept HTLCs that pay an older fee"). It has to meet one of them
as a whole: the cheapest fee of one and the shortest expiry of another were never on offer together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from shared.wire import ChannelUpdate

__all__ = ["KEPT_FORMER", "ChannelTerms", "Former", "RelayFees", "TermsInForce"]

KEPT_FORMER = 64
"""Former terms of one channel that are remembered: only an operator who sets fees every few seconds
has more, and then the oldest hold a little shorter."""


class RelayFees(NamedTuple):
    """What the operator decides of a channel's terms.

    Attributes:
        cltv_expiry_delta: blocks between the expiries of the two HTLCs.
    """

    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int


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

    @classmethod
    def of(cls, update: ChannelUpdate) -> "ChannelTerms":
        """Return what an update of ours promises."""
        return cls(
            fee_base_msat=update.fee_base_msat,
            fee_proportional_millionths=update.fee_proportional_millionths,
            cltv_expiry_delta=update.cltv_expiry_delta,
            htlc_minimum_msat=update.htlc_minimum_msat,
            htlc_maximum_msat=update.htlc_maximum_msat,
        )

    def fee_msat(self, amount_msat: int) -> int:
        """Return what we take for an outgoing HTLC of this amount."""
        return self.fee_base_msat + amount_msat * self.fee_proportional_millionths // 1_000_000

    def includes(self, other: "ChannelTerms") -> bool:
        """Whether every HTLC that meets ``other`` meets these too."""
        return (
            self.fee_base_msat <= other.fee_base_msat
            and self.fee_proportional_millionths <= other.fee_proportional_millionths
            and self.cltv_expiry_delta <= other.cltv_expiry_delta
            and self.htlc_minimum_msat <= other.htlc_minimum_msat
            and self.htlc_maximum_msat >= other.htlc_maximum_msat
        )


class Former(NamedTuple):
    """Terms that hold no longer.

    Attributes:
        replaced_at: unix seconds when others took their place.
    """

    terms: ChannelTerms
    replaced_at: float


@dataclass(frozen=True, slots=True)
class TermsInForce:
    """The terms of one channel, and those before.

    Attributes:
        present: what our last update says.
        former: what updates before it said, the newest first.
    """

    present: ChannelTerms
    former: tuple[Former, ...] = ()

    @classmethod
    def of(cls, present: ChannelTerms, former: Iterable[Former]) -> "TermsInForce":
        """Put together what was stored; ``former`` in any order."""
        newest_first = sorted(former, key=lambda each: -each.replaced_at)
        return cls(present, tuple(newest_first[:KEPT_FORMER]))

    def accepted(self, unix_s: float, grace_s: float) -> tuple[ChannelTerms, ...]:
        """Return what an HTLC may meet now, the present terms first.

        Former terms whose every HTLC the present ones take as well are left out.

        Args:
            unix_s: our clock.
            grace_s: for how long former terms hold on.
        """
        if not self.former:
            return (self.present,)
        still = (
            each.terms
            for each in self.former
            if unix_s - each.replaced_at < grace_s and not self.present.includes(each.terms)
        )
        return self.present, *still

    def replaced(self, present: ChannelTerms, unix_s: float, grace_s: float) -> "TermsInForce":
        """Return what is in force once ``present`` is announced; what is past goes.

        Args:
            present: the new terms.
            unix_s: our clock.
            grace_s: for how long former terms hold on.
        """
        if present == self.present:
            return self
        now_former = Former(self.present, unix_s)
        still = (
            each
            for each in self.former
            if unix_s - each.replaced_at < grace_s and each.terms != self.present
        )
        return TermsInForce(present, (now_former, *still)[:KEPT_FORMER])
