"""The last processed blocks: where to go on after a start, and what a reorg walks back."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from back.storage.statements import Change, Statement, Write, upsert
from back.storage.tables import blocks

__all__ = ["KEPT", "Block", "connected", "disconnected", "last_blocks"]

KEPT = 300
"""Blocks that stay stored: more than any reorg that anybody survives."""


@dataclass(frozen=True, slots=True)
class Block:
    """A processed block.

    Attributes:
        block_hash: 32 bytes, internal order.
    """

    height: int
    block_hash: bytes


def _from_height(_: str) -> Change:
    return blocks.delete().where(blocks.c.height >= bindparam("height", type_=blocks.c.height.type))


def _up_to_height(_: str) -> Change:
    return blocks.delete().where(blocks.c.height <= bindparam("height", type_=blocks.c.height.type))


# One family of rows for all: what a reorg undoes must not overtake what it redoes.
_PUT = upsert(blocks, "family")
_UNDO = Statement(blocks, "family", None, _from_height)
_PRUNE = Statement(blocks, "family", None, _up_to_height)


def connected(block: Block) -> list[Write]:
    """Return the writes that make ``block`` the tip."""
    return [
        _PUT.write(family=0, height=block.height, block_hash=block.block_hash),
        _PRUNE.write(family=0, height=block.height - KEPT),
    ]


def disconnected(height: int) -> list[Write]:
    """Return the writes that undo the block at ``height`` and all above it."""
    return [_UNDO.write(family=0, height=height)]


def last_blocks(connection: Connection, limit: int = KEPT) -> list[Block]:
    """Return the last processed blocks, the tip first; none in a new database."""
    query = select(blocks.c.height, blocks.c.block_hash).order_by(blocks.c.height.desc())
    return [Block(*row) for row in connection.execute(query.limit(limit))]
