"""Keys and signatures of BOLT 12: of offers and invoices of ours, and of what we ask for.

The keys that are not the node key follow from one secret and a word that is not secret by itself:
``HMAC-SHA256(secret, kind || word)``. So nothing of them need be stored but the word.
"""

import hmac

import coincurve
from pydantic import SecretBytes

from shared.bolt12 import Invoice, InvoiceRequest, invoice_digest, request_digest
from shared.crypto.signature import ORDER, public_key
from shared.errors import InvariantError

__all__ = ["OfferSigner"]

_NO_AUXILIARY = bytes(32)
"""Signatures are deterministic: the same request is the same bytes."""


class OfferSigner:
    """Signs for offers.

    Args:
        base: the secret from which keys are made.
        node_secret: the node's private key.
    """

    def __init__(self, base: bytes, node_secret: bytes) -> None:
        self._base = SecretBytes(base)
        self._node_secret = SecretBytes(node_secret)

    def __repr__(self) -> str:
        return "OfferSigner()"

    def issuer_id(self, word: bytes | None) -> bytes:
        """Return the key that issues an offer: 33 bytes.

        Args:
            word: of an offer that must not show our node id; None: our node id.
        """
        return public_key(self._issuer(word))

    def sign_invoice(self, word: bytes | None, invoice: Invoice) -> Invoice:
        """Return an invoice for an offer with our signature.

        Args:
            word: of the offer, as of :meth:`issuer_id`.
            invoice: what it says.

        Raises:
            InvariantError: its node id is not that of the word.
        """
        secret = self._issuer(word)
        if invoice.invoice_node_id != public_key(secret):
            raise InvariantError("not an invoice of this key of ours")
        return invoice.model_copy(update={"signature": _sign(secret, invoice_digest(invoice))})

    def payer_id(self, metadata: bytes) -> bytes:
        """Return the key of a request of ours: 33 bytes, for this request only.

        Args:
            metadata: of the request, with something random in it.
        """
        return public_key(self._derived(b"payer", metadata))

    def sign_request(self, request: InvoiceRequest) -> InvoiceRequest:
        """Return a request with our signature.

        Raises:
            InvariantError: its payer id is not that of its metadata.
        """
        secret = self._derived(b"payer", request.invreq_metadata or b"")
        if request.invreq_payer_id != public_key(secret):
            raise InvariantError("not a request of this key of ours")
        return request.model_copy(update={"signature": _sign(secret, request_digest(request))})

    def _issuer(self, word: bytes | None) -> bytes:
        if word is None:
            return self._node_secret.get_secret_value()
        return self._derived(b"issuer", word)

    def _derived(self, kind: bytes, word: bytes) -> bytes:
        base = self._base.get_secret_value()
        number = int.from_bytes(hmac.digest(base, kind + b"\0" + word, "sha256"), "big")
        # A scalar of 0, or one that is reduced: as likely as to guess the key.
        return (number % (ORDER - 1) + 1).to_bytes(32, "big")


def _sign(private: bytes, digest: bytes) -> bytes:
    return coincurve.PrivateKey(private).sign_schnorr(digest, _NO_AUXILIARY)
