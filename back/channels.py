"""All channels of the node: their runners, and the way their effects take into the world."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from back.channel import machine
from back.channel.effects import (
    Alarm,
    Answer,
    ChannelAnnounced,
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
    FundingDeep,
    FundingSpent,
    TransactionConfirmed,
)
from back.channel.model import Channel, Phase
from back.channel.policy import ChannelPolicy
from back.events.channels import ChannelEvents
from back.openings import MAX_PENDING_PER_PEER, ChannelOpening, Openings
from back.runner import ChannelRunner
from shared.errors import CommandError
from shared.fabric import subjects
from shared.fabric.envelope import Reason
from shared.tasks import Tasks
from shared.wire import FundingCreated, OpenChannel, Warning as WarningMessage

if TYPE_CHECKING:
    from back.chain.interface import Chain
    from back.peer import Peer, Peers
    from back.signer.signer import Signer
    from back.storage.committer import Committer, Write
    from back.storage.store import Store

__all__ = ["MAX_PENDING_PER_PEER", "ChannelOpening", "Channels", "PaymentSink"]

log = structlog.get_logger()

STOP_PATIENCE_S = 5.0
COMMIT_PATIENCE_S = 30.0
"""After so long without a commit the connections end whose channels wait for it."""

PaymentEffect = HtlcOffered | HtlcReceived | HtlcFulfilled | HtlcFailed | OfferRefused


class PaymentSink(Protocol):
    """What channels tell to payments and relay."""

    def writes(self, channel: Channel, effect: PaymentEffect) -> "list[Write]":
        """Rows of a fact, for the commit of the step that holds it."""

    def perform(self, runner: ChannelRunner, effect: PaymentEffect) -> None:
        """The fact is durable: act on it. Never blocks, never raises."""


def _unheard(_runner: ChannelRunner) -> None:
    """Nobody listens."""


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
    events: ChannelEvents = field(default_factory=ChannelEvents)
    on_news: Callable[[ChannelRunner], None] = _unheard
    """Told of a channel that became ready, was announced, came, went, or entered another phase."""
    runners: dict[bytes, ChannelRunner] = field(default_factory=dict)
    _by_key: dict[int, ChannelRunner] = field(default_factory=dict)
    height: int = 0
    alarms: int = 0
    """How often money was at risk since the start."""
    openings: Openings = field(init=False)
    _tasks: Tasks = field(default_factory=Tasks)
    _watches: "dict[int, dict[WatchConfirmed | WatchSpent, Callable[[], None]]]" = field(
        default_factory=dict
    )
    """What ends each watch of a channel, by its key index."""
    _deeds: dict[type[Effect], Callable[[ChannelRunner, Any], None]] = field(init=False)

    # --- start ---------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Load every channel that is not over and let it say what must be done again.

        All are there before the first one speaks: an HTLC of one may have to go out on another.
        """
        channels = await self.store.load_channels()
        runners = [self._adopt(replace(channel, policy=self.policy)) for channel in channels]
        for runner in runners:
            # A start takes back what a disconnection would: uncommitted updates, unfunded channels.
            runner.post(Disconnected())
            for effect in machine.resume(runner.channel):
                self._resume(runner, effect)

    def _resume(self, runner: ChannelRunner, effect: Effect) -> None:
        if isinstance(effect, Request):
            raise TypeError(f"resume gave a request: {effect}")
        self.perform(runner, effect)

    def _adopt(self, channel: Channel, first: machine.Step | None = None) -> ChannelRunner:
        runner = ChannelRunner(
            self,
            channel,
            is_stored=first is None,
            on_stop=self._stopped,
            on_link=self._moved,
        )
        peer = self.peers.get(channel.parameters.node_id)
        runner.session = peer.session
        self.runners[channel.channel_id] = runner
        self._by_key[channel.parameters.key_index] = runner
        peer.runners[channel.channel_id] = runner
        self._tasks.spawn(runner.run(first), f"channel {channel.channel_id.hex()}")
        return runner

    async def stop(self) -> None:
        """Stop every runner after what it is doing."""
        for runner in list(self.runners.values()):
            runner.stop()
        await self._tasks.stop(patience_s=STOP_PATIENCE_S)

    def _stopped(self, runner: ChannelRunner) -> None:
        """A runner ended: what is left of its channel is in the database, if anything is."""
        self.openings.ended(runner, "its channel stopped")
        is_ours = self.runners.get(runner.channel.channel_id) is runner
        if is_ours and (runner.channel.phase is Phase.CLOSED or not runner.is_stored):
            self._remove(runner)

    def _remove(self, runner: ChannelRunner) -> None:
        channel = runner.channel
        for unwatch in self._watches.pop(channel.parameters.key_index, {}).values():
            unwatch()
        self.openings.release(runner)
        self._by_key.pop(channel.parameters.key_index, None)
        peer = self.peers.get(channel.parameters.node_id)
        for registry in (self.runners, peer.runners):
            if registry.get(channel.channel_id) is runner:
                del registry[channel.channel_id]
        self.peers.forget_if_idle(peer)

    # --- opening -------------------------------------------------------------------------------

    async def open(self, request: ChannelOpening) -> Channel:
        """Open a channel; see :meth:`Openings.open`."""
        return await self.openings.open(request)

    def open_received(self, peer: "Peer", message: OpenChannel) -> None:
        """A peer proposes a channel."""
        self.openings.proposed(peer, message)

    def funding_created(self, runner: ChannelRunner, message: FundingCreated) -> None:
        """A peer names the funding output of its channel."""
        self.openings.created(runner, message)

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
        rows += self.events.writes(before, step)
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
        self.policy = replace(self.policy, node_id=self.signer.node_id)
        self.openings = Openings(
            self.signer,
            self.chain,
            self.peers,
            self.policy,
            self.runners,
            self._adopt,
            lambda: self.height,
            self._tasks,
        )
        self._deeds = {
            Send: lambda runner, e: runner.send(e.message),
            CloseConnection: lambda runner, e: self._close_connection(runner, e.warning),
            MakeFundingTransaction: self.openings.fund,
            FreeFunding: lambda _, e: self.openings.free(e.transaction),
            Publish: self._publish,
            WatchConfirmed: self._watch_confirmed,
            WatchSpent: self._watch_spent,
            ChannelIdAssigned: self._renamed,
            PhaseChanged: self._phase_changed,
            Alarm: self._alarm,
            ChannelReady: lambda runner, _: self._news("channel_ready", runner),
            ChannelAnnounced: lambda runner, _: self._news("channel_announced", runner),
            ChannelForgotten: lambda runner, e: self._forgotten(runner, e.reason),
        }

    def _close_connection(self, runner: ChannelRunner, warning: str) -> None:
        if runner.session is None:
            return
        if warning:
            runner.send(WarningMessage(channel_id=runner.channel.channel_id, data=warning.encode()))
        runner.session.close(Reason.PROTOCOL, warning)

    def _publish(self, runner: ChannelRunner, effect: Publish) -> None:
        self.chain.publish(effect.transaction, effect.what)
        if effect.what == "funding":
            self.openings.published(runner)

    def _watch_confirmed(self, runner: ChannelRunner, watch: WatchConfirmed) -> None:
        if watch in self._watches_of(runner):
            return

        def told(height: int, index: int, transaction: bytes) -> None:
            if watch.what == "funding":
                runner.post(FundingConfirmed(height, index, transaction))
            elif watch.what == "announcement":
                runner.post(FundingDeep(height, index))
            else:
                runner.post(TransactionConfirmed(watch.txid, height))

        set_watch = self.chain.watch_confirmed(
            watch.txid, watch.script_pubkey, watch.depth, watch.since_height, told
        )
        self._watches_of(runner)[watch] = partial(self.chain.unwatch, set_watch, told)

    def _watch_spent(self, runner: ChannelRunner, watch: WatchSpent) -> None:
        if watch in self._watches_of(runner):
            return

        def told(transaction: bytes, height: int | None) -> None:
            runner.post(FundingSpent(transaction, height))

        set_watch = self.chain.watch_spent(
            watch.outpoint, watch.script_pubkey, watch.since_height, told
        )
        self._watches_of(runner)[watch] = partial(self.chain.unwatch, set_watch, told)

    def _watches_of(
        self, runner: ChannelRunner
    ) -> "dict[WatchConfirmed | WatchSpent, Callable[[], None]]":
        return self._watches.setdefault(runner.channel.parameters.key_index, {})

    def _renamed(self, runner: ChannelRunner, effect: ChannelIdAssigned) -> None:
        peer = self.peers.get(runner.channel.parameters.node_id)
        for registry in (self.runners, peer.runners):
            registry.pop(effect.temporary_channel_id, None)
            registry[effect.channel_id] = runner
        self.openings.release(runner)
        if peer.session is not None:
            peer.session.has_channels_now()
        self.peers.steward.remember(peer)

    def _alarm(self, _runner: ChannelRunner, effect: Alarm) -> None:
        self.alarms += 1
        log.critical("money_at_risk", channel=effect.channel_id.hex(), what=effect.what)

    def _news(self, what: str, runner: ChannelRunner) -> None:
        log.info(what, channel=runner.channel.channel_id.hex())
        self.on_news(runner)

    def _moved(self, runner: ChannelRunner) -> None:
        """A channel came online, or went."""
        self.on_news(runner)
        if told := self.events.link_changed(runner.channel):
            # No channel waits for this, and nobody hears of it where it cannot be stored.
            node_id = runner.channel.parameters.node_id
            done = self.committer.submit(subjects.shard(node_id), told)
            done.add_done_callback(lambda stored: stored.cancelled() or stored.exception())

    def _phase_changed(self, runner: ChannelRunner, effect: PhaseChanged) -> None:
        self.on_news(runner)
        log.info(
            "channel_phase_changed",
            channel=effect.channel_id.hex(),
            before=effect.before.value,
            after=effect.after.value,
            reason=effect.reason,
        )

    def _forgotten(self, runner: ChannelRunner, reason: str) -> None:
        self.openings.ended(runner, reason)
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

    def end_sessions_that_wait(self, now: float) -> None:
        """End connections whose channels wait too long for the database (ARCHITECTURE § 8).

        Args:
            now: monotonic seconds.
        """
        for runner in self.runners.values():
            since = runner.committing_since
            if since is None or now - since < COMMIT_PATIENCE_S or runner.session is None:
                continue
            runner.session.reset(Reason.CLOSED_BY_OWNER, "the database is away")

    # --- look-ups ------------------------------------------------------------------------------

    def by_key_index(self, key_index: int) -> ChannelRunner | None:
        """Return the channel with these keys, if it is not over."""
        return self._by_key.get(key_index)

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
