"""What a payer hears of a whole node that cannot forward (BOLT 4 § Failure Messages)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio
from support.bitcoind import bitcoind  # noqa: F401 - a fixture
from support.lightning_peer import FEATURES
from support.relay_ends import TERMS, End, Outcome
from support.squall import squall_node
from support.waiting import until

from back.chain.regtest import Regtest
from back.channel.events import FailMalformedHtlc
from back.channel.model import Htlc
from back.channel.policy import channel_type_bits
from back.demo.cluster import Cluster
from back.transactions.commitment import CommitmentType
from shared.crypto.failures import INVALID_ONION_HMAC
from shared.crypto.payload import Payload
from shared.features import Feature, FeatureSet
from shared.wire import AcceptChannel, FundingSigned

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MINIMUM_MSAT = 5_000
AMOUNT_MSAT = 3_000_000
FUNDING_SAT = 1_000_000
SECRETIVE = FeatureSet.of(
    optional=[f for f in Feature if FEATURES.supports(f)] + [Feature.option_scid_alias]
)
"""Features of the peers' `init`."""
UNKNOWN_SCID = 1 << 40 | 1 << 16


@dataclass
class Scene:
    """A node, a payer and two payees: a common one, and one whose channel has only an alias."""

    node: Cluster
    bitcoind: Regtest
    payer: End
    payee: End
    hidden: End
    height: int = 0

    async def tries(self, **what: Any) -> Outcome:
        """Have an HTLC forwarded to the payee; return how it ended."""
        payee = what.pop("payee", self.payee)
        height = await self.bitcoind.height()
        sent = self.payer.send(payee, what.pop("amount_msat", AMOUNT_MSAT), height=height, **what)
        return await self.payer.outcome(sent)

    async def fails(self, name: str, *, hop: int = 0, **what: Any) -> Outcome:
        """Have an HTLC forwarded, which must fail so."""
        outcome = await self.tries(**what)
        assert not outcome.paid
        assert (outcome.name, outcome.hop) == (name, hop), outcome
        return outcome

    async def works(self) -> None:
        """An honest HTLC is forwarded and paid."""
        assert (await self.tries()).paid


async def opened(end: End, *, hidden: bool = False) -> End:
    """Open an anchor channel from a peer; ``hidden``: its type has option_scid_alias."""
    await end.connect()
    message = await end.propose(kind=CommitmentType.ANCHORS_ZERO_FEE_HTLC)
    changes: dict[str, Any] = {"htlc_minimum_msat": MINIMUM_MSAT}
    if hidden:
        kind = channel_type_bits(CommitmentType.ANCHORS_ZERO_FEE_HTLC, scid_alias=True)
        changes["channel_type"] = kind
        parameters = replace(end.core.channel.parameters, channel_type=kind)
        end.core.channel = replace(end.core.channel, parameters=parameters)
    await end.say(message.model_copy(update=changes))
    await end.say(await end.fund(await end.hear(AcceptChannel)))
    end.answer(await end.hear(FundingSigned))
    await end.say(await end.confirm())
    await end.becomes("NORMAL")
    end.core.effects.clear()
    end.begin()
    await end.is_online()
    await until(lambda: end.core.channel.remote_alias, "the node's alias")
    return end


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Scene]:
    """One node with its peers for all tests of this file."""
    folder = tmp_path_factory.mktemp("relay-codes")
    settings = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(
            squall_node(bitcoind, folder, settings=settings, fund_btc=1)
        )
        ends = [End(node, bitcoind, n, features=SECRETIVE) for n in ("payer", "payee", "hidden")]
        for end in ends:
            stack.push_async_callback(end.halt)
            await opened(end, hidden=end.name.startswith("hidden"))
        yield Scene(node, bitcoind, *ends)


async def test_what_is_paid_for_is_forwarded_by_real_name_and_by_alias(scene: Scene) -> None:
    before = scene.payer.core.channel.local_msat, scene.payee.core.channel.local_msat
    for scid in (scene.payee.scid_of(), scene.payee.alias_of()):
        assert (await scene.tries(scid=scid)).paid
    await scene.payer.all_ended()
    await scene.payee.all_ended()
    fee = TERMS.fee_msat(AMOUNT_MSAT)
    after = scene.payer.core.channel.local_msat, scene.payee.core.channel.local_msat
    assert after[0] == before[0] - 2 * (AMOUNT_MSAT + fee)
    assert after[1] == before[1] + 2 * AMOUNT_MSAT


