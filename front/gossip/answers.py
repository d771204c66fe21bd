"""Answers to gossip queries while this front has no routing table: we know nothing. Pure."""

from shared.wire import (
    Message,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

__all__ = ["answer"]

_NO_SHORT_IDS = b"\x00"
"""Encoding type 0 (uncompressed) and no short channel ids (BOLT 7 § Query Messages)."""


def answer(query: Message) -> Message | None:
    """Return the one message that ends ``query``, or None if it is not a query that is answered.

    ``full_information`` is 0 because we keep no channels of that chain; a range is covered whole by
    one reply, so that the peer does not wait for another.
    """
    match query:
        case QueryShortChannelIds():
            return ReplyShortChannelIdsEnd(chain_hash=query.chain_hash, full_information=0)
        case QueryChannelRange():
            return ReplyChannelRange(
                chain_hash=query.chain_hash,
                first_blocknum=query.first_blocknum,
                number_of_blocks=query.number_of_blocks,
                sync_complete=1,
                encoded_short_ids=_NO_SHORT_IDS,
            )
        case _:
            return None
