"""What we take for forwarding: by default, of a peer, of one channel; changed while we run.

What was set for a channel counts before what was set for its peer, and that before the settings. It
is stored before any `channel_update` says it, and holds for a peer's channels to come.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from back.relay.terms import RelayFees
from back.storage.relay_fees import (
    SetFees,
    channel_fees_forgotten,
    channel_fees_set,
    load_fees,
    peer_fees_forgotten,
    peer_fees_set,
)
from shared.fabric.subjects import shard

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.storage.store import Store

__all__ = ["FeeBook", "SetFees", "resolved"]

Key = TypeVar("Key")


def resolved(default: RelayFees, *levels: SetFees | None) -> RelayFees:
    """Return what holds where several things were set.

    Args:
        default: of the settings.
        levels: what was set, what counts most first; None: nothing.
    """
    base, proportional, delta = default
    for level in reversed(levels):
        if level is not None:
            base, proportional = level.fee_base_msat, level.fee_proportional_millionths
            delta = delta if level.cltv_expiry_delta is None else level.cltv_expiry_delta
    return RelayFees(base, proportional, delta)


class FeeBook:
    """The fees of every channel of ours.

    Args:
        store: where they are kept.
        default: for what nothing was set.
        unix: seconds of a clock, for people who look at the tables.
    """

    def __init__(
        self, store: "Store", default: RelayFees, *, unix: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._default = default
        self._unix = unix
        self._peers: dict[bytes, SetFees] = {}
        self._channels: dict[int, SetFees] = {}

    async def load(self) -> None:
        """Take what is stored.

        Raises:
            StorageUnavailable: the database is away.
        """
        shards = self._store.lease.shards
        stored = await self._store.read(lambda c: load_fees(c, shards))
        self._peers, self._channels = dict(stored.peers), dict(stored.channels)

    def of(self, channel: "Channel") -> RelayFees:
        """Return what we take for forwarding into a channel."""
        parameters = channel.parameters
        own = self._channels.get(parameters.key_index)
        peer = self._peers.get(parameters.node_id)
        if own is None and peer is None:
            return self._default
        return resolved(self._default, own, peer)

    def forget(self, key_index: int) -> None:
        """A channel is over."""
        self._channels.pop(key_index, None)

    async def set_peers(self, node_ids: "Iterable[bytes]", fees: SetFees | None) -> None:
        """Make fees durable for peers, in one commit; then they hold.

        Args:
            node_ids: whose.
            fees: what is wanted; without cltv_expiry_delta that stays as it was. None: nothing is
                wanted any more.

        Raises:
            BackendError: nothing has changed.
            LeaseLost: a peer is another back's.
        """
        now = int(self._unix())
        news = _news(self._peers, node_ids, fees)
        writes = [
            peer_fees_forgotten(node_id) if new is None else peer_fees_set(node_id, new, now)
            for node_id, new in news.items()
        ]
        await self._store.committer.submit({shard(node_id) for node_id in news}, writes)
        _take(self._peers, news)

    async def set_channels(self, channels: "Iterable[Channel]", fees: SetFees | None) -> None:
        """Make fees durable for channels, in one commit; then they hold.

        Args:
            channels: which.
            fees: as for :meth:`set_peers`.

        Raises:
            BackendError: nothing has changed.
            LeaseLost: a channel is another back's.
        """
        now = int(self._unix())
        parameters = {c.parameters.key_index: c.parameters for c in channels}
        news = _news(self._channels, parameters, fees)
        writes = [
            channel_fees_forgotten(key_index)
            if new is None
            else channel_fees_set(key_index, new, now)
            for key_index, new in news.items()
        ]
        shards = {shard(each.node_id) for each in parameters.values()}
        await self._store.committer.submit(shards, writes)
        _take(self._channels, news)


def _news(
    present: Mapping[Key, SetFees], keys: Iterable[Key], fees: SetFees | None
) -> dict[Key, SetFees | None]:
    news: dict[Key, SetFees | None] = {}
    for key in keys:
        before = present.get(key)
        if fees is not None and fees.cltv_expiry_delta is None and before is not None:
            news[key] = fees._replace(cltv_expiry_delta=before.cltv_expiry_delta)
        else:
            news[key] = fees
    return news


def _take(present: dict[Key, SetFees], news: Mapping[Key, SetFees | None]) -> None:
    for key, fees in news.items():
        if fees is None:
            present.pop(key, None)
        else:
            present[key] = fees
