"""Onion messages through a whole node: relayed, delivered, sent, answered (BOLT 4)."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.lightning_peer import FEATURES
from support.onion_peer import Keys, OnionPeer
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until
from shared.crypto import onion_message
from shared.crypto.onion_message import Delivered, Forwarded
from shared.wire import OnionMessage

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

TYPE = 1001
"""Of a field that nobody knows."""
HELLO = {TYPE: b"hello"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("onion-messages")
    # Nobody here has channels; the tests send more than strangers may at the default rates.
    rates = {"ONION_MESSAGES_PER_S_WITHOUT_CHANNELS": "50"}
    async with squall_node(
        bitcoind,
        folder,
        settings={f"SQUALL_BACK_{name}": value for name, value in rates.items()}
        | {"SQUALL_BACK_ONION_REPLY_TIMEOUT_S": "2"},
        front_settings={f"SQUALL_FRONT_{name}": value for name, value in rates.items()},
        fronts=2,
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def peers(node: Cluster) -> AsyncIterator[tuple[OnionPeer, OnionPeer]]:
    """Two peers, each at another front."""
    async with AsyncExitStack() as stack:
        made = []
        for front in node.fronts.values():
            made.append(await OnionPeer.connect(node.node_id, front.port))
            stack.push_async_callback(made[-1].close)
        await known(node, *made)
        yield made[0], made[1]


async def known(node: Cluster, *peers: OnionPeer) -> None:
    """Wait until the back knows that these are connected."""

    async def all_there() -> bool:
        listed = await node.call("peers")
        there = {peer["nodeId"] for peer in listed if peer["state"] == "CONNECTED"}
        return {peer.node_id.hex() for peer in peers} <= there

    await until("the peers to be known", all_there)


async def outcomes(node: Cluster) -> dict[str, float]:
    """What became of onion messages so far, by the back's metrics."""
    async with node._session().get(f"http://127.0.0.1:{node.metrics_port}/metrics") as response:
        text = await response.text()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("squall_onion_messages_total{"):
            name, value = line.split('outcome="')[1].split('"} ')
            found[name] = float(value)
    return found


async def counted(node: Cluster, outcome: str, more_than: float) -> None:
    async def is_so() -> bool:
        return (await outcomes(node)).get(outcome, 0) > more_than

    await until(f"a message {outcome}", is_so)


def path(*node_ids: bytes) -> Any:
    return onion_message.path_through(secrets.token_bytes(32), node_ids)


async def test_a_message_between_peers_of_two_fronts_passes_through(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, carol = peers
    us = bytes.fromhex(node.node_id)
    await alice.send(path(us, carol.node_id), HELLO)
    heard = await carol.hear()
    assert isinstance(heard, Delivered)
    assert heard.contents == HELLO
    assert heard.path_id is None


@pytest.mark.parametrize("size", [10, 1_000, 30_000])
async def test_messages_of_both_sizes_pass_through(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer], size: int
) -> None:
    alice, carol = peers
    contents = {TYPE: secrets.token_bytes(size)}
    message = await alice.send(path(bytes.fromhex(node.node_id), carol.node_id), contents)
    assert len(message.onion_message_packet) == (1366 if size <= 1_000 else 32834)
    heard = await carol.hear()
    assert isinstance(heard, Delivered)
    assert heard.contents == contents


