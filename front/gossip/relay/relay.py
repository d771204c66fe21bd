"""What peers are told of what the table took: staggered (BOLT 7 § Rebroadcasting). Pure.

All peers share one ring of the keys that changed, and each has its place in it: what a thousand
peers are to be told is kept once. A flush reads the announcements from the table as they are then,
so what changed twice is sent once. Who is so slow that the ring overtakes it has missed something,
and can ask for it.

Announcements of others go only to who asked for them by `gossip_timestamp_filter`. Our own go to
everybody, soon, and to every new peer.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from inspect import GEN_CLOSED, getgeneratorstate
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias
from weakref import ref

from front.gossip.relay.own import Own
from front.gossip.relay.ring import Changed, Ring
from front.gossip.sync.bench import remember
from shared.gossip.record import Change, Kind
from shared.gossip.view import node_timestamp, update_timestamp

if TYPE_CHECKING:
    from front.gossip.link import Link
    from shared.gossip.table import Entry, Table

__all__ = ["Filter", "Relay", "RelayCounts", "RelayRules"]

_PAUSE = b""
"""Yielded when much was looked at and nothing found: so one step of an iterator stays short."""
_STEPS = 100
_GOLDEN = 0.618033988749895
"""Multiples of it spread evenly over the unit interval, however many there are."""


class Filter(Protocol):
    """What a peer asked for by `gossip_timestamp_filter`."""

    def accepts(self, timestamp: int) -> bool:
        """Whether the peer wants an announcement of that time."""


@dataclass(frozen=True, slots=True)
class RelayRules:
    """Limits and intervals of the broadcast.

    Attributes:
        interval_s: between two flushes to the same peer.
        own_interval_s: how long an announcement of our own waits for others of ours.
        own_delay_s: how long after a peer joined it gets our own.
        max_changes: that the ring reaches back.
        max_own_changes: the same of our own.
        max_bare: channels without any update that wait for one, and nodes without any channel; the
            oldest are forgotten.
        peers_per_due: that one call of `Relay.due` returns of each kind.
        channels_per_due: that are looked through for ours, when the table is a new one.
    """

    interval_s: float = 60.0
    own_interval_s: float = 1.0
    own_delay_s: float = 1.0
    max_changes: int = 200_000
    max_own_changes: int = 20_000
    max_bare: int = 20_000
    peers_per_due: int = 200
    channels_per_due: int = 2_000


class RelayCounts(NamedTuple):
    """Figures for metrics.

    Attributes:
        peers: that are told something.
        filtered: of them those that asked for announcements of others.
        changes: in the ring.
        missed: changes that the ring dropped before a peer was told, since the start.
    """

    peers: int
    filtered: int
    changes: int
    missed: int


class _Bare(NamedTuple):
    """A channel without any update: it must not be sent yet (BOLT 7).

    Attributes:
        since: end of the ring when it came.
        is_own: whether it is ours.
    """

    senders: frozenset[bytes]
    since: int
    is_own: bool


@dataclass(slots=True, eq=False)
class _Reader:
    """One peer.

    Attributes:
        filter: what it asked for; None: nothing.
        place: number of the first change that it was not told.
        own_place: the same of our own; -1: it was told nothing of ours yet.
        flush: the last flush, as long as somebody holds it.
        own_flush: the same of our own.
    """

    link: "Link"
    filter: Filter | None = None
    place: int = 0
    own_place: int = -1
    flush: "_Flush | None" = None
    own_flush: "_Flush | None" = None


_Flush: TypeAlias = ref[Generator[bytes, None, None]]


def _is_open(flush: _Flush | None) -> bool:
    """Whether a flush is still to be read: neither at its end nor dropped."""
    iterator = None if flush is None else flush()
    return iterator is not None and getgeneratorstate(iterator) != GEN_CLOSED


class Relay:
    """Tells peers what changed.

    Args:
        node_id: ours.
        chain_hash: of our chain.
        table: returns the table as it is now.
        rules: limits and intervals.
    """

    def __init__(
        self, node_id: bytes, chain_hash: bytes, table: "Callable[[], Table]", rules: RelayRules
    ) -> None:
        self._chain_hash = chain_hash
        self._table = table
        self._rules = rules
        self._ring = Ring(rules.max_changes)
        self._own_ring = Ring(rules.max_own_changes)
        self._own = Own(node_id, rules.channels_per_due)
        self._bare: dict[int, _Bare] = {}
        self._lonely: dict[bytes, frozenset[bytes]] = {}
        """Who sent nodes of which there is no channel yet."""
        self._readers: dict[Link, _Reader] = {}
        self._flushes: list[tuple[float, int, _Reader]] = []
        """When each peer is flushed next; those that left are skipped."""
        self._welcomes: deque[tuple[float, _Reader]] = deque()
        """When each new peer is told our own."""
        self._sweep: deque[_Reader] = deque()
        """Whom the last changes of our own are still to be told."""
        self._sweep_due: float | None = None
        self._has_own = False
        self._numbers = count()
        self._filtered = 0
        self._missed = 0

    @property
    def counts(self) -> RelayCounts:
        """Figures for metrics."""
        return RelayCounts(len(self._readers), self._filtered, len(self._ring), self._missed)

    # --- peers ------------------------------------------------------------------------------------

    def joined(self, link: "Link", now: float) -> None:
        """A peer is connected."""
        if link.networks and self._chain_hash not in link.networks:
            return
        reader = self._readers[link] = _Reader(link)
        number = next(self._numbers)
        phase = number * _GOLDEN % 1.0
        heappush(self._flushes, (now + phase * self._rules.interval_s, number, reader))
        self._welcomes.append((now + self._rules.own_delay_s, reader))

    def left(self, link: "Link") -> None:
        """A peer is gone."""
        reader = self._readers.pop(link, None)
        if reader is not None:
            self._filtered -= reader.filter is not None

    def filtered(self, link: "Link", wanted: Filter | None) -> None:
        """A peer says what it wants from now on; what the table has already is not sent here."""
        reader = self._readers.get(link)
        if reader is None:
            return
        if reader.filter is None:
            reader.place = self._ring.end
        self._filtered += (wanted is not None) - (reader.filter is not None)
        reader.filter = wanted

    # --- the table --------------------------------------------------------------------------------

    def changed(self, change: Change, senders: frozenset[bytes]) -> None:
        """The table took a value; the senders, by node id, have it already."""
        kind, key, value = change
        if isinstance(key, bytes):
            if value is not None:
                self._node_changed(key, senders)
            return
        scid = key if kind is Kind.CHANNEL else key >> 1
        entry = self._table().channel(scid)
        is_own = self._own.has(kind, key, entry)
        if value is None or entry is None or entry.spent_height:
            self._bare.pop(scid, None)
        elif kind is Kind.CHANNEL:
            self._channel_changed(scid, entry, senders, is_own=is_own)
        else:
            self._update_changed(key, senders, is_own=is_own)

    def _node_changed(self, node_id: bytes, senders: frozenset[bytes]) -> None:
        if self._table().has_channels(node_id):
            is_own = self._own.has(Kind.NODE, node_id, None)
            self._put(Changed(Kind.NODE, node_id, senders), is_own=is_own)
        else:
            remember(self._lonely, node_id, senders, self._rules.max_bare)

    def _channel_changed(
        self, scid: int, entry: "Entry", senders: frozenset[bytes], *, is_own: bool
    ) -> None:
        if entry.updates == (None, None):
            self._wait(scid, senders, is_own=is_own)
            return
        self._bare.pop(scid, None)
        self._put(Changed(Kind.CHANNEL, scid, senders), is_own=is_own)
        # Its updates were in the table before it was: nothing else will say that they are new.
        for direction, raw in enumerate(entry.updates):
            key = scid << 1 | direction
            if raw is not None:
                own = is_own and self._own.has(Kind.UPDATE, key, entry)
                self._put(Changed(Kind.UPDATE, key, senders), is_own=own)
        self._nodes_follow(entry, self._ring.end)

    def _found(self, scid: int, entry: "Entry") -> None:
        """Note a channel of a table that is new."""
        if entry.updates == (None, None) and not entry.spent_height and scid not in self._bare:
            is_own = self._own.direction(entry) is not None
            self._wait(scid, frozenset(), is_own=is_own)

    def _wait(self, scid: int, senders: frozenset[bytes], *, is_own: bool) -> None:
        """Keep a channel back until its first update."""
        bare = _Bare(senders, self._ring.end, is_own)
        remember(self._bare, scid, bare, self._rules.max_bare)

    def _update_changed(self, key: int, senders: frozenset[bytes], *, is_own: bool) -> None:
        scid = key >> 1
        bare = self._bare.pop(scid, None)
        if bare is not None:
            self._put(Changed(Kind.CHANNEL, scid, bare.senders), is_own=bare.is_own)
        self._put(Changed(Kind.UPDATE, key, senders), is_own=is_own)
        entry = self._table().channel(scid)
        if bare is not None and entry is not None:
            self._nodes_follow(entry, bare.since)

    def _nodes_follow(self, entry: "Entry", since: int) -> None:
        """Put the nodes of a channel behind it, if they came before it could be sent."""
        for node_id in entry.nodes:
            is_own = self._own.has(Kind.NODE, node_id, None)
            senders = self._lonely.pop(node_id, frozenset() if is_own else None)
            if senders is not None:
                self._put(Changed(Kind.NODE, node_id, senders), is_own=is_own)
            else:
                self._ring.move(Kind.NODE, node_id, since)

    def _put(self, changed: Changed, *, is_own: bool) -> None:
        if is_own:
            self._own_ring.add(changed)
            self._has_own = True
        if not is_own or changed.kind is Kind.CHANNEL:
            # A channel of ours too: the peer's update of it goes this way, and would be dropped by
            # whoever gets it before the channel.
            self._ring.add(changed)

    # --- time -------------------------------------------------------------------------------------

    def due(self, now: float) -> "Iterable[tuple[Link, Iterator[bytes]]]":
        """Return what is to be sent now, raw, in order; call it every tenth of a second.

        An iterator reads the table as it goes on. It yields nothing (empty) from time to time.
        """
        flushes: list[tuple[Link, Iterator[bytes]]] = []
        if self._own.scan(self._table(), self._found):
            self._welcome(now, flushes)
            self._sweep_own(now, flushes)
        interval_s = self._rules.interval_s
        for _ in range(self._rules.peers_per_due):
            if not self._flushes or self._flushes[0][0] > now:
                break
            due, number, reader = heappop(self._flushes)
            if self._is_here(reader):
                # Its own beat, also after a standstill: or all would be flushed together then.
                due += ((now - due) // interval_s + 1) * interval_s
                heappush(self._flushes, (due, number, reader))
                if self._has_news(reader):
                    flushes.append((reader.link, self._flush(reader)))
        return flushes

    def _is_here(self, reader: _Reader) -> bool:
        return self._readers.get(reader.link) is reader and not reader.link.closing

    def _has_news(self, reader: _Reader) -> bool:
        wants = reader.filter is not None and reader.place < self._ring.end
        return wants and not _is_open(reader.flush)

    def _welcome(self, now: float, flushes: "list[tuple[Link, Iterator[bytes]]]") -> None:
        for _ in range(self._rules.peers_per_due):
            if not self._welcomes or self._welcomes[0][0] > now:
                break
            reader = self._welcomes.popleft()[1]
            if self._is_here(reader):
                reader.own_place = self._own_ring.end
                flushes.append((reader.link, self._own.announcements(self._table())))

    def _sweep_own(self, now: float, flushes: "list[tuple[Link, Iterator[bytes]]]") -> None:
        if self._has_own and self._sweep_due is None and not self._sweep:
            self._has_own = False
            self._sweep_due = now + self._rules.own_interval_s
        if self._sweep_due is not None and now >= self._sweep_due:
            self._sweep_due = None
            self._has_own = False
            self._sweep.extend(self._readers.values())
        for _ in range(min(self._rules.peers_per_due, len(self._sweep))):
            reader = self._sweep.popleft()
            if not self._is_here(reader) or reader.own_place < 0:
                continue
            if _is_open(reader.own_flush):
                self._has_own = True
            elif reader.own_place < self._own_ring.end:
                flushes.append((reader.link, self._flush_own(reader)))

    # --- flushes ----------------------------------------------------------------------------------

    def _flush(self, reader: _Reader) -> Iterator[bytes]:
        flush = self._read(reader, self._ring.end)
        reader.flush = ref(flush)
        return flush

    def _read(self, reader: _Reader, end: int) -> Generator[bytes, None, None]:
        idle = 0
        while reader.place < end:
            place = max(reader.place, self._ring.first)
            self._missed += place - reader.place
            reader.place = place + 1
            raw = self._raw_for(reader, self._ring.get(place))
            idle = 0 if raw else idle + 1
            if raw:
                yield raw
            elif idle % _STEPS == 0:
                yield _PAUSE

    def _raw_for(self, reader: _Reader, changed: Changed | None) -> bytes | None:
        """Return what a peer is to be told of a change of others."""
        wanted = reader.filter
        if changed is None or wanted is None or reader.link.node_id in changed.senders:
            return None
        raw, timestamps = self._look_up(changed)
        return raw if any(map(wanted.accepts, timestamps)) else None

    def _look_up(self, changed: Changed) -> tuple[bytes | None, list[int]]:
        """Return an announcement and its timestamps: a channel has those of its updates."""
        kind, key, _ = changed
        table = self._table()
        if isinstance(key, bytes):
            raw = table.node(key) if table.has_channels(key) else None
            return raw, [] if raw is None else [node_timestamp(raw)]
        entry = table.channel(key if kind is Kind.CHANNEL else key >> 1)
        if entry is None or entry.spent_height:
            return None, []
        if kind is Kind.CHANNEL:
            updates = [update for update in entry.updates if update is not None]
            return entry.announcement, [update_timestamp(update) for update in updates]
        raw = entry.updates[key & 1]
        return raw, [] if raw is None else [update_timestamp(raw)]

    def _flush_own(self, reader: _Reader) -> Iterator[bytes]:
        flush = self._read_own(reader, self._own_ring.end)
        reader.own_flush = ref(flush)
        return flush

    def _read_own(self, reader: _Reader, end: int) -> Generator[bytes, None, None]:
        ring = self._own_ring
        while reader.own_place < end:
            place = max(reader.own_place, ring.first)
            reader.own_place = place + 1
            changed = ring.get(place)
            if changed is None or reader.link.node_id in changed.senders:
                yield _PAUSE
                continue
            raw, timestamps = self._look_up(changed)
            yield raw if raw is not None and timestamps else _PAUSE
