"""Offers: what may be bought, or where may be given (BOLT 12 § Offers)."""

import re

from shared.bolt12.fields import Offer, OfferFields, RequestFields, decode_fields, records_of
from shared.bolt12.merkle import merkle_root
from shared.bolt12.refusal import Refused
from shared.bolt12.text import OFFER_PREFIX, decode_text, encode_text
from shared.chain import MAINNET
from shared.features import FeatureSet
from shared.wire.record import encode_stream
from shared.wire.types import MAX_MONEY_MSAT

__all__ = [
    "chains_of",
    "check_offer",
    "check_usable",
    "decode_offer",
    "encode_offer",
    "expected_amount_msat",
    "has_unknown_required",
    "offer_id",
    "offer_records",
]

BOLT = "BOLT 12 § Requirements For Offers"
_OFFER_TYPES = (range(1, 80), range(1_000_000_000, 2_000_000_000))
_CURRENCY = re.compile("[A-Z]{3}")


def encode_offer(offer: Offer) -> str:
    """Return its string, ``lno1…``."""
    return encode_text(OFFER_PREFIX, encode_stream(offer))


def decode_offer(text: str) -> Offer:
    """Read an offer and check all that does not depend on who reads it when.

    Raises:
        MalformedMessage: it is no offer.
        Refused: BOLT 12 wants no answer to it.
    """
    prefix, data = decode_text(text)
    if prefix != OFFER_PREFIX:
        raise Refused(f"begins with {prefix}, not with {OFFER_PREFIX}", bolt=BOLT)
    offer = decode_fields(Offer, data)
    check_offer(offer)
    return offer


def check_offer(offer: OfferFields) -> None:
    """Check the rules for an offer's fields among each other; also those that a request repeats.

    Raises:
        Refused: BOLT 12 wants no answer to it.
    """
    if not isinstance(offer, RequestFields) and (foreign := _foreign(offer)):
        raise Refused(f"type {foreign[0]} is not for offers", bolt=BOLT, field=foreign[0])
    if has_unknown_required(offer.offer_features):
        raise Refused("it requires a feature that we do not know", bolt=BOLT, field=12)
    if offer.offer_amount is not None:
        _check_amount(offer.offer_amount, offer.offer_description)
    if offer.offer_currency is not None:
        _check_currency(offer.offer_currency, offer.offer_amount)
    if offer.offer_issuer_id is None and offer.offer_paths is None:
        raise Refused("it does not say whom to ask", bolt=BOLT, field=22)


def check_usable(offer: OfferFields, chain_hash: bytes, unix_s: float) -> None:
    """Check whether an offer may be answered here and now.

    Args:
        offer: checked by :func:`check_offer`.
        chain_hash: of our chain.
        unix_s: now.

    Raises:
        Refused: another chain's, or expired.
    """
    if chain_hash not in chains_of(offer):
        raise Refused("the offer is for another chain", bolt=BOLT, field=2)
    if offer.offer_absolute_expiry is not None and unix_s > offer.offer_absolute_expiry:
        raise Refused("the offer has expired", bolt=BOLT, field=14)


def chains_of(offer: OfferFields) -> tuple[bytes, ...]:
    """Return the chain hashes that an offer is for."""
    return tuple(offer.offer_chains or (MAINNET.chain_hash,))


def expected_amount_msat(offer: OfferFields, quantity: int | None) -> int | None:
    """Return what so many items cost at least; None: what the payer likes.

    Raises:
        Refused: it is priced in a currency, or costs more than there is.
    """
    if offer.offer_amount is None:
        return None
    if offer.offer_currency is not None:
        why = f"priced in {offer.offer_currency}, and we know no rate of exchange"
        raise Refused(why, bolt=BOLT, field=6)
    total_msat = offer.offer_amount * (1 if quantity is None else quantity)
    if total_msat > MAX_MONEY_MSAT:
        raise Refused("it costs more than there is", bolt=BOLT, field=86 if quantity else 8)
    return total_msat


def offer_records(stream: OfferFields) -> list[tuple[int, bytes]]:
    """Return the records that are an offer's, also of a request or an invoice that repeats them."""
    return [
        (number, value)
        for number, value in records_of(stream)
        if any(number in types for types in _OFFER_TYPES)
    ]


def offer_id(stream: OfferFields) -> bytes:
    """Return what names an offer, also in a request for it: 32 bytes, the root of its records.

    Raises:
        ValueError: there is no field of an offer.
    """
    return merkle_root(offer_records(stream))


def has_unknown_required(features: bytes | None, known: frozenset[int] = frozenset()) -> bool:
    """Whether an even bit is set that is not among those we know."""
    if not features:
        return False
    return any(bit % 2 == 0 and bit not in known for bit in FeatureSet.from_bytes(features).bits)


def _foreign(offer: OfferFields) -> list[int]:
    return [n for n in offer.unknown_tlvs if not any(n in types for types in _OFFER_TYPES)]


def _check_amount(amount: int, description: str | None) -> None:
    if amount == 0:
        raise Refused("an amount of nothing", bolt=BOLT, field=8)
    if description is None:
        raise Refused("an amount without a description", bolt=BOLT, field=10)


def _check_currency(currency: str, amount: int | None) -> None:
    if amount is None:
        raise Refused("a currency without an amount", bolt=BOLT, field=8)
    if not _CURRENCY.fullmatch(currency):
        raise Refused("the currency is no code of ISO 4217", bolt=BOLT, field=6)
