"""Judges what fronts submit: from the queue to verdicts and changes of the table.

Two tasks: one looks at everything and decides on what the table and signatures decide; the other
takes channels in batches of few blocks to the chain. Whatever may take long, signatures and blocks,
happens in threads; what the event loop does is done in slices.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias, TypeVar

import structlog

from back.graph.acceptance import (
    ACCEPTED,
    INVALID,
    KNOWN,
    Absent,
    Decision,
    Funding,
    Funds,
    Pending,
    Situation,
    change_of,
    first_look,
    judge_channel,
)
from back.graph.funding import FundingLookup
from back.graph.spends import Spends
from back.graph.spent import funding_outpoint
from back.graph.submissions import Budget, Claim, PendingChannels, Submissions, WaitingChannel
from shared.errors import BackendError, FabricError, RpcError
from shared.fabric import subjects
from shared.fabric.gossip import Outcome, Verdict, Verdicts, decode_submission
from shared.fabric.interface import Fabric, Received
from shared.gossip.record import Change
from shared.gossip.signed import verify
from shared.gossip.table import Table
from shared.gossip.view import ChannelView, UpdateView, message_type
from shared.tasks import Tasks

__all__ = ["Judge", "JudgeRules", "Keeper"]

KINDS = {256: "channel_announcement", 257: "node_announcement", 258: "channel_update"}
RETRY = Decision(Outcome.LATER, "the back is not ready")
BUSY = Decision(Outcome.LATER, "too much waits")
MOVED = Decision(Outcome.LATER, "the chain moved meanwhile")
AWAY = Decision(Outcome.LATER, "bitcoind is away")
SPENT = Decision(Outcome.REFUSED, Absent.SPENT.value)
FAILED = Decision(Outcome.REFUSED, "the back failed at it")

log = structlog.get_logger()

_Item = TypeVar("_Item")
_Pendings: TypeAlias = dict[bytes, tuple[Pending, list[Claim]]]
"""By raw announcement: several fronts may submit the same."""


@dataclass(frozen=True, slots=True)
class JudgeRules:
    """Limits of judging.

    Attributes:
        budget: of what may wait.
        batch: announcements looked at in one round.
        slice: of them without letting others have the event loop.
        verified_at_once: announcements whose signatures one call of the thread checks.
        blocks: of one look-up.
        channels: of one look-up.
        verdicts: in one message.
        flush_s: how long verdicts may wait for others.
        answered_when_full: submissions over budget that are answered, between two flushes; others
            are dropped unread, and their fronts submit them again anyway.
        away_s: pause after bitcoind did not answer.
    """

    budget: Budget = field(default_factory=Budget)
    batch: int = 500
    slice: int = 100
    verified_at_once: int = 50
    blocks: int = 16
    channels: int = 1_000
    verdicts: int = 500
    flush_s: float = 0.05
    answered_when_full: int = 4
    away_s: float = 1.0


class Keeper(Protocol):
    """Who has the table."""

    @property
    def table(self) -> Table:
        """The present one."""

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded."""

    def situation(self, is_awaited: Callable[[int], bool]) -> Situation:
        """What decisions depend on now."""

    def apply(self, changes: Iterable[Change]) -> bool:
        """Take changes into the table, the outputs and the stream; whether any was news."""

    async def drained(self) -> None:
        """Return as soon as more may be written."""


