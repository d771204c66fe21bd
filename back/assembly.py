"""Makes the parts of a back that stand on its database and its channels, and ties them together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from back.chain.bitcoind import ChainSettings
from back.chain.events import BlockRef
from back.events.service import Events
from back.features import node_features
from back.gossip import Gossip
from back.graph.paths.service import PathFinder
from back.htlcs import Htlcs
from back.offers.wiring import offers_of
from back.onion_messages.wiring import onion_messages_of
from back.payment.service import Payments
from back.relay.service import Relay
from back.storage import blocks
from back.storage.store import NODE_SHARD, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from back.node import Node
    from back.settings import BackSettings

__all__ = ["StoredBlocks", "assemble", "chain_settings"]


@dataclass(slots=True)
class StoredBlocks:
    """Where the chain keeps the last processed blocks: see `back.chain.interface.BlockStore`."""

    store: Store

    async def load_blocks(self) -> list[BlockRef]:
        """Return them, oldest first; none in a new database."""
        known = await self.store.read(blocks.last_blocks)
        return [BlockRef(block.height, block.block_hash) for block in reversed(known)]

    async def store_blocks(self, fork_height: int, connected: "Sequence[BlockRef]") -> None:
        """Forget blocks above ``fork_height``, then add ``connected``."""
        writes = blocks.disconnected(fork_height + 1)
        for block in connected:
            writes += blocks.connected(blocks.Block(block.height, block.hash))
        await self.store.committer.submit(NODE_SHARD, writes)


def chain_settings(settings: "BackSettings") -> ChainSettings:
    """Return how to reach bitcoind."""
    return ChainSettings(
        rpc_url=settings.bitcoind_url,
        cookie_file=settings.bitcoind_cookie_file,
        user=settings.bitcoind_user,
        password=settings.bitcoind_password.get_secret_value(),
        wallet=settings.bitcoind_wallet,
        zmq_block=settings.bitcoind_zmq_block,
        zmq_tx=settings.bitcoind_zmq_tx,
        poll_interval_s=settings.bitcoind_poll_s,
    )


def assemble(node: "Node", chain: ChainSettings) -> None:
    """Make payments, relay, gossip, path-finding and events of a node that has its channels.

    Args:
        node: with store, chain and channels.
        chain: how to reach bitcoind.
    """
    node.payments = Payments(
        node.store,
        node.signer,
        node.channels,
        node.settings.network,
        node.settings.receiving(),
        node.is_tip_safe,
    )
    node.relay = Relay(
        node.store,
        node.channels,
        node.metrics.forward_ended,
        node.is_tip_safe,
        fabric=node.fabric,
        limits=node.settings.forward_limits(),
    )
    parts = node.payments.receiver, node.payments.sender, node.relay
    node.channels.payments = Htlcs(node.signer, *parts)
    node.payments.on_outcome = node.metrics.payment_ended
    node.gossip = Gossip(
        node.settings,
        chain,
        node.store,
        node.signer,
        node.channels.runners,
        node_features(node.settings),
    )
    node.channels.on_news = node.gossip.changed
    node.onion_messages = onion_messages_of(node)
    node.offers = offers_of(node)
    node.relay.market.accepted = node.announcing.accepted
    node.relay.market.limited = node.metrics.forward_limited
    node.paths = PathFinder(lambda: node.graph.table)
    node.graph.on_change, node.graph.on_table = node.paths.changed, node.paths.reload
    node.payments.sender.finder = node.paths
    node.events = Events(node.settings, node.store, node.gossip.bulk)
