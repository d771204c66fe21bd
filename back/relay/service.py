"""Forwards HTLCs: both sides of every forward of our shards, and the way between them."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from back.payment.decision import settlement
from back.relay import forward as rules
from back.relay.carrier import FabricCarrier
from back.relay.downstream import Downstream
from back.relay.handoff import ForwardId, Offer
from back.relay.market import NodeMarket
from back.relay.names import Names
from back.relay.upstream import Upstream
from back.storage import forwards as stored
from shared.crypto.failures import encode_failure
from shared.errors import BackendError, LeaseLost, WriteRefused
from shared.fabric.subjects import shard
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.channel.effects import HtlcFailed, HtlcFulfilled, HtlcOffered, OfferRefused
    from back.channel.model import Channel, Htlc
    from back.channels import Channels
    from back.relay.limits import ForwardLimits
    from back.relay.onion import Forward
    from back.runner import ChannelRunner
    from back.storage.statements import Write
    from back.storage.store import Store
    from shared.fabric.interface import Fabric

__all__ = ["Relay"]

log = structlog.get_logger()

TICK_S = 0.5
"""Between two looks at what was not answered, and two commits of what was noted."""


class Relay:
    """Forwarding.

    Args:
        store: holds the ledger.
        channels: all of ours.
        told: called with each end, ``fulfilled``, ``failed`` or ``refused``, for metrics.
        is_tip_safe: whether we know the chain well enough to take the risk of a forward.
        fabric: the way to other backs; None: there are none.
        limits: how much of a channel one peer may fill.
        clock: unix seconds.

    Attributes:
        names: of our channels, as payers call them.
        market: what may be forwarded where.
    """

    def __init__(
        self,
        store: "Store",
        channels: "Channels",
        told: Callable[[str], None],
        is_tip_safe: Callable[[], bool] = lambda: True,
        *,
        fabric: "Fabric | None" = None,
        limits: "ForwardLimits | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._channels = channels
        self._is_tip_safe = is_tip_safe
        self._told = told
        self._clock = clock
        self.names = Names(channels.runners)
        self.market = NodeMarket(channels, self.names, limits, clock=clock)
        self.carrier = FabricCarrier(fabric, store.lease, self._preimage)
        self.upstream = Upstream(self.carrier, told, self._runner)
        self.downstream = Downstream(self.carrier, self.market, clock=clock)
        self.carrier.between(self.upstream, self.downstream)
        self._paired: dict[ForwardId, bytes] = {}
        """Next peers of forwards that a former process made, by what the ledger says."""
        self._tasks = Tasks()

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the ledger. Before channels are restored: they tell what became of HTLCs.

        Raises:
            StorageUnavailable: the database is away.
        """
        shards = self._store.lease.shards
        found = await self._store.read(lambda c: stored.load_forwards(c, shards))
        self._paired = {each.forward.id: each.out_node_id for each in found}
        outgoing = [each for each in found if shard(each.out_node_id) in shards]
        self.downstream.restore(outgoing)
        self.market.restored(outgoing)
        if found:
            log.info("forwards_restored", count=len(found))

    async def resume(self) -> None:
        """Go on, once channels are restored: tell outcomes that may not have been heard."""
        await self.carrier.start()
        self.downstream.repeat()
        self._tasks.spawn(self._run(), "relay")

    async def stop(self) -> None:
        """Forward nothing more; what is under way goes on after the next start."""
        await self.carrier.stop()
        await self._tasks.stop()
        await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.upstream.repeat()
            self.downstream.repeat()
            try:
                await self._flush()
            except LeaseLost:
                return

    async def _flush(self) -> None:
        """Write what upstream has noted: nobody waits for it, and it may be noted again."""
        by_shard: dict[int, list[Write]] = {}
        for out_node_id, write in self.downstream.take_noted():
            by_shard.setdefault(shard(out_node_id), []).append(write)
        for number, writes in by_shard.items():
            try:
                await self._store.committer.submit(number, writes)
            except (BackendError, WriteRefused) as error:
                log.warning("forwards_not_noted", count=len(writes), error=str(error))

    # --- what came in -----------------------------------------------------------------------------

    def is_paired(self, channel: "Channel", htlc: "Htlc") -> bool:
        """Whether a former process forwarded a received HTLC that is told again."""
        return ForwardId(channel.parameters.key_index, htlc.id) in self._paired

    def received(self, runner: "ChannelRunner", forward: "Forward", *, exceeds_dust: bool) -> None:
        """Forward an irrevocably committed HTLC, or fail it. Never blocks."""
        htlc, channel = forward.htlc, runner.channel
        forward_id = ForwardId(channel.parameters.key_index, htlc.id)
        # What was taken once is not looked at again: only its outcome counts.
        out_node_id = self._paired.pop(forward_id, None)
        may_begin = out_node_id is None
        if out_node_id is None:
            failure = self._refusal(forward, exceeds_dust=exceeds_dust)
            out_node_id = b"" if failure else self._next_node_id(forward)
            if not out_node_id:
                decision = forward.refused(failure or rules.UNKNOWN_NEXT_PEER)
                runner.post(settlement(htlc, decision, forward.shared_secret))
                self._told("refused")
                return
        now_ms = int(self._clock() * 1000)
        offer = Offer(
            key_index=forward_id.key_index,
            htlc_id=htlc.id,
            in_node_id=channel.parameters.node_id,
            in_amount_msat=htlc.amount_msat,
            in_cltv_expiry=htlc.cltv_expiry,
            out_node_id=out_node_id,
            short_channel_id=forward.short_channel_id,
            amount_msat=forward.amt_to_forward_msat,
            cltv_expiry=forward.outgoing_cltv_value,
            payment_hash=htlc.payment_hash,
            onion_routing_packet=forward.next_packet,
            path_key=forward.next_path_key,
            received_at_ms=now_ms,
            attempt=now_ms,
            may_begin=may_begin,
        )
        self.upstream.received(runner, forward, offer)

    def _refusal(self, forward: "Forward", *, exceeds_dust: bool) -> bytes:
        """Say what keeps us from offering it to anybody."""
        if not self._is_tip_safe():
            return encode_failure("temporary_node_failure")
        # BOLT 2 § Bounding exposure to trimmed in-flight HTLCs.
        return rules.TEMPORARY if exceeds_dust else b""

    def _next_node_id(self, forward: "Forward") -> bytes:
        """Return the peer whom the payer means; empty if it is none of ours."""
        if forward.short_channel_id is None:
            peer = self._channels.peers.known.get(forward.next_node_id or b"")
            return peer.node_id if peer is not None and peer.runners else b""
        runner = self.names.find(forward.short_channel_id)
        return runner.channel.parameters.node_id if runner is not None else b""

    # --- the channels' facts ----------------------------------------------------------------------

    def offered(self, channel: "Channel", effect: "HtlcOffered") -> "list[Write]":
        """Rows of an outgoing add."""
        return self.downstream.offered(channel, effect)

    def was_offered(self, effect: "HtlcOffered") -> None:
        """An outgoing add is durable."""
        self.downstream.was_offered(effect)

    def was_refused(self, effect: "OfferRefused") -> None:
        """A channel had no room."""
        self.downstream.was_refused(effect.origin)

    def fulfilled(self, effect: "HtlcFulfilled") -> "list[Write]":
        """Rows of a preimage."""
        return self.downstream.fulfilled(effect)

    def was_fulfilled(self, effect: "HtlcFulfilled") -> None:
        """A preimage is durable."""
        self.downstream.was_fulfilled(effect)

    def failed(self, effect: "HtlcFailed") -> "list[Write]":
        """Rows of an irrevocable failure."""
        return self.downstream.failed(effect)

    def was_failed(self, effect: "HtlcFailed") -> None:
        """A failure is durable."""
        self.downstream.was_failed(effect)

    # --- look-ups ---------------------------------------------------------------------------------

    async def _preimage(self, forward_id: ForwardId) -> bytes | None:
        return await self._store.read(lambda c: stored.find_preimage(c, forward_id))

    def _runner(self, key_index: int) -> "ChannelRunner | None":
        return self._channels.by_key_index(key_index)
