"""Which blocks to take back and which to take on: decided from block hashes alone. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from back.chain.events import BlockRef
from shared.errors import InvariantError

__all__ = ["KEPT_BLOCKS", "Branch", "Follow", "NeedOlder", "Wait", "reconcile"]

KEPT_BLOCKS = 288
"""Of our branch, in memory and stored. A deeper reorg is followed by asking for old headers."""
UNWIND_BLOCKS = 144
"""A bitcoind that is further behind on our own branch is catching up, not reorganising."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The last processed blocks, oldest first, each the child of the one before."""

    blocks: tuple[BlockRef, ...] = ()

    @property
    def tip(self) -> BlockRef | None:
        """The newest."""
        return self.blocks[-1] if self.blocks else None

    def connect(self, block: BlockRef) -> "Branch":
        """Add a block on the tip."""
        if self.tip is not None and block.height != self.tip.height + 1:
            raise InvariantError(f"block {block} on top of {self.tip}")
        return replace(self, blocks=(*self.blocks, block)[-KEPT_BLOCKS:])

    def disconnect(self) -> "Branch":
        """Take the tip away."""
        return replace(self, blocks=self.blocks[:-1])

    def remember(self, parent: BlockRef) -> "Branch":
        """Put back a block that we had processed and forgotten: the parent of the oldest kept."""
        if not self.blocks or parent.height != self.blocks[0].height - 1:
            raise InvariantError(f"block {parent} is not below our branch")
        return replace(self, blocks=(parent, *self.blocks))

    def hash_at(self, height: int) -> bytes | None:
        """Return the hash of a kept block."""
        if not self.blocks or not 0 <= (place := height - self.blocks[0].height) < len(self.blocks):
            return None
        return self.blocks[place].hash


@dataclass(frozen=True, slots=True)
class Follow:
    """Take back ``disconnect`` (newest first), then go on from ``fork``."""

    fork: BlockRef
    disconnect: tuple[BlockRef, ...] = ()


@dataclass(frozen=True, slots=True)
class NeedOlder:
    """No kept block is in bitcoind's chain: remember the parent of ``oldest`` and ask again."""

    oldest: BlockRef


@dataclass(frozen=True, slots=True)
class Wait:
    """bitcoind has not come as far as we were; nothing is to be taken back for that."""

    blocks_behind: int


def reconcile(
    ours: Sequence[BlockRef],
    theirs: Mapping[int, bytes],
    their_height: int,
    *,
    is_initial_download: bool,
) -> Follow | NeedOlder | Wait:
    """Compare our branch with bitcoind's chain.

    Args:
        ours: oldest first, at least one.
        theirs: bitcoind's hashes at our heights, where it has any.
        their_height: of bitcoind's tip.
        is_initial_download: what bitcoind says of itself; true while it indexes its blocks anew.
    """
    common = [block for block in ours if theirs.get(block.height) == block.hash]
    if not common:
        tip = ours[-1]
        if their_height < ours[0].height and is_initial_download:
            return Wait(tip.height - their_height)
        return NeedOlder(ours[0])
    fork = common[-1]
    gone = tuple(block for block in reversed(ours) if block.height > fork.height)
    is_on_our_branch = fork.height == their_height
    if gone and is_on_our_branch and (is_initial_download or len(gone) > UNWIND_BLOCKS):
        return Wait(len(gone))
    return Follow(fork, gone)
