"""Payments of Squall to Squall through LDK: route hints, keysend, and the failures on the way."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.ldk import Ldk, ldk_node, needs_ldk
from support.squall import balances_agree, normal, open_to_ldk, pay, squall_node
from support.waiting import until

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until as whatever_fails
from shared import bolt11
from shared.bolt11 import RouteHint
from shared.chain import REGTEST
from shared.crypto.signature import sign_recoverable
from shared.features import Feature, FeatureSet

pytestmark = [needs_ldk, pytest.mark.timeout(300)]

SAT = 1_000_000
FEE_BASE_MSAT, FEE_PPM, CLTV_DELTA = 1_000, 100, 72
"""Of the LDK peer."""
FEATURES = FeatureSet.of(required=[Feature.var_onion_optin, Feature.payment_secret])
QUICK = {"SQUALL_FRONT_GOSSIP_FLUSH_S": "0.5"}
TOO_SOON_TRIES = 12


@dataclass
class Around:
    """An LDK node between two of ours, each with a channel to it."""

    alice: Cluster
    ldk: Ldk
    bob: Cluster

    def nodes(self) -> tuple[tuple[Cluster, Cluster], tuple[Cluster, Cluster]]:
        """Payer and payee, both ways."""
        return (self.alice, self.bob), (self.bob, self.alice)


async def around(
    stack: AsyncExitStack,
    bitcoind: Regtest,  # noqa: F811
    folder: Path,
    **opening: Any,
) -> Around:
    """Run the three; ``opening``: of the channels, private by default."""
    ldk = await stack.enter_async_context(ldk_node(bitcoind, folder / "ldk", anchors=True))
    nodes = []
    for name in ("alice", "bob"):
        node = await stack.enter_async_context(
            squall_node(bitcoind, folder, name, fund_btc=1, front_settings=QUICK)
        )
        await open_to_ldk(bitcoind, node, ldk, SAT, pushMsat=SAT * 500, **opening)
        nodes.append(node)
    return Around(nodes[0], ldk, nodes[1])


@pytest.fixture
async def private(bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[Around]:  # noqa: F811
    """The three with private channels."""
    async with AsyncExitStack() as stack:
        yield await around(stack, bitcoind, tmp_path)


@pytest.fixture
async def public(bitcoind: Regtest, tmp_path: Path) -> AsyncIterator[Around]:  # noqa: F811
    """The three with announced channels that all know."""
    async with AsyncExitStack() as stack:
        scene = await around(stack, bitcoind, tmp_path, announceChannel="true")

        for node, other in scene.nodes():

            async def route(node: Cluster = node, other: Cluster = other) -> object:
                return await node.call("findroutetonode", nodeId=other.node_id, amountMsat=10**7)

            await whatever_fails("a route through the table", route, 60)
        yield scene


async def bill(payee: Cluster, amount_msat: int) -> dict[str, Any]:
    """Have a node make an invoice, once it can name the way to it."""

    async def hinted() -> dict[str, Any]:
        made = await payee.call("createinvoice", amountMsat=amount_msat, description="between")
        return dict(made) if bolt11.decode(made["serialized"]).routes else {}

    return dict(await until(hinted, "an invoice with route hints"))


async def codes(payer: Cluster, invoice: str) -> list[str]:
    """Pay in vain; return what the failures say, in order."""
    failed = await pay(payer, invoice)
    assert failed["type"] == "payment-failed", failed
    return [str(failure) for failure in failed["failures"]]


async def test_private_channels_are_found_by_route_hints_both_ways(private: Around) -> None:
    for payer, payee in private.nodes():
        for amount_msat in (1_000, 3_000_000, 200_000_000):
            made = await bill(payee, amount_msat)
            paid = await pay(payer, made["serialized"])
            assert paid["type"] == "payment-sent", paid
            assert paid["fees"] == FEE_BASE_MSAT + amount_msat * FEE_PPM // 1_000_000
            got = await payee.call("getreceivedinfo", paymentHash=made["paymentHash"])
            assert got["status"]["type"] == "received"
    forwarded = await private.ldk("forwards")
    assert len(forwarded) == 6


async def test_keysend_goes_through_ldk_and_to_ldk_both_ways(public: Around) -> None:
    ldk = public.ldk
    for payer, payee in public.nodes():
        payment_id = await payer.call("sendtonode", nodeId=payee.node_id, amountMsat=7_000_000)
        told = await ended(payer, payment_id)
        assert told == "sent", (await payer.call("getsentinfo", id=payment_id))[0]["status"]
    payment_id = await public.alice.call("sendtonode", nodeId=ldk.node_id, amountMsat=2_000_000)
    assert await ended(public.alice, payment_id) == "sent"
    (got,) = [p for p in await ldk("payments") if p["direction"] == "in"]
    assert (got["status"], got["purpose"]) == ("claimed", "SpontaneousPayment")
    for node in (public.alice, public.bob):
        paid = await ldk("keysend", node_id=node.node_id, msat=1_500_000)
        assert paid["status"] == "sent", paid


async def ended(node: Cluster, payment_id: str) -> str:
    """Wait for the end of a payment."""

    async def state() -> str:
        told = await node.call("getsentinfo", id=payment_id)
        states = {attempt["status"]["type"] for attempt in told}
        return "" if "pending" in states or not states else "/".join(sorted(states))

    return str(await until(state, "the end of a payment"))


async def test_a_recipient_that_refuses_is_heard_through_two_nodes(private: Around) -> None:
    """alice → LDK, which refuses; and a payment that bob does not know, through LDK."""
    refused = await private.ldk("invoice", msat=2_000_000, mode="fail")
    (told,) = await codes(private.alice, refused["bolt11"])
    assert "incorrect_or_unknown_payment_details" in told
    made = await bill(private.bob, 3_000_000)
    await private.bob.call("deleteinvoice", paymentHash=made["paymentHash"])
    (told,) = await codes(private.alice, made["serialized"])
    assert "incorrect_or_unknown_payment_details" in told
    assert private.bob.node_id in told


def invoice_of(hint: RouteHint, *, final_delta: int = 18) -> str:
    """Make an invoice, behind a hint, of a node that does not exist."""
    private = secrets.token_bytes(32)
    invoice = bolt11.Invoice(
        chain=REGTEST,
        timestamp=int(time.time()),
        payment_hash=secrets.token_bytes(32),
        payment_secret=secrets.token_bytes(32),
        amount_msat=2_000_000,
        description="by hand",
        min_final_cltv_expiry_delta=final_delta,
        features=FEATURES,
        routes=((hint,),),
    )
    return bolt11.assemble(invoice, sign_recoverable(private, bolt11.signing_digest(invoice)))


async def test_ldks_failures_are_understood(private: Around) -> None:
    made = bolt11.decode((await bill(private.bob, 1_000_000))["serialized"])
    hint = made.routes[0][0]
    assert hint.node_id.hex() == private.ldk.node_id
    assert (hint.fee_base_msat, hint.cltv_expiry_delta) == (FEE_BASE_MSAT, CLTV_DELTA)
    wrong = {
        "unknown_next_peer": replace(hint, short_channel_id=hint.short_channel_id ^ 1),
        "fee_insufficient": replace(hint, fee_base_msat=10),
        "incorrect_cltv_expiry": replace(hint, cltv_expiry_delta=20),
    }
    for name, other in wrong.items():
        told = await codes(private.alice, invoice_of(other))
        assert any(name in failure for failure in told), (name, told)
        assert all(private.ldk.node_id in failure for failure in told if name in failure)
    # None of it keeps an honest payment from its way.
    made_again = await bill(private.bob, 1_000_000)
    assert (await pay(private.alice, made_again["serialized"]))["type"] == "payment-sent"
    await balances_agree(private.alice, private.ldk)
    # Our payer adds some blocks by chance, so that only some are too soon; what it learns from the
    # others, of which the last node can make nothing, it forgets when it is started again.
    for _ in range(TOO_SOON_TRIES):
        told = await codes(private.alice, invoice_of(hint, final_delta=0))
        if any("expiry_too_soon" in failure for failure in told):
            return
        assert private.alice.back is not None
        await private.alice.back.stop()
        await private.alice.start_back()
        await normal(private.alice, private.ldk.node_id)
        await private.ldk.usable_channels(2)
    pytest.fail(f"never too soon; last {told}")
