"""The node's onion messages, made of its other parts."""

import contextlib
import time
from typing import TYPE_CHECKING, Any

from back import events
from back.events import ReplyPath
from back.onion_messages.outbox import Outbox
from back.onion_messages.service import OnionMessages
from back.onion_messages.ways import Ways
from back.storage.store import NODE_SHARD
from shared.errors import BackendError, LeaseLost

if TYPE_CHECKING:
    from back.node import Node
    from back.storage.statements import Write
    from shared.crypto.onion_message import Delivered

__all__ = ["event_of", "onion_messages_of", "tlvs_json"]


def onion_messages_of(node: "Node") -> OnionMessages:
    """Make them; they are started once there are sessions."""
    count = node.metrics.onion_message
    ways = Ways(
        node.signer.node_id,
        node.peers,
        node.relay.names,
        lambda: node.graph.table,
        connects=node.settings.onion_messages_connect,
    )
    outbox = Outbox(node.may_speak, count)

    async def tell(delivered: "Delivered") -> None:
        with contextlib.suppress(BackendError, LeaseLost):
            await node.store.committer.submit(NODE_SHARD, [event_of(delivered, int(time.time()))])

    return OnionMessages(node.signer, ways, outbox, node.settings.onions(), tell, count)


def event_of(delivered: "Delivered", unix_s: int) -> "Write":
    """Return the write of the event that Eclair tells of an onion message to us."""
    return events.onion_message_received(
        delivered.path_id,
        delivered.encrypted_recipient_data,
        _reply_path(delivered),
        delivered.contents,
        unix_s,
    )


def tlvs_json(delivered: "Delivered") -> dict[str, Any]:
    """Return what a message says, as Eclair shows it."""
    return events.onion_tlvs_json(
        delivered.encrypted_recipient_data, _reply_path(delivered), delivered.contents
    )


def _reply_path(delivered: "Delivered") -> ReplyPath | None:
    path = delivered.reply_path
    if path is None:
        return None
    hops = tuple((hop.blinded_node_id, hop.encrypted_recipient_data) for hop in path.path)
    return ReplyPath(path.first_node_id, path.first_path_key, hops)
