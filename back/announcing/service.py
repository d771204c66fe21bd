"""Looks at the channels, has what is due signed and stored, then says it.

A look at a channel of which nothing new is to be said costs next to nothing, so one task looks at
all of them every second, and at once at those it is told of: what is missed is not missed for long.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Protocol

import structlog

from back.announcing import updates
from back.announcing.changes import changes_of, taken_back
from back.announcing.fees import FeeBook
from back.announcing.maximum import htlc_maximum_msat
from back.announcing.own_node import NodeAnnouncer
from back.announcing.stored import read_stored
from back.channel.model import Channel, Link, Phase
from back.relay.terms import ChannelTerms, RelayFees, TermsInForce
from back.storage import announcements
from shared.errors import BackendError, LeaseLost, WriteRefused
from shared.fabric.subjects import shard
from shared.gossip.record import Change, Kind
from shared.tasks import Tasks
from shared.wire import ChannelUpdate, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from back.announcing.nodes import OurNode
    from back.announcing.updates import Terms
    from back.runner import ChannelRunner
    from back.signer.signer import Signer
    from back.storage.announcements import SaidUpdate
    from back.storage.relay_fees import SetFees
    from back.storage.store import Store
    from back.switchboard import PeerSession

__all__ = ["Announcing", "Graph"]

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
REPEAT_S = 3600.0
"""After so long the graph is given again what it should have: it heals what went wrong there."""
AT_ONCE = 32
"""Channels between two breaths of the event loop: a new update takes up to 0.4 ms."""


class Graph(Protocol):
    """Who takes our announcements: they are finished and checked."""

    def announce_own(self, changes: "Iterable[Change]") -> None:
        """Take finished values; idempotent, never blocks."""


@dataclass(slots=True)
class _Known:
    """What we know of one channel.

    Attributes:
        channel: as last looked at.
        facts: what of it matters here.
        fees: as last looked at.
        update: our last update of it, stored.
        raw: the same, encoded.
        terms: what it and those before it promise.
        renewed_at: when it was made, monotonic seconds; minus infinity: by a former process.
        away_since: monotonic seconds; None while its peer is there.
        look_at: when to look again though nothing has changed.
        told: the session, and the update that went out on it.
        announced: what the graph was given.
        repeat_at: when it is given that again.
    """

    channel: Channel
    update: ChannelUpdate | None
    raw: bytes | None
    away_since: float | None
    terms: TermsInForce | None = None
    renewed_at: float = -inf
    fees: RelayFees | None = None
    facts: tuple[object, ...] = ()
    look_at: float = 0.0
    told: "tuple[PeerSession, bytes] | None" = None
    announced: tuple[Change, ...] = ()
    repeat_at: float = 0.0


class Announcing:
    """Our own announcements.

    Args:
        store: where they are kept; an announcement is stored before anybody hears of it.
        signer: signs them.
        runners: all channels, by present channel id.
        graph: takes them.
        node: what we say of ourselves.
        terms: what we take for forwarding, and how announcements follow events.
        monotonic: seconds of a clock that never goes back.
        unix: seconds of the clock that timestamps come from.

    Attributes:
        fees: what we take in each channel.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        runners: "dict[bytes, ChannelRunner]",
        graph: Graph,
        node: "OurNode",
        terms: "Terms",
        *,
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._signer = signer
        self._runners = runners
        self._graph = graph
        self._terms = terms
        self.fees = FeeBook(store, terms.fees, unix=unix)
        self._monotonic = monotonic
        self._unix = unix
        self._known: dict[int, _Known] = {}
        self._stored: dict[int, SaidUpdate] = {}
        self._is_loaded = False
        self._node = NodeAnnouncer(store, signer, graph.announce_own, node, unix)
        self._dirty: dict[int, ChannelRunner] = {}
        self._wake = asyncio.Event()
        self._tasks = Tasks()

    async def load(self) -> None:
        """Learn what was said before: from then on terms are known.

        Raises:
            StorageUnavailable: the database is away.
        """
        shards = self._store.lease.shards
        self._stored = await self._store.read(lambda c: announcements.load_updates(c, shards))
        await self.fees.load()
        self._is_loaded = True

    async def start(self) -> None:
        """Announce what was said before again, and go on.

        Raises:
            StorageUnavailable: the database is away.
        """
        if not self._is_loaded:
            await self.load()
        await self._node.load()
        self._tasks.spawn(self._run(), "announcing")

    async def stop(self) -> None:
        """Say nothing more."""
        await self._tasks.stop()

    def changed(self, runner: "ChannelRunner") -> None:
        """A channel is ready, announced, away or closing: look at it now, not within a second."""
        self._dirty[runner.channel.parameters.key_index] = runner
        self._wake.set()

    # --- terms ---------------------------------------------------------------------------------

    def accepted(self, channel: Channel, unix_s: float) -> "Sequence[ChannelTerms]":
        """Return terms of which an HTLC into a channel must meet one, the present ones first.

        They are those of our last update, and of former ones for their grace. None where the
        channel is not usable.

        Args:
            channel: one of ours.
            unix_s: our clock.
        """
        known = self._know(channel)
        if known.terms is not None:
            return known.terms.accepted(unix_s, self._terms.grace_s)
        # No update yet, or no name to put into one: what it would say holds.
        terms = updates.terms_of(channel, self.fees.of(channel), None)
        return () if terms is None else (terms,)

    def own_update(self, channel: Channel) -> bytes | None:
        """Return our last update of a channel, encoded."""
        return self._know(channel).raw

    async def set_peer_fees(self, node_ids: "Sequence[bytes]", fees: "SetFees | None") -> None:
        """Take other fees in all channels with peers, now and later: stored, then announced.

        Args:
            node_ids: the peers'; with channels or not yet.
            fees: what to take; None: as by default.

        Raises:
            BackendError: nothing has changed.
            LeaseLost: a peer is another back's.
        """
        await self.fees.set_peers(node_ids, fees)
        peers = set(node_ids)
        for runner in self._runners.values():
            if runner.channel.parameters.node_id in peers:
                self.changed(runner)

    async def set_channel_fees(
        self, runners: "Sequence[ChannelRunner]", fees: "SetFees | None"
    ) -> None:
        """Take other fees in channels, whatever holds for their peers: stored, then announced.

        Args:
            runners: of the channels.
            fees: what to take; None: as with the peer's other channels.

        Raises:
            BackendError: nothing has changed.
            LeaseLost: a channel is another back's.
        """
        await self.fees.set_channels([runner.channel for runner in runners], fees)
        for runner in runners:
            self.changed(runner)

    def _know(self, channel: Channel) -> _Known:
        """Return what we know of a channel; from the database where that is all."""
        key_index = channel.parameters.key_index
        known = self._known.get(key_index)
        if known is None:
            known = self._known[key_index] = _Known(channel, None, None, self._monotonic())
            stored = self._stored.pop(key_index, None)
            update = read_stored(stored.raw if stored else None, ChannelUpdate)
            if stored is not None and update is not None:
                known.update, known.raw = update, stored.raw
                known.terms = TermsInForce.of(ChannelTerms.of(update), stored.former)
        return known

    # --- the task ------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self.look(list(self._runners.values()))
                self._forget_gone()
                deadline = self._monotonic() + LOOK_EVERY_S
                while (left := deadline - self._monotonic()) > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), left)
                    self._wake.clear()
                    dirty, self._dirty = self._dirty, {}
                    await self.look(list(dirty.values()))
        except LeaseLost:
            log.warning("announcing_given_up")

    def repeat(self) -> None:
        """The graph has lost what it knew, or may have: give it all again."""
        for known in self._known.values():
            known.facts, known.look_at, known.repeat_at = (), 0.0, 0.0
        self._node.repeat()
        self._dirty = {r.channel.parameters.key_index: r for r in self._runners.values()}
        self._wake.set()

    async def look(self, runners: "list[ChannelRunner]") -> None:
        """Look at channels, and do what is due for them; then for our node.

        Raises:
            LeaseLost: they are another back's.
        """
        waiting = iter(runners)
        while batch := list(islice(waiting, AT_ONCE)):
            looked = [(runner, known) for runner in batch if (known := self._looked(runner))]
            news = await asyncio.gather(*(self._say(*each) for each in looked))
            if changes := [change for each in news for change in each]:
                self._graph.announce_own(changes)
            await asyncio.sleep(0)
        if any(known.announced for known in self._known.values()):
            await self._node.look()

    # --- one channel ---------------------------------------------------------------------------

    def _looked(self, runner: "ChannelRunner") -> _Known | None:
        """Take note of the channel; None if there is nothing to do."""
        channel, now = runner.channel, self._monotonic()
        known = self._know(channel)
        fees = self.fees.of(channel)
        if known.channel is channel and known.fees == fees and now < known.look_at:
            return None
        # Payments change the channel all the time, and nothing of this.
        facts, before = (fees, _maximum(channel, known.update), *_facts(runner)), known.facts
        known.channel, known.fees, known.facts = channel, fees, facts
        if facts == before and now < known.look_at:
            return None
        if channel.link is Link.ONLINE:
            known.away_since = None
        elif known.away_since is None:
            known.away_since = now
        known.look_at = self._next_look(known, now)
        return known

    def _next_look(self, known: _Known, now: float) -> float:
        """When what is due changes by time alone."""
        if known.update is None:
            return now + LOOK_EVERY_S
        refresh_in_s = known.update.timestamp + updates.REFRESH_S - self._unix()
        # The clock may be set: never sleep for weeks on its word.
        look_at = now + min(max(refresh_in_s, LOOK_EVERY_S), REPEAT_S)
        if known.announced:
            look_at = min(look_at, max(known.repeat_at, now + LOOK_EVERY_S))
        if _maximum(known.channel, known.update) not in {None, known.update.htlc_maximum_msat}:
            look_at = min(look_at, now + max(self._balance_waits_s(known), LOOK_EVERY_S))
        if known.away_since is not None:
            disable_at = known.away_since + self._terms.disable_after_s
            if disable_at > now:
                look_at = min(look_at, disable_at)
        return look_at

    async def _say(self, runner: "ChannelRunner", known: _Known) -> list[Change]:
        """Renew our update where that is due, tell the peer, and return what the graph lacks."""
        try:
            return await self._said(runner, known)
        except (BackendError, WriteRefused) as error:
            known.look_at = 0.0
            name = known.channel.channel_id.hex()
            log.warning("channel_update_not_stored", channel=name, error=str(error))
        except LeaseLost:
            raise
        except Exception:
            # A bug of ours: the other channels are announced nevertheless.
            log.exception("announcing_failed", channel=known.channel.channel_id.hex())
        return []

    async def _said(self, runner: "ChannelRunner", known: _Known) -> list[Change]:
        channel = known.channel
        renewed = self._renewed(known)
        raw = known.raw if renewed is None else encode(renewed)
        changes = changes_of(channel, raw, int(self._unix()))
        is_for_peer = _is_for_peer(runner) and known.told != (runner.session, raw)
        is_news = changes != known.announced or (changes and self._monotonic() >= known.repeat_at)
        if renewed is None and not is_news and not is_for_peer:
            return []
        # Also where nothing is new: whoever has lost the shard says nothing more for it.
        writes, terms = [], known.terms
        if renewed is not None and raw is not None:
            terms = self._terms_after(known, renewed)
            key_index = channel.parameters.key_index
            writes.append(announcements.update_said(key_index, raw, terms.former))
        await self._store.committer.submit(shard(channel.parameters.node_id), writes)
        if renewed is not None:
            known.update, known.raw, known.terms = renewed, raw, terms
            known.renewed_at = self._monotonic()
            known.look_at = self._next_look(known, known.renewed_at)
        self._tell_peer(runner, known)
        if not is_news:
            return []
        known.repeat_at = self._monotonic() + REPEAT_S
        void = _void(known)
        known.announced = changes
        return [*void, *changes]

    def _renewed(self, known: _Known) -> ChannelUpdate | None:
        """Return a new update, signed, if one is due."""
        away_s = 0.0 if known.away_since is None else self._monotonic() - known.away_since
        is_long_away = away_s >= self._terms.disable_after_s
        fees, last_update = self.fees.of(known.channel), known.update
        wanted = updates.wanted(known.channel, fees, last_update, is_long_away=is_long_away)
        unix_s = int(self._unix())
        follows = self._balance_waits_s(known) <= 0
        if wanted is None or not updates.due(last_update, wanted, unix_s, follows_balance=follows):
            return None
        last = 0 if known.update is None else known.update.timestamp
        timestamp = updates.next_timestamp(last, unix_s)
        return self._signer.sign_channel_update(wanted.model_copy(update={"timestamp": timestamp}))

    def _balance_waits_s(self, known: _Known) -> float:
        """How long it takes until the balance alone is worth another update."""
        since_s = self._monotonic() - known.renewed_at
        wait_s = self._terms.maximum_every_s - since_s
        if known.update is not None:
            wait_s = max(wait_s, updates.wait_s(known.update, self._terms, self._unix()))
        return wait_s

    def _terms_after(self, known: _Known, renewed: ChannelUpdate) -> TermsInForce:
        """What is in force once an update is stored."""
        present = ChannelTerms.of(renewed)
        if known.terms is None:
            return TermsInForce(present)
        return known.terms.replaced(present, self._unix(), self._terms.grace_s)

    def _tell_peer(self, runner: "ChannelRunner", known: _Known) -> None:
        """Tell the other end of the channel, once a connection and at each change."""
        if known.update is None or known.raw is None or runner.session is None:
            return
        said = runner.session, known.raw
        if _is_for_peer(runner) and known.told != said:
            known.told = said
            runner.send(known.update)

    def _forget_gone(self) -> None:
        present = {runner.channel.parameters.key_index for runner in self._runners.values()}
        for key_index in self._known.keys() - present:
            del self._known[key_index]
            self.fees.forget(key_index)