class Judge:
    """Gives verdicts.

    Args:
        fabric: where submissions come from and verdicts go.
        keeper: of the table.
        lookup: of funding outputs.
        spends: watches blocks for channels that are being decided on.
        executor: checks signatures; None: fronts are trusted to have done so.
        rules: limits.

    Attributes:
        counts: verdicts by kind of announcement and outcome.
        refused: malformed submissions, and those dropped unread.
    """

    def __init__(
        self,
        fabric: Fabric,
        keeper: Keeper,
        lookup: FundingLookup,
        spends: Spends,
        executor: Executor | None,
        rules: JudgeRules = JudgeRules(),
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.refused = 0
        self.submissions = Submissions(rules.budget)
        self.channels = PendingChannels()
        self._fabric = fabric
        self._keeper = keeper
        self._lookup = lookup
        self._spends = spends
        self._executor = executor
        self._rules = rules
        self._work = asyncio.Event()
        self._chain_work = asyncio.Event()
        self._verdicts: dict[str, list[tuple[int, Decision]]] = {}
        self._flushing: asyncio.Handle | None = None
        self._answered_when_full = 0
        self._is_muted = False
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin; submissions come through `receive`."""
        self._tasks.spawn(self._forever(self._judge_some, self._work), "gossip judge")
        self._tasks.spawn(self._forever(self._look_some_up, self._chain_work), "gossip funding")

    def mute(self) -> None:
        """Give no verdict any more: fronts submit again, to who has taken over."""
        self._is_muted = True

    async def stop(self) -> None:
        """Stop; what is undecided gets no verdict, and its front submits it again."""
        await self._tasks.stop()
        self._flush()

    async def _forever(self, step: Callable[[], Awaitable[bool]], work: asyncio.Event) -> None:
        while True:
            await work.wait()
            try:
                if not await step():
                    work.clear()
            except Exception:
                # A bug of ours: what it was at is lost, and submitted again; the rest goes on.
                log.exception("gossip_not_judged")
                await asyncio.sleep(self._rules.away_s)

    # --- submissions ------------------------------------------------------------------------------

    def receive(self, received: Received) -> None:
        """Take one submission."""
        if self._answered_when_full >= self._rules.answered_when_full and self._is_over(received):
            self.refused += 1
            return
        try:
            submission = decode_submission(received.payload)
        except FabricError as error:
            self.refused += 1
            if self.refused.bit_count() == 1:
                log.warning("submission_refused", why=str(error), refused=self.refused)
            return
        if self._keeper.is_ready and self.submissions.add(submission):
            self._work.set()
            return
        self._answered_when_full += 1
        decision = BUSY if self._keeper.is_ready else RETRY
        for number, raw in enumerate(submission.items, submission.first_id):
            self._tell(submission.front, number, raw, decision)

    def _is_over(self, received: Received) -> bool:
        """Whether it would not be taken, by its front's name alone."""
        payload = received.payload
        name = payload[2 : 2 + payload[1]] if len(payload) > 2 else b""
        return not self._keeper.is_ready or self.submissions.is_full(name.decode(errors="replace"))

    # --- the first look ---------------------------------------------------------------------------

    async def _judge_some(self) -> bool:
        batch = self.submissions.take(self._rules.batch)
        if not batch:
            return False
        await self._keeper.drained()
        size = self._rules.slice
        for start in range(0, len(batch), size):
            pendings = self._look(batch[start : start + size])
            try:
                await self._verify(pendings)
            except Exception:
                # The same: whoever claims what is left is told, or its budget would be used up.
                log.exception("announcements_not_verified", announcements=len(pendings))
                for pending, claims in pendings.values():
                    self._decide(claims, pending.raw, FAILED)
            await asyncio.sleep(0)
        return True

    def _look(self, batch: Sequence[tuple[Claim, bytes]]) -> _Pendings:
        situation = self._keeper.situation(self.channels.has)
        pendings: _Pendings = {}
        for claim, raw in batch:
            if (same := pendings.get(raw)) is not None:
                same[1].append(claim)
                continue
            try:
                found = self._look_at(claim, raw, situation)
            except Exception:
                # A bug of ours: the others of the batch are not to suffer from this one.
                log.exception("announcement_not_judged", announcement=raw[:500].hex())
                self._decide([claim], raw, FAILED)
                continue
            if found is not None:
                pendings[raw] = found, [claim]
        return pendings

    def _look_at(self, claim: Claim, raw: bytes, situation: Situation) -> Pending | None:
        """Decide, or return what has signatures to be checked."""
        found = first_look(self._keeper.table, raw, situation)
        if isinstance(found, Decision):
            self._decide([claim], raw, found)
        elif self.channels.join(raw, (claim,)):
            return None
        elif self._executor is None:
            self._accept(found, [claim])
        else:
            return found
        return None

    async def _verify(self, pendings: _Pendings) -> None:
        if not pendings:
            return
        loop = asyncio.get_running_loop()
        size = self._rules.verified_at_once
        while pendings:
            part = [pendings[raw] for raw in islice(pendings, size)]
            jobs = [(pending.raw, pending.signer) for pending, _ in part]
            right = await loop.run_in_executor(self._executor, _verified, jobs)
            for (pending, claims), is_right in zip(part, right, strict=True):
                if is_right:
                    self._accept(pending, claims)
                else:
                    self._decide(claims, pending.raw, INVALID)
                del pendings[pending.raw]

    def _accept(self, pending: Pending, claims: list[Claim]) -> None:
        """Go on with an announcement whose signatures are right."""
        seen = pending.seen
        if isinstance(seen, ChannelView):
            if self._spends.height:
                self.channels.add(pending, seen, claims)
                self._chain_work.set()
            else:
                self._decide(claims, pending.raw, AWAY)
            return
        self._decide(claims, pending.raw, self._apply(pending))

    def _apply(self, pending: Pending, funding: Funding | None = None) -> Decision:
        """Put it into the table, which may be another than it was when it was looked at."""
        seen, table = pending.seen, self._keeper.table
        if isinstance(seen, UpdateView):
            is_placed = table.channel(seen.short_channel_id) is not None
        elif isinstance(seen, ChannelView):
            is_placed = table.channel(seen.short_channel_id) is None
        else:
            is_placed = table.has_channels(seen.node_id)
        if not is_placed:
            return MOVED
        return ACCEPTED if self._keeper.apply((change_of(pending, funding),)) else KNOWN

    # --- channels ---------------------------------------------------------------------------------

    async def _look_some_up(self) -> bool:
        waiting = self.channels.take(self._rules.blocks, self._rules.channels)
        if not waiting:
            return False
        try:
            await self._keeper.drained()
            await self._look_up(waiting)
        except (BackendError, RpcError) as error:
            log.info("funding_not_looked_up", why=str(error), channels=len(waiting))
            self._finish((one, AWAY) for one in waiting)
            await asyncio.sleep(self._rules.away_s)
        except Exception:
            # A bug of ours: as above.
            self._finish((one, FAILED) for one in waiting)
            raise
        return True

    async def _look_up(self, waiting: list[WaitingChannel]) -> None:
        """Ask for outputs, then whether they are unspent; blocks meanwhile are watched for them."""
        found = await self._lookup.locate({one.seen.short_channel_id for one in waiting})
        right: list[tuple[WaitingChannel, Funding]] = []
        for channels in self._slices(waiting):
            right += self._compare(channels, found)
            await asyncio.sleep(0)
        outputs = self._spends.outputs
        txids = {one.seen.short_channel_id: funding.txid for one, funding in right}
        candidates = outputs.begin(txids)
        try:
            coins = await self._lookup.unspent(
                [funding_outpoint(scid, txid) for scid, txid in txids.items()]
            )
            spent = {scid for scid, coin in zip(txids, coins, strict=True) if coin is None}
            for part in self._slices(right):
                self._finish(
                    (one, self._judged(one, funding, spent, candidates.lost))
                    for one, funding in part
                )
                await asyncio.sleep(0)
        finally:
            outputs.end(candidates, self._keeper.table)

    def _slices(self, items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
        size = self._rules.slice
        return (items[start : start + size] for start in range(0, len(items), size))

    def _compare(
        self, channels: Iterable[WaitingChannel], found: dict[int, Funds]
    ) -> list[tuple[WaitingChannel, Funding]]:
        """Return those whose output is there and theirs; decide on the others."""
        right = []
        for one in channels:
            funds = found[one.seen.short_channel_id]
            decision = judge_channel(one.seen, funds)
            if isinstance(funds, Funding) and decision is ACCEPTED:
                right.append((one, funds))
            else:
                self._finish(((one, decision),))
        return right

    def _judged(
        self, one: WaitingChannel, funding: Funding, spent: set[int], lost: set[int]
    ) -> Decision:
        scid = one.seen.short_channel_id
        if scid in lost:
            return MOVED
        if scid in spent:
            return SPENT
        return self._apply(one.pending, funding)

    def _finish(self, decided: Iterable[tuple[WaitingChannel, Decision]]) -> None:
        for one, decision in decided:
            claims, one.claims = one.claims, []
            self._decide(claims, one.pending.raw, decision)
            self.channels.done((one,))

    # --- verdicts ---------------------------------------------------------------------------------

    def _decide(self, claims: Iterable[Claim], raw: bytes, decision: Decision) -> None:
        for front, number in claims:
            self.submissions.settle(front, len(raw))
            self._tell(front, number, raw, decision)

    def _tell(self, front: str, number: int, raw: bytes, decision: Decision) -> None:
        self.counts[KINDS.get(message_type(raw), "unknown"), str(decision.outcome)] += 1
        verdicts = self._verdicts.setdefault(front, [])
        verdicts.append((number, decision))
        if len(verdicts) >= self._rules.verdicts:
            self._publish(front, self._verdicts.pop(front))
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(self._rules.flush_s, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._answered_when_full = 0
        for front, verdicts in self._verdicts.items():
            self._publish(front, verdicts)
        self._verdicts.clear()

    def _publish(self, front: str, verdicts: list[tuple[int, Decision]]) -> None:
        if self._is_muted:
            return
        told = Verdicts(verdicts=tuple(_runs(sorted(verdicts))))
        self._fabric.publish(subjects.verdict(front), told.to_bytes())


def _runs(verdicts: list[tuple[int, Decision]]) -> Iterator[Verdict]:
    """Put the same decisions on successive numbers together."""
    start = 0
    for at, (number, decision) in enumerate(verdicts, 1):
        if at < len(verdicts) and verdicts[at] == (number + 1, decision):
            continue
        first = verdicts[start][0]
        yield Verdict(
            id=first, count=number - first + 1, outcome=decision.outcome, why=decision.why
        )
        start = at


def _verified(jobs: Sequence[tuple[bytes, bytes]]) -> list[bool]:
    """Check signatures; runs in a thread (libsecp256k1 lets others have the interpreter)."""
    return [verify(raw, signer) for raw, signer in jobs]
