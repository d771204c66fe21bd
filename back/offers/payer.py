"""Pays offers: asks for an invoice, checks it against what was asked, and has it paid."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from back.offers.payable import Guide, order_of
from back.payment.sender import MAX_EXTERNAL_ID
from back.payment.sending import SendLimits
from shared.bolt12 import (
    Invoice,
    InvoiceError,
    InvoiceRequest,
    Offer,
    Order,
    Refused,
    check_answers,
    check_usable,
    decode_invoice,
    encode_invoice,
    make_request,
    offer_id,
)
from shared.bolt12.fields import decode_fields
from shared.crypto.onion_message import INVOICE, INVOICE_ERROR, INVOICE_REQUEST
from shared.errors import CommandError, MalformedMessage, PeerError
from shared.wire.onion import BlindedPath
from shared.wire.record import encode_stream

if TYPE_CHECKING:
    from back.offers.book import Book
    from back.payment.sender import Sender
    from back.payment.sending import Sending
    from back.signer.signer import Signer
    from shared.chain import Chain
    from shared.crypto.onion_message import Delivered

__all__ = ["Asks", "Payer", "Purchase", "Reach"]

log = structlog.get_logger()

ASKING_S = 25.0
"""For an invoice, over all ways: so who called hears of it before giving up, and asking again."""
SEVERAL_PATHS_S = 3.0
"""For one attempt, where the offer has more paths to try."""
MAX_PATHS_ASKED = 3
MAX_ASKING = 100
METADATA_BYTES = 32
MAX_INVOICE_BYTES = 20_000
SHOWN_CHARACTERS = 200


class Asks(Protocol):
    """What can ask: :class:`back.onion_messages.service.OnionMessages`."""

    async def ask(
        self,
        destination: bytes | BlindedPath,
        contents: Mapping[int, bytes],
        *,
        through: Sequence[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> "Delivered | None":
        """Send a message and wait for its answer."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How others are reached.

    Attributes:
        asks: sends requests and hears answers.
        guide: knows nodes and channels.
        connect: connects to a node that is not connected; CommandError: it cannot be.
    """

    asks: Asks
    guide: Guide
    connect: Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Purchase:
    """What is to be paid.

    Attributes:
        offer: checked.
        amount_msat: in total.
        quantity: of items; without meaning where the offer knows no quantities.
        external_id: whatever the asker calls it.
        limits: of the payment.
        connects_directly: connect to whom the request goes, instead of having it passed on.
        payer_note: for the payee.
    """

    offer: Offer
    amount_msat: int
    quantity: int = 1
    external_id: str | None = None
    limits: SendLimits = field(default_factory=SendLimits)
    connects_directly: bool = False
    payer_note: str | None = None


class Payer:
    """The payer's side.

    Args:
        book: our own offers, which are not paid.
        signer: signs requests.
        sender: pays.
        reach: how others are reached.
        chain: our network.
        clock: unix seconds.
        entropy: gives so many random bytes.
    """

    def __init__(
        self,
        book: "Book",
        signer: "Signer",
        sender: "Sender",
        reach: Reach,
        chain: "Chain",
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._book = book
        self._signer = signer
        self._sender = sender
        self._reach = reach
        self._chain = chain
        self._clock = clock
        self._entropy = entropy
        self._asking = 0

    async def pay(self, purchase: Purchase) -> "Sending":
        """Get an invoice and begin to pay it; returns once the payment is stored.

        Raises:
            CommandError: the offer does not sell that, no right invoice came, or it may not be
                paid; nothing was paid.
            BackendError: the payment could not be stored.
        """
        try:
            request = self._request(purchase)
        except Refused as refused:
            raise CommandError(f"the offer: {refused.reason}") from refused
        if self._asking >= MAX_ASKING:
            raise CommandError("too many offers are being paid: try again later")
        self._asking += 1
        try:
            invoice = await self._invoice(purchase, request)
        finally:
            self._asking -= 1
        return await self._sender.pay_order(
            order_of(invoice, self._reach.guide),
            bolt11=encode_invoice(invoice),
            external_id=purchase.external_id,
            limits=purchase.limits,
        )

    def _request(self, purchase: Purchase) -> InvoiceRequest:
        """Make and sign a request.

        Raises:
            Refused: the offer does not sell that.
            CommandError: it may not be paid.
        """
        offer = purchase.offer
        if len(purchase.external_id or "") > MAX_EXTERNAL_ID:
            raise CommandError(f"externalId has more than {MAX_EXTERNAL_ID} characters")
        if self._book.find(offer_id(offer)) is not None:
            raise CommandError("the offer is our own")
        check_usable(offer, self._chain.chain_hash, self._clock())
        quantity = purchase.quantity
        knows_quantities = offer.offer_quantity_max is not None
        order = Order(
            purchase.amount_msat,
            quantity if knows_quantities or quantity != 1 else None,
            purchase.payer_note,
        )
        metadata = self._entropy(METADATA_BYTES)
        unsigned = make_request(
            offer,
            order,
            metadata=metadata,
            payer_id=self._signer.offers.payer_id(metadata),
            chain_hash=self._chain.chain_hash,
        )
        return self._signer.offers.sign_request(unsigned)

    # --- asking -----------------------------------------------------------------------------------

    async def _invoice(self, purchase: Purchase, request: InvoiceRequest) -> Invoice:
        """Ask for an invoice, by each of the offer's ways until an answer comes.

        Raises:
            CommandError: none came, or not the right one.
        """
        offer = purchase.offer
        paths = (offer.offer_paths or [])[:MAX_PATHS_ASKED]
        ways: Sequence[bytes | BlindedPath] = paths or [offer.offer_issuer_id or b""]
        why = "nobody answered"
        try:
            async with asyncio.timeout(ASKING_S):
                for way in ways:
                    try:
                        answer = await self._ask(way, purchase, request, len(ways))
                    except CommandError as error:
                        why = str(error)
                        continue
                    if answer is not None:
                        return self._read(answer, request, _asked(way))
        except TimeoutError:
            pass
        raise CommandError(f"no invoice could be fetched: {why}")

    async def _ask(
        self,
        way: bytes | BlindedPath,
        purchase: Purchase,
        request: InvoiceRequest,
        ways: int,
    ) -> "Delivered | None":
        through = None
        if purchase.connects_directly:
            first = way if isinstance(way, bytes) else self._reach.guide.named(way.first_node_id)
            await self._reach.connect(first)
            through = ()
        return await self._reach.asks.ask(
            way,
            {INVOICE_REQUEST: encode_stream(request)},
            through=through,
            timeout_s=None if ways == 1 else SEVERAL_PATHS_S,
        )

    def _read(self, answer: "Delivered", request: InvoiceRequest, asked: bytes) -> Invoice:
        """Return the invoice that came, if it is the right one.

        Raises:
            CommandError: it is not, or the payee says why there is none.
        """
        if (error := answer.contents.get(INVOICE_ERROR)) is not None:
            raise CommandError(f"the payee gives no invoice: {_words(error)}")
        data = answer.contents.get(INVOICE)
        if data is None or len(data) > MAX_INVOICE_BYTES:
            raise CommandError("the payee's answer is no invoice")
        try:
            invoice = decode_invoice(data)
            check_answers(
                invoice,
                request,
                asked=asked,
                chain_hash=self._chain.chain_hash,
                unix_s=self._clock(),
            )
        except PeerError as error:
            log.warning("wrong_invoice_for_an_offer", why=str(error))
            raise CommandError(f"the payee's invoice is wrong: {error}") from error
        return invoice


def _asked(way: bytes | BlindedPath) -> bytes:
    """Return by which name the node was asked that is to answer."""
    return way if isinstance(way, bytes) else way.path[-1].blinded_node_id


def _words(data: bytes) -> str:
    """Return what an invoice_error says, harmless to show."""
    try:
        said = decode_fields(InvoiceError, data).error or ""
    except MalformedMessage:
        said = ""
    shown = "".join(c if c.isprintable() else "?" for c in said[:SHOWN_CHARACTERS])
    return shown or "it does not say why"