def _void(known: _Known) -> list[Change]:
    """What takes back an announcement that a reorg made void."""
    real = _scid(known.channel)
    return [
        gone
        for before in known.announced
        if before.kind is Kind.CHANNEL and isinstance(before.key, int) and before.key != real
        for gone in taken_back(before.key)
    ]


def _scid(channel: Channel) -> int | None:
    """Where the network knows the channel; None if it does not, or not yet again."""
    if channel.channel_announcement is None or channel.funding is None:
        return None
    return channel.funding.short_channel_id


def _facts(runner: "ChannelRunner") -> tuple[object, ...]:
    """What of a channel has to do with its announcements; compared before anything is worked out.

    The session is one of them: a peer can leave and be back between two looks.
    """
    channel = runner.channel
    return (
        channel.phase,
        channel.link,
        runner.session,
        channel.funding,
        channel.parameters,
        channel.channel_announcement,
        channel.remote_channel_update,
        channel.remote_alias,
        channel.remote_shutdown_script,
        channel.is_shutdown_sent,
    )


def _maximum(channel: Channel, stored: ChannelUpdate | None) -> int | None:
    """The htlc_maximum_msat that the balance asks for; None for a channel that has no peer yet."""
    if channel.parameters.remote is None:
        return None
    return htlc_maximum_msat(channel, None if stored is None else stored.htlc_maximum_msat)


def _is_for_peer(runner: "ChannelRunner") -> bool:
    """Whether the other end of the channel hears of our terms now."""
    channel = runner.channel
    is_there = runner.session is not None and channel.link is Link.ONLINE
    return is_there and channel.phase is Phase.NORMAL
