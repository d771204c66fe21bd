"""How much of a channel one peer may fill with what we forward for it. Pure.

An HTLC that is held back costs whoever sent it nothing, and us a slot and its amount in every
channel that it crosses. Limits do not end such jamming, they make it local: one peer, or whoever
sends through it, never has all of a channel, and HTLCs worth almost nothing never have all its
slots. Whoever is refused hears of a temporary_channel_failure and tries another way.

Four limits, each a share or a number of the settings:

* ``peer_slots``: of the HTLCs that the outgoing channel takes, one incoming peer may have a share.
* ``peer_value``: so it is with the amount that may be in flight. A single HTLC may be as large as
  htlc_maximum_msat says: it is the second that is held to the share.
* ``small_slots``: HTLCs below ``small_htlc_msat``, whoever sends them, may have a share of the
  slots; the rest is kept for larger ones.
* ``peer_pending``: HTLCs that one incoming peer has made us forward, over all channels.

Our own payments count as filling the channel, and are not limited here.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

__all__ = ["ForwardLimits", "Load", "PendingForwards", "refusal"]

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """What one peer may fill.

    Attributes:
        peer_slot_share: of the outgoing channel's slots, for one incoming peer; 1: all.
        peer_value_share: of the amount that it may have in flight, for one incoming peer; 1: all.
        small_htlc_msat: HTLCs below it are small; 0: none is.
        small_slot_share: of the slots, for small HTLCs of all; 1: all.
        peer_max_pending: HTLCs of one incoming peer in all channels.
    """

    peer_slot_share: float = 0.75
    peer_value_share: float = 0.75
    small_htlc_msat: int = 1_000_000
    small_slot_share: float = 0.75
    peer_max_pending: int = 500


class Load(NamedTuple):
    """What is pending before one more HTLC is forwarded.

    Attributes:
        slots: HTLCs that the outgoing channel takes from us at a time.
        value_msat: amount that it takes from us at a time.
        small_slots: slots that small forwarded HTLCs have.
        peer_slots: slots that HTLCs of this incoming peer have.
        peer_msat: their amount.
        peer_pending: HTLCs of this incoming peer in all channels.
    """

    slots: int
    value_msat: int
    small_slots: int = 0
    peer_slots: int = 0
    peer_msat: int = 0
    peer_pending: int = 0


def refusal(load: Load, amount_msat: int, limits: ForwardLimits) -> str:
    """Name the limit that keeps an HTLC out of a channel; empty if none does.

    Args:
        load: as it is without the HTLC.
        amount_msat: of the HTLC that would go out.
        limits: of this node.
    """
    if load.peer_pending >= limits.peer_max_pending:
        return "peer_pending"
    if load.peer_slots >= _share(load.slots, limits.peer_slot_share):
        return "peer_slots"
    most_msat = int(load.value_msat * limits.peer_value_share)
    if load.peer_slots and load.peer_msat + amount_msat > most_msat:
        return "peer_value"
    is_small = amount_msat < limits.small_htlc_msat
    if is_small and load.small_slots >= _share(load.slots, limits.small_slot_share):
        return "small_slots"
    return ""


def _share(slots: int, share: float) -> int:
    """A channel of few slots has one for everybody."""
    return max(1, int(slots * share))


class _Pending(NamedTuple):
    in_node_id: bytes
    out_key_index: int
    amount_msat: int


@dataclass(slots=True)
class _Filled:
    """What one peer, or small HTLCs, have of one channel."""

    slots: int = 0
    msat: int = 0


class PendingForwards:
    """Counts what is forwarded and not over, by incoming peer and outgoing channel.

    Each forward is counted once, however often it is told of; memory is that of what is pending.

    Args:
        limits: of this node.
    """

    def __init__(self, limits: ForwardLimits) -> None:
        self.limits = limits
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._by_pair: dict[tuple[bytes, int], _Filled] = {}
        self._small: dict[int, int] = {}
        self._by_peer: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def load(self, in_node_id: bytes, out_key_index: int, slots: int, value_msat: int) -> Load:
        """Return the load that one more HTLC of a peer would meet in a channel.

        Args:
            in_node_id: the incoming peer.
            out_key_index: of the outgoing channel.
            slots: HTLCs that this channel takes from us at a time.
            value_msat: amount that it takes from us at a time.
        """
        filled = self._by_pair.get((in_node_id, out_key_index))
        return Load(
            slots=slots,
            value_msat=value_msat,
            small_slots=self._small.get(out_key_index, 0),
            peer_slots=filled.slots if filled else 0,
            peer_msat=filled.msat if filled else 0,
            peer_pending=self._by_peer.get(in_node_id, 0),
        )

    def began(
        self, forward_id: tuple[int, int], in_node_id: bytes, out_key_index: int, amount_msat: int
    ) -> None:
        """Count an HTLC that is on its way into a channel.

        Args:
            forward_id: key index of the incoming channel, HTLC id in it.
            in_node_id: the incoming peer.
            out_key_index: of the outgoing channel.
            amount_msat: of the outgoing HTLC.
        """
        self.ended(forward_id)
        self._pending[forward_id] = _Pending(in_node_id, out_key_index, amount_msat)
        filled = self._by_pair.setdefault((in_node_id, out_key_index), _Filled())
        filled.slots += 1
        filled.msat += amount_msat
        self._by_peer[in_node_id] = self._by_peer.get(in_node_id, 0) + 1
        if amount_msat < self.limits.small_htlc_msat:
            self._small[out_key_index] = self._small.get(out_key_index, 0) + 1

    def ended(self, forward_id: tuple[int, int]) -> None:
        """Count an HTLC no longer; nothing if it is not counted."""
        pending = self._pending.pop(forward_id, None)
        if pending is None:
            return
        in_node_id, out_key_index, amount_msat = pending
        filled = self._by_pair[in_node_id, out_key_index]
        filled.slots -= 1
        filled.msat -= amount_msat
        if not filled.slots:
            del self._by_pair[in_node_id, out_key_index]
        _less_one(self._by_peer, in_node_id)
        if amount_msat < self.limits.small_htlc_msat:
            _less_one(self._small, out_key_index)


def _less_one(counts: "dict[Key, int]", key: "Key") -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
