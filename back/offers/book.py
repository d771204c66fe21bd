"""Our offers: made, stored before anyone hears of them, and at hand for who asks."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from back.storage import offers as stored
from back.storage.offers import StoredOffer
from back.storage.tables import NODE_SHARD
from shared.bolt12 import Offer, check_offer, decode_offer, encode_offer, offer_id
from shared.chain import MAINNET
from shared.errors import CommandError, WriteRefused
from shared.wire.types import MAX_MONEY_MSAT

if TYPE_CHECKING:
    from back.signer.signer import Signer
    from back.storage.store import Store
    from shared.chain import Chain
    from shared.wire.onion import BlindedPath

__all__ = ["Book", "NewOffer", "OwnOffer"]

MAX_OFFERS = 100_000
"""All are at hand: a request for an unknown one must not reach the database."""
MAX_TEXT_BYTES = 1_000
MAX_EXPIRY_S = 100 * 365 * 86_400
PATH_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewOffer:
    """What an offer shall say.

    Attributes:
        amount_msat: of one item; None: any amount.
        description: needed where there is an amount.
        expires_in_s: None: never.
        issuer: who we are, for people.
        quantity_max: items in one payment; 0: any number; None: no quantities.
        paths_for: makes blinded paths for messages to us that carry a path_id, so that the offer
            does not show our node id; None: it shows it.
    """

    amount_msat: int | None = None
    description: str | None = None
    expires_in_s: int | None = None
    issuer: str | None = None
    quantity_max: int | None = None
    paths_for: "Callable[[bytes], Sequence[BlindedPath]] | None" = None


@dataclass(frozen=True, slots=True)
class OwnOffer:
    """An offer of ours: its row, and what it says."""

    row: StoredOffer
    offer: Offer

    @property
    def path_id(self) -> bytes | None:
        """With which a request for it must come; None: not by a blinded path."""
        return self.row.path_id

    @property
    def is_active(self) -> bool:
        """Whether it is answered."""
        return self.row.disabled_at is None


class Book:
    """All offers of ours.

    Args:
        store: where they are kept.
        signer: has the keys that issue them.
        chain: our network.
        clock: unix seconds.
        entropy: gives so many random bytes.
    """

    def __init__(
        self,
        store: "Store",
        signer: "Signer",
        chain: "Chain",
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._signer = signer
        self._chain = chain
        self._clock = clock
        self._entropy = entropy
        self._offers: dict[bytes, OwnOffer] = {}

    async def load(self) -> None:
        """Read what is stored.

        Raises:
            BackendError: the database is away.
        """
        rows = await self._store.read(stored.load_offers)
        self._offers = {row.offer_id: OwnOffer(row, decode_offer(row.text)) for row in rows}

    def find(self, identity: bytes) -> OwnOffer | None:
        """Return the offer with this offer_id, answered or not."""
        return self._offers.get(identity)

    def listed(self, *, active_only: bool) -> list[OwnOffer]:
        """Return offers, the oldest first."""
        return [each for each in self._offers.values() if each.is_active or not active_only]

    async def create(self, new: NewOffer) -> OwnOffer:
        """Make and store an offer; the same again returns the one that there is.

        Raises:
            CommandError: it cannot be; says why.
            BackendError: it could not be stored.
        """
        if len(self._offers) >= MAX_OFFERS:
            raise CommandError(f"there are {MAX_OFFERS} offers already")
        path_id = None if new.paths_for is None else self._entropy(PATH_ID_BYTES)
        offer = self._made(new, path_id)
        identity = offer_id(offer)
        if (there := self._offers.get(identity)) is not None:
            if not there.is_active:
                raise CommandError("this very offer was disabled: change something in it")
            return there
        row = StoredOffer(identity, encode_offer(offer), path_id, int(self._clock() * 1000))
        await self._store.committer.submit(NODE_SHARD, [stored.add_offer(row)])
        own = self._offers[identity] = OwnOffer(row, offer)
        return own

    async def disable(self, identity: bytes) -> OwnOffer:
        """Answer an offer no more. Invoices that were given out for it can still be paid.

        Raises:
            CommandError: it is none of ours.
            BackendError: it could not be stored.
        """
        own = self._offers.get(identity)
        if own is None:
            raise CommandError("that is no offer of ours")
        if not own.is_active:
            return own
        now_ms = int(self._clock() * 1000)
        try:
            row = stored.offer_disabled(identity, now_ms)
            await self._store.committer.submit(NODE_SHARD, [row])
        except WriteRefused:
            # Somebody else asked for the same at the same time.
            return self._offers[identity]
        own = self._offers[identity] = replace(own, row=replace(own.row, disabled_at=now_ms))
        return own

    def _made(self, new: NewOffer, path_id: bytes | None) -> Offer:
        _check(new)
        is_mainnet = self._chain.chain_hash == MAINNET.chain_hash
        ends = None if new.expires_in_s is None else int(self._clock()) + new.expires_in_s
        paths = None
        if new.paths_for is not None and path_id is not None:
            paths = list(new.paths_for(path_id))
        offer = Offer(
            offer_chains=None if is_mainnet else [self._chain.chain_hash],
            offer_amount=new.amount_msat,
            offer_description=new.description,
            offer_absolute_expiry=ends,
            offer_paths=paths,
            offer_issuer=new.issuer,
            offer_quantity_max=new.quantity_max,
            offer_issuer_id=self._signer.offers.issuer_id(path_id),
        )
        check_offer(offer)
        return offer


def _check(new: NewOffer) -> None:
    if new.amount_msat is not None and not 0 < new.amount_msat <= MAX_MONEY_MSAT:
        raise CommandError(f"{new.amount_msat} msat is not an amount")
    if new.amount_msat is not None and not new.description:
        raise CommandError("an offer with an amount needs a description")
    if new.expires_in_s is not None and not 0 < new.expires_in_s <= MAX_EXPIRY_S:
        raise CommandError(f"an offer is valid for 1 to {MAX_EXPIRY_S} seconds")
    for text in (new.description, new.issuer):
        if len((text or "").encode()) > MAX_TEXT_BYTES:
            raise CommandError(f"texts have at most {MAX_TEXT_BYTES} bytes")
