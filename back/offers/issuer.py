"""Answers requests for invoices (BOLT 12 § Invoice Requests).

Anybody may ask, at no cost: so nothing is looked up or stored for a request that may not have an
invoice, what does not concern an offer of ours is not answered at all, and how much is done per
second and kept in total is bounded.
"""

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

import structlog

from back.offers.entrances import Wanted, payment_paths
from back.payment.invoices import BlindedInvoice
from back.storage import offers as stored
from back.storage.tables import NODE_SHARD
from shared.bolt12 import (
    Invoice,
    InvoiceRequest,
    Refused,
    Terms,
    check_offer_is_repeated,
    decode_request,
    encode_invoice,
    make_error,
    make_invoice,
    offer_id,
)
from shared.bolt12.request import is_for_offer
from shared.crypto.onion_message import INVOICE, INVOICE_ERROR, INVOICE_REQUEST
from shared.errors import BackendError, CommandError, LeaseLost, PeerError
from shared.onion_budget import Bucket
from shared.tasks import Tasks
from shared.wire.record import encode_stream

if TYPE_CHECKING:
    from back.channel.model import Channel
    from back.offers.book import Book, OwnOffer
    from back.offers.rules import OfferRules
    from back.payment.invoices import Invoices
    from back.signer.signer import Signer
    from back.storage.store import Store
    from shared.chain import Chain
    from shared.crypto.onion_message import Delivered

__all__ = ["Answers", "Issuer", "Surroundings"]

log = structlog.get_logger()

BURST_S = 5.0
ONE_OFFERS_SHARE = 0.5
LOOKED_AT = 20
"""So many times more messages are read than answered, so that garbage keeps nobody from an answer:
reading costs about a millisecond, and no commit."""
MAX_AT_ONCE = 100
MAX_REQUEST_BYTES = 6_000
"""With the offer's own fields, which are at most half of it."""
REMEMBERED = 5_000
"""Invoices that are given again to who asks for the very same again."""
FORGOTTEN_AFTER_S = 900
"""After an invoice expired, parts of a payment may still wait for others: not for so long."""
FORGOTTEN_AT_ONCE = 500


class Answers(Protocol):
    """What can answer: :class:`back.onion_messages.service.OnionMessages`."""

    def answer(self, question: "Delivered", contents: Mapping[int, bytes]) -> None:
        """Answer a message, if its sender wants that."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the issuer sees of the node.

    Attributes:
        chain: our network.
        channels: gives our present channels.
        height: gives the chain's.
        clock: unix seconds.
        monotonic: seconds.
        entropy: gives so many random bytes.
        told: called with what became of each request.
    """

    chain: "Chain"
    channels: "Callable[[], Iterable[Channel]]"
    height: Callable[[], int]
    entropy: Callable[[int], bytes]
    told: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class _Given:
    encoded: bytes
    expires_at: int


