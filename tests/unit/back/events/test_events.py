"""Events have exactly the fields, the names and the units of Eclair's websocket."""

import json
import re
from uuid import UUID

import pytest

from back import events
from back.events.types import TYPES
from back.payment.route import Hop
from back.storage import outbox
from back.storage.statements import Write
from shared.chain import Outpoint

ID = UUID("487da196-a4dc-4b1e-92b4-3e5e905e9f3f")
HASH, PREIMAGE, CHANNEL, OTHER = bytes(32), b"\x01" + bytes(31), bytes(32), b"\x01" + bytes(31)
ALICE = bytes.fromhex("02e899d99662f2e64ea0eeaecb53c4628fa40a22d7185076e42e8a3d67fcb7b8e6")
BOB = bytes.fromhex("030bb6a5e0c6b203c7e2180fb78c7ba4bdce46126761d8201b91ddac089cdecc87")
TXID = bytes.fromhex("9fcd45bbaa09c60c991ac0425704163c3f3d2d683c789fa409455b9c97792692")[::-1]
MOMENT = {"iso": "2019-03-28T14:45:37.711Z", "unix": 1553784337}
MS = 1553784337711
HOP = Hop(ALICE, BOB, (100 << 40) | (2 << 16) | 1)
HOP_JSON = {"shortChannelId": "100x2x1", "nodeId": ALICE.hex(), "nextNodeId": BOB.hex()}


def told(write: Write) -> dict[str, object]:
    """The event of a write, whose row must be right."""
    assert write.statement is outbox.ADD
    values = write.values
    event = json.loads(str(values["payload"]))
    kind = TYPES[event["type"]]
    assert values["topic"] == kind.topic
    assert values["created_at"] == MS // 1000
    names = {name.rstrip("?") for name in kind.fields}
    needed = {name for name in kind.fields if not name.endswith("?")}
    assert needed <= event.keys() - {"type"} <= names
    assert " " not in str(values["payload"]).replace("no route", "")
    return dict(event)


def test_a_payment_sent() -> None:
    part = events.SentPart(ID, CHANNEL, BOB, 28, 3, None, MS - 61, MS)
    sent = events.Sent(ID, HASH, PREIMAGE, 25, ALICE, (part,), MS)
    assert told(events.payment_sent(sent)) == {
        "type": "payment-sent",
        "id": str(ID),
        "paymentHash": HASH.hex(),
        "paymentPreimage": PREIMAGE.hex(),
        "recipientAmount": 25,
        "recipientNodeId": ALICE.hex(),
        "parts": [
            {
                "id": str(ID),
                "channelId": CHANNEL.hex(),
                "nextNodeId": BOB.hex(),
                "amountWithFees": 28,
                "fees": 3,
                "startedAt": {"iso": "2019-03-28T14:45:37.650Z", "unix": 1553784337},
                "settledAt": MOMENT,
            }
        ],
        "fees": 3,
        "startedAt": MOMENT,
        "settledAt": MOMENT,
    }
    assert PREIMAGE.hex() not in repr(events.payment_sent(sent)) + repr(sent)


def test_a_payment_sent_in_parts_is_settled_with_the_last_and_shows_routes() -> None:
    parts = (
        events.SentPart(ID, CHANNEL, BOB, 60, 3, (HOP,), MS - 9, MS),
        events.SentPart(ID, OTHER, BOB, 50, 2, (HOP, HOP), MS - 9, MS - 1),
    )
    event = told(events.payment_sent(events.Sent(ID, HASH, PREIMAGE, 105, ALICE, parts, MS - 9)))
    assert (event["fees"], event["settledAt"]) == (5, MOMENT)
    assert [part["route"] for part in event["parts"]] == [[HOP_JSON], [HOP_JSON] * 2]  # type: ignore[attr-defined]


def test_a_payment_received() -> None:
    parts = [events.IncomingPart(CHANNEL, ALICE, 21, MS)]
    assert told(events.payment_received(HASH, parts)) == {
        "type": "payment-received",
        "paymentHash": HASH.hex(),
        "parts": [
            {
                "channelId": CHANNEL.hex(),
                "remoteNodeId": ALICE.hex(),
                "amount": 21,
                "receivedAt": MOMENT,
            }
        ],
    }


def test_a_payment_relayed() -> None:
    relayed = events.Relayed(
        HASH,
        (events.IncomingPart(CHANNEL, ALICE, 21, MS - 2611),),
        (events.OutgoingPart(OTHER, BOB, 20, MS),),
    )
    assert told(events.payment_relayed(relayed)) == {
        "type": "payment-relayed",
        "paymentHash": HASH.hex(),
        "incoming": [
            {
                "channelId": CHANNEL.hex(),
                "remoteNodeId": ALICE.hex(),
                "amount": 21,
                "receivedAt": {"iso": "2019-03-28T14:45:35.100Z", "unix": 1553784335},
            }
        ],
        "outgoing": [
            {
                "channelId": OTHER.hex(),
                "remoteNodeId": BOB.hex(),
                "amount": 20,
                "settledAt": MOMENT,
            }
        ],
    }


