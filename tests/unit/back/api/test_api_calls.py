"""Every call over HTTP, on nodes with real channels, payments and databases."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from support import offers
from support.api import Api, api_of
from support.payment_nodes import FULFIL_OR_FAIL, Pair, pair_of_nodes
from support.waiting import until

from back.api.calls import CALLS
from back.api.server import serve
from back.channel.events import Close
from back.channel.model import Phase
from back.payment.invoices import BlindedInvoice
from shared import bolt11
from shared.bolt12 import encode_invoice
from shared.errors import BackendError, CommandError

NOBODY = "02" + "ab" * 32


@dataclass
class Rig:
    """Two nodes and their APIs."""

    pair: Pair
    alice: Api
    bob: Api


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with (
        pair_of_nodes(tmp_path) as pair,
        api_of(pair.alice) as alice,
        api_of(pair.bob) as bob,
    ):
        yield Rig(pair, alice, bob)


# --- the way in -------------------------------------------------------------------------------


async def test_only_the_password_counts(rig: Rig) -> None:
    assert (await rig.alice.post("getinfo", user="anybody")).status == 200
    for wrong in ("", "wrong", "correct horse "):
        answer = await rig.alice.post("getinfo", password=wrong)
        assert (answer.status, answer.body) == (401, {"error": "the password is wrong"})
    missing = await rig.alice.post("getinfo", password=None)
    assert missing.status == 401
    assert missing.headers["WWW-Authenticate"].startswith("Basic ")
    for header in ("Bearer abc", "Basic", "Basic %%%", "Basic Og"):
        answer = await rig.alice.request("POST", "getinfo", headers={"Authorization": header})
        assert answer.status == 401


async def test_what_does_not_exist_is_not_told_to_strangers(rig: Rig) -> None:
    assert (await rig.alice.post("nothing", password=None)).status == 401
    assert await rig.alice.refused("nothing", 404) == "there is no call nothing"
    assert (await rig.alice.request("POST", "a/b", auth=None)).status == 401


async def test_calls_are_made_with_post(rig: Rig) -> None:
    headers = {"Authorization": "Basic OmNvcnJlY3QgaG9yc2U="}
    answer = await rig.alice.request("GET", "getinfo", headers=headers)
    assert (answer.status, answer.body) == (405, {"error": "calls are made with POST"})


async def test_pages_of_other_origins_are_refused_even_with_the_password(rig: Rig) -> None:
    headers = {"Authorization": "Basic OmNvcnJlY3QgaG9yc2U=", "Origin": "https://evil.example"}
    assert (await rig.alice.request("POST", "getinfo", headers=headers)).status == 403
    headers["Origin"] = rig.alice.url
    assert (await rig.alice.request("POST", "getinfo", headers=headers)).status == 200
    del headers["Origin"]
    headers["Sec-Fetch-Site"] = "cross-site"
    assert (await rig.alice.request("POST", "getinfo", headers=headers)).status == 403


async def test_health_and_the_openapi_page_need_no_password(rig: Rig) -> None:
    health = await rig.alice.request("GET", "health")
    assert (health.status, health.body) == (200, {"status": "ok"})
    assert "swagger" in (await rig.alice.request("GET", "docs")).body.lower()
    described = (await rig.alice.request("GET", "openapi.json")).body
    assert described["paths"].keys() == {f"/{name}" for name in CALLS}
    form = described["paths"]["/payinvoice"]["post"]["requestBody"]["content"]
    schema = form["application/x-www-form-urlencoded"]["schema"]
    assert schema["required"] == ["invoice"]
    assert schema["properties"]["amountMsat"]["type"] == "integer"


async def test_every_call_of_the_plan_is_there() -> None:
    planned = (
        "getinfo connect disconnect peers open close forceclose channels channel createinvoice"
        " parseinvoice getinvoice listinvoices payinvoice getsentinfo getreceivedinfo"
        " onchainbalance getnewaddress sendonchain"
    )
    assert set(planned.split()) <= CALLS.keys()
    assert "stop" not in CALLS


# --- bad parameters ---------------------------------------------------------------------------


BAD: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("channel", {"channelId": "hey"}, "'channelId' was malformed: not hexadecimal"),
    ("channel", {"channelId": "ab"}, "1 bytes, there must be 32"),
    ("channel", {}, "either 'channelId' or 'shortChannelId'"),
    ("channel", {"shortChannelId": "1x2"}, "539268x845x1"),
    ("close", {}, "missing required form field 'channelId'"),
    ("connect", {}, "missing required form field 'uri'"),
    ("connect", {"uri": "ab@host"}, "'uri' was malformed"),
    ("connect", {"uri": NOBODY}, "nodeId@host:port"),
    ("connect", {"nodeId": NOBODY, "host": "a b"}, "'host' was malformed"),
    ("connect", {"nodeId": NOBODY, "host": "h", "port": 70000}, "from 1 to 65535"),
    ("connect", {"nodeId": "05" * 33}, "begins with 02 or 03"),
    ("disconnect", {}, "missing required form field 'nodeId'"),
    ("open", {"nodeId": NOBODY}, "missing required form field 'fundingSatoshis'"),
    ("open", {"nodeId": NOBODY, "fundingSatoshis": "-5"}, "is not a whole number"),
    ("open", {"nodeId": NOBODY, "fundingSatoshis": "1e5"}, "is not a whole number"),
    ("open", {"nodeId": NOBODY, "fundingSatoshis": 9, "channelType": "x"}, "static_remotekey"),
    ("open", {"nodeId": NOBODY, "fundingSatoshis": 9, "announceChannel": "perhaps"}, "neither"),
    ("createinvoice", {}, "either 'description' or 'descriptionHash'"),
    ("createinvoice", {"description": "x", "amountMsat": 0}, "0 msat is not an amount"),
    ("createinvoice", {"description": "x" * 640}, "640 bytes"),
    ("createinvoice", {"description": "x", "expireIn": 0}, "from 1"),
    ("createinvoice", {"description": "x", "fallbackAddress": "bc1"}, "does not support"),
    ("createinvoice", {"description": "x", "amount": 5}, "no form field 'amount' here"),
    ("createinvoice", {"description": "x", "privateChannelIds": "ab" * 32}, "no channel abab"),
    ("parseinvoice", {"invoice": "lnbcrt1nonsense"}, "'invoice' was malformed"),
    ("payinvoice", {}, "missing required form field 'invoice'"),
    ("getinvoice", {"paymentHash": "zz"}, "'paymentHash' was malformed"),
    ("listinvoices", {"skip": 5}, "missing required form field 'count'"),
    ("getsentinfo", {}, "either 'id' or 'paymentHash'"),
    ("getsentinfo", {"id": "123"}, "is not a UUID"),
    ("getreceivedinfo", {}, "either 'paymentHash' or 'invoice'"),
    ("sendonchain", {"address": "bcrt1q", "amountSatoshis": 1}, "'confirmationTarget'"),
    ("sendonchain", {"address": "", "amountSatoshis": 1}, "'address' was malformed"),
    ("getinfo", {"timeoutSeconds": "soon"}, "'timeoutSeconds' was malformed"),
)


async def test_bad_parameters_each_get_a_clear_message(rig: Rig) -> None:
    for path, form, words in BAD:
        assert words in await rig.alice.refused(path, **form), (path, form)


async def test_bodies_that_are_no_form_are_refused(rig: Rig) -> None:
    headers = {
        "Authorization": "Basic OmNvcnJlY3QgaG9yc2U=",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    bodies = (b"%", b"a", b"\xff=1", b"x=%ff", b"&".join(b"a=1" for _ in range(100)), b"a=1&a=2")
    for body in bodies:
        answer = await rig.alice.request("POST", "getinfo", data=body, headers=headers)
        assert answer.status == 400, body
    answer = await rig.alice.request("POST", "getinfo", data=b"a=" + b"x" * 70_000, headers=headers)
    assert "more than 65536 bytes" in answer.body["error"]
    twice = b"timeoutSeconds=5&timeoutSeconds=6"
    answer = await rig.alice.request("POST", "getinfo", data=twice, headers=headers)
    assert "there twice" in answer.body["error"]


async def test_multipart_forms_are_read_too(rig: Rig) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("nodeId", rig.pair.bob.node_id.hex())
    headers = {"Authorization": "Basic OmNvcnJlY3QgaG9yc2U="}
    answer = await rig.alice.request("POST", "channels", data=form, headers=headers)
    assert (answer.status, len(answer.body)) == (200, 1)


# --- node and peers ---------------------------------------------------------------------------


async def test_getinfo_says_who_we_are(rig: Rig) -> None:
    info = await rig.alice.call("getinfo")
    assert info["nodeId"] == rig.pair.alice.node_id.hex()
    assert info["alias"] == "alice"
    assert info["network"] == "regtest"
    assert info["chainHash"].startswith("06226e46")
    assert info["blockHeight"] == 110
    assert info["publicAddresses"] == ["203.0.113.7:9735"]
    assert info["features"] == {"activated": {}}
    assert UUID(info["instanceId"])
    assert {"version", "color"} <= info.keys()


async def test_peers_come_and_go(rig: Rig) -> None:
    bob = rig.pair.bob.node_id.hex()
    [peer] = await rig.alice.call("peers")
    assert peer == {"nodeId": bob, "state": "CONNECTED", "channels": 1, "front": "front-1"}
    assert await rig.alice.call("connect", nodeId=bob) == "already connected"
    assert await rig.alice.call("disconnect", nodeId=bob) == f"peer {bob} disconnecting"
    [peer] = await rig.alice.call("peers")
    assert peer == {"nodeId": bob, "state": "DISCONNECTED", "channels": 1}
    assert await rig.alice.call("disconnect", nodeId=bob) == f"peer {bob} not connected"
    assert "no address is known" in await rig.alice.refused("connect", nodeId=bob)
    own = rig.pair.alice.node_id.hex()
    assert "our own" in await rig.alice.refused("connect", uri=f"{own}@localhost:9735")


async def test_connect_takes_an_address_in_every_form(rig: Rig) -> None:
    asked: list[tuple[bytes, list[str] | None]] = []

    async def connect(node_id: bytes, addresses: list[str] | None = None) -> None:
        asked.append((node_id, addresses))

    rig.alice.node.peers = type("P", (), {"known": {}, "connect": staticmethod(connect)})()
    assert await rig.alice.call("connect", uri=f"{NOBODY}@example.org:9000") == "connected"
    await rig.alice.call("connect", uri=f"{NOBODY}@example.org")
    await rig.alice.call("connect", uri=f"{NOBODY}@[2001:db8::1]:9000")
    await rig.alice.call("connect", nodeId=NOBODY, host="10.0.0.1", port=9000)
    await rig.alice.call("connect", nodeId=NOBODY, host="2001:db8::1")
    await rig.alice.call("connect", nodeId=NOBODY)
    expected = [
        ["example.org:9000"],
        ["example.org:9735"],
        ["[2001:db8::1]:9000"],
        ["10.0.0.1:9000"],
        ["[2001:db8::1]:9735"],
        None,
    ]
    assert [addresses for _, addresses in asked] == expected
    assert {node_id.hex() for node_id, _ in asked} == {NOBODY}


async def test_no_front_is_no_fault_of_the_caller(rig: Rig) -> None:
    async def connect(_node_id: bytes, _addresses: list[str] | None = None) -> None:
        raise BackendError("no front answers")

    rig.alice.node.peers = type("P", (), {"known": {}, "connect": staticmethod(connect)})()
    uri = f"{NOBODY}@example.org"
    assert await rig.alice.refused("connect", 503, uri=uri) == "no front answers"


# --- channels ---------------------------------------------------------------------------------


async def test_a_channel_is_shown_with_what_both_sides_hold(rig: Rig) -> None:
    [channel] = await rig.alice.call("channels")
    core = rig.pair.alice.channel()
    assert channel["state"] == "NORMAL"
    assert channel["nodeId"] == rig.pair.bob.node_id.hex()
    assert channel["channelId"] == core.channel_id.hex()
    data = channel["data"]
    assert data["type"] == "DATA_NORMAL"
    assert data["shortChannelId"] == "100x0x0"
    [active] = data["commitments"]["active"]
    assert active["localCommit"]["spec"]["toLocal"] == core.local_msat
    assert active["localCommit"]["spec"]["toRemote"] == core.remote_msat
    assert active["remoteCommit"]["spec"]["toLocal"] == core.remote_msat
    assert active["fundingTx"]["amountSatoshis"] == active["fundingAmount"] == 1_000_000
    assert active["fundingInput"].endswith(":0")
    parameters = data["commitments"]["channelParams"]
    assert parameters["localParams"]["nodeId"] == rig.pair.alice.node_id.hex()
    assert parameters["localParams"]["isChannelOpener"] is True
    assert parameters["channelFlags"]["announceChannel"] is False
    one = await rig.alice.call("channel", channelId=core.channel_id.hex())
    assert one == channel
    assert await rig.alice.call("channel", shortChannelId="100x0x0") == channel
    assert await rig.alice.call("channels", nodeId=rig.pair.bob.node_id.hex()) == [channel]
    assert await rig.alice.call("channels", nodeId=NOBODY) == []
    missing = "ab" * 32
    words = await rig.alice.refused("channel", 404, channelId=missing)
    assert words == f"channel {missing} not found"


async def test_an_offline_channel_says_so(rig: Rig) -> None:
    rig.pair.cut()
    await until(lambda: rig.pair.alice.channel().link.name == "OFFLINE", "alice is alone")
    [channel] = await rig.alice.call("channels")
    assert (channel["state"], channel["data"]["type"]) == ("OFFLINE", "DATA_NORMAL")
    assert await rig.alice.call("usablebalances") == []
    [balance] = await rig.alice.call("channelbalances")
    assert balance["isEnabled"] is False


async def test_htlcs_in_flight_are_shown(rig: Rig) -> None:
    assert rig.pair.bob.wire is not None
    rig.pair.bob.wire.held = FULFIL_OR_FAIL
    invoice = await rig.bob.call("createinvoice", amountMsat=7_000_000, description="x")
    payment_id = await rig.alice.call("payinvoice", invoice=invoice["serialized"])
    await until(lambda: "update_fulfill_htlc" in rig.pair.bob.wire.sent, "bob fulfils")
    [channel] = await rig.alice.call("channels")
    commitments = channel["data"]["commitments"]
    [htlc] = commitments["active"][0]["localCommit"]["spec"]["htlcs"]
    assert htlc["direction"] == "OUT"
    assert htlc["amountMsat"] == 7_000_000
    assert htlc["paymentHash"] == invoice["paymentHash"]
    [other] = commitments["active"][0]["remoteCommit"]["spec"]["htlcs"]
    assert other["direction"] == "IN"
    assert commitments["originChannels"] == {"0": {"paymentId": payment_id}}


async def test_balances_tell_what_can_be_sent_and_received(rig: Rig) -> None:
    [hers] = await rig.alice.call("usablebalances")
    [his] = await rig.bob.call("usablebalances")
    assert hers["remoteNodeId"] == rig.pair.bob.node_id.hex()
    assert hers["realScid"] == "100x0x0"
    assert (hers["canSend"], hers["canReceive"]) == (his["canReceive"], his["canSend"])
    assert hers["isEnabled"] is True
    before = hers["canSend"]
    invoice = await rig.bob.call("createinvoice", amountMsat=before, description="all of it")
    paid = await rig.alice.call("payinvoice", invoice=invoice["serialized"], blocking="true")
    assert paid["type"] == "payment-sent"


async def test_opening_answers_with_the_channel_id(rig: Rig) -> None:
    asked: list[Any] = []
    channel = rig.pair.alice.channel()

    async def open_(opening: Any) -> Any:
        asked.append(opening)
        return channel

    rig.alice.node.channels = type("C", (), {"open": staticmethod(open_)})()
    answer = await rig.alice.call(
        "open",
        nodeId=NOBODY,
        fundingSatoshis=200_000,
        pushMsat=5,
        channelType="anchor_outputs_zero_fee_htlc_tx",
        announceChannel="false",
    )
    assert channel.funding is not None
    txid = channel.funding.outpoint.rpc_txid
    assert answer == f"created channel {channel.channel_id.hex()} with fundingTxId={txid}"
    [opening] = asked
    assert (opening.node_id.hex(), opening.funding_satoshis) == (NOBODY, 200_000)
    assert (opening.push_msat, opening.announce) == (5, False)
    assert opening.commitment_type.name == "ANCHORS_ZERO_FEE_HTLC"


async def test_an_opening_that_fails_or_takes_too_long_says_so(rig: Rig) -> None:
    words = await rig.alice.refused("open", nodeId=NOBODY, fundingSatoshis=200_000)
    assert "not connected" in words

    async def never(_opening: object) -> None:
        await asyncio.Event().wait()

    rig.alice.node.channels = type("C", (), {"open": staticmethod(never)})()
    words = await rig.alice.refused(
        "open", nodeId=NOBODY, fundingSatoshis=200_000, openTimeoutSeconds=1
    )
    assert "took too long" in words


async def test_channels_are_closed_by_any_name(rig: Rig) -> None:
    channel_id = rig.pair.alice.channel().channel_id.hex()
    missing = "ab" * 32
    answers = await rig.alice.call(
        "close", channelIds=f"{channel_id},{missing}", shortChannelId="9x9x9"
    )
    assert answers == {
        channel_id: f"closed channel {channel_id}",
        missing: f"channel {missing} not found",
        "9x9x9": "channel 9x9x9 not found",
    }
    await until(
        lambda: rig.pair.alice.channel().phase in {Phase.NEGOTIATING, Phase.CLOSING}, "it closes"
    )
    again = await rig.alice.call("close", shortChannelIds='["100x0x0"]')
    assert "cannot close" in again["100x0x0"]


async def test_closing_feerates_reach_the_channel(rig: Rig) -> None:
    runner = rig.pair.alice.runner()
    asked: list[Close] = []
    request = runner.request

    class Spy:
        channel = runner.channel

        def request(self, event: Close) -> Any:
            asked.append(event)
            return request(event)

    find = type("C", (), {"find": staticmethod(lambda _: Spy())})()
    rig.alice.node.channels = find
    channel_id = runner.channel.channel_id.hex()
    script = "0014" + "22" * 20
    await rig.alice.call(
        "close", channelId=channel_id, preferredFeerateSatByte=10, scriptPubKey=script
    )
    assert asked[0] == Close(bytes.fromhex(script), (1_250, 2_500, 5_000))
    words = await rig.alice.refused("close", channelId=channel_id, minFeerateSatByte=3)
    assert "preferredFeerateSatByte" in words
    words = await rig.alice.refused(
        "close", channelId=channel_id, minFeerateSatByte=3, preferredFeerateSatByte=2
    )
    assert "must not fall" in words


async def test_a_channel_is_closed_by_force(rig: Rig) -> None:
    channel_id = rig.pair.alice.channel().channel_id.hex()
    answers = await rig.alice.call("forceclose", channelId=channel_id)
    assert answers == {channel_id: f"closed channel {channel_id}"}
    await until(lambda: rig.pair.alice.channel().phase is Phase.CLOSING, "it closes")


# --- invoices ---------------------------------------------------------------------------------


async def test_an_invoice_is_made_parsed_and_found(rig: Rig) -> None:
    made = await rig.bob.call(
        "createinvoice", amountMsat=1_500_000, description="ナンセンス 1杯", expireIn=60
    )
    assert made["prefix"] == "lnbcrt"
    assert made["nodeId"] == rig.pair.bob.node_id.hex()
    assert (made["amount"], made["expiry"]) == (1_500_000, 60)
    assert made["description"] == "ナンセンス 1杯"
    assert made["minFinalCltvExpiry"] == 30
    assert made["routingInfo"] == []
    needed = {
        "var_onion_optin": "mandatory",
        "payment_secret": "mandatory",
        "basic_mpp": "optional",
    }
    assert made["features"]["activated"] == needed
    invoice = bolt11.decode(made["serialized"])
    assert invoice.payment_hash.hex() == made["paymentHash"]
    assert await rig.alice.call("parseinvoice", invoice=made["serialized"]) == made
    assert await rig.bob.call("getinvoice", paymentHash=made["paymentHash"]) == made
    assert await rig.bob.call("listinvoices") == [made]
    assert await rig.bob.call("listpendinginvoices") == [made]
    assert await rig.bob.call("listinvoices", to=made["timestamp"] - 1) == []
    assert await rig.bob.refused("getinvoice", 404, paymentHash="00" * 32) == "Not found"


async def test_an_invoice_may_name_a_preimage_once_and_a_description_by_its_hash(rig: Rig) -> None:
    made = await rig.bob.call("createinvoice", descriptionHash="11" * 32, paymentPreimage="22" * 32)
    assert made["descriptionHash"] == "11" * 32
    assert "description" not in made
    assert "amount" not in made
    info = await rig.bob.call("getreceivedinfo", paymentHash=made["paymentHash"])
    assert info["paymentPreimage"] == "22" * 32
    words = await rig.bob.refused("createinvoice", description="x", paymentPreimage="22" * 32)
    assert "already" in words


async def test_pages_of_invoices(rig: Rig) -> None:
    hashes = {
        (await rig.bob.call("createinvoice", description=str(n)))["paymentHash"] for n in range(5)
    }
    pages = [await rig.bob.call("listinvoices", count=2, skip=skip) for skip in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {i["paymentHash"] for page in pages for i in page} == hashes


async def test_an_invoice_is_deleted_unless_it_is_paid(rig: Rig) -> None:
    made = await rig.bob.call("createinvoice", amountMsat=2_000_000, description="x")
    form = {"paymentHash": made["paymentHash"]}
    assert await rig.bob.call("deleteinvoice", **form) == f"deleted invoice {made['paymentHash']}"
    assert await rig.bob.refused("getinvoice", 404, **form) == "Not found"
    assert "no such invoice" in await rig.bob.refused("deleteinvoice", **form)
    made = await rig.bob.call("createinvoice", amountMsat=2_000_000, description="x")
    await rig.alice.call("payinvoice", invoice=made["serialized"], blocking="true")
    assert "paid" in await rig.bob.refused("deleteinvoice", paymentHash=made["paymentHash"])


async def test_what_came_without_an_invoice_is_told_like_the_rest(rig: Rig) -> None:
    preimage = "33" * 32
    payment_hash = sha256(bytes.fromhex(preimage)).hexdigest()
    bob = rig.pair.bob
    blinded = BlindedInvoice(bytes.fromhex(preimage), b"path", 5_000, "tea", 1_000, 60)
    await bob.payments.invoices.create_blinded(blinded)
    shown = await rig.bob.call("getreceivedinfo", paymentHash=payment_hash)
    assert (shown["paymentType"], shown["status"]) == ("Blinded", {"type": "expired"})
    assert shown["invoice"] == {
        "amount": 5_000,
        "nodeId": bob.node_id.hex(),
        "paymentHash": payment_hash,
        "description": "tea",
        "features": {"activated": {}},
        "blindedPaths": [],
        "createdAt": 1_000,
        "expiresAt": 1_060,
        "serialized": "",
    }
    assert await rig.bob.call("listinvoices", **{"from": 0}) == []
    assert await rig.bob.call("listpendinginvoices", **{"from": 0}) == []
    sent = await rig.alice.call("sendtonode", nodeId=bob.node_id.hex(), amountMsat=7_000_000)
    await until(lambda: ("received", "ok") in bob.outcomes, f"{sent} comes")
    [received] = await rig.bob.call("listreceivedpayments")
    assert received["paymentType"] == "KeySend"
    assert received["status"]["amount"] == received["invoice"]["amount"] == 7_000_000
    assert received["invoice"]["nodeId"] == bob.node_id.hex()
    assert received["invoice"]["serialized"] == ""


async def test_a_blinded_invoice_is_shown_with_its_paths(rig: Rig) -> None:
    made = offers.signed_invoice(offers.request(offers.offer()))
    blinded = BlindedInvoice(b"\x44" * 32, b"path", 5_000, "", 1_000, 60, encode_invoice(made))
    payment_hash = (await rig.pair.bob.payments.invoices.create_blinded(blinded)).payment_hash
    shown = await rig.bob.call("getinvoice", paymentHash=payment_hash.hex())
    assert made.invoice_node_id is not None
    assert shown["nodeId"] == made.invoice_node_id.hex()
    assert shown["serialized"].startswith("lni1")
    [path] = shown["blindedPaths"]
    [real] = made.invoice_paths or []
    assert path == {
        "introductionNodeId": real.first_node_id.hex(),
        "blindedNodeIds": [hop.blinded_node_id.hex() for hop in real.path],
    }


async def test_what_was_received_is_told(rig: Rig) -> None:
    made = await rig.bob.call("createinvoice", amountMsat=2_000_000, description="x")
    form = {"paymentHash": made["paymentHash"]}
    pending = await rig.bob.call("getreceivedinfo", **form)
    assert pending["status"] == {"type": "pending"}
    assert pending["invoice"] == made
    assert pending["paymentType"] == "Standard"
    await rig.alice.call("payinvoice", invoice=made["serialized"], blocking="true")
    received = await rig.bob.call("getreceivedinfo", invoice=made["serialized"])
    assert received["status"]["type"] == "received"
    assert received["status"]["amount"] == 2_000_000
    assert received["status"]["receivedAt"].keys() == {"iso", "unix"}
    assert [r["invoice"] for r in await rig.bob.call("listreceivedpayments")] == [made]
    assert await rig.bob.refused("getreceivedinfo", 404, paymentHash="00" * 32) == "Not found"


# --- payments ---------------------------------------------------------------------------------


async def test_a_blocking_payment_answers_with_its_outcome(rig: Rig) -> None:
    made = await rig.bob.call("createinvoice", amountMsat=2_000_000, description="x")
    paid = await rig.alice.call(
        "payinvoice", invoice=made["serialized"], blocking="true", externalId="order 7"
    )
    assert paid["type"] == "payment-sent"
    assert paid["paymentHash"] == made["paymentHash"]
    assert (paid["recipientAmount"], paid["fees"]) == (2_000_000, 0)
    assert paid["recipientNodeId"] == rig.pair.bob.node_id.hex()
    [part] = paid["parts"]
    assert part["channelId"] == rig.pair.alice.channel().channel_id.hex()
    assert part["amountWithFees"] == 2_000_000
    [sent] = await rig.alice.call("getsentinfo", id=paid["id"])
    assert sent["status"]["type"] == "sent"
    assert sent["status"]["paymentPreimage"] == paid["paymentPreimage"]
    [hop] = sent["status"]["route"]
    assert hop["nextNodeId"] == rig.pair.bob.node_id.hex()
    assert hop["shortChannelId"] == "100x0x0"
    assert sent["externalId"] == "order 7"
    assert sent["id"] == sent["parentId"]
    assert await rig.alice.call("getsentinfo", paymentHash=made["paymentHash"]) == [sent]
    words = await rig.alice.refused("payinvoice", invoice=made["serialized"])
    assert words == f"this invoice is paid: payment {paid['id']}"


async def test_a_payment_that_does_not_block_answers_with_its_id(rig: Rig) -> None:
    made = await rig.bob.call("createinvoice", description="any amount")
    words = await rig.alice.refused("payinvoice", invoice=made["serialized"])
    assert "amountMsat" in words
    payment_id = await rig.alice.call(
        "payinvoice", invoice=made["serialized"], amountMsat=3_000_000
    )
    assert UUID(payment_id)
    await rig.pair.quiet()
    await until(lambda: rig.pair.alice.outcomes, "it ends")
    [sent] = await rig.alice.call("getsentinfo", id=payment_id)
    assert (sent["status"]["type"], sent["amount"]) == ("sent", 3_000_000)


async def test_a_payment_that_fails_answers_with_why(rig: Rig) -> None:
    made = await rig.bob.call("createinvoice", amountMsat=990_000_000, description="too much")
    failed = await rig.alice.call("payinvoice", invoice=made["serialized"], blocking="true")
    assert failed["type"] == "payment-failed"
    [failure] = failed["failures"]
    assert failure["failureType"] == "Local"
    [sent] = await rig.alice.call("getsentinfo", id=failed["id"])
    assert sent["status"]["failures"] == failed["failures"]
    assert await rig.alice.call("getsentinfo", id=str(UUID(int=5))) == []


async def test_who_waits_too_long_is_told_and_the_payment_goes_on(rig: Rig) -> None:
    assert rig.pair.bob.wire is not None
    rig.pair.bob.wire.held = FULFIL_OR_FAIL
    made = await rig.bob.call("createinvoice", amountMsat=2_000_000, description="x")
    form = {"invoice": made["serialized"], "blocking": "true", "timeoutSeconds": 1}
    assert await rig.alice.refused("payinvoice", 408, **form) == "request timed out"
    [sent] = await rig.alice.call("getsentinfo", paymentHash=made["paymentHash"])
    assert sent["status"] == {"type": "pending"}
    rig.pair.cut()
    rig.pair.connect()
    await until(lambda: rig.pair.alice.outcomes, "it ends")
    [sent] = await rig.alice.call("getsentinfo", paymentHash=made["paymentHash"])
    assert sent["status"]["type"] == "sent"


# --- on chain ---------------------------------------------------------------------------------


async def test_the_wallet_is_reached(rig: Rig) -> None:
    balance = await rig.alice.call("onchainbalance")
    assert balance == {"confirmed": 123_456, "unconfirmed": 789}
    assert await rig.alice.call("getnewaddress") == "bcrt1qnew"
    form = {"address": "bcrt1qyou", "amountSatoshis": 5_000}
    txid = await rig.alice.call("sendonchain", **form, feeRatePerByte=4)
    assert txid == bytes(range(32))[::-1].hex()
    await rig.alice.call("sendonchain", **form, confirmationTarget=1)
    assert rig.alice.wallet.sent == [("bcrt1qyou", 5_000, 1_000), ("bcrt1qyou", 5_000, 9_000)]
    form["address"] = "bc1qother"
    words = await rig.alice.refused("sendonchain", **form, feeRatePerByte=4)
    assert words == "not an address of this network"


async def test_a_bitcoind_that_is_away_is_told_as_such(rig: Rig) -> None:
    rig.alice.wallet.is_away = True
    words = await rig.alice.refused("onchainbalance", 503)
    assert words == "bitcoind does not answer"


async def test_a_bug_tells_nothing_but_that_there_is_one(rig: Rig) -> None:
    def broken() -> None:
        raise ZeroDivisionError("with a secret in it")

    rig.alice.wallet.balance = broken  # type: ignore[assignment, method-assign]
    words = await rig.alice.refused("onchainbalance", 500)
    assert "secret" not in words


# --- the server -------------------------------------------------------------------------------


async def test_an_address_that_is_taken_is_an_error_at_the_start(rig: Rig) -> None:
    port = int(rig.alice.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        await serve(_empty_app, "127.0.0.1", port)


async def test_serving_ends_when_it_is_cancelled() -> None:
    serving = asyncio.create_task(serve(_empty_app, "127.0.0.1", 0))
    await asyncio.sleep(0)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(serving, 10)
    assert serving.done()


async def _empty_app(_scope: Any, _receive: Any, _send: Any) -> None:
    raise CommandError("never called")
