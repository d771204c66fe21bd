"""How large an HTLC we announce to forward: the balance, told in coarse steps. Pure.

An htlc_maximum_msat far above what a channel can carry brings us HTLCs that fail, one that follows
the balance tells everybody each payment. So it is one of few rungs, each half of the one above, of
which the highest is all that the channel could ever carry; it goes down only when a quarter of the
rung is missing and up only when nearly all of the higher one is there, so that a balance which goes
to and fro says nothing; and an update for its sake alone waits for the last one to be
some minutes old (:func:`.updates.due`), which hides when the balance changed.
"""

from back.channel.model import Channel, Phase
from back.channel.spec import offer_limits

__all__ = ["RUNGS", "coarse_msat", "htlc_maximum_msat", "most_msat", "spendable_msat"]

RUNGS = 7
"""The lowest is 1/64 of the highest: an empty channel says as much."""


def htlc_maximum_msat(channel: Channel, present_msat: int | None) -> int:
    """Return what our update of a channel should say now; of one that closes what it said last.

    Args:
        channel: that can be announced: its peer's parameters are known.
        present_msat: what our last update says; None: there is none.
    """
    if present_msat is not None and channel.phase is not Phase.NORMAL:
        return present_msat
    remote = channel.parameters.remote
    least_msat = 1 if remote is None else max(1, remote.htlc_minimum_msat)
    return coarse_msat(most_msat(channel), spendable_msat(channel), least_msat, present_msat)


def most_msat(channel: Channel) -> int:
    """Return the largest HTLC that a channel could ever carry to the peer."""
    remote, capacity_msat = channel.parameters.remote, channel.parameters.funding_satoshis * 1000
    reserve_msat = 0 if remote is None else remote.channel_reserve_satoshis * 1000
    return min(capacity_msat - reserve_msat, offer_limits(channel).value_msat)


def spendable_msat(channel: Channel) -> int:
    """Return about what the channel could carry once all that is pending has been paid."""
    remote = channel.parameters.remote
    reserve_msat = 0 if remote is None else remote.channel_reserve_satoshis * 1000
    pending_msat = sum(htlc.amount_msat for htlc in channel.htlcs.values() if htlc.offered)
    return channel.local_msat - pending_msat - reserve_msat


def coarse_msat(most: int, spendable: int, least: int, present: int | None) -> int:
    """Return the rung to stand on.

    Args:
        most: the highest rung.
        spendable: what there is.
        least: no rung is below it.
        present: where we stand; None, or no rung: nowhere.
    """
    rungs = [max(most >> n, least) for n in range(RUNGS)]
    reached = next((rung for rung in rungs if spendable * 16 >= rung * 15), rungs[-1])
    if present not in rungs or reached > present or spendable * 4 < present * 3:
        return reached
    return present
