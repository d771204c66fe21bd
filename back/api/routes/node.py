"""The node and its peers."""

import uuid

from back.api.calls import call
from back.api.forms import (
    HOST,
    NODE_ID,
    NODE_URI,
    PORT,
    BadRequest,
    Form,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.json import features_json, peer_json
from back.api.version import squall_version
from shared.fabric.envelope import Reason

INSTANCE_ID = str(uuid.uuid4())
"""Of this process: another one after a restart."""
DEFAULT_PORT = 9735


@call("getinfo", "node")
async def getinfo(node: ApiNode, form: Form) -> object:
    """Tell who this node is and how far it follows the chain."""
    del form
    settings = node.settings
    return {
        "version": squall_version(),
        "nodeId": node.signer.node_id.hex(),
        "alias": settings.alias,
        "color": settings.color,
        "features": features_json(node.peers.features),
        "chainHash": settings.network.chain_hash.hex(),
        "network": settings.network.name,
        "blockHeight": node.channels.height,
        "publicAddresses": list(settings.public_addresses),
        "instanceId": INSTANCE_ID,
    }


@call(
    "connect",
    "node",
    optional("uri", NODE_URI, "nodeId@host:port"),
    optional("nodeId", NODE_ID),
    optional("host", HOST),
    optional("port", PORT),
)
async def connect(node: ApiNode, form: Form) -> object:
    """Connect to a peer, through any front."""
    node_id, addresses = _target(form)
    if node_id == node.signer.node_id:
        raise BadRequest("this is our own node id")
    known = node.peers.known.get(node_id)
    if known is not None and known.is_connected:
        return "already connected"
    await node.peers.connect(node_id, addresses)
    return "connected"


def _target(form: Form) -> tuple[bytes, list[str] | None]:
    if uri := form.get("uri"):
        return uri.node_id, [uri.address]
    if "nodeId" not in form:
        raise BadRequest("Request is missing required form field 'uri' (or 'nodeId')")
    if "host" not in form:
        return form["nodeId"], None
    return form["nodeId"], [f"{form['host']}:{form.get('port', DEFAULT_PORT)}"]


@call("disconnect", "node", required("nodeId", NODE_ID))
async def disconnect(node: ApiNode, form: Form) -> object:
    """End the connection with a peer."""
    peer = node.peers.known.get(form["nodeId"])
    if peer is None or peer.session is None:
        return f"peer {form['nodeId'].hex()} not connected"
    peer.session.close(Reason.CLOSED_BY_OWNER, "the operator asked for it")
    return f"peer {form['nodeId'].hex()} disconnecting"


@call("peers", "node")
async def peers(node: ApiNode, form: Form) -> object:
    """List peers that are connected or have channels."""
    del form
    return [peer_json(peer) for peer in node.peers.known.values()]
