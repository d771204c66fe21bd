"""What peers announce, from the socket to the back: each announcement is checked once, if at all.

In order of cost: have we seen these very bytes; does the table have it, or newer; does it keep to
BOLT 7; is its channel known, else it is held; has its sender, have all senders, budget left; then
signatures, in worker processes; then the back, which asks the chain and gives a verdict. What is
over budget is dropped, and asked for later: nobody's socket waits for it.

Everything here is bounded, by number and by bytes, for each peer and for all together; and what is
much at once is done in slices.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

import structlog

from front.gossip.intake.budget import Account, Budget, IntakeRules
from front.gossip.intake.offences import Offences
from front.gossip.intake.pace import Pace
from front.gossip.intake.pending import FairQueue, Holds, Item, Memory
from front.gossip.intake.placing import compare, signer
from front.gossip.intake.slices import Slices
from front.gossip.intake.submitting import Submitting
from front.gossip.intake.verification import Verification, Verifier
from front.gossip.intake.worker import HIGH_S, RIGHT, WRONG
from shared.errors import FabricError
from shared.fabric import subjects
from shared.fabric.gossip import Outcome, Verdicts
from shared.fabric.requests import read
from shared.gossip.record import Change, ChannelRecord
from shared.gossip.rules import check
from shared.gossip.table import Table
from shared.gossip.view import (
    CHANNEL_ANNOUNCEMENT,
    CHANNEL_UPDATE,
    ChannelView,
    UpdateView,
    View,
    channel_view,
    direction_of,
    message_type,
    view,
)

if TYPE_CHECKING:
    from front.gossip.link import Link
    from front.metrics import Metrics
    from shared.fabric.interface import Fabric, Received, Subscription

__all__ = ["Intake"]

SENDERS = 16
"""How many senders of one announcement are remembered."""
_COST = {256: 4, 257: 1, 258: 1}
_HASHED = 12
"""Signed bytes, as a power of two, whose hash costs about as much as the check of a signature."""
_ROUNDS = 16
"""Batches taken from the queue in one turn of the event loop."""
_ACCEPTED, _KNOWN, _REFUSED, _INVALID = "accepted", "known", "refused", "invalid"
_UNVERIFIABLE = "unverifiable"

log = structlog.get_logger()


class Intake:
    """Takes announcements; see the module.

    Args:
        fabric: the bulk connection.
        name: this front's.
        chain_hash: of our network.
        table: the present one.
        rules: limits.
        metrics: of the front.
        verifier: makes what checks signatures.
        clock: monotonic seconds.

    Attributes:
        on_missing: called with short_channel_ids whose announcements were dropped.
    """

    def __init__(
        self,
        fabric: "Fabric",
        name: str,
        chain_hash: bytes,
        table: Callable[[], Table],
        rules: IntakeRules,
        metrics: "Metrics",
        *,
        verifier: Callable[[int, Callable[[], None]], Verifier] = Verification,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_missing: Callable[[Collection[int]], None] = lambda short_channel_ids: None
        self._fabric = fabric
        self._name = name
        self._chain_hash = chain_hash
        self._table = table
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._pending: dict[bytes, Item] = {}
        self._accounts: dict[Link, Account] = {}
        self._budget = Budget(rules, clock())
        self._queue = FairQueue()
        self._holds = Holds()
        self._awaited: dict[int | bytes, int] = {}
        """Channels that are pending, and their nodes: by how many announcements."""
        self._decided: Memory[str] = Memory(rules.memory // 2, rules.memory_s)
        self._senders: Memory[tuple[bytes, ...]] = Memory(rules.memory // 2, rules.memory_s)
        self._refused_channels: Memory[bool] = Memory(rules.memory // 2, rules.memory_s)
        self._pace = Pace(rules)
        self._offences = Offences(rules)
        self._submitting = Submitting(name, secrets.randbits(51) + 1, rules.submit)
        self._verification = verifier(rules.workers, self._check_more)
        self._slices = Slices()
        self._flushing: asyncio.TimerHandle | None = None
        self._missing: set[int] = set()
        self._counts: defaultdict[tuple[int, str], int] = defaultdict(int)
        self._subscription: Subscription | None = None

    @property
    def pending(self) -> int:
        """Announcements that are not decided yet."""
        return len(self._pending)

    @property
    def in_work(self) -> int:
        """Announcements that are being checked or decided: pending, and not held."""
        return len(self._pending) - len(self._holds)

    @property
    def is_crowded(self) -> bool:
        """Whether nothing should be asked for now."""
        return len(self._pending) > self._rules.items // 2

    @property
    def pids(self) -> list[int]:
        """Of the worker processes."""
        return self._verification.pids

    async def start(self) -> None:
        """Hear verdicts."""
        subject = subjects.verdict(self._name)
        self._subscription = await self._fabric.subscribe(subject, self._verdicts)

    async def stop(self) -> None:
        """Stop; what is undecided is forgotten."""
        self._slices.stop()
        if self._flushing is not None:
            self._flushing.cancel()
        if self._subscription is not None:
            await self._subscription.close()
        await self._verification.stop()

    def tick(self, now: float) -> None:
        """Give up holds, submit again what got no verdict; called a few times a second."""
        self._submitting.retry(now)
        for item in self._pace.due(now):
            self._submitting.add(item)
        self._submit()
        for item in self._holds.expired(now):
            self._expired(item, now)
        if self._missing:
            missing, self._missing = self._missing, set()
            self.on_missing(missing)
        counts, self._counts = self._counts, defaultdict(int)
        for (kind, how), times in counts.items():
            self._metrics.announced(kind, how, times)

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, link: "Link", raw: bytes) -> None:
        """Take an announcement of a peer.

        Raises:
            MalformedMessage: it is too short for its fields.
        """
        now = self._clock()
        account = self._accounts.get(link)
        if account is None:
            account = self._accounts[link] = Account(link, self._rules, now)
        kind = message_type(raw)
        self._counts[kind, "received"] += 1
        if account.muted_until > now:
            self._count(kind, "muted")
            return
        known = self._pending.get(raw)
        if known is not None:
            if len(known.senders) < SENDERS and account not in known.senders:
                known.senders.append(account)
            self._count(kind, "duplicate")
        elif not self._was_decided(account, kind, raw, now):
            self._take(account, kind, raw, now)

    def offer(self, raw: bytes) -> bool:
        """Take an announcement that a table had whose stream is gone; False: full, offer it again.

        Its signatures are checked as if it came from a peer: that table's stream may have been
        somebody else's.
        """
        if self.is_crowded:
            return False
        if raw not in self._pending:
            self._take(None, message_type(raw), raw, self._clock())
        return True

    def applied(self, change: Change) -> None:
        """GRAPH brought something that the table took."""
        key, value = change.key, change.value
        if isinstance(value, ChannelRecord):
            self._echoed(value.raw)
            if self._holds:
                channel = channel_view(value.raw)
                for name in (key, channel.node_id_1, channel.node_id_2):
                    self._slices.each(self._holds.release(name), self._place)
        elif value is not None:
            self._echoed(value)

    def _echoed(self, raw: bytes) -> None:
        item = self._pending.get(raw)
        if item is not None:
            self._finish(item, _ACCEPTED if item.id else _KNOWN)

    def replaced(self) -> None:
        """The table is another one now: what was held may have its channel in it."""
        self._slices.run(self._holds.clear(), self._place)

    def senders(self, change: Change) -> frozenset[bytes]:
        """Node ids that sent this very announcement, as far as is remembered."""
        value = change.value
        raw = value.raw if isinstance(value, ChannelRecord) else value
        if raw is None:
            return frozenset()
        return frozenset(self._senders.get(hash(raw), self._clock()) or ())

    def left(self, link: "Link") -> None:
        """A connection ended; what it sent goes its way, unless it sent rubbish."""
        account = self._accounts.pop(link, None)
        if account is not None:
            account.left()
            if account.invalid:
                self._disown(account)

    def _was_decided(self, account: Account, kind: int, raw: bytes, now: float) -> bool:
        decided = self._decided.get(hash(raw), now)
        if decided is None:
            return False
        self._count(kind, "duplicate")
        if decided == _INVALID:
            self._invalid(account, raw, now)
        return True

    def _take(self, account: Account | None, kind: int, raw: bytes, now: float) -> None:
        seen = view(raw)
        key, is_placed, is_old = compare(self._table(), seen)
        if is_old:
            self._count(kind, "duplicate")
            self._have(account, raw, now)
        elif check(seen, self._chain_hash, int(time.time())) is not None:
            self._count(kind, "rejected")
        elif account is not None and account.disputed and self._is_disputed(account, seen):
            self._count(kind, "disputed")
        else:
            item = Item(raw, kind, key, _COST[kind] + (len(raw) >> _HASHED), account)
            item.is_stray = not is_placed and key not in self._awaited
            if self._budget.has_room(item, now):
                self._add(item, seen, now, is_placed=is_placed)
            else:
                self._count(kind, "dropped")
                self._miss(item)

    def _have(self, account: Account | None, raw: bytes, now: float) -> None:
        """The table has it, or newer: remember who else has, so that it is not sent there."""
        if account is None:
            return
        number = hash(raw)
        senders = self._senders.get(number, now)
        if senders is not None and len(senders) < SENDERS and account.node_id not in senders:
            self._senders.put(number, (*senders, account.node_id), now)

    def _is_disputed(self, account: Account, seen: View) -> bool:
        return isinstance(seen, UpdateView) and self._offences.ignores(
            account, seen.short_channel_id
        )

    def _add(self, item: Item, seen: View, now: float, *, is_placed: bool) -> None:
        self._pending[item.raw] = item
        self._budget.add(item)
        if isinstance(seen, ChannelView):
            item.names = (seen.short_channel_id, seen.node_id_1, seen.node_id_2)
            for key in item.names:
                self._awaited[key] = self._awaited.get(key, 0) + 1
        if is_placed:
            self._check(item)
        else:
            self._hold(item, now)

    # --- holds ------------------------------------------------------------------------------------

    def _hold(self, item: Item, now: float) -> None:
        item.due = now + self._rules.hold_s
        self._holds.add(item)

    def _expired(self, item: Item, now: float) -> None:
        if item.is_done:
            return
        if item.key in self._awaited:
            self._budget.found(item)
            self._hold(item, now)
        else:
            self._drop(item, "held")

    def _place(self, item: Item) -> None:
        """What is held may have its channel now."""
        if item.is_done:
            return
        key, table = item.key, self._table()
        is_placed = table.channel(key) if isinstance(key, int) else table.has_channels(key)
        if is_placed:
            self._budget.found(item)
            self._check(item)
        else:
            self._holds.add(item)

    # --- signatures -------------------------------------------------------------------------------

    def _check(self, item: Item) -> None:
        """Have the signatures checked; the table has the channel of an update now."""
        if item.type == CHANNEL_UPDATE:
            scid, direction = direction_of(item.raw)
            entry = self._table().channel(scid)
            if entry is None:
                self._drop(item, "held")
                return
            item.signer = signer(entry.announcement, direction)
        self._queue.add(item)
        self._soon()

    def _check_more(self) -> None:
        for _ in range(_ROUNDS):
            if not self._queue or not self._verification.free:
                return
            items = [item for item in self._queue.take(self._rules.batch) if not item.is_done]
            if items:
                jobs = [(item.raw, item.signer) for item in items]
                self._verification.check(jobs, partial(self._checked, items))
        self._soon()

    def _checked(self, items: list[Item], answers: bytes) -> None:
        now = self._clock()
        for item, answer in zip(items, answers, strict=True):
            if item.is_done:
                continue
            if answer == RIGHT:
                self._pass(item, now)
            elif answer == WRONG:
                self._finish(item, _INVALID)
            else:
                self._finish(item, "malleated" if answer == HIGH_S else "unchecked")
        self._soon()

    def _pass(self, item: Item, now: float) -> None:
        """It is rightly signed: have it submitted, unless another has just been."""
        if item.type == CHANNEL_ANNOUNCEMENT or not item.senders or self._pace.passes(item, now):
            self._submitting.add(item)
        elif (older := self._pace.wait(item, now)) is not None:
            self._finish(older, "too_often")

    # --- the back ---------------------------------------------------------------------------------

    def _soon(self) -> None:
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(self._rules.flush_s, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._check_more()
        self._submit()

    def _submit(self) -> None:
        if self._fabric.connected and self._submitting.has_work:
            for subject, payload in self._submitting.take(self._clock()):
                self._fabric.publish(subject, payload)

    def _verdicts(self, received: "Received") -> None:
        try:
            verdicts = read(Verdicts, received.payload).verdicts
        except FabricError as error:
            self._metrics.foreign.inc()
            log.warning("verdicts_refused", why=str(error))
            return
        now = self._clock()
        for verdict in verdicts:
            is_later, how = verdict.outcome is Outcome.LATER, _ENDS[verdict.outcome]
            for number in verdict.ids:
                item = self._submitting.verdict(number)
                if item is None or (is_later and self._submitting.again(item, now)):
                    continue
                self._finish(item, how)
        self._submit()

    # --- ends -------------------------------------------------------------------------------------

    def _finish(self, item: Item, how: str) -> None:
        """An announcement has come to its end."""
        now = self._clock()
        self._forget(item)
        self._count(item.type, how)
        if how in _IN_TABLE:
            if item.senders:
                names = tuple(account.node_id for account in item.senders)
                self._senders.put(hash(item.raw), names, now)
        elif how in _REMEMBERED:
            self._decided.put(hash(item.raw), how, now)
        if how == _INVALID:
            for account in tuple(item.senders):
                self._invalid(account, item.raw, now)
        elif how in _DECLINED and item.type == CHANNEL_ANNOUNCEMENT and isinstance(item.key, int):
            self._refused_channels.put(item.key, True, now)
            for account in tuple(item.senders if how == _REFUSED else ()):
                if self._offences.refused(account, now):
                    self._disown(account)

    def _drop(self, item: Item, how: str) -> None:
        """Give an announcement up, to ask for it later."""
        self._forget(item)
        self._count(item.type, how)
        self._miss(item)

    def _forget(self, item: Item) -> None:
        if item.is_done:
            return
        del self._pending[item.raw]
        self._submitting.done(item)
        self._budget.remove(item)
        for key in item.names:
            if (left := self._awaited[key] - 1) > 0:
                self._awaited[key] = left
            else:
                del self._awaited[key]

    def _miss(self, item: Item) -> None:
        """Remember to ask for a channel; a node's announcement comes with its channels.

        What a peer says of its unannounced channel with us is nobody else's business.
        """
        key = item.key
        if not isinstance(key, int) or any(account.has_channels for account in item.senders):
            return
        if self._refused_channels.get(key, self._clock()) is None:
            self._missing.add(key)

    # --- bad peers --------------------------------------------------------------------------------

    def _invalid(self, account: Account, raw: bytes, now: float) -> None:
        if self._offences.invalid(account, raw, now):
            self._disown(account)

    def _disown(self, account: Account) -> None:
        """Take out of the queues what only this peer has sent."""
        for queue in (self._queue, self._submitting):
            self._slices.each(queue.drop(account), partial(self._disowned, account, queue))

    def _disowned(self, account: Account, queue: FairQueue | Submitting, item: Item) -> None:
        if item.is_done:
            return
        item.senders.remove(account)
        if not item.senders:
            self._forget(item)
            self._count(item.type, "disowned")
            return
        self._budget.give(item, item.senders[0])
        queue.add(item)
        self._soon()

    def _count(self, kind: int, how: str) -> None:
        self._counts[kind, how] += 1


_IN_TABLE = frozenset({_KNOWN, _ACCEPTED})
_DECLINED = frozenset({_REFUSED, _UNVERIFIABLE})
_REMEMBERED = frozenset({*_DECLINED, _INVALID, "too_often", "malleated"})
_ENDS = {
    Outcome.ACCEPTED: _ACCEPTED,
    Outcome.KNOWN: _KNOWN,
    Outcome.REFUSED: _REFUSED,
    Outcome.UNVERIFIABLE: _UNVERIFIABLE,
    Outcome.INVALID: _INVALID,
    Outcome.LATER: "given_up",
}
