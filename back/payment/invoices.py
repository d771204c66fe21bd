"""Our invoices: made, stored before anyone hears of them, and kept at hand until they are paid."""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from back.payment import hints
from back.payment.kind import InvoiceKind
from back.payment.multipart import Set
from back.payment.receive import MIN_FINAL_CLTV_EXPIRY_DELTA, Standing
from back.storage import invoices as stored
from back.storage.invoices import Invoice, InvoiceState, ReceivedHtlc
from back.storage.tables import NODE_SHARD
from shared import bolt11
from shared.errors import CommandError, WriteRefused
from shared.features import Feature, FeatureSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from back.channel.model import Channel
    from back.signer.signer import Signer
    from back.storage.statements import Write
    from back.storage.store import Store
    from shared.chain import Chain

__all__ = ["INVOICE_FEATURES", "BlindedInvoice", "InvoiceRequest", "Invoices", "Known"]

INVOICE_FEATURES = FeatureSet.of(
    required=(Feature.var_onion_optin, Feature.payment_secret), optional=(Feature.basic_mpp,)
)
DEFAULT_EXPIRY_S = 3600
MAX_EXPIRY_S = 10 * 365 * 86_400
MAX_DESCRIPTION_BYTES = 639
MAX_AMOUNT_MSAT = 21_000_000 * 100_000_000_000
KEPT = 20_000
"""Invoices at hand; others are read from the database when they are asked for."""


@dataclass(frozen=True, slots=True)
class InvoiceRequest:
    """What an invoice shall say.

    Attributes:
        amount_msat: None: any.
        description: or ``description_hash``, one of the two.
        preimage: None: a random one.
        hinted: channel ids to name in route hints; None: private channels, if there is no public
            one.
    """

    amount_msat: int | None = None
    description: str | None = None
    description_hash: bytes | None = None
    expiry_s: int = DEFAULT_EXPIRY_S
    preimage: bytes | None = field(default=None, repr=False)
    hinted: frozenset[bytes] | None = None


@dataclass(frozen=True, slots=True)
class BlindedInvoice:
    """An invoice that is paid through blinded paths (BOLT 12).

    Attributes:
        path_id: that we wrote into the last hop of each of its paths; at least 32 bytes that
            nobody can guess, and in no other invoice.
        amount_msat: of the invoice.
        description: for lists.
        created_at: unix seconds.
        expiry_s: seconds after ``created_at``.
        text: the invoice as given out, for lists.
    """

    preimage: bytes = field(repr=False)
    path_id: bytes = field(repr=False)
    amount_msat: int
    description: str
    created_at: int
    expiry_s: int
    text: str = ""

    @property
    def record(self) -> Invoice:
        """It, as it is stored."""
        return Invoice(
            payment_hash=hashlib.sha256(self.preimage).digest(),
            preimage=self.preimage,
            payment_secret=self.path_id,
            bolt11=self.text,
            amount_msat=self.amount_msat,
            description=self.description,
            created_at=self.created_at,
            expiry_s=self.expiry_s,
            kind=InvoiceKind.BOLT12,
        )


@dataclass(slots=True, eq=False)
class Known:
    """An invoice at hand: the one object that says whether it is paid.

    Attributes:
        invoice: as stored, or as it will be once ``settling`` is False.
        paid_by: (key_index, id) of the HTLCs that paid it.
        settling: the commit that makes it paid has not ended.
        is_held: HTLCs wait for the rest of a payment.
        is_stored: it has a row, or else gets one in the commit that makes it paid.
    """

    invoice: Invoice
    paid_by: frozenset[tuple[int, int]] = frozenset()
    settling: bool = False
    is_held: bool = False
    is_stored: bool = True

    @property
    def standing(self) -> Standing:
        """What a decision needs."""
        invoice = self.invoice
        return Standing(
            preimage=invoice.preimage,
            payment_secret=invoice.payment_secret,
            amount_msat=invoice.amount_msat,
            expires_at=invoice.created_at + invoice.expiry_s,
            is_paid=invoice.state is InvoiceState.PAID,
            paid_by=self.paid_by,
            kind=invoice.kind,
        )


Recognise = Callable[[bytes, bytes], BlindedInvoice | None]
"""(path_id, payment_hash) → the invoice that was given out for them."""


