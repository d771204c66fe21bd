"""All channels of the node: their runners, and the way their effects take into the world."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from back.channel import funding, machine, opening
from back.channel.effects import (
    Alarm,
    Answer,
    ChannelForgotten,
    ChannelIdAssigned,
    ChannelReady,
    CloseConnection,
    Effect,
    FreeFunding,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    MakeFundingTransaction,
    OfferRefused,
    PhaseChanged,
    Publish,
    Request,
    Send,
    WatchConfirmed,
    WatchSpent,
)
from back.channel.events import (
    BlockConnected,
    Disconnected,
    FeerateChanged,
    FundingConfirmed,
    FundingFailed,
    FundingSpent,
    FundingTransactionMade,
    TransactionConfirmed,
)
from back.channel.model import Channel, Phase
from back.channel.policy import ChannelPolicy
from back.runner import ChannelRunner
from back.transactions.commitment import CommitmentType
from back.transactions.transaction import parse_transaction
from shared.chain import Outpoint
from shared.errors import CommandError, LightningError, ProtocolViolation
from shared.fabric import subjects
from shared.fabric.envelope import Reason
from shared.wire import Error, OpenChannel, Warning as WarningMessage

if TYPE_CHECKING:
    from back.chain.interface import Chain
    from back.peer import Peer, Peers
    from back.signer.signer import Signer
    from back.storage.committer import Committer, Write
    from back.storage.store import Store

__all__ = ["ChannelOpening", "Channels", "PaymentSink"]

log = structlog.get_logger()

MAX_PENDING_PER_PEER = 8
"""Openings of one peer to us that are not confirmed: each costs a row and a watch for two weeks."""
MAX_PENDING = 1_000
"""The same, of all peers together."""

PaymentEffect = HtlcOffered | HtlcReceived | HtlcFulfilled | HtlcFailed | OfferRefused


class PaymentSink(Protocol):
    """What channels tell to payments and relay."""

    def writes(self, channel: Channel, effect: PaymentEffect) -> "list[Write]":
        """Rows of a fact, for the commit of the step that holds it."""

    def perform(self, runner: ChannelRunner, effect: PaymentEffect) -> None:
        """The fact is durable: act on it. Never blocks, never raises."""


@dataclass(frozen=True, slots=True)
class ChannelOpening:
    """What the operator asks for; see :class:`opening.Proposal`."""

    node_id: bytes
    funding_satoshis: int
    push_msat: int = 0
    announce: bool = False
    commitment_type: CommitmentType | None = None
    feerate_per_kw: int | None = None


PhaseListener = Callable[[Channel, PhaseChanged], None]


@dataclass(slots=True)
class Channels:
    """Runners by channel id, and their world."""

    signer: "Signer"
    committer: "Committer"
    store: "Store"
    chain: "Chain"
    peers: "Peers"
    policy: ChannelPolicy
    payments: PaymentSink | None = None
    runners: dict[bytes, ChannelRunner] = field(default_factory=dict)
    listeners: list[PhaseListener] = field(default_factory=list)
    height: int = 0
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    _outcomes: "dict[bytes, asyncio.Future[Channel]]" = field(default_factory=dict)
    _watches: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    """What ends the watches of a channel, by its key index."""
    _deeds: dict[type[Effect], Callable[[ChannelRunner, Any], None]] = field(init=False)

    # --- start ---------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Load every channel that is not over and let it say what must be done again."""
        for channel in await self.store.load_channels():
            runner = self._adopt(replace(channel, policy=self.policy))
            # A start takes back what a disconnection would: uncommitted updates, unfunded channels.
            runner.post(Disconnected())
            for effect in machine.resume(runner.channel):
                self._resume(runner, effect)

    def _resume(self, runner: ChannelRunner, effect: Effect) -> None:
        if isinstance(effect, Request):
            raise TypeError(f"resume gave a request: {effect}")
        self.perform(runner, effect)

    def _adopt(self, channel: Channel, first: machine.Step | None = None) -> ChannelRunner:
        runner = ChannelRunner(self, channel, is_stored=first is None, on_stop=self._stopped)
        peer = self.peers.get(channel.parameters.node_id)
        runner.session = peer.session
        self.runners[channel.channel_id] = runner
        peer.runners[channel.channel_id] = runner
        self._spawn(runner.run(first), f"channel {channel.channel_id.hex()}")
        return runner

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Stop every runner after what it is doing."""
        for runner in list(self.runners.values()):
            runner.stop()
        tasks = list(self._tasks)
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=5)
            for task in pending:
                task.cancel()

    def _stopped(self, runner: ChannelRunner) -> None:
        channel_id = runner.channel.channel_id
        if self.runners.get(channel_id) is runner and runner.channel.phase is Phase.CLOSED:
            self._remove(runner)

    def _remove(self, runner: ChannelRunner) -> None:
        channel = runner.channel
        for unwatch in self._watches.pop(channel.parameters.key_index, ()):
            unwatch()
        self.runners.pop(channel.channel_id, None)
        peer = self.peers.get(channel.parameters.node_id)
        peer.runners.pop(channel.channel_id, None)
        self.peers.forget_if_idle(peer)

    # --- opening -------------------------------------------------------------------------------

    def _local_keys(self) -> opening.LocalKeys:
        return self.signer.channel_keys(self.signer.new_key_index())

    async def open(self, request: ChannelOpening) -> Channel:
        """Open a channel and return it once its funding transaction is published.

        Raises:
            CommandError: refused by us, the peer or the wallet; nothing was spent.
        """
        peer = self.peers.get(request.node_id)
        if peer.session is None:
            raise CommandError("the peer is not connected")
        shutdown_script = await self.chain.wallet.new_script_pubkey()
        temporary_channel_id = secrets.token_bytes(32)
        feerate = request.feerate_per_kw or self.chain.feerates.commitment_per_kw
        proposal = opening.Proposal(
            node_id=request.node_id,
            temporary_channel_id=temporary_channel_id,
            funding_satoshis=request.funding_satoshis,
            push_msat=request.push_msat,
            announce=request.announce,
            features=peer.features,
            feerate_per_kw=feerate,
            height=self.height,
            local_alias=self._alias(),
            shutdown_script=shutdown_script,
            commitment_type=request.commitment_type,
        )
        step = opening.propose(proposal, self._local_keys(), self.policy)
        outcome: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._outcomes[temporary_channel_id] = outcome
        self._adopt(step.channel, step)
        return await outcome

    def open_received(self, peer: "Peer", message: OpenChannel) -> None:
        """A peer proposes a channel."""
        self._spawn(self._accept(peer, message), f"accept {message.temporary_channel_id.hex()}")

    async def _accept(self, peer: "Peer", message: OpenChannel) -> None:
        session = peer.session
        try:
            self._check_room(peer, message)
            shutdown_script = await self.chain.wallet.new_script_pubkey()
            reception = opening.Reception(
                node_id=peer.node_id,
                features=peer.features,
                feerate_per_kw=self.chain.feerates.commitment_per_kw,
                height=self.height,
                local_alias=self._alias(),
                shutdown_script=shutdown_script,
            )
            step = opening.accept(message, reception, self._local_keys(), self.policy)
        except LightningError as error:
            log.info("open_channel_refused", peer=peer.node_id.hex(), why=str(error))
            peer.send(Error(channel_id=message.temporary_channel_id, data=str(error).encode()))
            return
        if peer.session is session and session is not None:
            self._adopt(step.channel, step)

    def _check_room(self, peer: "Peer", message: OpenChannel) -> None:
        if message.temporary_channel_id in peer.runners:
            raise ProtocolViolation("temporary_channel_id is in use", bolt="BOLT 2 § open_channel")
        if sum(map(_is_pending, peer.runners.values())) >= MAX_PENDING_PER_PEER:
            raise CommandError(f"{MAX_PENDING_PER_PEER} openings are under way already")
        if sum(map(_is_pending, self.runners.values())) >= MAX_PENDING:
            raise CommandError("this node has too many openings under way at the moment")
        if not self.chain.is_synced:
            raise CommandError("this node does not follow the chain at the moment")

    def _alias(self) -> int:
        """A random scid_alias in a range of heights that no block of ours will have."""
        taken = {r.channel.local_alias for r in self.runners.values()}
        while True:
            alias = (0xF00000 + secrets.randbelow(0x0FFFFF)) << 40 | secrets.randbits(40)
            if alias not in taken:
                return alias

    # --- World: signer and storage -------------------------------------------------------------

    def answer(self, channel: Channel, request: Request) -> Answer:
        """Let the signer answer one request of a step."""
        return self.signer.answer(channel, request)

    def writes(self, before: Channel | None, step: machine.Step) -> "list[Write]":
        """Rows of the new value and of the step's facts."""
        rows = self.store.channel_writes(before, step.channel, step.removed)
        if self.payments is not None:
            for effect in step.effects:
                if isinstance(effect, PaymentEffect):
                    rows += self.payments.writes(step.channel, effect)
        return rows

    def reloaded(self, channel: Channel) -> None:
        """A step was undone: the signer forgets that it answered for it."""
        self.signer.reloaded(channel.parameters.key_index)

    async def commit(self, channel: Channel, writes: "list[Write]") -> None:
        """Make it durable, fenced by the lease of the peer's shard."""
        await self.committer.submit(subjects.shard(channel.parameters.node_id), writes)

    # --- World: effects ------------------------------------------------------------------------

    def perform(self, runner: ChannelRunner, effect: Effect) -> None:
        """Do one effect of a durable step."""
        if isinstance(effect, PaymentEffect):
            if self.payments is not None:
                self.payments.perform(runner, effect)
            return
        deed = self._deeds.get(type(effect))
        if deed is None:
            raise TypeError(f"{type(effect).__name__} cannot be performed")
        deed(runner, effect)

    def __post_init__(self) -> None:
        """Declare once what is done for each effect."""
        self._deeds = {
            Send: lambda runner, e: runner.send(e.message),
            CloseConnection: lambda runner, e: self._close_connection(runner, e.warning),
            MakeFundingTransaction: lambda runner, e: self._spawn(self._fund(runner, e), "fund"),
            FreeFunding: lambda _, e: self._spawn(self._free(e.transaction), "free funding"),
            Publish: self._publish,
            WatchConfirmed: self._watch_confirmed,
            WatchSpent: self._watch_spent,
            ChannelIdAssigned: self._renamed,
            PhaseChanged: self._phase_changed,
            Alarm: lambda _, e: log.critical(
                "money_at_risk", channel=e.channel_id.hex(), what=e.what
            ),
            ChannelReady: lambda _, e: log.info("channel_ready", channel=e.channel_id.hex()),
            ChannelForgotten: lambda runner, e: self._forgotten(runner, e.reason),
        }

    def _close_connection(self, runner: ChannelRunner, warning: str) -> None:
        if runner.session is None:
            return
        if warning:
            runner.send(WarningMessage(channel_id=runner.channel.channel_id, data=warning.encode()))
        runner.session.close(Reason.PROTOCOL, warning)

    async def _fund(self, runner: ChannelRunner, effect: MakeFundingTransaction) -> None:
        try:
            funding = await self.chain.wallet.fund(effect.script_pubkey, effect.amount_sat)
        except LightningError as error:
            runner.post(FundingFailed(str(error)))
            return
        runner.post(FundingTransactionMade(funding.transaction, funding.output_index))

    async def _free(self, transaction: bytes) -> None:
        """Free a transaction's inputs; where bitcoind is away, the next start does."""
        try:
            await self.chain.wallet.rollback(transaction)
        except LightningError as error:
            log.warning("wallet_lock_left", error=str(error))

    def _publish(self, runner: ChannelRunner, effect: Publish) -> None:
        self.chain.publish(effect.transaction, effect.what)
        if effect.what != "funding":
            return
        outcome = self._outcomes.pop(runner.channel.parameters.temporary_channel_id, None)
        if outcome is not None and not outcome.done():
            outcome.set_result(runner.channel)

    def _watch_confirmed(self, runner: ChannelRunner, watch: WatchConfirmed) -> None:
        def told(height: int, index: int, transaction: bytes) -> None:
            if watch.what == "funding":
                runner.post(FundingConfirmed(height, index, transaction))
            else:
                runner.post(TransactionConfirmed(watch.txid, height))

        set_watch = self.chain.watch_confirmed(
            watch.txid, watch.script_pubkey, watch.depth, watch.since_height, told
        )
        self._unwatch_at_end(runner, partial(self.chain.unwatch, set_watch, told))

    def _watch_spent(self, runner: ChannelRunner, watch: WatchSpent) -> None:
        def told(transaction: bytes, height: int | None) -> None:
            runner.post(FundingSpent(transaction, height))

        set_watch = self.chain.watch_spent(
            watch.outpoint, watch.script_pubkey, watch.since_height, told
        )
        self._unwatch_at_end(runner, partial(self.chain.unwatch, set_watch, told))

    def _unwatch_at_end(self, runner: ChannelRunner, unwatch: Callable[[], None]) -> None:
        key_index = runner.channel.parameters.key_index
        self._watches.setdefault(key_index, []).append(unwatch)

    def _renamed(self, runner: ChannelRunner, effect: ChannelIdAssigned) -> None:
        peer = self.peers.get(runner.channel.parameters.node_id)
        for registry in (self.runners, peer.runners):
            registry.pop(effect.temporary_channel_id, None)
            registry[effect.channel_id] = runner
        if peer.session is not None:
            peer.session.has_channels_now()
        self.peers.steward.remember(peer)

    def _phase_changed(self, runner: ChannelRunner, effect: PhaseChanged) -> None:
        log.info(
            "channel_phase_changed",
            channel=effect.channel_id.hex(),
            before=effect.before.value,
            after=effect.after.value,
            reason=effect.reason,
        )
        for listener in list(self.listeners):
            listener(runner.channel, effect)

    def _forgotten(self, runner: ChannelRunner, reason: str) -> None:
        outcome = self._outcomes.pop(runner.channel.parameters.temporary_channel_id, None)
        if outcome is not None and not outcome.done():
            outcome.set_exception(CommandError(f"the channel was not opened: {reason}"))
        self._remove(runner)
        runner.stop()

    # --- the world's news, for all -------------------------------------------------------------

    def block_connected(self, height: int) -> None:
        """Tell every channel."""
        self.height = height
        for runner in list(self.runners.values()):
            runner.post(BlockConnected(height))

    def feerate_changed(self, feerate_per_kw: int) -> None:
        """Tell every channel."""
        for runner in list(self.runners.values()):
            runner.post(FeerateChanged(feerate_per_kw))

    def everybody_left(self) -> None:
        """The owner gives its shards up: every connection is over."""
        for runner in list(self.runners.values()):
            runner.post(Disconnected())

    def funding_inputs(self) -> frozenset[Outpoint]:
        """Inputs of funding transactions that are not confirmed: the wallet must keep them."""
        inputs: set[Outpoint] = set()
        for runner in self.runners.values():
            funding = runner.channel.funding
            if funding is not None and funding.transaction and funding.confirmed_height is None:
                transaction = parse_transaction(funding.transaction)
                inputs.update(i.outpoint for i in transaction.inputs)
        return frozenset(inputs)

    # --- look-ups ------------------------------------------------------------------------------

    def find(self, identifier: str) -> ChannelRunner:
        """Find a channel by channel_id (hex) or short channel id or alias.

        Raises:
            CommandError: there is none.
        """
        text = identifier.lower()
        for runner in self.runners.values():
            channel = runner.channel
            if channel.channel_id.hex() == text:
                return runner
            scid = channel.funding.short_channel_id if channel.funding else None
            for number in (scid, channel.local_alias):
                if number is not None and text in {
                    str(number),
                    f"{number >> 40}x{number >> 16 & 0xFFFFFF}x{number & 0xFFFF}",
                }:
                    return runner
        raise CommandError(f"no channel {identifier}")


def _is_pending(runner: ChannelRunner) -> bool:
    """Whether somebody opens this channel to us and has not shown any money yet."""
    phase = runner.channel.phase
    return not runner.channel.parameters.is_opener and (
        phase in funding.UNFUNDED or phase is Phase.WAIT_FOR_FUNDING_CONFIRMED
    )
