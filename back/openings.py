"""Channels in the making: what the operator asks for, and what peers propose.

The rules are in :mod:`back.channel.opening`. Here is what they cannot know: who is connected, the
wallet, how much is under way already, and who waits for the outcome.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from back.channel import funding, machine, opening
from back.channel.events import (
    AbandonOpening,
    FundingFailed,
    FundingTransactionMade,
    Received,
)
from back.channel.model import Channel, Phase
from back.channel.rules import printable
from back.transactions.transaction import parse_transaction
from shared.chain import Outpoint
from shared.errors import CommandError, LightningError, ProtocolViolation
from shared.wire import Error, FundingCreated, OpenChannel

if TYPE_CHECKING:
    from back.chain.interface import Chain
    from back.channel.effects import MakeFundingTransaction
    from back.channel.policy import ChannelPolicy
    from back.peer import Peer, Peers
    from back.runner import ChannelRunner
    from back.signer.signer import Signer
    from back.transactions.commitment import CommitmentType
    from shared.tasks import Tasks

__all__ = ["ChannelOpening", "Openings"]

log = structlog.get_logger()

MAX_PENDING_PER_PEER = 8
"""Openings of one peer to us that are not confirmed: each costs a row and a watch for two weeks."""
MAX_PENDING = 1_000
"""The same, of all peers together."""


@dataclass(frozen=True, slots=True)
class ChannelOpening:
    """What the operator asks for; see :class:`opening.Proposal`."""

    node_id: bytes
    funding_satoshis: int
    push_msat: int = 0
    announce: bool = False
    commitment_type: "CommitmentType | None" = None
    feerate_per_kw: int | None = None


@dataclass(slots=True)
class Openings:
    """Openings of both sides.

    Attributes:
        runners: all channels of the node, by present channel id.
        adopt: starts to run a channel that was just made.
        height: of the chain.
        tasks: where what takes time runs.
    """

    signer: "Signer"
    chain: "Chain"
    peers: "Peers"
    policy: "ChannelPolicy"
    runners: "dict[bytes, ChannelRunner]"
    adopt: "Callable[[Channel, machine.Step], ChannelRunner]"
    height: Callable[[], int]
    tasks: "Tasks"
    _outcomes: "dict[bytes, asyncio.Future[Channel]]" = field(default_factory=dict)
    """Who waits, by temporary channel id."""
    _accepting: dict[bytes, bytes] = field(default_factory=dict)
    """Proposals that wait for the wallet: peer by temporary channel id."""
    _claimed: "dict[bytes, ChannelRunner]" = field(default_factory=dict)
    """Channel ids that a `funding_created` names and that are not in force yet."""

    # --- ours ----------------------------------------------------------------------------------

    async def open(self, request: ChannelOpening) -> Channel:
        """Open a channel and return it once its funding transaction is published.

        Who stops waiting gives the opening up, unless the funding is on its way already.

        Raises:
            CommandError: refused by us, the peer or the wallet; nothing was spent.
        """
        peer = self.peers.known.get(request.node_id)
        if peer is None or peer.session is None:
            raise CommandError("the peer is not connected")
        if not self.chain.is_synced:
            raise CommandError("this node does not follow the chain at the moment")
        session = peer.session
        shutdown_script = await self.chain.wallet.new_script_pubkey()
        if peer.session is not session:
            raise CommandError("the peer went away")
        temporary_channel_id = secrets.token_bytes(32)
        proposal = opening.Proposal(
            node_id=request.node_id,
            temporary_channel_id=temporary_channel_id,
            funding_satoshis=request.funding_satoshis,
            push_msat=request.push_msat,
            announce=request.announce,
            features=peer.features,
            feerate_per_kw=request.feerate_per_kw or self.chain.feerates.commitment_per_kw,
            height=self.height(),
            local_alias=self._alias(),
            shutdown_script=shutdown_script,
            commitment_type=request.commitment_type,
        )
        step = opening.propose(proposal, self._local_keys(), self.policy)
        outcome: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._outcomes[temporary_channel_id] = outcome
        runner = self.adopt(step.channel, step)
        try:
            return await outcome
        except asyncio.CancelledError:
            runner.post(AbandonOpening("the operator did not wait any longer"))
            raise
        finally:
            self._outcomes.pop(temporary_channel_id, None)

    def published(self, runner: "ChannelRunner") -> None:
        """The funding transaction is on its way."""
        outcome = self._outcomes.get(runner.channel.parameters.temporary_channel_id)
        if outcome is not None and not outcome.done():
            outcome.set_result(runner.channel)

    def ended(self, runner: "ChannelRunner", reason: str) -> None:
        """The channel is over, or its runner is; nothing if it was open already."""
        outcome = self._outcomes.get(runner.channel.parameters.temporary_channel_id)
        if outcome is not None and not outcome.done():
            outcome.set_exception(CommandError(f"the channel was not opened: {reason}"))

    def fund(self, runner: "ChannelRunner", effect: "MakeFundingTransaction") -> None:
        """Have the wallet make the funding transaction."""
        self.tasks.spawn(self._fund(runner, effect), "fund")

    async def _fund(self, runner: "ChannelRunner", effect: "MakeFundingTransaction") -> None:
        try:
            made = await self.chain.wallet.fund(effect.script_pubkey, effect.amount_sat)
        except LightningError as error:
            runner.post(FundingFailed(str(error)))
            return
        except Exception:
            runner.post(FundingFailed("an internal error"))
            raise
        try:
            await runner.request(FundingTransactionMade(made.transaction, made.output_index))
        except CommandError:
            # The opening ended meanwhile: a coin that stays locked is a coin less.
            await self._free(made.transaction)

    def free(self, transaction: bytes) -> None:
        """Unlock the inputs of a funding transaction that will never be published."""
        self.tasks.spawn(self._free(transaction), "free funding")

    async def _free(self, transaction: bytes) -> None:
        try:
            await self.chain.wallet.rollback(transaction)
        except LightningError as error:
            # Where bitcoind is away, the next start does it.
            log.warning("wallet_lock_left", error=str(error))

    # --- a peer's ------------------------------------------------------------------------------

    def proposed(self, peer: "Peer", message: OpenChannel) -> None:
        """A peer proposes a channel."""
        self.tasks.spawn(
            self._accept(peer, message), f"accept {message.temporary_channel_id.hex()}"
        )

    async def _accept(self, peer: "Peer", message: OpenChannel) -> None:
        session = peer.session
        if session is None:
            return
        temporary_channel_id = message.temporary_channel_id
        try:
            self._check_room(peer, message)
            # First whether, then the wallet: a refusal must not cost an address.
            opening.check(message, self._reception(peer), self.policy)
            self._accepting[temporary_channel_id] = peer.node_id
            try:
                shutdown_script = await self.chain.wallet.new_script_pubkey()
            finally:
                del self._accepting[temporary_channel_id]
            reception = self._reception(peer, shutdown_script)
            step = opening.accept(message, reception, self._local_keys(), self.policy)
        except LightningError as error:
            log.info("open_channel_refused", peer=peer.node_id.hex(), why=str(error))
            data = printable(str(error))
            self.peers.say(session, Error(channel_id=temporary_channel_id, data=data))
            return
        if peer.session is session:
            self.adopt(step.channel, step)

    def _reception(self, peer: "Peer", shutdown_script: bytes = b"") -> opening.Reception:
        return opening.Reception(
            node_id=peer.node_id,
            features=peer.features,
            feerate_per_kw=self.chain.feerates.commitment_per_kw,
            height=self.height(),
            local_alias=self._alias(),
            shutdown_script=shutdown_script,
        )

    def _check_room(self, peer: "Peer", message: OpenChannel) -> None:
        # In use by anybody: the id of another peer's channel must not come to mean this one.
        temporary_channel_id = message.temporary_channel_id
        if not any(temporary_channel_id):
            raise ProtocolViolation("temporary_channel_id is zero", bolt="BOLT 2 § open_channel")
        if temporary_channel_id in self.runners or temporary_channel_id in self._accepting:
            raise ProtocolViolation("temporary_channel_id is in use", bolt="BOLT 2 § open_channel")
        accepting = Counter(self._accepting.values())
        of_peer = sum(map(_is_pending, peer.runners.values())) + accepting[peer.node_id]
        if of_peer >= MAX_PENDING_PER_PEER:
            raise CommandError(f"{MAX_PENDING_PER_PEER} openings are under way already")
        if sum(map(_is_pending, self.runners.values())) + len(self._accepting) >= MAX_PENDING:
            raise CommandError("this node has too many openings under way at the moment")
        if not self.chain.is_synced:
            raise CommandError("this node does not follow the chain at the moment")

    def created(self, runner: "ChannelRunner", message: FundingCreated) -> None:
        """A peer names the funding output of its channel.

        channel_id follows from the outpoint, and anybody can name one: that of another channel must
        not take its place. In a channel that has its outpoint already the message is illegal, and
        claims nothing.
        """
        if runner.channel.phase is not Phase.WAIT_FOR_FUNDING_CREATED:
            runner.post(Received(message))
            return
        outpoint = Outpoint(message.funding_txid, message.funding_output_index)
        channel_id = funding.channel_id(outpoint)
        if not any(channel_id):
            runner.post(AbandonOpening("no transaction has this funding_txid"))
            return
        holder = self.runners.get(channel_id) or self._claimed.get(channel_id)
        if holder is not None and holder is not runner:
            runner.post(AbandonOpening("the funding outpoint is that of another channel"))
            return
        self._claimed[channel_id] = runner
        runner.post(Received(message))

    def release(self, runner: "ChannelRunner") -> None:
        """The channel has its id in force, or is over."""
        for channel_id in [name for name, other in self._claimed.items() if other is runner]:
            del self._claimed[channel_id]

    # --- both ----------------------------------------------------------------------------------

    def _local_keys(self) -> opening.LocalKeys:
        return self.signer.channel_keys(self.signer.new_key_index())

    def _alias(self) -> int:
        """A random scid_alias in a range of heights that no block of ours will have."""
        taken = {r.channel.local_alias for r in self.runners.values()}
        while True:
            alias = (0xF00000 + secrets.randbelow(0x0FFFFF)) << 40 | secrets.randbits(40)
            if alias not in taken:
                return alias

    def funding_inputs(self) -> "frozenset[Outpoint]":
        """Inputs of funding transactions that are not confirmed: the wallet must keep them."""
        inputs: set[Outpoint] = set()
        for runner in self.runners.values():
            made = runner.channel.funding
            if made is not None and made.transaction and made.confirmed_height is None:
                inputs.update(i.outpoint for i in parse_transaction(made.transaction).inputs)
        return frozenset(inputs)


def _is_pending(runner: "ChannelRunner") -> bool:
    """Whether somebody opens this channel to us and has not shown any money yet.

    Whatever its phase: a peer may ask to close what it never paid for.
    """
    channel = runner.channel
    if channel.parameters.is_opener or channel.phase is Phase.CLOSED:
        return False
    return channel.funding is None or channel.funding.confirmed_height is None
