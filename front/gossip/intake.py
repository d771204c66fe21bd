"""What peers announce, from the socket to the back: each announcement is checked once, if at all.

In order of cost: have we seen these very bytes; does the table have it, or newer; does it keep to
BOLT 7; is its channel known, else it is held; has its sender, have all senders, budget left; then
signatures, in worker processes; then the back, which asks the chain and gives a verdict. What is
over budget is dropped, and asked for later: nobody's socket waits for it.

Everything here is bounded, by number and by bytes, for each peer and for all together.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

import structlog

from front.admission import TokenBucket
from front.gossip.budget import Account, IntakeRules
from front.gossip.pending import FairQueue, Holds, Item, Memory
from front.gossip.submitting import Submitting
from front.gossip.verification import Verification
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
    NodeView,
    UpdateView,
    channel_view,
    message_type,
    view,
)

if TYPE_CHECKING:
    from front.gossip.link import Link
    from front.metrics import Metrics
    from shared.fabric.interface import Fabric, Received, Subscription

__all__ = ["Intake"]

_BOLT = "BOLT 7"
SENDERS = 50
"""How many senders of one announcement are remembered."""
_COST = {256: 4, 257: 1, 258: 1}
_ACCEPTED, _KNOWN, _REFUSED, _INVALID = "accepted", "known", "refused", "invalid"

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
    ) -> None:
        self.on_missing: Callable[[Collection[int]], None] = lambda short_channel_ids: None
        self._fabric = fabric
        self._name = name
        self._chain_hash = chain_hash
        self._table = table
        self._rules = rules
        self._metrics = metrics
        self._pending: dict[bytes, Item] = {}
        self._size = 0
        self._accounts: dict[Link, Account] = {}
        self._queue = FairQueue()
        self._holds = Holds()
        self._awaited: dict[int | bytes, int] = {}
        """Channels that are pending, and their nodes: by how many announcements."""
        self._decided: Memory[str] = Memory(rules.memory // 2, rules.memory_s)
        self._senders: Memory[frozenset[bytes]] = Memory(rules.memory // 2, rules.memory_s)
        self._refused_channels: Memory[bool] = Memory(rules.memory // 2, rules.memory_s)
        self._replaced: Memory[TokenBucket] = Memory(rules.memory // 2, rules.memory_s)
        now = time.monotonic()
        self._signatures = TokenBucket(rules.signatures_per_s, rules.signature_burst, now)
        self._submitting = Submitting(name, secrets.randbits(51) + 1, rules.submit)
        self._verification = Verification(rules.workers, self._check_more)
        self._flushing: asyncio.TimerHandle | None = None
        self._missing: set[int] = set()
        self._subscription: Subscription | None = None

    @property
    def pending(self) -> int:
        """Announcements that are not decided yet."""
        return len(self._pending)

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
        if self._flushing is not None:
            self._flushing.cancel()
        if self._subscription is not None:
            await self._subscription.close()
        await self._verification.stop()

    def tick(self, now: float) -> None:
        """Give up holds, submit again what got no verdict; called a few times a second."""
        self._submitting.retry(now)
        self._submit()
        for item in self._holds.expired(now):
            self._unhold(item)
            if item.key in self._awaited:
                self._hold(item, now)
            else:
                self._drop(item, "held")
        if self._missing:
            missing, self._missing = self._missing, set()
            self.on_missing(missing)

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, link: "Link", raw: bytes) -> None:
        """Take an announcement of a peer.

        Raises:
            MalformedMessage: it is too short for its fields.
        """
        now = time.monotonic()
        account = self._accounts.get(link)
        if account is None:
            account = self._accounts[link] = Account(self._rules, now)
        self._count(raw, "received")
        if account.muted_until > now:
            self._count(raw, "muted")
            return
        known = self._pending.get(raw)
        if known is not None:
            if len(known.links) < SENDERS and link not in known.links:
                known.links.append(link)
            self._count(raw, "duplicate")
        elif not self._was_decided(link, raw, now):
            self._take(link, account, raw, now)

    def offer(self, raw: bytes) -> bool:
        """Take an announcement that a table had whose stream is gone; False: full, offer it again.

        Its signatures are checked as if it came from a peer: that table's stream may have been
        somebody else's.
        """
        if len(self._pending) > self._rules.items // 2:
            return False
        if raw not in self._pending:
            self._take(None, None, raw, time.monotonic())
        return True

    def applied(self, change: Change) -> None:
        """GRAPH brought something that the table took."""
        key, value = change.key, change.value
        if isinstance(value, ChannelRecord):
            self._echoed(value.raw)
            if self._holds:
                self._channel_is_there(key, value.raw)
        elif value is not None:
            self._echoed(value)

    def _echoed(self, raw: bytes) -> None:
        item = self._pending.get(raw)
        if item is not None:
            self._finish(item, _ACCEPTED if item.id else _KNOWN)

    def replaced(self) -> None:
        """The table is another one now: what was held may have its channel in it."""
        table = self._table()
        for item in self._holds.clear():
            self._unhold(item)
            key = item.key
            if isinstance(key, int):
                is_placed = table.channel(key) is not None
            else:
                is_placed = table.has_channels(key)
            if is_placed:
                self._check(item)
            else:
                self._hold(item, time.monotonic())

    def senders(self, change: Change) -> frozenset[bytes]:
        """Node ids that sent this very announcement, as far as is remembered."""
        value = change.value
        raw = value.raw if isinstance(value, ChannelRecord) else value
        if raw is None:
            return frozenset()
        return self._senders.get(hash(raw), time.monotonic()) or frozenset()

    def left(self, link: "Link") -> None:
        """A connection ended; what it sent goes its way, unless it sent rubbish."""
        account = self._accounts.pop(link, None)
        if account is not None and account.invalid:
            self._disown(link)

    def _was_decided(self, link: "Link", raw: bytes, now: float) -> bool:
        number = hash(raw)
        decided = self._decided.get(number, now)
        if decided is None:
            return False
        self._count(raw, "duplicate")
        if decided == _INVALID:
            self._invalid(link)
        return True

    def _take(self, link: "Link | None", account: Account | None, raw: bytes, now: float) -> None:
        seen = view(raw)
        table = self._table()
        key: int | bytes
        if isinstance(seen, UpdateView):
            scid = seen.short_channel_id
            entry = table.channel(scid)
            is_placed, key = entry is not None, scid
            is_old = entry is not None and seen.timestamp <= table.update_timestamp(
                scid, seen.direction
            )
        elif isinstance(seen, ChannelView):
            is_placed, key = True, seen.short_channel_id
            is_old = table.channel(seen.short_channel_id) is not None
        else:
            is_placed, key = table.has_channels(seen.node_id), seen.node_id
            is_old = seen.timestamp <= table.node_timestamp(seen.node_id)
        if is_old:
            self._have(link, raw, now)
        elif check(seen, self._chain_hash, int(time.time())) is not None:
            self._count(raw, "rejected")
        else:
            item = Item(raw, message_type(raw), key, _COST[message_type(raw)])
            self._add(link, account, item, seen, now, is_placed=is_placed)

    def _have(self, link: "Link | None", raw: bytes, now: float) -> None:
        """The table has it, or newer: remember who else has, so that it is not sent there."""
        self._count(raw, "duplicate")
        number = hash(raw)
        senders = self._senders.get(number, now)
        if link is not None and senders is not None and len(senders) < SENDERS:
            self._senders.put(number, senders | {link.node_id}, now)

    def _add(
        self,
        link: "Link | None",
        account: Account | None,
        item: Item,
        seen: ChannelView | UpdateView | NodeView,
        now: float,
        *,
        is_placed: bool,
    ) -> None:
        item.is_stray = not is_placed and item.key not in self._awaited
        if not self._has_room(account, item, now):
            self._count(item.raw, "dropped")
            self._miss(item)
            return
        self._pending[item.raw] = item
        self._size += len(item.raw)
        if account is not None and link is not None:
            account.items += 1
            account.held += item.is_stray
            item.owner = link
            item.links.append(link)
        if isinstance(seen, ChannelView):
            for key in (seen.short_channel_id, seen.node_id_1, seen.node_id_2):
                self._awaited[key] = self._awaited.get(key, 0) + 1
        if is_placed:
            self._check(item)
        else:
            self._hold(item, now)

    def _has_room(self, account: Account | None, item: Item, now: float) -> bool:
        rules = self._rules
        if len(self._pending) >= rules.items or self._size >= rules.size:
            return False
        if item.is_stray and len(self._holds) >= rules.held:
            return False
        if account is None:
            return True
        if account.items >= rules.peer_items or (item.is_stray and account.held >= rules.peer_held):
            return False
        return account.signatures.take(now, item.cost) and self._signatures.take(now, item.cost)

    # --- holds ------------------------------------------------------------------------------------

    def _hold(self, item: Item, now: float) -> None:
        item.due = now + self._rules.hold_s
        self._holds.add(item)

    def _unhold(self, item: Item) -> None:
        """Count it out of its owner's holds."""
        if item.is_stray:
            item.is_stray = False
            if (account := self._account_of(item)) is not None:
                account.held -= 1

    def _channel_is_there(self, key: int | bytes, raw: bytes) -> None:
        channel = channel_view(raw)
        for name in (key, channel.node_id_1, channel.node_id_2):
            for item in self._holds.release(name):
                self._unhold(item)
                self._check(item)

    # --- signatures -------------------------------------------------------------------------------

    def _check(self, item: Item) -> None:
        """Have the signatures checked; the table has the channel of an update now."""
        if item.type == CHANNEL_UPDATE and isinstance(item.key, int):
            entry = self._table().channel(item.key)
            if entry is None:
                self._drop(item, "held")
                return
            item.signer = entry.nodes[item.raw[111] & 1]
        self._queue.add(item)
        self._check_more()

    def _check_more(self) -> None:
        while self._queue and self._verification.free:
            items = self._queue.take(self._rules.batch)
            jobs = [(item.raw, item.signer) for item in items]
            self._verification.check(jobs, partial(self._checked, items))

    def _checked(self, items: list[Item], right: list[bool]) -> None:
        now = time.monotonic()
        for item, is_right in zip(items, right, strict=True):
            if item.is_done:
                continue
            if not is_right:
                self._finish(item, _INVALID)
            elif self._is_too_often(item, now):
                self._finish(item, "too_often")
            else:
                self._submitting.add(item)
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(self._rules.flush_s, self._flush)

    def _is_too_often(self, item: Item, now: float) -> bool:
        """Whether a rightly signed announcement replaces another that is hardly old."""
        if item.type == CHANNEL_ANNOUNCEMENT or not item.links:
            return False
        key = hash((item.type, item.key, item.type == CHANNEL_UPDATE and item.raw[111] & 1))
        bucket = self._replaced.get(key, now)
        if bucket is None:
            rules = self._rules
            bucket = TokenBucket(1 / rules.replaced_every_s, rules.replaced_burst, now)
            self._replaced.put(key, bucket, now)
        return not bucket.take(now)

    # --- the back ---------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = None
        self._submit()

    def _submit(self) -> None:
        if self._submitting.has_work and self._fabric.connected:
            for subject, payload in self._submitting.take(time.monotonic()):
                self._fabric.publish(subject, payload)

    def _verdicts(self, received: "Received") -> None:
        try:
            verdicts = read(Verdicts, received.payload).verdicts
        except FabricError as error:
            self._metrics.foreign.inc()
            log.warning("verdicts_refused", why=str(error))
            return
        now = time.monotonic()
        for verdict in verdicts:
            item = self._submitting.verdict(verdict.id)
            if item is None:
                continue
            if verdict.outcome is Outcome.LATER and self._submitting.again(item, now):
                continue
            self._finish(item, _ENDS[verdict.outcome])
        self._submit()

    # --- ends -------------------------------------------------------------------------------------

    def _finish(self, item: Item, how: str) -> None:
        """An announcement has come to its end."""
        now = time.monotonic()
        self._forget(item)
        self._count(item.raw, how)
        if how in {_KNOWN, _ACCEPTED}:
            if item.links:
                senders = frozenset([link.node_id for link in item.links])
                self._senders.put(hash(item.raw), senders, now)
            return
        if how in {_REFUSED, _INVALID}:
            self._decided.put(hash(item.raw), how, now)
        if how == _INVALID:
            for link in item.links:
                self._invalid(link)
        elif how == _REFUSED and item.type == CHANNEL_ANNOUNCEMENT and isinstance(item.key, int):
            self._refused_channels.put(item.key, True, now)
            for link in item.links:
                self._refused(link, now)

    def _drop(self, item: Item, how: str) -> None:
        """Give an announcement up, to ask for it later."""
        self._forget(item)
        self._count(item.raw, how)
        # What a peer says of its unannounced channel with us is nobody else's business.
        if item.owner is None or not item.owner.has_channels:
            self._miss(item)

    def _forget(self, item: Item) -> None:
        if self._pending.pop(item.raw, None) is None:
            return
        self._size -= len(item.raw)
        self._submitting.done(item)
        if (account := self._account_of(item)) is not None:
            account.items -= 1
        if item.type == CHANNEL_ANNOUNCEMENT:
            channel = channel_view(item.raw)
            for key in (channel.short_channel_id, channel.node_id_1, channel.node_id_2):
                if (left := self._awaited[key] - 1) > 0:
                    self._awaited[key] = left
                else:
                    del self._awaited[key]

    def _account_of(self, item: Item) -> Account | None:
        return None if item.owner is None else self._accounts.get(item.owner)

    def _miss(self, item: Item) -> None:
        """Remember to ask for a channel; a node's announcement comes with its channels."""
        key = item.key
        if isinstance(key, int) and self._refused_channels.get(key, time.monotonic()) is None:
            self._missing.add(key)

    # --- bad peers --------------------------------------------------------------------------------

    def _invalid(self, link: "Link") -> None:
        """A signature is wrong: warn and disconnect; who has channels is not listened to."""
        account = self._accounts.get(link)
        if account is None:
            return
        account.invalid += 1
        if account.invalid == 1 or not link.has_channels:
            link.offend("a signature of your gossip is wrong", bolt=_BOLT, disconnect=True)
        if account.invalid >= self._rules.invalid_until_muted:
            self._mute(link, account)

    def _refused(self, link: "Link", now: float) -> None:
        account = self._accounts.get(link)
        if account is not None and not account.refused.take(now):
            self._mute(link, account)

    def _mute(self, link: "Link", account: Account) -> None:
        now = time.monotonic()
        if account.muted_until <= now:
            account.muted_until = now + self._rules.mute_s
            account.invalid = 0
            log.info("gossip_muted", peer=link.node_id.hex(), seconds=self._rules.mute_s)
            self._disown(link)

    def _disown(self, link: "Link") -> None:
        """Take out of the queue what only this peer has sent."""
        for item in self._queue.drop(link):
            item.links.remove(link)
            if not item.links:
                self._forget(item)
                continue
            if (account := self._account_of(item)) is not None:
                account.items -= 1
            item.owner = item.links[0]
            if (account := self._account_of(item)) is not None:
                account.items += 1
            self._queue.add(item)

    def _count(self, raw: bytes, how: str) -> None:
        self._metrics.announced(message_type(raw), how)


_ENDS = {
    Outcome.ACCEPTED: _ACCEPTED,
    Outcome.KNOWN: _KNOWN,
    Outcome.REFUSED: _REFUSED,
    Outcome.INVALID: _INVALID,
    Outcome.LATER: "given_up",
}
