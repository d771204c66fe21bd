"""Channels: open, look at, close."""

import asyncio
from collections.abc import Awaitable, Callable

from back.api.calls import NotFound, call
from back.api.channel_json import balance_json, channel_json, state_of
from back.api.forms import (
    AMOUNT_MSAT,
    AMOUNT_SAT,
    BOOLEAN,
    CHANNEL_ID,
    CHANNEL_IDS,
    FEERATE,
    HEX,
    NODE_ID,
    SECONDS,
    SHORT_CHANNEL_ID,
    SHORT_CHANNEL_IDS,
    UNSUPPORTED,
    BadRequest,
    Form,
    Kind,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.api.json import Json
from back.channel.events import Close, ForceClose
from back.channel.model import Channel, Phase
from back.channels import ChannelOpening
from back.runner import ChannelRunner
from back.transactions.commitment import CommitmentType
from shared.errors import BackendError, CommandError
from shared.units import vbyte_to_kw

CHANNEL_TYPES = {
    "static_remotekey": CommitmentType.STATIC_REMOTEKEY,
    "anchor_outputs_zero_fee_htlc_tx": CommitmentType.ANCHORS_ZERO_FEE_HTLC,
}
OPEN_TIMEOUT_S = 20


def _channel_type(text: str) -> CommitmentType:
    if text not in CHANNEL_TYPES:
        raise ValueError(f"{text[:40]!r} is not one of {', '.join(CHANNEL_TYPES)}")
    return CHANNEL_TYPES[text]


CHANNEL_TYPE = Kind({"type": "string", "enum": list(CHANNEL_TYPES)}, _channel_type)


@call(
    "open",
    "channels",
    required("nodeId", NODE_ID),
    required("fundingSatoshis", AMOUNT_SAT),
    optional("pushMsat", AMOUNT_MSAT, "given to the peer at once"),
    optional("channelType", CHANNEL_TYPE),
    optional("announceChannel", BOOLEAN, "false by default"),
    optional("openTimeoutSeconds", SECONDS, "20 by default"),
    optional("fundingFeerateSatByte", UNSUPPORTED),
    optional("fundingFeeBudgetSatoshis", UNSUPPORTED),
)
async def open_channel(node: ApiNode, form: Form) -> object:
    """Open a channel with a connected peer; answers once its funding transaction is published."""
    opening = ChannelOpening(
        node_id=form["nodeId"],
        funding_satoshis=form["fundingSatoshis"],
        push_msat=form.get("pushMsat", 0),
        announce=form.get("announceChannel", False),
        commitment_type=form.get("channelType"),
    )
    try:
        async with asyncio.timeout(form.get("openTimeoutSeconds", OPEN_TIMEOUT_S)):
            channel = await node.channels.open(opening)
    except TimeoutError:
        raise CommandError("the channel is not open yet, it took too long") from None
    if channel.funding is None:
        raise CommandError("the channel has no funding transaction")
    return (
        f"created channel {channel.channel_id.hex()}"
        f" with fundingTxId={channel.funding.outpoint.rpc_txid}"
    )


# --- close ------------------------------------------------------------------------------------

SEVERAL = (
    optional("channelId", CHANNEL_ID),
    optional("channelIds", CHANNEL_IDS),
    optional("shortChannelId", SHORT_CHANNEL_ID),
    optional("shortChannelIds", SHORT_CHANNEL_IDS),
)


@call(
    "close",
    "channels",
    *SEVERAL,
    optional("scriptPubKey", HEX, "where our money goes; the wallet by default"),
    optional("preferredFeerateSatByte", FEERATE),
    optional("minFeerateSatByte", FEERATE, "half of the preferred one by default"),
    optional("maxFeerateSatByte", FEERATE, "twice the preferred one by default"),
)
async def close(node: ApiNode, form: Form) -> object:
    """Close channels cooperatively."""
    feerates = _feerates(form)

    async def close_one(runner: ChannelRunner) -> None:
        parameters = runner.channel.parameters
        script = (
            form.get("scriptPubKey")
            or parameters.local.upfront_shutdown_script
            or parameters.default_shutdown_script
        )
        await runner.request(Close(script, feerates))

    return await _each(node, form, close_one)


@call("forceclose", "channels", *SEVERAL, optional("maxClosingFeerateSatByte", UNSUPPORTED))
async def forceclose(node: ApiNode, form: Form) -> object:
    """Close channels by publishing our commitments: dearer, and our money comes later."""

    async def close_one(runner: ChannelRunner) -> None:
        await runner.request(ForceClose("the operator asked for it"))

    return await _each(node, form, close_one)


def _feerates(form: Form) -> tuple[int, int, int] | None:
    preferred = form.get("preferredFeerateSatByte")
    if preferred is None:
        if "minFeerateSatByte" in form or "maxFeerateSatByte" in form:
            raise BadRequest("Request is missing required form field 'preferredFeerateSatByte'")
        return None
    lowest = form.get("minFeerateSatByte", preferred / 2)
    highest = form.get("maxFeerateSatByte", preferred * 2)
    if not lowest <= preferred <= highest:
        raise BadRequest("the feerates must not fall from minimum over preferred to maximum")
    return vbyte_to_kw(lowest), vbyte_to_kw(preferred), vbyte_to_kw(highest)


async def _each(
    node: ApiNode, form: Form, do: Callable[[ChannelRunner], Awaitable[None]]
) -> dict[str, str]:
    names = names_of(form)
    if not names:
        raise BadRequest(
            "Request is missing required form field 'channelId'"
            " (or 'channelIds', 'shortChannelId', 'shortChannelIds')"
        )
    answers: dict[str, str] = {}
    for name in names:
        try:
            runner = node.channels.find(name)
        except CommandError:
            answers[name] = f"channel {name} not found"
            continue
        try:
            await do(runner)
        except (CommandError, BackendError) as error:
            answers[name] = str(error)
        else:
            answers[name] = f"closed channel {runner.channel.channel_id.hex()}"
    return answers


def names_of(form: Form) -> list[str]:
    """Return the channels that were named, each once: ids as hex, then short channel ids."""
    ids = [*form.get("channelIds", ())]
    scids = [*form.get("shortChannelIds", ())]
    if "channelId" in form:
        ids.insert(0, form["channelId"])
    if "shortChannelId" in form:
        scids.insert(0, form["shortChannelId"])
    return list(dict.fromkeys([*(i.hex() for i in ids), *map(str, scids)]))


# --- look at ----------------------------------------------------------------------------------


@call(
    "channel",
    "channels",
    optional("channelId", CHANNEL_ID),
    optional("shortChannelId", SHORT_CHANNEL_ID),
)
async def channel(node: ApiNode, form: Form) -> object:
    """Show one channel."""
    names = names_of(form)
    if len(names) != 1:
        raise BadRequest("Give either 'channelId' or 'shortChannelId'")
    try:
        runner = node.channels.find(names[0])
    except CommandError:
        raise NotFound(f"channel {names[0]} not found") from None
    return _json(node, runner.channel)


@call("channels", "channels", optional("nodeId", NODE_ID, "only those with this peer"))
async def channels(node: ApiNode, form: Form) -> object:
    """List channels that are not over."""
    return [_json(node, channel) for channel in _present(node, form.get("nodeId"))]


def _json(node: ApiNode, channel: Channel) -> Json:
    return channel_json(channel, node.signer.node_id, node.announcing.own_update(channel))


def _present(node: ApiNode, node_id: bytes | None = None) -> list[Channel]:
    return [
        runner.channel
        for runner in node.channels.runners.values()
        if runner.channel.phase is not Phase.CLOSED
        and node_id in {None, runner.channel.parameters.node_id}
    ]


@call("usablebalances", "channels")
async def usablebalances(node: ApiNode, form: Form) -> object:
    """Tell what the channels that work now can send and receive."""
    del form
    return [
        balance_json(channel)
        for channel in _present(node)
        if state_of(channel) == Phase.NORMAL.value
    ]


@call("channelbalances", "channels")
async def channelbalances(node: ApiNode, form: Form) -> object:
    """Tell what all channels can send and receive, were their peers connected."""
    del form
    return [balance_json(channel) for channel in _present(node) if channel.fees]