def test_a_payment_failed() -> None:
    failures = [
        events.FailedTry(50, (), "no route"),
        events.FailedTry(50, (HOP,), "TemporaryNodeFailure", BOB, 1, MS, MS),
        events.FailedTry(50, (HOP,), ""),
    ]
    assert told(events.payment_failed(ID, HASH, failures, MS, MS)) == {
        "type": "payment-failed",
        "id": str(ID),
        "paymentHash": HASH.hex(),
        "failures": [
            {"amount": 50, "route": [], "t": "no route"},
            {
                "amount": 50,
                "route": [HOP_JSON],
                "e": {
                    "originNode": BOB.hex(),
                    "index": 1,
                    "failureMessage": "TemporaryNodeFailure",
                },
                "startedAt": MOMENT,
                "failedAt": MOMENT,
            },
            {"amount": 50, "route": [HOP_JSON]},
        ],
        "startedAt": MOMENT,
        "settledAt": MOMENT,
    }


def test_a_payment_settling_on_chain() -> None:
    assert told(events.payment_settling_onchain(ID, CHANNEL, 21, HASH, MS)) == {
        "type": "payment-settling-onchain",
        "id": str(ID),
        "channelId": CHANNEL.hex(),
        "amount": 21,
        "paymentHash": HASH.hex(),
        "timestamp": MOMENT,
    }


@pytest.mark.parametrize("feerate", [20, None])
def test_a_channel_created(feerate: int | None) -> None:
    made = events.channel_created(
        ALICE,
        OTHER,
        is_opener=feerate is not None,
        commitment_feerate_per_kw=25,
        funding_feerate_per_kw=feerate,
        unix_s=MS // 1000,
    )
    expected = {
        "type": "channel-created",
        "remoteNodeId": ALICE.hex(),
        "isOpener": feerate is not None,
        "temporaryChannelId": OTHER.hex(),
        "commitTxFeeratePerKw": 25,
    }
    assert told(made) == expected | ({} if feerate is None else {"fundingTxFeeratePerKw": 20})


def test_a_channel_on_its_way_to_be_open() -> None:
    named = (OTHER, ALICE, Outpoint(TXID, 1))
    expected = {
        "remoteNodeId": ALICE.hex(),
        "channelId": OTHER.hex(),
        "fundingTxId": TXID[::-1].hex(),
        "fundingTxIndex": 0,
    }
    unix_s = MS // 1000
    funding = told(events.channel_funding_created(*named, unix_s))
    assert funding == {"type": "channel-funding-created", **expected}
    confirmed = told(events.channel_confirmed(*named, 900_000, unix_s))
    assert confirmed == {"type": "channel-confirmed", **expected, "blockHeight": 900_000}
    assert told(events.channel_ready(*named, unix_s)) == {"type": "channel-ready", **expected}
    opened = told(events.channel_opened(OTHER, ALICE, unix_s))
    assert opened == {
        "type": "channel-opened",
        "remoteNodeId": ALICE.hex(),
        "channelId": OTHER.hex(),
    }


def test_a_channel_that_changes_and_closes() -> None:
    changed = events.channel_state_changed(OTHER, ALICE, "OFFLINE", "NORMAL", MS // 1000)
    assert told(changed) == {
        "type": "channel-state-changed",
        "channelId": OTHER.hex(),
        "remoteNodeId": ALICE.hex(),
        "previousState": "OFFLINE",
        "currentState": "NORMAL",
    }
    assert told(events.channel_closed(OTHER, "MutualClose", TXID, MS // 1000)) == {
        "type": "channel-closed",
        "channelId": OTHER.hex(),
        "closingType": "MutualClose",
        "closingTxId": TXID[::-1].hex(),
    }


@pytest.mark.parametrize(
    ("first", "shown"),
    [
        (ALICE, {"publicKey": ALICE.hex()}),
        (b"\x01" + HOP.short_channel_id.to_bytes(8, "big"), {"isNode1": False, "scid": "100x2x1"}),
    ],
)
def test_an_onion_message_received(first: bytes, shown: dict[str, object]) -> None:
    path = events.ReplyPath(first, BOB, ((ALICE, b"\x12\x6a"),))
    message = events.onion_message_received(b"\x22\x22", b"", path, {5: b"\x11"}, MS // 1000)
    assert told(message) == {
        "type": "onion-message-received",
        "pathId": "2222",
        "tlvs": {
            "EncryptedData": {"data": ""},
            "ReplyPath": {
                "blindedRoute": {
                    "firstNodeId": shown,
                    "firstPathKey": BOB.hex(),
                    "blindedHops": [{"blindedPublicKey": ALICE.hex(), "encryptedPayload": "126a"}],
                }
            },
            "Unknown5": "11",
        },
    }
    bare = told(events.onion_message_received(None, b"", None, {}, MS // 1000))
    assert bare == {"type": "onion-message-received", "tlvs": {"EncryptedData": {"data": ""}}}


@pytest.mark.parametrize(
    ("unix_ms", "iso"),
    [
        (1553784337000, "2019-03-28T14:45:37Z"),
        (1553784337001, "2019-03-28T14:45:37.001Z"),
        (0, "1970-01-01T00:00:00Z"),
    ],
)
def test_a_moment_has_milliseconds_only_where_there_are_some(unix_ms: int, iso: str) -> None:
    shown = events.facts.moment_json(unix_ms)
    assert shown == {"iso": iso, "unix": unix_ms // 1000}


def test_every_type_has_a_topic_that_is_a_token_of_a_subject() -> None:
    for kind in TYPES.values():
        assert re.fullmatch(r"[a-z_]+", kind.topic)