class Invoices:
    """Makes and finds invoices.

    Attributes:
        recognise: asked for blinded invoices that have no row, if they need none until they are
            paid: everything is in their path_id. Called in the event loop: must not block.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        chain: "Chain",
        channels: "Callable[[], Iterable[Channel]]",
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Prepare.

        Args:
            store: where they are kept.
            signer: signs them.
            chain: our network.
            channels: gives our present channels, for route hints.
            clock: unix seconds.
            entropy: gives so many random bytes.
        """
        self._store = store
        self._signer = signer
        self._chain = chain
        self._channels = channels
        self._clock = clock
        self._entropy = entropy
        self.recognise: Recognise | None = None
        self._kept: OrderedDict[bytes, Known] = OrderedDict()
        self._reading: dict[bytes, asyncio.Task[Known | None]] = {}

    # --- making -----------------------------------------------------------------------------------

    async def create(self, request: InvoiceRequest) -> tuple[str, bolt11.Invoice]:
        """Make, sign and store an invoice; return its string and what it says.

        Raises:
            CommandError: it cannot be; says why.
            BackendError: it could not be stored.
        """
        _check(request)
        preimage = request.preimage or self._entropy(32)
        invoice = bolt11.Invoice(
            chain=self._chain,
            timestamp=int(self._clock()),
            payment_hash=hashlib.sha256(preimage).digest(),
            payment_secret=self._entropy(32),
            amount_msat=request.amount_msat,
            description=request.description,
            description_hash=request.description_hash,
            expiry_s=request.expiry_s,
            min_final_cltv_expiry_delta=MIN_FINAL_CLTV_EXPIRY_DELTA,
            payee=self._signer.node_id,
            features=INVOICE_FEATURES,
            routes=self._routes(request),
        )
        text = bolt11.assemble(invoice, self._signer.sign_invoice(bolt11.signing_digest(invoice)))
        record = Invoice(
            payment_hash=invoice.payment_hash,
            preimage=preimage,
            payment_secret=invoice.payment_secret,
            bolt11=text,
            amount_msat=invoice.amount_msat,
            description=invoice.description or "",
            created_at=invoice.timestamp,
            expiry_s=invoice.expiry_s,
        )
        await self._add(record)
        return text, invoice

    async def create_blinded(
        self, invoice: BlindedInvoice, rows: "Sequence[Write]" = ()
    ) -> Invoice:
        """Store an invoice that is paid through blinded paths, before it is given out.

        Args:
            invoice: it.
            rows: what to write in the same commit.

        Raises:
            CommandError: there is one with this payment_hash.
            BackendError: it could not be stored.
        """
        await self._add(record := invoice.record, rows)
        return record

    async def _add(self, record: Invoice, rows: "Sequence[Write]" = ()) -> None:
        try:
            await self._store.committer.submit(NODE_SHARD, [stored.add_invoice(record), *rows])
        except WriteRefused:
            raise CommandError("there is an invoice with this payment hash already") from None
        self._keep(Known(record))

    def _routes(self, request: InvoiceRequest) -> tuple[tuple[bolt11.RouteHint, ...], ...]:
        channels = self._channels()
        if request.hinted is None:
            return hints.route_hints(channels)
        found = {c.channel_id: c for c in channels if c.channel_id in request.hinted}
        if missing := request.hinted - found.keys():
            raise CommandError(f"there is no channel {min(missing).hex()}")
        chosen = (hints.route_hint(channel) for channel in found.values())
        return tuple((hint,) for hint in chosen if hint is not None)

    # --- finding ----------------------------------------------------------------------------------

    def at_hand(self, payment_hash: bytes) -> Known | None:
        """Return an invoice that needs no reading."""
        return self._kept.get(payment_hash)

    async def known(self, payment_hash: bytes) -> Known | None:
        """Return the invoice with this payment_hash; always the same object while it matters.

        Raises:
            BackendError: the database is away.
        """
        if found := self._kept.get(payment_hash):
            return found
        reading = self._reading.get(payment_hash)
        if reading is None:
            reading = asyncio.create_task(self._read(payment_hash))
            self._reading[payment_hash] = reading
            reading.add_done_callback(lambda _: self._reading.pop(payment_hash, None))
        return await asyncio.shield(reading)

    async def _read(self, payment_hash: bytes) -> Known | None:
        invoice = await self._store.read(lambda c: stored.find_invoice(c, payment_hash))
        if invoice is None:
            return self._kept.get(payment_hash)
        parts = await self._store.read(lambda c: stored.list_received_htlcs(c, payment_hash))
        if found := self._kept.get(payment_hash):
            return found
        known = Known(invoice, frozenset((part.key_index, part.id) for part in parts))
        self._keep(known)
        return known

    async def find(self, payment_hash: bytes) -> Invoice | None:
        """Return the invoice with this payment_hash, as it durably is."""
        known = await self.known(payment_hash)
        if known is not None and known.settling:
            return await self._store.read(lambda c: stored.find_invoice(c, payment_hash))
        return None if known is None else known.invoice

    async def listed(
        self,
        *,
        since: int,
        until: int,
        state: InvoiceState | None = None,
        kind: InvoiceKind | None = None,
        limit: int = 1000,
        skip: int = 0,
    ) -> list[Invoice]:
        """Return invoices made in [since, until) unix seconds, the oldest first."""
        now = int(self._clock())
        return await self._store.read(
            lambda c: stored.list_invoices(
                c,
                since=since,
                until=until,
                state=state,
                kind=kind,
                now=now,
                limit=limit,
                skip=skip,
            )
        )

    async def delete(self, payment_hash: bytes) -> None:
        """Forget an invoice that nobody has paid.

        Raises:
            CommandError: there is none, or it is paid, or about to be.
            BackendError: the database is away.
        """
        known = await self.known(payment_hash)
        if known is None:
            raise CommandError("there is no such invoice")
        if known.settling or known.is_held or known.invoice.state is InvoiceState.PAID:
            raise CommandError("it is paid, or being paid")
        # From here on nothing can pay it.
        known.settling, known.invoice = True, replace(known.invoice, expiry_s=0)
        try:
            row = stored.forget_invoice(payment_hash)
            await self._store.committer.submit(NODE_SHARD, [row])
        except WriteRefused:
            raise CommandError("there is no such invoice") from None
        finally:
            self.unsettled(known)

    # --- being paid -------------------------------------------------------------------------------

    def unlisted(self, payment_hash: bytes, path_id: bytes) -> Known | None:
        """Return a blinded invoice that has no row before it is paid; None: there is no such."""
        found = self.recognise(path_id, payment_hash) if self.recognise is not None else None
        if found is None or found.record.payment_hash != payment_hash:
            return None
        return Known(found.record, is_stored=False)

    def settling(self, known: Known, paying: Set) -> "list[Write]":
        """Take note that HTLCs are about to pay an invoice; return the rows that make it so."""
        now = int(self._clock())
        amount_msat = paying.received_msat
        invoice = replace(
            known.invoice, state=InvoiceState.PAID, received_msat=amount_msat, paid_at=now
        )
        if invoice.kind is InvoiceKind.KEYSEND:
            invoice = replace(invoice, amount_msat=paying.total_msat)
        known.invoice = invoice
        known.paid_by = frozenset(part.key for part in paying.parts)
        known.settling = True
        self._keep(known)
        if known.is_stored:
            rows = [stored.invoice_paid(invoice.payment_hash, amount_msat, now)]
        else:
            rows = [stored.add_invoice(invoice)]
        for part in paying.parts:
            htlc = ReceivedHtlc(
                invoice.payment_hash, part.key_index, part.id, part.amount_msat, now
            )
            rows.append(stored.received_htlc(htlc))
        return rows

    async def commit(self, shards: "Iterable[int]", rows: "list[Write]") -> None:
        """Make rows of :meth:`settling` durable.

        Args:
            shards: of the peers whose HTLCs pay.
            rows: what to write.

        Raises:
            StorageUnavailable: nothing was written.
            WriteRefused: the invoice is not what we thought.
            LeaseLost: another back owns a shard.
        """
        await self._store.committer.submit({NODE_SHARD, *shards}, rows)

    def settled(self, known: Known) -> None:
        """Take note that the commit of :meth:`settling` has ended well."""
        known.settling = False
        known.is_stored = True

    def unsettled(self, known: Known) -> None:
        """Take note that it has not: what is true stands in the database."""
        if self._kept.get(known.invoice.payment_hash) is known:
            del self._kept[known.invoice.payment_hash]

    def _keep(self, known: Known) -> None:
        self._kept[known.invoice.payment_hash] = known
        while len(self._kept) > KEPT:
            oldest, first = next(iter(self._kept.items()))
            if first.settling or first.is_held:
                self._kept.move_to_end(oldest)
                break
            del self._kept[oldest]


def _check(request: InvoiceRequest) -> None:
    if (request.description is None) == (request.description_hash is None):
        raise CommandError("give either a description or the hash of one")
    if request.amount_msat is not None and not 0 < request.amount_msat <= MAX_AMOUNT_MSAT:
        raise CommandError(f"{request.amount_msat} msat is not an amount")
    if not 0 < request.expiry_s <= MAX_EXPIRY_S:
        raise CommandError(f"an invoice is valid for 1 to {MAX_EXPIRY_S} seconds")
    size = len((request.description or "").encode())
    if size > MAX_DESCRIPTION_BYTES:
        raise CommandError(
            f"the description has {size} bytes, at most {MAX_DESCRIPTION_BYTES} fit: give its hash"
        )
