"""Openings in the shell: who waits, what is locked, and whose id is whose."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.channels import POLICY, STATIC, Keys, opened, secret
from support.openings import FEATURES, SCRIPT, begun, funded, proposed
from support.waiting import until

from back import openings
from back.chain.wallet import FundingTransaction
from back.channel import funding, machine
from back.channel.effects import MakeFundingTransaction
from back.channel.events import (
    AbandonOpening,
    Event,
    FundingFailed,
    FundingTransactionMade,
    Received,
)
from back.channel.model import Channel, Phase
from back.openings import ChannelOpening, Openings
from back.peer import Peer
from back.transactions.transaction import parse_transaction
from shared.chain import Outpoint
from shared.errors import BitcoindUnavailable, CommandError
from shared.tasks import Tasks
from shared.wire import Error, FundingCreated, Message, OpenChannel

ALICE, BOB = b"\x02" + b"\xaa" * 32, b"\x02" + b"\xbb" * 32
WANTED = MakeFundingTransaction(b"\0\x20" + bytes(32), 1_000_000)


@dataclass
class Wallet:
    """A wallet that waits for ``gate``.

    Attributes:
        failure: what it answers with.
        addresses: how many scripts it gave.
        freed: transactions rolled back.
    """

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    addresses: int = 0
    freed: list[bytes] = field(default_factory=list)

    async def new_script_pubkey(self) -> bytes:
        self.addresses += 1
        await self.gate.wait()
        return SCRIPT

    async def fund(self, _script: bytes, _amount_sat: int) -> FundingTransaction:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return FundingTransaction(b"raw", 0, 100)

    async def rollback(self, transaction: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.freed.append(transaction)


@dataclass
class Runner:
    """What openings ask of a runner."""

    channel: Channel
    is_stopped: bool = False
    posted: list[Event] = field(default_factory=list)

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def request(self, event: Event) -> "asyncio.Future[Channel]":
        done: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        if self.is_stopped:
            done.set_exception(CommandError("the channel is stopped"))
        else:
            self.posted.append(event)
            done.set_result(self.channel)
        return done


@dataclass
class Rig:
    """Openings among fakes."""

    wallet: Wallet = field(default_factory=Wallet)
    tasks: Tasks = field(default_factory=Tasks)
    runners: dict[bytes, Any] = field(default_factory=dict)
    known: dict[bytes, Peer] = field(default_factory=dict)
    said: list[Message] = field(default_factory=list)
    keys: int = 0
    openings: Openings = field(init=False)
    chain: Any = field(init=False)

    def __post_init__(self) -> None:
        self.wallet.gate.set()
        self.chain = SimpleNamespace(
            wallet=self.wallet, feerates=SimpleNamespace(commitment_per_kw=1_000), is_synced=True
        )
        signer = SimpleNamespace(new_key_index=self.next_key, channel_keys=self.channel_keys)
        peers = SimpleNamespace(known=self.known, say=lambda _session, m, **_: self.said.append(m))
        self.openings = Openings(
            signer,  # type: ignore[arg-type]
            self.chain,
            peers,  # type: ignore[arg-type]
            POLICY,
            self.runners,
            self.adopt,  # type: ignore[arg-type]
            lambda: 100,
            self.tasks,
        )

    def next_key(self) -> int:
        self.keys += 1
        return self.keys

    def channel_keys(self, index: int) -> Any:
        return replace(Keys(f"squall {index}").opening_keys(), key_index=index)

    def adopt(self, channel: Channel, _first: machine.Step) -> Runner:
        runner = Runner(channel)
        self.runners[channel.channel_id] = runner
        self.known[channel.parameters.node_id].runners[channel.channel_id] = runner  # type: ignore[assignment]
        return runner

    def peer(self, node_id: bytes = ALICE) -> Peer:
        """A connected peer."""
        peer = self.known[node_id] = Peer(node_id, session=object(), features=FEATURES)  # type: ignore[arg-type]
        return peer

    def proposal(self, name: object = 0, **changes: Any) -> OpenChannel:
        """A good open_channel with a temporary id of its own."""
        _, message = proposed()
        return message.model_copy(update={"temporary_channel_id": secret("id", name), **changes})

    async def settled(self) -> None:
        """Let everything that was spawned come to its end."""
        await until(lambda: not len(self.tasks), "all tasks have ended")

    def refusals(self) -> list[str]:
        assert all(isinstance(m, Error) for m in self.said)
        return [m.data.decode() for m in self.said]  # type: ignore[attr-defined]


REQUEST = ChannelOpening(node_id=ALICE, funding_satoshis=1_000_000, commitment_type=STATIC)


# --- ours ----------------------------------------------------------------------------------------


async def test_opening_needs_the_peer_and_the_chain() -> None:
    rig = Rig()
    with pytest.raises(CommandError, match="not connected"):
        await rig.openings.open(REQUEST)
    assert not rig.known
    rig.peer().session = None
    with pytest.raises(CommandError, match="not connected"):
        await rig.openings.open(REQUEST)
    rig.peer()
    rig.chain.is_synced = False
    with pytest.raises(CommandError, match="does not follow the chain"):
        await rig.openings.open(REQUEST)
    assert not rig.runners


async def test_a_peer_that_leaves_while_the_wallet_thinks_gets_no_proposal() -> None:
    """Nobody would ever tell this channel that its connection is over."""
    rig = Rig()
    peer = rig.peer()
    rig.wallet.gate.clear()
    opening = asyncio.create_task(rig.openings.open(REQUEST))
    await until(lambda: rig.wallet.addresses, "the wallet is asked")
    peer.session = object()  # type: ignore[assignment]
    rig.wallet.gate.set()
    with pytest.raises(CommandError, match="went away"):
        await opening
    assert not rig.runners


async def started(rig: Rig) -> tuple["asyncio.Task[Channel]", Runner]:
    """An opening that waits for the peer."""
    rig.peer()
    opening = asyncio.create_task(rig.openings.open(REQUEST))
    await until(lambda: rig.runners, "the channel is there")
    (runner,) = rig.runners.values()
    return opening, runner


async def test_the_operator_hears_when_the_funding_is_published() -> None:
    rig = Rig()
    opening, runner = await started(rig)
    rig.openings.published(runner)  # type: ignore[arg-type]
    assert await opening is runner.channel
    rig.openings.ended(runner, "later")  # type: ignore[arg-type]


async def test_the_operator_hears_why_an_opening_failed() -> None:
    rig = Rig()
    opening, runner = await started(rig)
    rig.openings.ended(runner, "error of the peer: no")  # type: ignore[arg-type]
    with pytest.raises(CommandError, match="was not opened: error of the peer: no"):
        await opening


async def test_an_operator_that_waits_no_longer_gives_the_opening_up() -> None:
    rig = Rig()
    opening, runner = await started(rig)
    opening.cancel()
    await asyncio.wait({opening})
    assert [type(event) for event in runner.posted] == [AbandonOpening]
    rig.openings.published(runner)  # type: ignore[arg-type]
    assert not rig.openings._outcomes


# --- the wallet's coins --------------------------------------------------------------------------


def waiting_for_funds() -> Runner:
    return Runner(begun()[0].channel)


async def test_the_wallets_transaction_reaches_the_channel() -> None:
    rig, runner = Rig(), waiting_for_funds()
    rig.openings.fund(runner, WANTED)  # type: ignore[arg-type]
    await rig.settled()
    assert runner.posted == [FundingTransactionMade(b"raw", 0)]
    assert not rig.wallet.freed


async def test_coins_of_an_opening_that_ended_meanwhile_are_freed() -> None:
    """Else a peer could lock them all: accept, and leave in the right moment."""
    rig, runner = Rig(), waiting_for_funds()
    rig.wallet.gate.clear()
    rig.openings.fund(runner, WANTED)  # type: ignore[arg-type]
    runner.is_stopped = True
    rig.wallet.gate.set()
    await rig.settled()
    assert rig.wallet.freed == [b"raw"]


@pytest.mark.parametrize("error", [CommandError("no money"), BitcoindUnavailable("away")])
async def test_a_wallet_that_cannot_pay_is_told_to_the_channel(error: Exception) -> None:
    rig, runner = Rig(), waiting_for_funds()
    rig.wallet.failure = error
    rig.openings.fund(runner, WANTED)  # type: ignore[arg-type]
    await rig.settled()
    assert runner.posted == [FundingFailed(str(error))]


async def test_a_wallet_with_a_bug_leaves_no_opening_behind() -> None:
    rig, runner = Rig(), waiting_for_funds()
    rig.wallet.failure = KeyError("fee")
    with capture_logs() as logs:
        rig.openings.fund(runner, WANTED)  # type: ignore[arg-type]
        await rig.settled()
    assert runner.posted == [FundingFailed("an internal error")]
    assert [line["event"] for line in logs] == ["task_failed"]


async def test_coins_that_cannot_be_freed_now_wait_for_the_next_start() -> None:
    rig = Rig()
    rig.wallet.failure = BitcoindUnavailable("away")
    with capture_logs() as logs:
        rig.openings.free(b"raw")
        await rig.settled()
    assert [line["event"] for line in logs] == ["wallet_lock_left"]


def test_inputs_of_unconfirmed_fundings_are_kept() -> None:
    rig = Rig()
    opener, fundee, transaction = funded()
    (coin,) = (i.outpoint for i in parse_transaction(transaction).inputs)
    rig.runners[b"a"], rig.runners[b"b"] = Runner(fundee.channel), Runner(opened()[0])
    assert rig.openings.funding_inputs() == frozenset()
    rig.runners[b"c"] = Runner(opener.channel)
    assert rig.openings.funding_inputs() == {coin}


# --- peers' proposals ----------------------------------------------------------------------------


async def test_a_good_proposal_becomes_a_channel() -> None:
    rig = Rig()
    rig.openings.proposed(rig.peer(), rig.proposal())
    await rig.settled()
    (runner,) = rig.runners.values()
    assert runner.channel.phase is Phase.WAIT_FOR_FUNDING_CREATED
    assert runner.channel.parameters.local.upfront_shutdown_script == SCRIPT
    assert not rig.said


async def test_a_refusal_names_the_opening_and_costs_no_address() -> None:
    rig = Rig()
    rig.openings.proposed(rig.peer(), rig.proposal(to_self_delay=9_999))
    await rig.settled()
    (error,) = rig.said
    assert isinstance(error, Error)
    assert error.channel_id == secret("id", 0)
    assert b"to_self_delay" in error.data
    assert rig.wallet.addresses == 0
    assert not rig.runners


async def test_a_node_that_does_not_follow_the_chain_accepts_nothing() -> None:
    rig = Rig()
    rig.chain.is_synced = False
    rig.openings.proposed(rig.peer(), rig.proposal())
    await rig.settled()
    assert rig.refusals() == ["this node does not follow the chain at the moment"]


@pytest.mark.parametrize("other", [ALICE, BOB], ids=["the same peer", "another peer"])
async def test_one_temporary_id_is_one_opening_also_at_the_same_time(other: bytes) -> None:
    rig = Rig()
    rig.wallet.gate.clear()
    rig.openings.proposed(rig.peer(ALICE), rig.proposal())
    rig.openings.proposed(rig.known.get(other) or rig.peer(other), rig.proposal())
    await until(lambda: rig.said, "the second is refused")
    rig.wallet.gate.set()
    await rig.settled()
    assert len(rig.runners) == 1
    assert "temporary_channel_id is in use" in rig.refusals()[0]


async def test_no_opening_takes_the_id_of_a_channel() -> None:
    rig = Rig()
    victim = Runner(opened()[0])
    rig.runners[secret("id", 0)] = victim
    rig.openings.proposed(rig.peer(), rig.proposal())
    rig.openings.proposed(rig.peer(BOB), rig.proposal(temporary_channel_id=bytes(32)))
    await rig.settled()
    assert len(rig.said) == 2
    assert rig.runners == {secret("id", 0): victim}


async def test_a_peer_that_left_gets_no_channel() -> None:
    rig = Rig()
    peer = rig.peer()
    rig.wallet.gate.clear()
    rig.openings.proposed(peer, rig.proposal())
    await until(lambda: rig.wallet.addresses, "the wallet is asked")
    peer.session = None
    rig.wallet.gate.set()
    await rig.settled()
    assert not rig.runners
    assert not rig.openings._accepting


async def test_openings_of_one_peer_are_bounded_also_those_that_wait_for_the_wallet() -> None:
    rig = Rig()
    peer = rig.peer()
    rig.wallet.gate.clear()
    for number in range(openings.MAX_PENDING_PER_PEER + 3):
        rig.openings.proposed(peer, rig.proposal(number))
    await until(lambda: len(rig.said) == 3, "the rest is refused")
    rig.wallet.gate.set()
    await rig.settled()
    assert len(rig.runners) == openings.MAX_PENDING_PER_PEER
    rig.openings.proposed(peer, rig.proposal("one more"))
    rig.openings.proposed(rig.peer(BOB), rig.proposal("another's"))
    await rig.settled()
    assert len(rig.said) == 4
    assert len(rig.runners) == openings.MAX_PENDING_PER_PEER + 1


async def test_openings_of_all_peers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "MAX_PENDING", 2)
    rig = Rig()
    for number in range(3):
        rig.openings.proposed(rig.peer(bytes([2, number]) + bytes(31)), rig.proposal(number))
        await rig.settled()
    assert len(rig.runners) == 2
    assert "too many openings" in rig.refusals()[0]


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        (lambda c: replace(c, phase=Phase.SHUTDOWN), False),
        (lambda c: replace(c, phase=Phase.NEGOTIATING), False),
        (lambda c: replace(c, phase=Phase.CLOSING), False),
        (lambda c: replace(c, phase=Phase.CLOSED), True),
        (lambda c: replace(c, funding=replace(c.funding, confirmed_height=101)), True),
        (lambda c: replace(c, parameters=replace(c.parameters, is_opener=True)), True),
    ],
    ids=["shut down", "negotiating", "closing", "closed", "confirmed", "ours"],
)
async def test_only_money_frees_a_place(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Channel], Channel], is_free: bool
) -> None:
    """Whatever a peer does with a channel that it never paid for, it stays an opening."""
    monkeypatch.setattr(openings, "MAX_PENDING_PER_PEER", 1)
    rig = Rig()
    peer = rig.peer()
    peer.runners[b"old"] = rig.runners[b"old"] = Runner(change(funded()[1].channel))  # type: ignore[assignment]
    rig.openings.proposed(peer, rig.proposal())
    await rig.settled()
    assert bool(rig.said) is not is_free


# --- whose outpoint ------------------------------------------------------------------------------


def created(index: int = 0) -> FundingCreated:
    return FundingCreated(
        temporary_channel_id=secret("id", 0),
        funding_txid=secret("funding"),
        funding_output_index=index,
        signature=bytes(64),
    )


def fundee() -> Runner:
    return Runner(begun()[1].channel)


def test_a_new_outpoint_reaches_the_channel() -> None:
    rig, runner = Rig(), fundee()
    rig.openings.created(runner, created())  # type: ignore[arg-type]
    assert runner.posted == [Received(created())]


def test_the_outpoint_of_another_channel_ends_the_opening() -> None:
    """channel_id follows from it: the other channel would be lost under its own name."""
    rig, runner = Rig(), fundee()
    rig.runners[funding.channel_id(Outpoint(secret("funding"), 0))] = Runner(opened()[0])
    rig.openings.created(runner, created())  # type: ignore[arg-type]
    assert [type(event) for event in runner.posted] == [AbandonOpening]


def test_a_channel_that_has_its_outpoint_claims_no_other() -> None:
    rig = Rig()
    open_channel, opening = Runner(opened()[0]), fundee()
    for message in (created(), created().model_copy(update={"funding_txid": bytes(32)})):
        rig.openings.created(open_channel, message)  # type: ignore[arg-type]
    # Its own rules refuse it, and say so.
    assert [type(e) for e in open_channel.posted] == [Received, Received]
    rig.openings.created(opening, created())  # type: ignore[arg-type]
    assert [type(e) for e in opening.posted] == [Received]


def test_two_openings_at_once_cannot_name_one_outpoint() -> None:
    rig, first, second = Rig(), fundee(), fundee()
    rig.openings.created(first, created())  # type: ignore[arg-type]
    rig.openings.created(second, created())  # type: ignore[arg-type]
    rig.openings.created(second, created(1))  # type: ignore[arg-type]
    assert [type(e) for e in first.posted] == [Received]
    assert [type(e) for e in second.posted] == [AbandonOpening, Received]
    # What came to nothing may be named again.
    rig.openings.release(first)  # type: ignore[arg-type]
    third = fundee()
    rig.openings.created(third, created())  # type: ignore[arg-type]
    assert [type(e) for e in third.posted] == [Received]
