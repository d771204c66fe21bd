"""What the network says of itself: nodes, channels, their updates."""

import asyncio
from collections.abc import Iterator

from back.api.calls import NotFound, call
from back.api.forms import NODE_ID, NODE_IDS, UNSUPPORTED, Form, optional, required
from back.api.interface import ApiNode
from back.api.json import Json
from back.api.network_json import described_channel_json, node_json, update_json
from back.api.slices import SLICE_STEPS, Slices
from shared.errors import BackendError
from shared.gossip.table import Entry, Table
from shared.gossip.view import channel_view, update_view

ALL_BLOCKS = 1 << 24


@call(
    "nodes",
    "network",
    optional("nodeIds", NODE_IDS, "only these, as far as they are known"),
    optional("liquidityProvider", UNSUPPORTED),
)
async def nodes(node: ApiNode, form: Form) -> object:
    """List the nodes that have announced themselves."""
    table = _table(node)
    wanted = form.get("nodeIds")
    found = _announced(table) if wanted is None else map(table.node, dict.fromkeys(wanted))
    return Slices(None if raw is None else node_json(raw) for raw in found)


@call("node", "network", required("nodeId", NODE_ID))
async def node_(node: ApiNode, form: Form) -> object:
    """Tell what is known of a node: its announcement, and how much can be sent to it."""
    table, node_id = _table(node), form["nodeId"]
    raw = table.node(node_id)
    if raw is None:
        raise NotFound("Not found")
    active, capacity_sat = 0, 0
    for step, entry in enumerate(_entries(table), 1):
        if entry is not None and _leads_to(entry, node_id):
            active += 1
            capacity_sat += entry.capacity_sat
        if step % SLICE_STEPS == 0:
            await asyncio.sleep(0)
    return {"announcement": node_json(raw), "activeChannels": active, "totalCapacity": capacity_sat}


@call("allchannels", "network")
async def allchannels(node: ApiNode, form: Form) -> object:
    """List every public channel that is known, also those just spent."""
    del form
    return Slices(_described(entry) for entry in _entries(_table(node)))


@call("allupdates", "network", optional("nodeId", NODE_ID, "only what this node says"))
async def allupdates(node: ApiNode, form: Form) -> object:
    """List the terms of every public channel, each direction on its own."""
    return Slices(_updates(_table(node), form.get("nodeId")))


def _table(node: ApiNode) -> Table:
    """The table, which is another after GRAPH was read.

    Raises:
        BackendError: it is not loaded yet: an empty list would be a lie.
    """
    if not node.graph.is_ready:
        raise BackendError("the routing table is not loaded yet")
    return node.graph.table


def _entries(table: Table) -> Iterator[Entry | None]:
    """Go through the channels of a table that may change meanwhile; None: one that is gone."""
    return map(table.channel, list(table.short_channel_ids(0, ALL_BLOCKS)))


def _described(entry: Entry | None) -> Json | None:
    return None if entry is None else described_channel_json(channel_view(entry.announcement))


def _announced(table: Table) -> Iterator[bytes | None]:
    """Every node's announcement once; None for each end of a channel that brings nothing new."""
    seen: set[bytes] = set()
    for entry in _entries(table):
        if entry is None:
            continue
        for node_id in entry.nodes:
            yield None if node_id in seen else table.node(node_id)
            seen.add(node_id)


def _updates(table: Table, node_id: bytes | None) -> Iterator[Json | None]:
    for entry in _entries(table):
        yield None
        if entry is None:
            continue
        ends = (None, None) if node_id is None else entry.nodes
        for raw, end in zip(entry.updates, ends, strict=True):
            if raw is not None and end == node_id:
                yield update_json(raw)


def _leads_to(entry: Entry, node_id: bytes) -> bool:
    """Whether the other end of a channel of this node says that it forwards to it."""
    ends = entry.nodes
    if node_id not in ends:
        return False
    raw = entry.updates[1 - ends.index(node_id)]
    return raw is not None and not update_view(raw).is_disabled
