"""What a synchronisation is told and what it tells: rules, questions, figures. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from shared.wire import Message

if TYPE_CHECKING:
    from front.gossip.link import Link

__all__ = ["Ask", "Chooser", "Counts", "State", "SyncRules"]

T = TypeVar("T")


class Chooser(Protocol):
    """What is needed of `random.Random`."""

    def choice(self, seq: Sequence[T], /) -> T:
        """Return one of some things."""


@dataclass(frozen=True, slots=True)
class SyncRules:
    """Limits and intervals of synchronisation.

    Attributes:
        peers: how many push what is new, and answer chunks.
        first_rounds: so many different peers are compared with at the start.
        round_s: between the end of such a round and the next.
        resync_s: between the end of a later round and the next.
        round_limit_s: then the rest of a round is dropped.
        silent_s: a peer that makes no progress for so long is replaced.
        answer_s: a query must be answered whole within that.
        settle_s: how long after an answer its announcements may need to reach the table.
        bench_s: for how long a peer that failed is not chosen; four times that when it does again.
        bench_max_s: bound of that.
        backlog_s: how far back the filter reaches that a live peer gets.
        chunk: channels asked for at once.
        attempts: so many peers are asked for a channel in one round.
        futile: a channel that so many rounds asked for in vain is asked only of who names it.
        forget_s: for that long, or up to twice that.
        missing_s: between two queries for what was dropped or came without its channel.
        max_missing: more of those are forgotten.
        max_ids: channels that one peer may name.
        max_replies: replies to one query.
        max_futile: channels remembered as asked for in vain; the oldest are forgotten.
        max_peers: node ids remembered that failed, or were compared with.
        rows_per_tick: channels compared in one call of `Sync.due`.
        choose_s: how often to look for a peer again when none was left.
    """

    peers: int = 3
    first_rounds: int = 3
    round_s: float = 60.0
    resync_s: float = 3600.0
    round_limit_s: float = 1800.0
    silent_s: float = 30.0
    answer_s: float = 120.0
    settle_s: float = 60.0
    bench_s: float = 60.0
    bench_max_s: float = 3600.0
    backlog_s: int = 600
    chunk: int = 500
    attempts: int = 3
    futile: int = 2
    forget_s: float = 3600.0
    missing_s: float = 10.0
    max_missing: int = 20_000
    max_ids: int = 500_000
    max_replies: int = 4_000
    max_futile: int = 100_000
    max_peers: int = 10_000
    rows_per_tick: int = 500
    choose_s: float = 1.0


class Ask(NamedTuple):
    """A message to be sent."""

    link: "Link"
    message: Message


class State(StrEnum):
    """What a synchronisation does."""

    WAITING = "waiting"
    """For a peer, or for the time of the next round."""
    RANGE = "range"
    """A peer says what it has."""
    CHANNELS = "channels"
    """What the table lacks is asked for."""


class Counts(NamedTuple):
    """Figures for metrics.

    Attributes:
        peers: that can be asked.
        live: that push what is new.
        wanted: channels of this round that nobody was asked for yet.
        unsettled: channels asked for that have not been seen in the table yet.
        missing: channels to be asked for again.
        futile: channels remembered as asked for in vain.
        rounds: finished since the start.
        failures: peers replaced since the start.
    """

    peers: int
    live: int
    wanted: int
    unsettled: int
    missing: int
    futile: int
    rounds: int
    failures: int
