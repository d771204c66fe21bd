"""Writes of events, from plain values: put each behind the writes that make it true.

The JSON is made here, once, with the fields of :mod:`.types`: the stream and the websocket carry it
as it stands. Amounts are millisatoshis, moments unix milliseconds, txids in internal byte order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

from back.events.types import TYPES
from back.storage import outbox
from shared.units import ShortChannelId

if TYPE_CHECKING:
    from back.payment.route import Hop
    from back.storage.statements import Write
    from shared.chain import Outpoint

__all__ = [
    "FailedTry",
    "IncomingPart",
    "OutgoingPart",
    "Relayed",
    "ReplyPath",
    "Sent",
    "SentPart",
    "channel_closed",
    "channel_confirmed",
    "channel_created",
    "channel_funding_created",
    "channel_opened",
    "channel_ready",
    "channel_state_changed",
    "failed_json",
    "moment_json",
    "onion_message_received",
    "onion_tlvs_json",
    "part_id",
    "payment_failed",
    "payment_received",
    "payment_relayed",
    "payment_sent",
    "payment_settling_onchain",
    "received_json",
    "relayed_json",
    "sent_json",
]

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_TOPICS = {name: kind.topic for name, kind in TYPES.items()}


# --- payments -------------------------------------------------------------------------------------


class IncomingPart(NamedTuple):
    """An HTLC that we received."""

    channel_id: bytes
    remote_node_id: bytes
    amount_msat: int
    received_at_ms: int


class OutgoingPart(NamedTuple):
    """An HTLC that we sent, and that was fulfilled."""

    channel_id: bytes
    remote_node_id: bytes
    amount_msat: int
    settled_at_ms: int


@dataclass(frozen=True, slots=True)
class Relayed:
    """A payment that went through us."""

    payment_hash: bytes
    incoming: tuple[IncomingPart, ...]
    outgoing: tuple[OutgoingPart, ...]


class SentPart(NamedTuple):
    """An HTLC of a payment that succeeded.

    Attributes:
        id: of the part; see :func:`part_id`.
        amount_with_fees_msat: that went out of our channel.
        fees_msat: of it.
        route: None: not known any more.
    """

    id: UUID
    channel_id: bytes
    next_node_id: bytes
    amount_with_fees_msat: int
    fees_msat: int
    route: "tuple[Hop, ...] | None"
    started_at_ms: int
    settled_at_ms: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A payment of ours that succeeded; ``parts`` is not empty."""

    id: UUID
    payment_hash: bytes
    payment_preimage: bytes = field(repr=False)
    recipient_amount_msat: int
    recipient_node_id: bytes
    parts: tuple[SentPart, ...]
    started_at_ms: int


@dataclass(frozen=True, slots=True)
class FailedTry:
    """One failure of a payment that failed.

    Attributes:
        amount_msat: that the try was to bring.
        route: hops, none if there was no route.
        message: why, in words; empty: an error that could not be read.
        origin_node: who said so; None: we.
        index: of that node in the route, counted from 1.
        started_at_ms: of another node's word: when the try went out.
        failed_at_ms: and when the error came.
    """

    amount_msat: int
    route: "tuple[Hop, ...]"
    message: str
    origin_node: bytes | None = None
    index: int = 0
    started_at_ms: int = 0
    failed_at_ms: int = 0


def part_id(payment_id: UUID, number: int) -> UUID:
    """Return the id of a part (an attempt) of a payment: always the same one."""
    return uuid5(payment_id, str(number))


def payment_sent(sent: Sent) -> "Write":
    """Tell that a payment of ours succeeded."""
    settled_at_ms = max(part.settled_at_ms for part in sent.parts)
    return _write("payment-sent", sent_json(sent), settled_at_ms)


def payment_received(payment_hash: bytes, parts: Sequence[IncomingPart]) -> "Write":
    """Tell that a payment to us arrived, whole; ``parts`` is not empty."""
    shown = received_json(payment_hash, parts)
    return _write("payment-received", shown, max(part.received_at_ms for part in parts))


def payment_relayed(relayed: Relayed) -> "Write":
    """Tell that a payment went through us."""
    settled_at_ms = max(part.settled_at_ms for part in relayed.outgoing)
    return _write("payment-relayed", relayed_json(relayed), settled_at_ms)


def payment_failed(
    payment_id: UUID,
    payment_hash: bytes,
    failures: Sequence[FailedTry],
    started_at_ms: int,
    settled_at_ms: int,
) -> "Write":
    """Tell that a payment of ours failed for good."""
    shown = {
        "id": str(payment_id),
        "paymentHash": payment_hash.hex(),
        "failures": [failed_json(each) for each in failures],
        "startedAt": moment_json(started_at_ms),
        "settledAt": moment_json(settled_at_ms),
    }
    return _write("payment-failed", shown, settled_at_ms)


