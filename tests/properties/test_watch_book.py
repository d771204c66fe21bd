"""What is told of watched transactions agrees with the chain, over any blocks and reorgs.

The oracle is the list of blocks itself: after every step, what the told events add up to is
compared with a search through all blocks of the present branch.
"""

import struct
from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st

from back.chain import block
from back.chain.block import Match
from back.chain.events import BlockRef, Confirmed, Spent, Unconfirmed, WatchConfirmed, WatchSpent
from back.chain.watches import News, WatchBook
from shared.chain import Outpoint


def _transaction(spends: Outpoint, salt: int) -> bytes:
    return (
        struct.pack("<IB", 2, 1) + block.outpoint_bytes(spends) + b"\x00" + b"\xff" * 4
        + b"\x01" + struct.pack("<QB", salt, 0) + bytes(4)
    )  # fmt: skip


COINS = [Outpoint(bytes([n]) * 32, n) for n in range(4)]
SPENDS = [_transaction(coin, salt) for coin in COINS for salt in (1, 2)]
TXIDS = [block.txid(raw) for raw in SPENDS]
DEPTHS = (1, 2, 3)


@dataclass
class World:
    """A chain, the book that follows it, and what a listener made of its news."""

    book: WatchBook = field(default_factory=WatchBook)
    blocks: list[tuple[BlockRef, list[int]]] = field(default_factory=list)
    confirmed: dict[WatchConfirmed, int] = field(default_factory=dict)
    spent: dict[WatchSpent, tuple[bytes, int | None]] = field(default_factory=dict)
    made: int = 0

    @property
    def height(self) -> int:
        return len(self.blocks)

    def hear(self, news: list[News]) -> None:
        for one in news:
            match one:
                case Confirmed(watch=watch):
                    assert self.height - one.height + 1 >= watch.min_depth
                    self.confirmed[watch] = one.height
                case Spent(watch=watch):
                    self.spent[watch] = (one.transaction, one.height)
                case Unconfirmed(watch=WatchConfirmed() as watch):
                    del self.confirmed[watch]
                case Unconfirmed(watch=WatchSpent() as watch):
                    assert self.spent.pop(watch)[1] is not None

    def connect(self, which: list[int]) -> None:
        """A block with those of ``which`` that are valid: each coin is spent once."""
        taken = {n // 2 for _, there in self.blocks for n in there}
        there: list[int] = []
        for n in which:
            if n // 2 not in taken:
                taken.add(n // 2)
                there.append(n)
        self.made += 1
        ref = BlockRef(self.height + 1, self.made.to_bytes(32, "big"))
        self.blocks.append((ref, there))
        self.hear(self.book.found(ref, self._matches(there), self.height))

    def _matches(self, there: list[int]) -> list[Match]:
        return [
            Match(i, TXIDS[n], (COINS[n // 2],), SPENDS[n])
            for i, n in enumerate(there)
            if block.outpoint_bytes(COINS[n // 2]) in self.book.outpoints
            or TXIDS[n] in self.book.txids
        ]

    def disconnect(self) -> None:
        if self.blocks:
            ref, _ = self.blocks.pop()
            self.hear(self.book.disconnected(ref))

    def look_up(self) -> None:
        """What the watcher does for new watches: older blocks, newest first."""
        for ref, there in reversed(self.blocks):
            self.hear(self.book.found(ref, self._matches(there), self.height))

    def check(self) -> None:
        place = {n: ref.height for ref, there in self.blocks for n in there}
        for txid, confirmation in self.book._confirmations.items():
            height = place.get(TXIDS.index(txid))
            for watch in confirmation.watches:
                if height is not None and self.height - height + 1 >= watch.min_depth:
                    assert self.confirmed[watch] == height
                elif height is None:
                    assert watch not in self.confirmed
        for outpoint, spend in self.book._spends.items():
            coin = COINS.index(outpoint)
            confirmed = next((n for n in place if n // 2 == coin), None)
            for watch in spend.watches:
                if confirmed is not None:
                    assert self.spent[watch] == (SPENDS[confirmed], place[confirmed])
                elif watch in self.spent:
                    assert self.spent[watch][1] is None


NUMBERS = st.integers(0, len(SPENDS) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.lists(NUMBERS, max_size=3)),
        st.tuples(st.just("disconnect"), st.integers(1, 3)),
        st.tuples(st.just("mempool"), NUMBERS),
        st.tuples(st.just("watch_confirmed"), st.tuples(NUMBERS, st.sampled_from(DEPTHS))),
        st.tuples(st.just("watch_spent"), st.integers(0, len(COINS) - 1)),
        st.tuples(st.just("unwatch"), st.integers(0, 10)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_news_add_up_to_the_chain(steps: list[tuple[str, object]]) -> None:
    world = World()
    watches: list[WatchConfirmed | WatchSpent] = []
    for kind, value in steps:
        match kind, value:
            case "connect", list():
                world.connect(value)
            case "disconnect", int():
                for _ in range(value):
                    world.disconnect()
            case "mempool", int():
                world.hear(world.book.spent_in_mempool(SPENDS[value]))
            case "watch_confirmed", (int() as n, int() as depth):
                watches.append(WatchConfirmed(TXIDS[n], b"", depth, 0))
                world.hear(world.book.add(watches[-1], world.height))
                world.look_up()
            case "watch_spent", int():
                watches.append(WatchSpent(COINS[value], b"", 0))
                world.hear(world.book.add(watches[-1], world.height))
                world.look_up()
            case "unwatch", int() if value < len(watches):
                world.book.remove(watches[value])
                world.confirmed.pop(watches[value], None)  # type: ignore[arg-type]
                world.spent.pop(watches[value], None)  # type: ignore[arg-type]
        world.check()
    for watch in watches:
        world.book.remove(watch)
    assert not world.book.outpoints
    assert not world.book.txids
