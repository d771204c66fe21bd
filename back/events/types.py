"""Every type of event, declared once: the page docs/events.md is written from this table. Pure.

Names, fields and units are those of Eclair's websocket; ``channel-opened`` and
``payment-settling-onchain`` are of its earlier versions and still there for who listens for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TYPES", "EventType"]


@dataclass(frozen=True, slots=True)
class EventType:
    """One type.

    Attributes:
        name: Eclair's ``type``.
        when: what became durable in its commit.
        fields: name → what it holds, in the order of the JSON. A name that ends in ``?`` may be
            missing.
    """

    name: str
    when: str
    fields: Mapping[str, str]

    @property
    def topic(self) -> str:
        """The last token of its subject, ``ln.event.<topic>``."""
        return self.name.replace("-", "_")


_MOMENT = "`{iso, unix}`: the iso has milliseconds, unix is in seconds"
_CHANNEL = "channel_id, hex"
_PEER = "node id of the channel's peer"
_FUNDING: Mapping[str, str] = {
    "remoteNodeId": _PEER,
    "channelId": _CHANNEL,
    "fundingTxId": "txid, as explorers show it",
    "fundingTxIndex": "0; a splice counts it up",
}

_DECLARED = (
    EventType(
        "payment-sent",
        "a payment of ours succeeded: every part of it that is under way will",
        {
            "id": "UUID of the payment",
            "paymentHash": "hex",
            "paymentPreimage": "hex: the proof of payment",
            "recipientAmount": "millisatoshis that the recipient got",
            "recipientNodeId": "node id",
            "parts": "each HTLC: `id` (UUID), `channelId`, `nextNodeId`, `amountWithFees` and"
            " `fees` in millisatoshis, `route?` (hops with `shortChannelId`, `nodeId`,"
            " `nextNodeId`), `startedAt`, `settledAt`",
            "fees": "millisatoshis, of all parts",
            "startedAt": _MOMENT,
            "settledAt": _MOMENT,
        },
    ),
    EventType(
        "payment-received",
        "a payment to us is ours: its preimage goes out",
        {
            "paymentHash": "hex",
            "parts": "each HTLC: `channelId`, `remoteNodeId`, `amount` in millisatoshis,"
            " `receivedAt`",
        },
    ),
    EventType(
        "payment-relayed",
        "a payment went through us: the outgoing HTLC's preimage is known",
        {
            "paymentHash": "hex",
            "incoming": "each HTLC: `channelId`, `remoteNodeId`, `amount` in millisatoshis,"
            " `receivedAt`",
            "outgoing": "each HTLC: `channelId`, `remoteNodeId`, `amount` in millisatoshis,"
            " `settledAt`",
        },
    ),
    EventType(
        "payment-failed",
        "a payment of ours failed for good: no part of it can succeed any more",
        {
            "id": "UUID of the payment",
            "paymentHash": "hex",
            "failures": "each try: `amount` in millisatoshis, `route` (hops), and `t` (our own"
            " words), or `e` with `originNode` and `failureMessage` (another node's words), or"
            " neither (an error that nobody can read)",
            "startedAt": _MOMENT,
            "settledAt": _MOMENT,
        },
    ),
    EventType(
        "payment-settling-onchain",
        "an HTLC of a payment of ours is being settled by a transaction",
        {
            "id": "UUID of the payment",
            "channelId": _CHANNEL,
            "amount": "millisatoshis",
            "paymentHash": "hex",
            "timestamp": _MOMENT,
        },
    ),
    EventType(
        "channel-created",
        "a channel has its name: the funding output is known",
        {
            "remoteNodeId": _PEER,
            "isOpener": "whether we fund it",
            "temporaryChannelId": "hex, as in open_channel",
            "commitTxFeeratePerKw": "satoshis for 1000 weight units",
            "fundingTxFeeratePerKw?": "satoshis for 1000 weight units, where we fund",
        },
    ),
    EventType("channel-funding-created", "both sides signed for the funding output", _FUNDING),
    EventType(
        "channel-confirmed",
        "the funding transaction is deep enough",
        {**_FUNDING, "blockHeight": "block that holds it"},
    ),
    EventType("channel-ready", "both channel_ready are there: the channel carries HTLCs", _FUNDING),
    EventType(
        "channel-opened",
        "with `channel-ready`, for who listens for the earlier name",
        {"remoteNodeId": _PEER, "channelId": _CHANNEL},
    ),
    EventType(
        "channel-state-changed",
        "a channel entered another state",
        {
            "channelId": _CHANNEL,
            "remoteNodeId": _PEER,
            "previousState": "as in `channels`",
            "currentState": "as in `channels`",
        },
    ),
    EventType(
        "channel-closed",
        "a channel is over: nothing of ours is left in it",
        {
            "channelId": _CHANNEL,
            "closingType": "`MutualClose`, `LocalClose`, `CurrentRemoteClose`, `NextRemoteClose`,"
            " `RecoveryClose` or `RevokedClose`",
            "closingTxId": "txid, as explorers show it",
        },
    ),
    EventType(
        "onion-message-received",
        "an onion message whose last hop we are",
        {
            "pathId?": "hex: of our blinded path that it came by",
            "tlvs": "`EncryptedData.data`, `ReplyPath?`, and `Unknown<type>` for all others, hex",
        },
    ),
)

TYPES: Mapping[str, EventType] = {each.name: each for each in _DECLARED}
"""Every type by name."""
