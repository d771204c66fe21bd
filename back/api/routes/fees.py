"""What we take for forwarding, changed while the node runs."""

from collections.abc import Iterable

from back.api.calls import call
from back.api.channel_json import state_of
from back.api.forms import (
    BLOCKS,
    BOOLEAN,
    NODE_ID,
    NODE_IDS,
    U32,
    BadRequest,
    Form,
    optional,
)
from back.api.interface import ApiNode
from back.api.routes.channels import SEVERAL, names_of
from back.channel.model import Phase
from back.runner import ChannelRunner
from back.storage.relay_fees import SetFees
from shared.errors import CommandError

OVER = frozenset({Phase.CLOSING, Phase.CLOSED, Phase.WAIT_FOR_REMOTE_PUBLISH_FUTURE_COMMITMENT})
"""Phases in which nothing is forwarded any more."""


@call(
    "updaterelayfee",
    "fees",
    optional("nodeId", NODE_ID, "all channels with this peer, also those to come"),
    optional("nodeIds", NODE_IDS),
    *SEVERAL,
    optional("feeBaseMsat", U32, "for each HTLC"),
    optional("feeProportionalMillionths", U32, "of its amount"),
    optional("cltvExpiryDelta", BLOCKS, "as before by default"),
    optional("reset", BOOLEAN, "true: take away what was set, instead of fees"),
)
async def updaterelayfee(node: ApiNode, form: Form) -> object:
    """Set what is taken for forwarding to peers, or into single channels: these count first."""
    fees, node_ids, names = _fees(form), _node_ids(form), names_of(form)
    if bool(node_ids) is bool(names):
        raise BadRequest(
            "Give either 'nodeId' (or 'nodeIds')"
            " or 'channelId' (or 'channelIds', 'shortChannelId', 'shortChannelIds')"
        )
    if node_ids:
        await node.announcing.set_peer_fees(node_ids, fees)
        return _answers(
            (runner.channel.channel_id.hex(), runner)
            for runner in node.channels.runners.values()
            if runner.channel.parameters.node_id in node_ids
            and runner.channel.phase is not Phase.CLOSED
        )
    found = [(name, _find(node, name)) for name in names]
    present = [runner for _, runner in found if runner is not None]
    if present:
        await node.announcing.set_channel_fees(present, fees)
    return _answers(found)


def _fees(form: Form) -> SetFees | None:
    """Return what is wanted; None: nothing any more."""
    given = [form.get("feeBaseMsat"), form.get("feeProportionalMillionths")]
    delta = form.get("cltvExpiryDelta")
    if form.get("reset", False):
        if any(each is not None for each in (*given, delta)):
            raise BadRequest("Give either fees or 'reset'")
        return None
    for name, value in zip(("feeBaseMsat", "feeProportionalMillionths"), given, strict=True):
        if value is None:
            raise BadRequest(f"Request is missing required form field '{name}'")
    return SetFees(form["feeBaseMsat"], form["feeProportionalMillionths"], delta)


def _node_ids(form: Form) -> list[bytes]:
    one = [form["nodeId"]] if "nodeId" in form else []
    return list(dict.fromkeys([*one, *form.get("nodeIds", ())]))


def _find(node: ApiNode, name: str) -> ChannelRunner | None:
    try:
        return node.channels.find(name)
    except CommandError:
        return None


def _answers(found: Iterable[tuple[str, ChannelRunner | None]]) -> dict[str, str]:
    return {name: _answer(name, runner) for name, runner in found}


def _answer(name: str, runner: ChannelRunner | None) -> str:
    if runner is None:
        return f"channel {name} not found"
    if runner.channel.phase in OVER:
        return f"the channel forwards nothing any more, its state is {state_of(runner.channel)}"
    return "ok"
