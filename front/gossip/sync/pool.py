"""The peers that can be asked for gossip, and how one of them is chosen. Pure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from front.gossip.sync.bench import Bench, remember

if TYPE_CHECKING:
    from front.gossip.link import Link
    from front.gossip.sync.ranges import RangeReplies
    from front.gossip.sync.syncing import Chooser, SyncRules
    from front.gossip.sync.wanted import Chunk

__all__ = ["Pool", "SyncPeer"]

_ANYBODY = 2
"""Every so many rounds compare with any peer, the others with one that we dialled.

An attacker can dial us a thousand times, but may also be all that we dialled.
"""


@dataclass(slots=True, eq=False)
class SyncPeer:
    """One peer that can be asked.

    Attributes:
        range: its answer to our query for all blocks, as far as it came.
        chunk: what it was asked for and has not ended.
        is_abandoned: nobody waits for that answer any more; but until it ends nothing else may be
            asked (BOLT 7).
        since: when the query was sent.
        heard: when it made progress.
        ignored: messages of an abandoned answer.
    """

    link: "Link"
    range: "RangeReplies | None" = None
    chunk: "Chunk | None" = None
    is_abandoned: bool = False
    since: float = 0.0
    heard: float = 0.0
    ignored: int = 0

    @property
    def is_free(self) -> bool:
        """Whether it may be asked."""
        return self.range is None and self.chunk is None

    def answered(self) -> None:
        """Its query has ended."""
        self.range = self.chunk = None
        self.is_abandoned = False
        self.ignored = 0


class Pool:
    """Peers by connection, and which of them push what is new.

    Args:
        rules: limits and intervals.
        rng: chooses.

    Attributes:
        live: those that push what is new, and answer chunks.
        bench: those that failed.
    """

    def __init__(self, rules: "SyncRules", rng: "Chooser") -> None:
        self.live: dict[Link, SyncPeer] = {}
        self.bench = Bench(rules.bench_s, rules.bench_max_s, rules.max_peers)
        self._rules = rules
        self._rng = rng
        self._peers: dict[Link, SyncPeer] = {}
        self._used: dict[bytes, int] = {}
        """In which round a node was compared with."""
        self._choices = 0
        self._next_choice = 0.0

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, link: "Link") -> bool:
        return link in self._peers

    def get(self, link: "Link | None") -> SyncPeer | None:
        """Return a peer, if it is still connected."""
        return None if link is None else self._peers.get(link)

    def add(self, link: "Link") -> None:
        """A peer is connected."""
        self._peers[link] = SyncPeer(link)
        self._next_choice = 0.0

    def remove(self, link: "Link") -> SyncPeer | None:
        """A peer is gone."""
        if self.live.pop(link, None) is not None:
            self._next_choice = 0.0
        return self._peers.pop(link, None)

    def fill_live(self, now: float) -> list[SyncPeer]:
        """Choose live peers until there are enough; return the new ones."""
        if len(self.live) >= self._rules.peers or now < self._next_choice:
            return []
        # There may be thousands on the bench: they are not looked through ten times a second.
        self._next_choice = now + self._rules.choose_s
        able = [peer for peer in self._able(now) if peer.link not in self.live]
        chosen: list[SyncPeer] = []
        while able and len(self.live) < self._rules.peers:
            peer = self._rng.choice([peer for peer in able if peer.link.is_outbound] or able)
            able.remove(peer)
            chosen.append(peer)
            self.live[peer.link] = peer
        return chosen

    def rotate(self, now: float) -> tuple[SyncPeer, SyncPeer] | None:
        """Replace one live peer by another; return both.

        One that keeps back what is new would not be noticed otherwise.
        """
        free = [peer for peer in self.live.values() if peer.is_free]
        able = [peer for peer in self._able(now) if peer.link not in self.live]
        if not free or not able or len(self.live) < self._rules.peers:
            return None
        old = self._rng.choice(free)
        new = self._rng.choice([peer for peer in able if peer.link.is_outbound] or able)
        del self.live[old.link]
        self.live[new.link] = new
        return old, new

    def choose_source(self, now: float, round_number: int) -> SyncPeer | None:
        """Choose whom to compare with: the longest not used, mostly one that we dialled."""
        able = [peer for peer in self._able(now) if peer.is_free]
        if not able:
            return None
        self._choices += 1
        if self._choices % _ANYBODY:
            able = [peer for peer in able if peer.link.is_outbound] or able
        used = self._used
        oldest = min(used.get(peer.link.node_id, 0) for peer in able)
        peer = self._rng.choice([p for p in able if used.get(p.link.node_id, 0) == oldest])
        remember(used, peer.link.node_id, round_number, self._rules.max_peers)
        return peer

    def choose_for(self, chunk: "Chunk", now: float) -> SyncPeer | None:
        """Choose one that was not asked for a chunk: who named it, else a live one, else any."""
        source = self.get(chunk.source)
        near = [source] if source is not None else []
        for pool in (near, list(self.live.values())):
            fit = [peer for peer in pool if self._fits(peer, chunk, now)]
            if fit:
                return self._rng.choice([peer for peer in fit if peer.is_free] or fit)
        others = [peer for peer in self._able(now) if self._fits(peer, chunk, now)]
        return self._rng.choice(others) if others else None

    def _fits(self, peer: SyncPeer, chunk: "Chunk", now: float) -> bool:
        return peer.link.node_id not in chunk.asked and self._is_able(peer, now)

    def _able(self, now: float) -> list[SyncPeer]:
        return [peer for peer in self._peers.values() if self._is_able(peer, now)]

    def _is_able(self, peer: SyncPeer, now: float) -> bool:
        return not (
            peer.is_abandoned or peer.link.closing or self.bench.holds(peer.link.node_id, now)
        )