def payment_settling_onchain(
    payment_id: UUID, channel_id: bytes, amount_msat: int, payment_hash: bytes, unix_ms: int
) -> "Write":
    """Tell that an HTLC of a payment of ours is settled by a transaction."""
    shown = {
        "id": str(payment_id),
        "channelId": channel_id.hex(),
        "amount": amount_msat,
        "paymentHash": payment_hash.hex(),
        "timestamp": moment_json(unix_ms),
    }
    return _write("payment-settling-onchain", shown, unix_ms)


# --- channels -------------------------------------------------------------------------------------


def channel_created(
    remote_node_id: bytes,
    temporary_channel_id: bytes,
    *,
    is_opener: bool,
    commitment_feerate_per_kw: int,
    funding_feerate_per_kw: int | None,
    unix_s: int,
) -> "Write":
    """Tell of a new channel; it is not ready for payments."""
    shown: dict[str, Any] = {
        "remoteNodeId": remote_node_id.hex(),
        "isOpener": is_opener,
        "temporaryChannelId": temporary_channel_id.hex(),
        "commitTxFeeratePerKw": commitment_feerate_per_kw,
    }
    if funding_feerate_per_kw is not None:
        shown["fundingTxFeeratePerKw"] = funding_feerate_per_kw
    return _write("channel-created", shown, unix_s * 1000)


def channel_funding_created(
    channel_id: bytes, remote_node_id: bytes, funding: "Outpoint", unix_s: int
) -> "Write":
    """Tell that a funding transaction may be published."""
    shown = _funding_json(channel_id, remote_node_id, funding)
    return _write("channel-funding-created", shown, unix_s * 1000)


def channel_confirmed(
    channel_id: bytes, remote_node_id: bytes, funding: "Outpoint", block_height: int, unix_s: int
) -> "Write":
    """Tell that a funding transaction has the depth that was agreed."""
    shown = _funding_json(channel_id, remote_node_id, funding)
    return _write("channel-confirmed", {**shown, "blockHeight": block_height}, unix_s * 1000)


def channel_ready(
    channel_id: bytes, remote_node_id: bytes, funding: "Outpoint", unix_s: int
) -> "Write":
    """Tell that a channel carries payments from now on."""
    shown = _funding_json(channel_id, remote_node_id, funding)
    return _write("channel-ready", shown, unix_s * 1000)


def channel_opened(channel_id: bytes, remote_node_id: bytes, unix_s: int) -> "Write":
    """Tell the same under its earlier name."""
    shown = {"remoteNodeId": remote_node_id.hex(), "channelId": channel_id.hex()}
    return _write("channel-opened", shown, unix_s * 1000)


def channel_state_changed(
    channel_id: bytes, remote_node_id: bytes, previous_state: str, current_state: str, unix_s: int
) -> "Write":
    """Tell that a channel entered another state; names as the API shows them."""
    shown = {
        "channelId": channel_id.hex(),
        "remoteNodeId": remote_node_id.hex(),
        "previousState": previous_state,
        "currentState": current_state,
    }
    return _write("channel-state-changed", shown, unix_s * 1000)


def channel_closed(
    channel_id: bytes, closing_type: str, closing_txid: bytes, unix_s: int
) -> "Write":
    """Tell that a channel is over.

    Args:
        channel_id: its.
        closing_type: ``MutualClose``, ``LocalClose``, ``CurrentRemoteClose``, ``NextRemoteClose``,
            ``RecoveryClose`` or ``RevokedClose``.
        closing_txid: of the transaction that spent the funding output, internal byte order.
        unix_s: when.
    """
    shown = {
        "channelId": channel_id.hex(),
        "closingType": closing_type,
        "closingTxId": closing_txid[::-1].hex(),
    }
    return _write("channel-closed", shown, unix_s * 1000)


# --- onion messages -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplyPath:
    """The blinded path in an onion message.

    Attributes:
        first_node: node id of the introduction point, 33 bytes, or its short form, 9 bytes.
        first_path_key: point.
        hops: blinded node id and encrypted payload of each.
    """

    first_node: bytes
    first_path_key: bytes
    hops: tuple[tuple[bytes, bytes], ...]


def onion_message_received(
    path_id: bytes | None,
    encrypted_data: bytes,
    reply_path: ReplyPath | None,
    others: Mapping[int, bytes],
    unix_s: int,
) -> "Write":
    """Tell of an onion message for us. It is no fact of a channel: its commit is its own."""
    tlvs = onion_tlvs_json(encrypted_data, reply_path, others)
    shown: dict[str, Any] = {} if path_id is None else {"pathId": path_id.hex()}
    return _write("onion-message-received", {**shown, "tlvs": tlvs}, unix_s * 1000)


# --- JSON -----------------------------------------------------------------------------------------


def moment_json(unix_ms: int) -> dict[str, Any]:
    """A moment with milliseconds, for people, and in seconds, for programs."""
    seconds, milliseconds = divmod(unix_ms, 1000)
    iso = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {"iso": f"{iso}.{milliseconds:03}Z" if milliseconds else f"{iso}Z", "unix": seconds}


