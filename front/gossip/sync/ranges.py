"""The replies to one `query_channel_range`, validated as they come (BOLT 7). Pure.

Ids must ascend through all replies, so nothing can be said twice, and what a peer may say at all is
bounded. A reply is kept as arrays: half a million channels are twelve megabytes.
"""

from array import array
from typing import NamedTuple, NoReturn

from shared.errors import Action, ProtocolViolation
from shared.units import ShortChannelId
from shared.wire import ReplyChannelRange
from shared.wire.query import decode_short_ids, decode_timestamps

__all__ = ["ALL_BLOCKS", "BOLT", "RangeReplies", "Rows"]

BOLT = "BOLT 7 § reply_channel_range"
ALL_BLOCKS = 0xFFFFFFFF
"""`number_of_blocks` of a query for everything from block 0 on."""
_BLOCK_SHIFT = 40


class Rows(NamedTuple):
    """The channels of one reply.

    Attributes:
        short_channel_ids: u64, ascending.
        timestamps: two u32 per channel, 0 where there is no update; empty if none were said.
        checksums: the same of the updates' checksums.
    """

    short_channel_ids: "array[int]"
    timestamps: "array[int]"
    checksums: "array[int]"


class RangeReplies:
    """What one peer answers to a query for all blocks.

    Args:
        chain_hash: that was asked for.
        max_ids: more channels than that are a violation.
        max_replies: more replies than that, too.

    Attributes:
        is_complete: the final reply came.
        is_covered: all blocks are, though no reply said that it was the final one.
        replies: how many came.
        ids: how many channels they named.
    """

    __slots__ = (
        "_chain_hash",
        "_first_blocknum",
        "_last_id",
        "_max_ids",
        "_max_replies",
        "ids",
        "is_complete",
        "is_covered",
        "replies",
    )

    def __init__(self, chain_hash: bytes, max_ids: int, max_replies: int) -> None:
        self.is_complete = False
        self.is_covered = False
        self.replies = 0
        self.ids = 0
        self._chain_hash = chain_hash
        self._max_ids = max_ids
        self._max_replies = max_replies
        self._first_blocknum = 0
        self._last_id = -1

    def take(self, reply: ReplyChannelRange) -> Rows:
        """Return the channels of the next reply.

        Raises:
            ProtocolViolation: it is of another chain, does not follow the one before, names a
                channel outside of its blocks or not in order, or says too much.
            MalformedMessage: an array in it cannot be read.
        """
        self._check_place(reply)
        rows = self._read(reply)
        self._check_ids(reply, rows.short_channel_ids)
        self.replies += 1
        self.ids += len(rows.short_channel_ids)
        self._first_blocknum = reply.first_blocknum
        if rows.short_channel_ids:
            self._last_id = rows.short_channel_ids[-1]
        self.is_covered = reply.first_blocknum + reply.number_of_blocks >= ALL_BLOCKS
        self.is_complete = bool(reply.sync_complete)
        return rows

    def _check_place(self, reply: ReplyChannelRange) -> None:
        if reply.chain_hash != self._chain_hash:
            _refuse("reply_channel_range is of another chain")
        if self.replies >= self._max_replies:
            _refuse(f"more than {self._max_replies} replies to one query_channel_range")
        if not self.replies and (reply.first_blocknum or not reply.number_of_blocks):
            _refuse("the first reply_channel_range does not cover block 0")
        if reply.first_blocknum < self._first_blocknum:
            _refuse(f"first_blocknum {reply.first_blocknum} is before {self._first_blocknum}")

    def _read(self, reply: ReplyChannelRange) -> Rows:
        ids = array("Q", decode_short_ids(reply.encoded_short_ids))
        timestamps, checksums = array("I"), array("I")
        if reply.timestamps_tlv is not None:
            for pair in decode_timestamps(reply.timestamps_tlv):
                timestamps.extend(pair)
            _check_count("timestamps", timestamps, ids)
        if reply.checksums_tlv is not None:
            for both in reply.checksums_tlv:
                checksums.extend((both.checksum_node_id_1, both.checksum_node_id_2))
            _check_count("checksums", checksums, ids)
        return Rows(ids, timestamps, checksums)

    def _check_ids(self, reply: ReplyChannelRange, ids: "array[int]") -> None:
        if self.ids + len(ids) > self._max_ids:
            _refuse(f"more than {self._max_ids} channels")
        before = self._last_id
        for scid in ids:
            if scid <= before:
                _refuse(f"{ShortChannelId.unpack(scid)} does not ascend")
            before = scid
        end = reply.first_blocknum + reply.number_of_blocks
        if ids and not (
            reply.first_blocknum <= ids[0] >> _BLOCK_SHIFT and before >> _BLOCK_SHIFT < end
        ):
            _refuse(f"a channel outside of blocks {reply.first_blocknum} to {end}")


def _check_count(what: str, values: "array[int]", ids: "array[int]") -> None:
    if len(values) != 2 * len(ids):
        _refuse(f"{len(values) // 2} pairs of {what} for {len(ids)} channels")


def _refuse(text: str) -> NoReturn:
    raise ProtocolViolation(text, bolt=BOLT, action=Action.WARN)