class Issuer:
    """The payee's side.

    Args:
        book: our offers.
        invoices: where invoices are kept and found again when they are paid.
        signer: signs them.
        store: for what only offers need.
        answers: sends the invoice.
        around: the rest of the node.
        rules: what the settings say.
    """

    def __init__(
        self,
        book: "Book",
        invoices: "Invoices",
        signer: "Signer",
        store: "Store",
        answers: Answers,
        around: Surroundings,
        rules: "OfferRules",
    ) -> None:
        self._book = book
        self._invoices = invoices
        self._signer = signer
        self._store = store
        self._answers = answers
        self._around = around
        self._rules = rules
        now = around.monotonic()
        looked_at = rules.requests_per_s * LOOKED_AT
        self._reading = Bucket(looked_at, self._burst(looked_at), now)
        self._total = Bucket(rules.requests_per_s, self._burst(rules.requests_per_s), now)
        self._shares: OrderedDict[bytes, Bucket] = OrderedDict()
        self._given: OrderedDict[bytes, _Given] = OrderedDict()
        self._making: set[bytes] = set()
        self._kept = 0
        self._tasks = Tasks()

    async def load(self) -> None:
        """Count what is kept.

        Raises:
            BackendError: the database is away.
        """
        self._kept = await self._store.read(stored.count_offer_invoices)

    async def stop(self) -> None:
        """Answer nothing more."""
        await self._tasks.stop()

    @property
    def kept(self) -> int:
        """Invoices for offers that are kept, paid or not."""
        return self._kept

    def heard(self, question: "Delivered") -> None:
        """Take a message with a request for an invoice. Never blocks, never raises."""
        data = question.contents.get(INVOICE_REQUEST, b"")
        if question.reply_path is None:
            self._around.told("ignored")
            return
        now = self._around.monotonic()
        if len(self._tasks) >= MAX_AT_ONCE or not self._reading.has(1.0, now):
            self._around.told("over_rate")
            return
        self._reading.take(1.0)
        meant = self._meant(question, data)
        if meant is None:
            self._around.told("ignored")
            return
        request, own = meant
        if not self._may_use(own.row.offer_id, now):
            self._around.told("over_rate")
            return
        self._tasks.spawn(self._answer(question, request, own, data), "answer an invoice_request")

    def _meant(
        self, question: "Delivered", data: bytes
    ) -> "tuple[InvoiceRequest, OwnOffer] | None":
        """Return a request with the offer that it is for, if it came the way that the offer says.

        BOLT 12 has the others ignored: an answer would tell that an offer is ours.
        """
        if len(data) > MAX_REQUEST_BYTES:
            return None
        try:
            request = decode_request(data)
        except PeerError as error:
            log.debug("invoice_request_ignored", why=str(error))
            return None
        own = self._book.find(offer_id(request)) if is_for_offer(request) else None
        if own is None or (own.path_id is None) != (question.path_id is None):
            return None
        if not hmac.compare_digest(own.path_id or b"", question.path_id or b""):
            return None
        return request, own

    def _may_use(self, identity: bytes, now: float) -> bool:
        """Whether the rate, and one offer's share of it, leave room for a request."""
        rate = self._rules.requests_per_s * ONE_OFFERS_SHARE
        bucket = self._shares.pop(identity, None) or Bucket(rate, self._burst(rate), now)
        self._shares[identity] = bucket
        if len(self._shares) > REMEMBERED:
            self._shares.popitem(last=False)
        if not bucket.has(1.0, now) or not self._total.has(1.0, now):
            return False
        bucket.take(1.0)
        self._total.take(1.0)
        return True

    # --- one request ------------------------------------------------------------------------------

    async def _answer(
        self, question: "Delivered", request: InvoiceRequest, own: "OwnOffer", data: bytes
    ) -> None:
        digest = sha256(data).digest()
        if digest in self._making:
            return
        self._making.add(digest)
        try:
            encoded = self._again(digest) or await self._issued(request, own, data)
        except Refused as refused:
            self._refuse(question, refused.reason, refused.field)
        except CommandError as error:
            self._refuse(question, str(error))
        except (BackendError, LeaseLost) as error:
            log.warning("offer_invoice_not_stored", why=str(error))
            self._around.told("failed")
        else:
            self._answers.answer(question, {INVOICE: encoded})
            self._around.told("answered")
        finally:
            self._making.discard(digest)

    def _refuse(self, question: "Delivered", reason: str, field: int | None = None) -> None:
        log.info("invoice_request_refused", why=reason)
        error = encode_stream(make_error(reason, field))
        self._answers.answer(question, {INVOICE_ERROR: error})
        self._around.told("refused")

    def _again(self, digest: bytes) -> bytes | None:
        """Return the invoice that the very same request was answered with, while it is valid.

        BOLT 12 allows it where the offer names its issuer, as all of ours do.
        """
        given = self._given.get(digest)
        if given is None or self._around.clock() >= given.expires_at:
            return None
        return given.encoded

    async def _issued(self, request: InvoiceRequest, own: "OwnOffer", data: bytes) -> bytes:
        """Make an invoice and store it.

        Raises:
            Refused: the request may not have one.
            CommandError: there is none now.
            BackendError: it could not be stored.
        """
        around, now = self._around, self._around.clock()
        amount_msat = check_offer_is_repeated(request, own.offer, around.chain.chain_hash, now)
        if not own.is_active:
            raise CommandError("the offer is no longer valid")
        if self._kept >= self._rules.max_invoices:
            raise CommandError("too many invoices are waiting to be paid: try again later")
        self._kept += 1
        try:
            blinded, invoice = self._made(request, own, amount_msat)
            expires_at = blinded.created_at + blinded.expiry_s
            payment_hash = blinded.record.payment_hash
            row = stored.add_offer_invoice(payment_hash, own.row.offer_id, expires_at)
            await self._invoices.create_blinded(blinded, [row])
        except BaseException:
            self._kept -= 1
            raise
        encoded = encode_stream(invoice)
        self._given[sha256(data).digest()] = _Given(encoded, expires_at)
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        return encoded

    def _made(
        self, request: InvoiceRequest, own: "OwnOffer", amount_msat: int
    ) -> tuple[BlindedInvoice, Invoice]:
        around, expiry_s = self._around, self._rules.invoice_expiry_s
        preimage, path_id = around.entropy(32), around.entropy(32)
        wanted = Wanted(amount_msat, path_id, own.path_id is not None, around.height(), expiry_s)
        paths = payment_paths(around.channels(), self._signer.node_id, wanted, around.entropy)
        if not paths:
            raise CommandError("we cannot be paid now: try again later")
        created_at = int(around.clock())
        terms = Terms(
            payment_hash=sha256(preimage).digest(),
            amount_msat=amount_msat,
            paths=paths,
            node_id=self._signer.offers.issuer_id(own.path_id),
            created_at=created_at,
            expiry_s=expiry_s,
        )
        invoice = self._signer.offers.sign_invoice(own.path_id, make_invoice(request, terms))
        blinded = BlindedInvoice(
            preimage=preimage,
            path_id=path_id,
            amount_msat=amount_msat,
            description=own.offer.offer_description or "",
            created_at=created_at,
            expiry_s=expiry_s,
            text=encode_invoice(invoice),
        )
        return blinded, invoice

    # --- forgetting -------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Forget invoices that nobody paid, some time after they expired.

        Raises:
            BackendError: the database is away.
        """
        before = int(self._around.clock()) - FORGOTTEN_AFTER_S
        while True:
            expired = await self._store.read(
                lambda c: stored.list_expired(c, before, FORGOTTEN_AT_ONCE)
            )
            if not expired:
                return
            rows = [row for payment_hash in expired for row in stored.forget_expired(payment_hash)]
            await self._store.committer.submit(NODE_SHARD, rows)
            self._kept = max(0, self._kept - len(expired))

    @staticmethod
    def _burst(rate: float) -> float:
        return max(1.0, rate * BURST_S)
