"""All channels of the node: their runners, and the way their effects take into the world."""

from typing import TYPE_CHECKING, Protocol

import structlog

from back.channel.effects import (
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
from back.channel.model import Channel
from back.runner import ChannelRunner
from back.transactions.transaction import parse_transaction
from shared.chain import Outpoint
from shared.errors import CommandError, LightningError
from shared.fabric.envelope import Reason
from shared.wire import Warning as WarningMessage

if TYPE_CHECKING:
    from back.storage.committer import Write

__all__ = ["ChannelOpening", "Channels", "PaymentSink"]

log = structlog.get_logger()

MAX_UNFUNDED_PER_PEER = 8
"""Openings in flight of one peer: each costs us a row and a key."""

PaymentEffect = HtlcOffered | HtlcReceived | HtlcFulfilled | HtlcFailed | OfferRefused


class PaymentSink(Protocol):
    """What channels tell to payments and relay."""

    def writes(self, channel: Channel, effect: PaymentEffect) -> "list[Write]":
        """Rows of a fact, for the commit of the step that holds it."""

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
            FreeFunding: lambda _, e: self._spawn(
                self.chain.wallet.rollback(e.transaction), "free funding"
            ),
            Publish: self._publish,
            WatchConfirmed: self._watch_confirmed,
            WatchSpent: self._watch_spent,
            ChannelIdAssigned: self._renamed,
            PhaseChanged: self._phase_changed,
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

        self.chain.watch_confirmed(
            watch.txid, watch.script_pubkey, watch.depth, watch.since_height, told
        )

    def _watch_spent(self, runner: ChannelRunner, watch: WatchSpent) -> None:
        def told(transaction: bytes, height: int | None) -> None:
            runner.post(FundingSpent(transaction, height))

        self.chain.watch_spent(watch.outpoint, watch.script_pubkey, watch.since_height, told)

    def _renamed(self, runner: ChannelRunner, effect: ChannelIdAssigned) -> None:
        peer = self.peers.get(runner.channel.parameters.node_id)
        for registry in (self.runners, peer.runners):
            registry.pop(effect.temporary_channel_id, None)
            registry[effect.channel_id] = runner
        if peer.session is not None:
            peer.session.has_channels_now()

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