async def test_a_path_of_anothers_making_is_followed_by_its_override(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, carol = peers
    us = bytes.fromhex(node.node_id)
    hers = onion_message.path_through(secrets.token_bytes(32), [carol.node_id], b"hers")
    joined = onion_message.lead_to(secrets.token_bytes(32), [us], carol.node_id, hers)
    await alice.send(joined, HELLO)
    heard = await carol.hear()
    assert isinstance(heard, Delivered)
    assert (heard.contents, heard.path_id) == (HELLO, b"hers")


async def test_what_goes_to_nobody_we_know_is_dropped(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, carol = peers
    before = await outcomes(node)
    await alice.send(path(bytes.fromhex(node.node_id), Keys().node_id), HELLO)
    await counted(node, "dropped_next_away", before.get("dropped_next_away", 0))
    await carol.hears_nothing(0.1)


async def test_a_peer_that_did_not_offer_onion_messages_gets_none_and_may_send_none(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, carol = peers
    us = bytes.fromhex(node.node_id)
    front = next(iter(node.fronts.values()))
    plain = await OnionPeer.connect(node.node_id, front.port, features=FEATURES)
    try:
        await known(node, plain)
        before = await outcomes(node)
        await alice.send(path(us, plain.node_id), HELLO)
        await counted(node, "dropped_next_away", before.get("dropped_next_away", 0))
        await plain.send(path(us, carol.node_id), HELLO)
        await alice.send(path(us, carol.node_id), {TYPE: b"the one"})
        heard = await carol.hear()
        assert isinstance(heard, Delivered)
        assert heard.contents == {TYPE: b"the one"}
        await plain.hears_nothing(0.1)
    finally:
        await plain.close()


async def test_garbage_is_ignored_and_a_replay_is_not_passed_on_twice(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, carol = peers
    us = bytes.fromhex(node.node_id)
    before = await outcomes(node)
    good = await alice.send(path(us, carol.node_id), HELLO)
    spoiled = bytearray(good.onion_message_packet)
    spoiled[100] ^= 1
    await alice.line.send(
        OnionMessage(path_key=good.path_key, onion_message_packet=bytes(spoiled)),
        OnionMessage(path_key=good.path_key, onion_message_packet=b""),
        good,
    )
    for outcome in ("dropped_invalid", "dropped_replayed"):
        await counted(node, outcome, before.get(outcome, 0))
    assert isinstance(await carol.hear(), Delivered)
    await carol.hears_nothing(0.3)


async def test_a_message_that_is_sent_by_the_api_reaches_a_peer_directly(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, _ = peers
    sent = await node.call(
        "sendonionmessage",
        recipientNode=alice.node_id.hex(),
        expectsReply="false",
        content="fd03e90568656c6c6f",
    )
    assert sent == {"sent": True}
    heard = await alice.hear()
    assert isinstance(heard, Delivered)
    assert heard.contents == HELLO
    assert heard.reply_path is None


async def test_a_message_by_the_api_gets_its_answer_by_the_reply_path(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, carol = peers

    async def answers(peer: OnionPeer, other: OnionPeer) -> None:
        question = await peer.hear()
        assert isinstance(question, Delivered)
        assert question.contents == HELLO
        assert question.reply_path is not None
        await peer.answer(question, {TYPE: b"yes"})
        if question.reply_path.first_node_id == other.node_id:
            step = await other.hear()
            assert isinstance(step, Forwarded)
            assert step.next_node_id == bytes.fromhex(node.node_id)
            await other.line.send(step.message)

    asked = asyncio.create_task(
        node.call(
            "sendonionmessage",
            recipientNode=carol.node_id.hex(),
            expectsReply="true",
            content="fd03e90568656c6c6f",
        )
    )
    await answers(carol, alice)
    answer = await asked
    assert answer["sent"] is True
    assert answer["response"]["tlvs"]["Unknown1001"] == b"yes".hex()


async def test_an_answer_that_was_not_asked_for_by_that_path_is_none(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, _ = peers
    asked = asyncio.create_task(
        node.call(
            "sendonionmessage",
            recipientNode=alice.node_id.hex(),
            expectsReply="true",
            content="fd03e90568656c6c6f",
        )
    )
    question = await alice.hear()
    assert isinstance(question, Delivered)
    await alice.send(path(bytes.fromhex(node.node_id)), {TYPE: b"forged"})
    forged = onion_message.path_through(
        secrets.token_bytes(32), [bytes.fromhex(node.node_id)], secrets.token_bytes(32)
    )
    await alice.send(forged, {TYPE: b"forged"})
    assert await asked == {"sent": True, "failureMessage": "No response"}


async def test_a_message_to_a_blinded_path_that_begins_here_is_sent(
    node: Cluster, peers: tuple[OnionPeer, OnionPeer]
) -> None:
    alice, _ = peers
    hers = onion_message.path_through(
        secrets.token_bytes(32), [bytes.fromhex(node.node_id), alice.node_id], b"cookie"
    )
    hops = b"".join(
        hop.blinded_node_id
        + len(hop.encrypted_recipient_data).to_bytes(2, "big")
        + hop.encrypted_recipient_data
        for hop in hers.path
    )
    encoded = hers.first_node_id + hers.first_path_key + bytes([len(hers.path)]) + hops
    sent = await node.call(
        "sendonionmessage",
        recipientBlindedRoute=encoded.hex(),
        expectsReply="false",
        content="fd03e90568656c6c6f",
    )
    assert sent == {"sent": True}
    heard = await alice.hear()
    assert isinstance(heard, Delivered)
    assert (heard.contents, heard.path_id) == (HELLO, b"cookie")


async def test_a_node_that_cannot_be_reached_is_said_to_be_so(node: Cluster) -> None:
    sent = await node.call(
        "sendonionmessage",
        recipientNode=Keys().node_id.hex(),
        expectsReply="false",
        content="fd03e90568656c6c6f",
    )
    assert sent["sent"] is False
    assert "no way" in sent["failureMessage"]
    refused = await node.call(
        "sendonionmessage",
        recipientNode=Keys().node_id.hex(),
        expectsReply="false",
        content="ff",
    )
    assert refused["sent"] is False
    assert "content" in refused["failureMessage"]
