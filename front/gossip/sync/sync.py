"""Whom we ask for the network's announcements, and for what (BOLT 7 § Query Messages). Pure.

A few peers push what is new: the live ones, which got a `gossip_timestamp_filter`. In rounds, one
peer says what it has (`query_channel_range`); what the table lacks of it is asked in chunks, spread
over the live peers. A round ends when everything came, or was asked for in vain of several peers.

No peer is trusted. Each has one query at a time, must make progress, and must be done in time; one
that does not is benched, longer each time, and its work goes to another. A channel that nobody
delivers costs a few small queries; after that only a peer that names it is asked for it itself.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

from front.gossip.sync.bench import Futile, remember
from front.gossip.sync.pool import Pool, SyncPeer
from front.gossip.sync.ranges import ALL_BLOCKS, RangeReplies
from front.gossip.sync.syncing import Ask, Chooser, Counts, State, SyncRules
from front.gossip.sync.wanted import Chunk, Comparison
from shared.errors import Action, PeerError, ProtocolViolation
from shared.gossip.checksum import checksum
from shared.wire import (
    GossipTimestampFilter,
    Message,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)
from shared.wire.query import encode_query_flags, encode_short_ids

if TYPE_CHECKING:
    from front.gossip.link import Link
    from shared.gossip.table import Table

__all__ = ["Ask", "Chooser", "Counts", "State", "Sync", "SyncRules"]

_BOLT = "BOLT 7 § Query Messages"
_TIMESTAMPS, _CHECKSUMS = 1, 2
_U32_MAX = 0xFFFFFFFF


class Sync:
    """Keeps the table what the network says.

    Args:
        chain_hash: of our chain.
        table: returns the table as it is now.
        rules: limits and intervals.
        rng: chooses peers.
        checksum: of a raw `channel_update` as BOLT 7 says; None: timestamps alone decide.

    Attributes:
        is_held: set it while nothing can be taken in: then nothing new is asked for.
        is_synced: whether the table was compared with as many peers as the start asks for.
    """

    def __init__(
        self,
        chain_hash: bytes,
        table: Callable[[], "Table"],
        rules: SyncRules,
        rng: Chooser,
        checksum: Callable[[bytes], int] | None = checksum,
    ) -> None:
        self.is_held = False
        self.is_synced = False
        self._chain_hash = chain_hash
        self._table = table
        self._rules = rules
        self._rng = rng
        self._pool = Pool(rules, rng)
        self._busy: dict[Link, SyncPeer] = {}
        """Those whose answer is waited for."""
        self._asks: list[Ask] = []
        self._futile = Futile(rules.futile, rules.forget_s, rules.max_futile)
        self._comparison = Comparison(self._futile.holds, checksum)
        self._again: deque[Chunk] = deque()
        """What has to be asked of another peer."""
        self._settling: deque[tuple[float, Chunk]] = deque()
        """What was answered, and when to look whether it is in the table."""
        self._settle_from = 0.0
        self._missing: dict[int, None] = {}
        self._missing_due = 0.0
        self._missing_peer = b""
        self._source: Link | None = None
        """The peer that this round compares with."""
        self._is_round = False
        self._round_end = 0.0
        self._next_round = 0.0
        self._compared: set[bytes] = set()
        """Nodes that the first rounds compared with."""
        self._first_rounds = rules.first_rounds
        """How many of them are left."""
        self._vain: dict[bytes, None] = {}
        """Nodes that named channels which they do not deliver either."""
        self._rounds = 0
        self._failures = 0
        self._must_restart = False

    # --- what is seen -----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What is being done."""
        if not self._is_round:
            return State.WAITING
        return State.RANGE if self._is_range_open() else State.CHANNELS

    @property
    def counts(self) -> Counts:
        """Figures for metrics."""
        unsettled = sum(len(chunk.short_channel_ids) for _, chunk in self._settling)
        again = sum(len(chunk.short_channel_ids) for chunk in self._again)
        return Counts(
            peers=len(self._pool),
            live=len(self._pool.live),
            wanted=len(self._comparison.wanted) + len(self._comparison.doubtful),
            unsettled=unsettled + again,
            missing=len(self._missing),
            futile=len(self._futile),
            rounds=self._rounds,
            failures=self._failures,
        )

    def _is_range_open(self) -> bool:
        peer = None if self._source is None else self._busy.get(self._source)
        return peer is not None and peer.range is not None

    def _is_starting(self) -> bool:
        enough = min(self._rules.first_rounds, len(self._pool))
        return self._first_rounds > 0 and len(self._compared) < enough

    # --- what happens -----------------------------------------------------------------------------

    def joined(self, link: "Link", now: float) -> None:
        """A peer is connected."""
        if not link.queries or (link.networks and self._chain_hash not in link.networks):
            return
        self._pool.add(link)
        if self._is_starting():
            self._next_round = min(self._next_round, now + self._rules.round_s)

    def left(self, link: "Link", now: float) -> None:
        """A peer is gone; what it was asked for goes to another."""
        peer = self._pool.remove(link)
        if peer is not None and link in self._busy:
            self._fail(peer, now)

    def received(
        self, link: "Link", message: ReplyChannelRange | ReplyShortChannelIdsEnd, now: float
    ) -> None:
        """A peer answers.

        Raises:
            ProtocolViolation: it was not asked, or the answer is none; action WARN.
            MalformedMessage: the answer cannot be read; action WARN.
        """
        peer = self._pool.get(link)
        if peer is None:
            _refuse(f"{message.NAME} to no query")
        if isinstance(message, ReplyChannelRange):
            self._received_range(peer, message, now)
        else:
            self._received_end(peer, message, now)

    def announced(self, link: "Link", now: float) -> None:
        """A peer sent an announcement: progress, if it was asked for some."""
        peer = self._busy.get(link)
        if peer is not None and peer.chunk is not None:
            peer.heard = now

    def missing(self, short_channel_ids: Iterable[int]) -> None:
        """Ask for these later: they were dropped, or an update of them came without its channel."""
        for scid in short_channel_ids:
            if len(self._missing) >= self._rules.max_missing:
                return
            if not self._futile.holds(scid):
                self._missing[scid] = None

    def restart(self) -> None:
        """The table is another: compare it anew, soon."""
        self._must_restart = True

    # --- answers ----------------------------------------------------------------------------------

    def _received_range(self, peer: SyncPeer, reply: ReplyChannelRange, now: float) -> None:
        replies = peer.range
        if replies is None:
            _refuse("reply_channel_range to no query_channel_range")
        if peer.is_abandoned:
            self._ignore(peer, ends=bool(reply.sync_complete))
            return
        try:
            rows = replies.take(reply)
        except PeerError:
            self._fail(peer, now)
            raise
        self._comparison.add(rows)
        peer.heard = now
        if replies.is_complete:
            self._range_ended(peer)
            peer.answered()

    def _range_ended(self, peer: SyncPeer) -> None:
        self._busy.pop(peer.link, None)
        self._compared.add(peer.link.node_id)

    def _received_end(self, peer: SyncPeer, reply: ReplyShortChannelIdsEnd, now: float) -> None:
        chunk = peer.chunk
        if chunk is None:
            _refuse("reply_short_channel_ids_end to no query_short_channel_ids")
        if peer.is_abandoned:
            self._ignore(peer, ends=True)
            return
        if reply.chain_hash != self._chain_hash:
            self._fail(peer, now)
            _refuse("reply_short_channel_ids_end is of another chain")
        peer.answered()
        del self._busy[peer.link]
        self._pool.bench.forgive(peer.link.node_id)
        self._settling.append((now + self._rules.settle_s, chunk))

    def _ignore(self, peer: SyncPeer, *, ends: bool) -> None:
        """Take what comes too late: a slow peer is not to blame, a flood is."""
        peer.ignored += 1
        if ends:
            peer.answered()
        elif peer.ignored > self._rules.max_replies:
            _refuse("replies without end")

    def _fail(self, peer: SyncPeer, now: float) -> None:
        """Bench a peer, and give its work to another."""
        self._failures += 1
        self._pool.bench.add(peer.link.node_id, now)
        if peer.chunk is not None:
            self._again.append(peer.chunk)
        elif self._source is peer.link:
            # What it said so far may be nonsense; the next one says it again.
            self._drop_round(now)
        self._abandon(peer)

    def _abandon(self, peer: SyncPeer) -> None:
        """Wait no longer for an answer; until it ends, the peer is of no use."""
        self._busy.pop(peer.link, None)
        peer.is_abandoned = True
        if self._pool.live.pop(peer.link, None) is not None:
            self._asks.append(self._filter(peer, _U32_MAX, 0))

    def _drop_round(self, next_round: float) -> None:
        self._is_round = False
        self._source = None
        self._next_round = next_round
        self._comparison.clear()
        self._again.clear()
        self._settling.clear()

    # --- time -------------------------------------------------------------------------------------

    def due(self, now: float, unix_s: int) -> list[Ask]:
        """Return what is to be asked now; call it every tenth of a second.

        Args:
            now: monotonic clock.
            unix_s: the clock that timestamps are of.
        """
        if self._must_restart:
            self._restart(now)
        for peer in tuple(self._busy.values()):
            self._expire(peer, now)
        self._comparison.work(self._table(), unix_s, self._rules.rows_per_tick)
        if self._futile.expire(now):
            self._vain.clear()
        for peer in self._pool.fill_live(now):
            self._enliven(peer, unix_s)
        if self.is_held:
            self._settle_from = now + self._rules.settle_s
        else:
            self._go_on(now, unix_s)
        asks, self._asks = self._asks, []
        return [ask for ask in asks if ask.link in self._pool and not ask.link.closing]

    def _restart(self, now: float) -> None:
        self._must_restart = False
        for peer in tuple(self._busy.values()):
            if peer.range is not None:
                self._abandon(peer)
        self._drop_round(now)
        self._compared.clear()
        self._first_rounds = self._rules.first_rounds
        self.is_synced = False
        self._futile.clear()
        self._vain.clear()

    def _expire(self, peer: SyncPeer, now: float) -> None:
        rules = self._rules
        if now - peer.heard < rules.silent_s and now - peer.since < rules.answer_s:
            return
        if peer.range is not None and peer.range.is_covered:
            # All blocks, but not the word that it was all: taken as the end.
            self._range_ended(peer)
            self._abandon(peer)
        else:
            self._fail(peer, now)

    def _go_on(self, now: float, unix_s: int) -> None:
        self._settle(now)
        if not self._is_round:
            if now >= self._next_round and len(self._pool):
                self._begin_round(now)
        elif now >= self._round_end and not self._is_range_open():
            self._comparison.clear()
            self._again.clear()
            self._settling.clear()
            self._end_round(now, unix_s)
        elif self._is_round_over():
            self._end_round(now, unix_s)
        self._ask_wanted(now)
        self._ask_doubtful(now)
        self._ask_again(now)
        self._ask_missing(now)

    # --- rounds -----------------------------------------------------------------------------------

    def _begin_round(self, now: float) -> None:
        peer = self._pool.choose_source(now, self._rounds + 1)
        if peer is None:
            self._next_round = now + self._rules.choose_s
            return
        self._source = peer.link
        self._is_round = True
        rules = self._rules
        self._round_end = now + rules.round_limit_s
        peer.range = RangeReplies(self._chain_hash, rules.max_ids, rules.max_replies)
        # An odd record, which whoever does not know it skips; many answer it that do not say so.
        option = _TIMESTAMPS | _CHECKSUMS if peer.link.queries_ex else _TIMESTAMPS
        query = QueryChannelRange(
            chain_hash=self._chain_hash,
            first_blocknum=0,
            number_of_blocks=ALL_BLOCKS,
            query_option=option,
        )
        self._ask(peer, query, now)

    def _is_round_over(self) -> bool:
        return (
            self._comparison.is_idle and not self._busy and not self._again and not self._settling
        )

    def _end_round(self, now: float, unix_s: int) -> None:
        rules = self._rules
        self._rounds += 1
        self._first_rounds -= 1
        is_starting = self._is_starting()
        self.is_synced = self.is_synced or not is_starting
        self._is_round = False
        self._source = None
        self._next_round = now + (rules.round_s if is_starting else rules.resync_s)
        self._comparison.clear()
        swapped = self._pool.rotate(now)
        if swapped is not None:
            self._asks.append(self._filter(swapped[0], _U32_MAX, 0))
            self._enliven(swapped[1], unix_s)

    def _settle(self, now: float) -> None:
        """Look whether what was asked for came; what did not is asked of another peer."""
        while (
            self._settling
            and max(self._settling[0][0], self._settle_from) <= now
            and not self._comparison.wanted
        ):
            asked = self._settling.popleft()[1]
            chunk = asked.lacking(self._table())
            if not chunk.short_channel_ids:
                continue
            if chunk.is_doubtful:
                self._doubt(asked, chunk)
            elif len(chunk.asked) >= self._rules.attempts:
                self._futile.add(chunk.short_channel_ids)
            else:
                self._again.append(chunk)

    def _doubt(self, asked: Chunk, lacking: Chunk) -> None:
        """Remember a peer that does not have what it names."""
        if 2 * len(lacking.short_channel_ids) > len(asked.short_channel_ids):
            remember(self._vain, asked.asked[-1], None, self._rules.max_peers)

    # --- asking -----------------------------------------------------------------------------------

    def _ask_wanted(self, now: float) -> None:
        wanted = self._comparison.wanted
        for peer in tuple(self._pool.live.values()):
            if wanted and peer.is_free:
                self._ask_chunk(peer, wanted.take(self._rules.chunk, self._source), now)

    def _ask_doubtful(self, now: float) -> None:
        doubtful = self._comparison.doubtful
        if not doubtful:
            return
        peer = self._pool.get(self._source)
        if peer is None or peer.is_abandoned or peer.link.node_id in self._vain:
            doubtful.clear()
        elif peer.is_free:
            chunk = doubtful.take(self._rules.chunk, peer.link, is_doubtful=True)
            self._ask_chunk(peer, chunk, now)

    def _ask_again(self, now: float) -> None:
        for _ in range(len(self._again)):
            chunk = self._again.popleft()
            peer = None if chunk.is_doubtful else self._pool.choose_for(chunk, now)
            if peer is None:
                self._futile.add(chunk.short_channel_ids)
            elif peer.is_free:
                self._ask_chunk(peer, chunk, now)
            else:
                self._again.append(chunk)

    def _ask_missing(self, now: float) -> None:
        if not self._missing or now < self._missing_due:
            return
        free = [peer for peer in self._pool.live.values() if peer.is_free]
        peers = [peer for peer in free if peer.link.node_id != self._missing_peer] or free
        if not peers:
            return
        peer = self._rng.choice(peers)
        ids = tuple(self._missing)[: self._rules.chunk]
        for scid in ids:
            del self._missing[scid]
        # Counted although it may come: what is dropped over and over must not be asked for so.
        self._futile.add(ids)
        self._missing_due = now + self._rules.missing_s
        self._missing_peer = peer.link.node_id
        self._ask_chunk(peer, Chunk.of(ids, self._table()), now)

    def _ask_chunk(self, peer: SyncPeer, chunk: Chunk, now: float) -> None:
        link = peer.link
        if not link.queries_ex:
            chunk = chunk.of_channels()
        if not chunk.short_channel_ids:
            return
        chunk.asked = (*chunk.asked, link.node_id)
        peer.chunk = chunk
        query = QueryShortChannelIds(
            chain_hash=self._chain_hash,
            encoded_short_ids=encode_short_ids(chunk.short_channel_ids),
            query_flags=encode_query_flags(chunk.flags) if link.queries_ex else None,
        )
        self._ask(peer, query, now)

    def _ask(self, peer: SyncPeer, query: Message, now: float) -> None:
        peer.since = peer.heard = now
        self._busy[peer.link] = peer
        self._asks.append(Ask(peer.link, query))

    def _enliven(self, peer: SyncPeer, unix_s: int) -> None:
        """Let a peer push what is new."""
        first_timestamp = max(0, unix_s - self._rules.backlog_s)
        self._asks.append(self._filter(peer, first_timestamp, _U32_MAX))

    def _filter(self, peer: SyncPeer, first_timestamp: int, timestamp_range: int) -> Ask:
        message = GossipTimestampFilter(
            chain_hash=self._chain_hash,
            first_timestamp=first_timestamp,
            timestamp_range=timestamp_range,
        )
        return Ask(peer.link, message)


def _refuse(text: str) -> NoReturn:
    raise ProtocolViolation(text, bolt=_BOLT, action=Action.WARN)
