"""Relay fees of a whole node, changed while it forwards: updaterelayfee and its grace."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.relay_ends import TERMS, End, Outcome, relay_ends
from support.squall import squall_node
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster
from back.relay.terms import ChannelTerms

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

AMOUNT_MSAT = 100_000
"""So little that hundreds do not empty a channel."""
GRACE_S = 12.0
DEAR = replace(TERMS, fee_base_msat=50_000, cltv_expiry_delta=150)


@dataclass
class Scene:
    """A node between a payer and a payee."""

    node: Cluster
    bitcoind: Regtest
    payer: End
    payee: End

    async def tries(self, terms: ChannelTerms, *, less_msat: int = 0) -> Outcome:
        """Have an HTLC forwarded that pays what terms ask, or less."""
        sent = self.payer.send(
            self.payee,
            AMOUNT_MSAT,
            height=await self.bitcoind.height(),
            terms=terms,
            fee_msat=terms.fee_msat(AMOUNT_MSAT) - less_msat,
        )
        return await self.payer.outcome(sent)

    async def update(self) -> dict[str, Any]:
        """Our channel_update of the payee's channel."""
        channel_id = self.payee.channel_id.hex()
        shown = await self.node.call("channel", channelId=channel_id)
        update: dict[str, Any] = shown["data"].get("channelUpdate", {})
        return update

    async def limited(self, name: str) -> float:
        """How often a limit kept an HTLC out, as the metrics say."""
        url = f"http://127.0.0.1:{self.node.metrics_port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            text = await answer.text()
        line = f'squall_forwards_limited_total{{limit="{name}"}} '
        return sum(float(each.removeprefix(line)) for each in text.splitlines() if line in each)

    async def announces(self, terms: ChannelTerms) -> None:
        """Wait until terms are announced."""

        async def does() -> bool:
            update = await self.update()
            said = update.get("feeBaseMsat"), update.get("cltvExpiryDelta")
            return said == (terms.fee_base_msat, terms.cltv_expiry_delta)

        await until(does, f"an update with {terms}", 10)

    async def set_fees(self, terms: ChannelTerms, **whose: str) -> dict[str, str]:
        """Call updaterelayfee."""
        answer: dict[str, str] = await self.node.call(
            "updaterelayfee",
            feeBaseMsat=terms.fee_base_msat,
            feeProportionalMillionths=terms.fee_proportional_millionths,
            cltvExpiryDelta=terms.cltv_expiry_delta,
            **whose,
        )
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Scene]:
    """One node with its peers for all tests of this file."""
    folder = tmp_path_factory.mktemp("relay-fees")
    settings = {
        "SQUALL_BACK_MINIMUM_DEPTH": "1",
        "SQUALL_BACK_RELAY_FEE_GRACE_S": str(GRACE_S),
        "SQUALL_BACK_FORWARD_PEER_MAX_PENDING": "3",
    }
    async with (
        squall_node(bitcoind, folder, settings=settings) as node,
        relay_ends(node, bitcoind, ("payer", "payee"), push_msat=500_000_000) as (payer, payee),
    ):
        yield Scene(node, bitcoind, payer, payee)


async def test_new_fees_are_announced_at_once_and_the_old_ones_hold_for_the_grace(
    scene: Scene,
) -> None:
    await scene.announces(TERMS)
    channel_id = scene.payee.channel_id.hex()
    assert await scene.set_fees(DEAR, channelId=channel_id) == {channel_id: "ok"}
    await scene.announces(DEAR)
    announced_at = asyncio.get_running_loop().time()
    assert (await scene.tries(DEAR)).paid
    assert (await scene.tries(TERMS)).paid
    outcome = await scene.tries(TERMS, less_msat=1)
    assert (outcome.name, outcome.hop) == ("fee_insufficient", 0)
    outcome = await scene.tries(replace(DEAR, cltv_expiry_delta=TERMS.cltv_expiry_delta - 1))
    assert outcome.name == "incorrect_cltv_expiry"

    async def is_refused() -> bool:
        return (await scene.tries(TERMS)).name == "fee_insufficient"

    await until(is_refused, "the end of the grace", GRACE_S + 10)
    # Replaced when it was stored, just before it was seen here.
    assert asyncio.get_running_loop().time() - announced_at > GRACE_S - 3
    assert (await scene.tries(DEAR)).paid


async def test_fees_and_the_grace_outlive_a_killed_back(scene: Scene) -> None:
    dearer = replace(DEAR, fee_base_msat=90_000)
    node_id = scene.payee.node_id.hex()
    channel_id = scene.payee.channel_id.hex()
    await scene.announces(DEAR)
    # The channel's own fees count before its peer's.
    assert await scene.set_fees(dearer, nodeId=node_id) == {channel_id: "ok"}
    assert await scene.node.call("updaterelayfee", channelId=channel_id, reset="true") == {
        channel_id: "ok"
    }
    await scene.announces(dearer)
    assert scene.node.back is not None
    scene.node.back.kill()
    await scene.node.back.wait()
    await scene.node.start_back()
    for end in (scene.payer, scene.payee):
        await end.becomes("NORMAL")
        await end.is_online()
    await scene.announces(dearer)
    assert (await scene.tries(dearer)).paid

    async def is_refused() -> bool:
        return (await scene.tries(DEAR)).name == "fee_insufficient"

    await until(is_refused, "the end of the grace", GRACE_S + 10)
    assert (await scene.tries(dearer)).paid


async def test_one_peer_has_only_so_many_forwards_pending(scene: Scene) -> None:
    held = []

    def hold(htlc: Any) -> None:
        held.append(htlc)

    decide, scene.payee.decide = scene.payee.decide, hold
    terms = replace(DEAR, fee_base_msat=90_000)
    height = await scene.bitcoind.height()
    sent = [
        scene.payer.send(scene.payee, AMOUNT_MSAT, height=height, terms=terms) for _ in range(3)
    ]
    await until(lambda: len(held) == 3, "three are held back")
    outcome = await scene.tries(terms)
    assert (outcome.name, outcome.hop) == ("temporary_channel_failure", 0)
    assert await scene.limited("peer_pending") == 1
    scene.payee.decide = decide
    for htlc in held:
        event = decide(htlc)
        assert event is not None
        scene.payee.post(event)
    assert all([(await scene.payer.outcome(each)).paid for each in sent])
    assert (await scene.tries(terms)).paid
