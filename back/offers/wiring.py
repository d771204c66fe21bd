"""The node's offers, made of its other parts."""

import secrets
from typing import TYPE_CHECKING

from back.channel.model import Phase
from back.offers.issuer import Surroundings
from back.offers.payable import Guide
from back.offers.service import Neighbourhood, Offers

if TYPE_CHECKING:
    from back.node import Node

__all__ = ["offers_of"]


def offers_of(node: "Node") -> Offers:
    """Make them; they are started once onion messages are there."""
    ways = node.onion_messages.ways
    channels = node.channels

    def is_private() -> bool:
        usable = [r.channel for r in channels.runners.values() if r.channel.phase is Phase.NORMAL]
        return bool(usable) and all(channel.channel_announcement is None for channel in usable)

    neighbourhood = Neighbourhood(
        Guide(node.signer.node_id, node.signer, ways.named, ways.across),
        ways.connect,
        lambda node_id: ways.peer(node_id) is not None,
        is_private,
    )
    around = Surroundings(
        node.settings.network,
        lambda: [runner.channel for runner in channels.runners.values()],
        lambda: channels.height,
        secrets.token_bytes,
        node.metrics.offer_request,
    )
    return Offers(
        node.store,
        node.signer,
        node.payments,
        node.onion_messages,
        neighbourhood,
        around,
        node.settings.offers(),
    )