async def test_a_channel_that_hides_its_name_is_found_by_its_alias_alone(scene: Scene) -> None:
    assert (await scene.tries(payee=scene.hidden, scid=scene.hidden.alias_of())).paid
    await scene.fails("unknown_next_peer", payee=scene.hidden, scid=scene.hidden.scid_of())


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("unknown_next_peer", {"scid": UNKNOWN_SCID}),
        ("amount_below_minimum", {"amount_msat": MINIMUM_MSAT - 1}),
        ("fee_insufficient", {"fee_msat": TERMS.fee_msat(AMOUNT_MSAT) - 1}),
        ("fee_insufficient", {"fee_msat": 0}),
        ("incorrect_cltv_expiry", {"delta": TERMS.cltv_expiry_delta - 1}),
        ("incorrect_cltv_expiry", {"delta": 0}),
        ("expiry_too_soon", {"final_delta": 1}),
        ("expiry_too_far", {"final_delta": 2_016 - TERMS.cltv_expiry_delta + 1}),
        ("temporary_channel_failure", {"amount_msat": 395_000_000, "fee_msat": 4_000_000}),
    ],
)
async def test_each_rule_that_is_not_kept_has_its_code(
    scene: Scene, name: str, what: dict[str, Any]
) -> None:
    before = len(scene.payee.received)
    outcome = await scene.fails(name, **what)
    assert outcome.failure is not None
    assert not dict(outcome.failure.fields).get("channel_update"), "an update tells who asks"
    assert len(scene.payee.received) == before
    await scene.works()


async def test_a_payload_without_an_amount_is_named_invalid(scene: Scene) -> None:
    height = await scene.bitcoind.height()
    payload = Payload(outgoing_cltv_value=height + 42, short_channel_id=scene.payee.scid_of())
    await scene.fails("invalid_onion_payload", payload=payload)


async def test_a_peer_that_is_away_is_a_passing_trouble_until_it_is_back(scene: Scene) -> None:
    await scene.payee.stay_away()

    async def is_gone() -> bool:
        return await scene.payee.state() == "OFFLINE"

    await until(is_gone, "the node knows that the payee is gone")
    await scene.fails("temporary_channel_failure")
    await scene.payee.come_back()
    await scene.payee.becomes("NORMAL")
    await scene.works()


def with_decision(end: End, decide: Callable[[Htlc], Any]) -> None:
    """Have a peer decide otherwise for the next HTLC."""

    def once(htlc: Htlc) -> Any:
        end.decide = end.claim_or_fail
        return decide(htlc)

    end.decide = once


async def test_a_payees_failure_comes_back_as_its_own(scene: Scene) -> None:
    await scene.fails("incorrect_or_unknown_payment_details", hop=1, is_known=False)
    with_decision(scene.payee, lambda htlc: scene.payee.failing(htlc, "mpp_timeout"))
    await scene.fails("mpp_timeout", hop=1)


async def test_a_peer_that_cannot_read_the_onion_is_told_as_ours(scene: Scene) -> None:
    """BOLT 2 § Removing an HTLC: update_fail_malformed_htlc becomes an error onion of ours."""

    def malformed(htlc: Htlc) -> FailMalformedHtlc:
        digest = sha256(htlc.onion_routing_packet).digest()
        return FailMalformedHtlc(htlc.id, digest, INVALID_ONION_HMAC)

    with_decision(scene.payee, malformed)
    await scene.fails("invalid_onion_hmac")


async def test_what_is_held_downstream_is_held_upstream_and_settled_at_once(scene: Scene) -> None:
    held: asyncio.Future[Htlc] = asyncio.get_running_loop().create_future()
    with_decision(scene.payee, held.set_result)
    height = await scene.bitcoind.height()
    sent = scene.payer.send(scene.payee, AMOUNT_MSAT, height=height)
    htlc = await asyncio.wait_for(held, 10)
    assert sent.origin not in scene.payer.outcomes
    scene.payee.post(scene.payee.claim_or_fail(htlc))
    assert (await scene.payer.outcome(sent)).paid


async def test_a_channel_that_closes_takes_nothing_more(scene: Scene) -> None:
    """The last test: the payee's channel is gone after it."""
    held: asyncio.Future[Htlc] = asyncio.get_running_loop().create_future()
    with_decision(scene.payee, held.set_result)
    height = await scene.bitcoind.height()
    sent = scene.payer.send(scene.payee, AMOUNT_MSAT, height=height)
    htlc = await asyncio.wait_for(held, 10)
    # The HTLC keeps the channel from closing before the next one is tried.
    await scene.node.call("close", channelId=scene.payee.channel_id.hex())
    await scene.payee.becomes("SHUTDOWN")
    await scene.fails("permanent_channel_failure")
    scene.payee.post(scene.payee.claim_or_fail(htlc))
    assert (await scene.payer.outcome(sent)).paid
