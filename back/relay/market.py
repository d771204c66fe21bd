"""What may be forwarded where: channels with the next peer, terms, limits, and the books."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from back import events
from back.channel.model import Phase
from back.channel.spec import offer_limits
from back.events import IncomingPart, OutgoingPart, Relayed
from back.relay import forward
from back.relay.limits import ForwardLimits, PendingForwards, refusal
from back.storage.forwards import ForwardState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from back.channel.model import Channel
    from back.channels import Channels
    from back.relay.handoff import ForwardId, Offer
    from back.relay.names import Names
    from back.relay.terms import ChannelTerms
    from back.runner import ChannelRunner
    from back.storage.forwards import OpenForward, StoredForward
    from back.storage.statements import Write

__all__ = ["NodeMarket", "in_order"]

log = structlog.get_logger()


class NodeMarket:
    """The channels of this node as forwards see them (:class:`.downstream.Market`).

    Args:
        channels: all of ours.
        names: of them.
        limits: how much of a channel one peer may fill.
        clock: unix seconds.

    Attributes:
        accepted: gives the terms that an HTLC into a channel may meet now, the present ones first.
        limited: called with the name of each limit that keeps an HTLC out of a channel.
    """

    accepted: "Callable[[Channel, float], Sequence[ChannelTerms]]"
    limited: Callable[[str], None] = staticmethod(lambda _: None)

    def __init__(
        self,
        channels: "Channels",
        names: "Names",
        limits: ForwardLimits | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._channels = channels
        self._names = names
        self._clock = clock
        self.pending = PendingForwards(limits or ForwardLimits())

    def ways(self, offer: "Offer") -> "list[ChannelRunner]":
        """Return the channels to try, in order; none: there is no such peer or channel."""
        named: ChannelRunner | None = None
        if offer.short_channel_id is not None:
            named = self._names.find(offer.short_channel_id)
            if named is None or named.channel.parameters.node_id != offer.out_node_id:
                return []
        peer = self._channels.peers.known.get(offer.out_node_id)
        runners = [] if peer is None else list(peer.runners.values())
        if named is None or len(runners) > 1:
            return in_order(named, runners)
        return [named]

    def refusal(self, offer: "Offer", channel: "Channel") -> bytes:
        """Say as a failure message why an HTLC may not go into a channel; empty if it may."""
        accepted = self.accepted(channel, self._clock())
        unmet = forward.refusal(offer, channel, accepted, self._channels.height)
        if unmet or channel.phase is not Phase.NORMAL:
            return unmet
        room = offer_limits(channel)
        load = self.pending.load(
            offer.in_node_id,
            channel.parameters.key_index,
            room.htlcs,
            room.value_msat,
        )
        limit = refusal(load, offer.amount_msat, self.pending.limits)
        if not limit:
            return b""
        # Counted, and no line for each: whoever jams us has more.
        self.limited(limit)
        log.debug("forward_limited", limit=limit, peer=offer.in_node_id.hex())
        return forward.TEMPORARY

    def restored(self, forwards: "Sequence[OpenForward]") -> None:
        """Take up the load of forwards of a former process."""
        for row, in_node_id, _ in forwards:
            if row.state is ForwardState.PENDING:
                self.pending.began(row.id, in_node_id, row.out_key_index, row.out_amount_msat)

    def began(self, offer: "Offer", channel: "Channel") -> None:
        """An HTLC is on its way into a channel."""
        key_index = channel.parameters.key_index
        self.pending.began(offer.id, offer.in_node_id, key_index, offer.amount_msat)

    def ended(self, forward_id: "ForwardId") -> None:
        """An outgoing HTLC is gone, or was not added after all."""
        self.pending.ended(forward_id)

    def relayed(self, row: "StoredForward", now_ms: int) -> "list[Write]":
        """Return what else the commit of a preimage shall hold: the event."""
        incoming = IncomingPart(
            *self._ends(row.id.key_index), row.in_amount_msat, row.created_at_ms
        )
        outgoing = OutgoingPart(*self._ends(row.out_key_index), row.out_amount_msat, now_ms)
        return [events.payment_relayed(Relayed(row.payment_hash, (incoming,), (outgoing,)))]

    def _ends(self, key_index: int) -> tuple[bytes, bytes]:
        """Return the channel_id of a channel and its peer; empty where it is over or another's."""
        runner = self._channels.by_key_index(key_index)
        if runner is None:
            return b"", b""
        return runner.channel.channel_id, runner.channel.parameters.node_id


def in_order(
    named: "ChannelRunner | None", runners: "Iterable[ChannelRunner]"
) -> "list[ChannelRunner]":
    """Return the channels with the next peer in the order in which to try them.

    The named one first. Of the others the poorest first: a payer who finds a way through a poor
    channel leaves the rich ones for larger payments (BOLT 4 § Non-strict Forwarding).

    Args:
        named: by the payer; None: it named the peer.
        runners: all with that peer.
    """
    others = [r for r in runners if r is not named and not forward.is_closing(r.channel)]
    others.sort(key=lambda runner: runner.channel.local_msat)
    return others if named is None else [named, *others]