def onion_tlvs_json(
    encrypted_data: bytes, reply_path: ReplyPath | None, others: Mapping[int, bytes]
) -> dict[str, Any]:
    """What an onion message says, as the event and the answer of `sendonionmessage` show it."""
    tlvs: dict[str, Any] = {"EncryptedData": {"data": encrypted_data.hex()}}
    if reply_path is not None:
        tlvs["ReplyPath"] = {"blindedRoute": _reply_path_json(reply_path)}
    return tlvs | {f"Unknown{number}": value.hex() for number, value in others.items()}


def sent_json(sent: Sent) -> dict[str, Any]:
    """A payment of ours that succeeded, as the event and `audit` show it."""
    settled_at_ms = max((part.settled_at_ms for part in sent.parts), default=sent.started_at_ms)
    return {
        "id": str(sent.id),
        "paymentHash": sent.payment_hash.hex(),
        "paymentPreimage": sent.payment_preimage.hex(),
        "recipientAmount": sent.recipient_amount_msat,
        "recipientNodeId": sent.recipient_node_id.hex(),
        "parts": [_sent_part_json(part) for part in sent.parts],
        "fees": sum(part.fees_msat for part in sent.parts),
        "startedAt": moment_json(sent.started_at_ms),
        "settledAt": moment_json(settled_at_ms),
    }


def received_json(payment_hash: bytes, parts: Sequence[IncomingPart]) -> dict[str, Any]:
    """A payment to us, as the event and `audit` show it."""
    return {
        "paymentHash": payment_hash.hex(),
        "parts": [_incoming_json(part) for part in parts],
    }


def relayed_json(relayed: Relayed) -> dict[str, Any]:
    """A payment through us, as the event and `audit` show it."""
    return {
        "paymentHash": relayed.payment_hash.hex(),
        "incoming": [_incoming_json(part) for part in relayed.incoming],
        "outgoing": [_outgoing_json(part) for part in relayed.outgoing],
    }


def failed_json(failed: FailedTry) -> dict[str, Any]:
    """One failure of a payment."""
    shown: dict[str, Any] = {"amount": failed.amount_msat, "route": _route_json(failed.route)}
    if failed.origin_node is None:
        return {**shown, "t": failed.message} if failed.message else shown
    shown["e"] = {
        "originNode": failed.origin_node.hex(),
        "index": failed.index,
        "failureMessage": failed.message,
    }
    shown["startedAt"] = moment_json(failed.started_at_ms)
    shown["failedAt"] = moment_json(failed.failed_at_ms)
    return shown


def _incoming_json(part: IncomingPart) -> dict[str, Any]:
    return {
        "channelId": part.channel_id.hex(),
        "remoteNodeId": part.remote_node_id.hex(),
        "amount": part.amount_msat,
        "receivedAt": moment_json(part.received_at_ms),
    }


def _outgoing_json(part: OutgoingPart) -> dict[str, Any]:
    return {
        "channelId": part.channel_id.hex(),
        "remoteNodeId": part.remote_node_id.hex(),
        "amount": part.amount_msat,
        "settledAt": moment_json(part.settled_at_ms),
    }


def _sent_part_json(part: SentPart) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": str(part.id),
        "channelId": part.channel_id.hex(),
        "nextNodeId": part.next_node_id.hex(),
        "amountWithFees": part.amount_with_fees_msat,
        "fees": part.fees_msat,
    }
    if part.route is not None:
        shown["route"] = _route_json(part.route)
    shown["startedAt"] = moment_json(part.started_at_ms)
    shown["settledAt"] = moment_json(part.settled_at_ms)
    return shown


def _route_json(route: "Sequence[Hop]") -> list[dict[str, Any]]:
    return [
        {
            "shortChannelId": str(ShortChannelId.unpack(hop.short_channel_id)),
            "nodeId": hop.node_id.hex(),
            "nextNodeId": hop.next_node_id.hex(),
        }
        for hop in route
    ]


def _funding_json(channel_id: bytes, remote_node_id: bytes, funding: "Outpoint") -> dict[str, Any]:
    return {
        "remoteNodeId": remote_node_id.hex(),
        "channelId": channel_id.hex(),
        "fundingTxId": funding.rpc_txid,
        "fundingTxIndex": 0,
    }


def _reply_path_json(path: ReplyPath) -> dict[str, Any]:
    if len(path.first_node) == 9:
        scid = int.from_bytes(path.first_node[1:], "big")
        first: dict[str, Any] = {
            "isNode1": path.first_node[0] == 0,
            "scid": str(ShortChannelId.unpack(scid)),
        }
    else:
        first = {"publicKey": path.first_node.hex()}
    return {
        "firstNodeId": first,
        "firstPathKey": path.first_path_key.hex(),
        "blindedHops": [
            {"blindedPublicKey": blinded.hex(), "encryptedPayload": payload.hex()}
            for blinded, payload in path.hops
        ],
    }


def _write(name: str, shown: dict[str, Any], unix_ms: int) -> "Write":
    return outbox.event(_TOPICS[name], _encode({"type": name, **shown}), unix_ms // 1000)
