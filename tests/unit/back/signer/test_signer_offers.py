"""Keys of offers: which follow from what, and what is signed with them."""

import pytest
from support.offers import offer, signed_invoice

from back.signer.signer import Signer
from shared.bolt12 import Order, invoice_digest, make_request, request_digest
from shared.bolt12.merkle import is_signed
from shared.chain import REGTEST
from shared.errors import InvariantError

SIGNER = Signer(b"\x11" * 32, 1)
WORD = b"\x22" * 32


def test_an_offer_in_our_name_is_issued_by_the_node_key() -> None:
    assert SIGNER.offers.issuer_id(None) == SIGNER.node_id


def test_keys_differ_by_word_by_kind_and_by_seed() -> None:
    other = Signer(b"\x12" * 32, 1)
    keys = {
        SIGNER.node_id,
        SIGNER.offers.issuer_id(WORD),
        SIGNER.offers.issuer_id(bytes(32)),
        SIGNER.offers.payer_id(WORD),
        SIGNER.offers.payer_id(b""),
        other.offers.payer_id(WORD),
        other.offers.issuer_id(WORD),
    }
    assert len(keys) == 7
    assert Signer(b"\x11" * 32, 1).offers.payer_id(WORD) in keys


def test_a_request_is_signed_by_the_key_of_its_metadata() -> None:
    payer_id = SIGNER.offers.payer_id(WORD)
    wanted = make_request(
        offer(), Order(5), metadata=WORD, payer_id=payer_id, chain_hash=REGTEST.chain_hash
    )
    signed = SIGNER.offers.sign_request(wanted)
    assert is_signed(payer_id, request_digest(wanted), signed.signature)
    assert SIGNER.offers.sign_request(wanted) == signed
    with pytest.raises(InvariantError):
        SIGNER.offers.sign_request(wanted.model_copy(update={"invreq_metadata": b"other"}))


@pytest.mark.parametrize("word", [None, WORD])
def test_an_invoice_is_signed_by_the_key_of_its_offer(word: bytes | None) -> None:
    issuer_id = SIGNER.offers.issuer_id(word)
    wanted = make_request(
        offer(offer_issuer_id=issuer_id),
        Order(5),
        metadata=WORD,
        payer_id=SIGNER.offers.payer_id(WORD),
        chain_hash=REGTEST.chain_hash,
    )
    invoice = signed_invoice(wanted, invoice_node_id=issuer_id)
    signed = SIGNER.offers.sign_invoice(word, invoice)
    assert is_signed(issuer_id, invoice_digest(invoice), signed.signature)
    with pytest.raises(InvariantError):
        SIGNER.offers.sign_invoice(b"another", invoice)


def test_nothing_of_it_is_shown() -> None:
    assert repr(SIGNER.offers) == "OfferSigner()"
