"""Offers of the node, both ways: all that the API and the node hold of them."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from back.offers.book import Book, NewOffer, OwnOffer
from back.offers.issuer import Answers, Issuer, Surroundings
from back.offers.payer import Asks, Payer, Reach
from shared.crypto.onion_message import INVOICE_REQUEST, path_through
from shared.errors import BackendError, CommandError, LeaseLost
from shared.tasks import Tasks

if TYPE_CHECKING:
    from back.offers.payable import Guide
    from back.offers.rules import OfferRules
    from back.payment.service import Payments
    from back.signer.signer import Signer
    from back.storage.store import Store
    from shared.crypto.onion_message import Delivered
    from shared.wire.onion import BlindedPath

__all__ = ["Messages", "Neighbourhood", "Offers"]

log = structlog.get_logger()

FORGET_EVERY_S = 60.0
MAX_OFFER_PATHS = 2
"""Each makes an offer some 300 bytes longer, and lets it live on when a peer goes."""
PATH_TRIES = 6


class Messages(Asks, Answers, Protocol):
    """Onion messages: :class:`back.onion_messages.service.OnionMessages`."""

    def subscribe(self, number: int, handler: "Callable[[Delivered], None]") -> None:
        """Have messages to us with a field of this type."""

    def path_to_us(self, path_id: bytes) -> "BlindedPath":
        """Make a path for messages to us."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Who is around us.

    Attributes:
        guide: knows nodes and channels.
        connect: connects to a node; CommandError: it cannot be.
        takes_messages: whether a node is connected and takes onion messages.
        is_private: whether we have channels, and none of them is known to others.
    """

    guide: "Guide"
    connect: Callable[[bytes], Awaitable[None]]
    takes_messages: Callable[[bytes], bool]
    is_private: Callable[[], bool]


class Offers:
    """Our offers, and paying those of others.

    Args:
        store: where offers are kept.
        signer: has the keys.
        payments: makes invoices known to the receiver, and pays.
        messages: onion messages.
        neighbourhood: who is around us.
        around: the rest of the node.
        rules: what the settings say.

    Attributes:
        book: our offers.
        issuer: answers requests.
        payer: pays offers.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        payments: "Payments",
        messages: Messages,
        neighbourhood: Neighbourhood,
        around: Surroundings,
        rules: "OfferRules",
    ) -> None:
        self._signer = signer
        self._messages = messages
        self._neighbourhood = neighbourhood
        self.book = Book(store, signer, around.chain, clock=around.clock, entropy=around.entropy)
        self.issuer = Issuer(self.book, payments.invoices, signer, store, messages, around, rules)
        self.payer = Payer(
            self.book,
            signer,
            payments.sender,
            Reach(messages, neighbourhood.guide, self._connect),
            around.chain,
            clock=around.clock,
            entropy=around.entropy,
        )
        self._tasks = Tasks()

    async def start(self) -> None:
        """Take up what is stored, and answer requests from now on.

        Raises:
            BackendError: the database is away.
        """
        await self.book.load()
        await self.issuer.load()
        self._messages.subscribe(INVOICE_REQUEST, self.issuer.heard)
        self._tasks.spawn(self._forget(), "forget invoices of offers")

    async def stop(self) -> None:
        """Answer nothing more."""
        await self._tasks.stop()
        await self.issuer.stop()

    async def create(self, new: NewOffer, first_node_id: bytes | None = None) -> OwnOffer:
        """Make an offer.

        Args:
            new: what it says; its ``paths_for`` is chosen here.
            first_node_id: a peer behind which the offer shall hide us; None: it shows our node id,
                unless nobody could reach that.

        Raises:
            CommandError: it cannot be; says why.
            BackendError: it could not be stored.
        """
        paths_for = None
        if first_node_id is not None:
            if not self._can_begin(first_node_id):
                raise CommandError("that node is not connected, or takes no onion messages")
            paths_for = self._through(first_node_id)
        elif self._neighbourhood.is_private():
            paths_for = self._by_doors
        return await self.book.create(replace(new, paths_for=paths_for))

    async def _connect(self, node_id: bytes) -> None:
        if node_id != self._signer.node_id and not self._neighbourhood.takes_messages(node_id):
            await self._neighbourhood.connect(node_id)

    def _can_begin(self, node_id: bytes) -> bool:
        is_us = node_id == self._signer.node_id
        return is_us or self._neighbourhood.takes_messages(node_id)

    def _through(self, node_id: bytes) -> "Callable[[bytes], Sequence[BlindedPath]]":
        us = self._signer.node_id
        nodes = (us, us) if node_id == us else (node_id, us, us)
        return lambda path_id: [path_through(secrets.token_bytes(32), nodes, path_id)]

    def _by_doors(self, path_id: bytes) -> "Sequence[BlindedPath]":
        """Return paths by the peers through which others best reach us."""
        found: dict[bytes, BlindedPath] = {}
        for _ in range(PATH_TRIES):
            path = self._messages.path_to_us(path_id)
            found.setdefault(path.first_node_id, path)
        return list(found.values())[:MAX_OFFER_PATHS]

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(FORGET_EVERY_S)
            try:
                await self.issuer.forget()
            except (BackendError, LeaseLost) as error:
                log.warning("offer_invoices_not_forgotten", why=str(error))
