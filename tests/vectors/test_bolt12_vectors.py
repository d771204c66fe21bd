"""BOLT 12's vectors, read from a checkout of the BOLTs where the machine has one.

``BOLTS_DIR`` names the folder that holds ``bolt12/*.json``. The rules that the vectors show are
also tested without them, in tests/unit/shared/test_bolt12_*.py.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shared.bolt12.fields import InvoiceRequest, records_of
from shared.bolt12.merkle import is_signed, merkle_root, signature_digest, tagged_hash
from shared.bolt12.offer import decode_offer, encode_offer
from shared.bolt12.request import check_request
from shared.bolt12.text import decode_text
from shared.crypto.signature import public_key
from shared.errors import PeerError
from shared.wire.codec import Reader
from shared.wire.record import decode_stream
from shared.wire.tlv import read_records

FOLDER = os.environ.get("BOLTS_DIR")


def vectors(name: str) -> list[Any]:
    """The cases of one file; one that is skipped where there is none."""
    path = Path(FOLDER or "nowhere") / "bolt12" / name
    if FOLDER and path.is_file():
        cases = json.loads(path.read_text())
        return [pytest.param(case, id=str(number)) for number, case in enumerate(cases)]
    return [pytest.param(None, marks=pytest.mark.skip(reason="BOLTS_DIR names no checkout"))]


@pytest.mark.parametrize("case", vectors("format-string-test.json"))
def test_a_string_of_the_bolt_is_read_or_refused(case: Any) -> None:
    if case["valid"]:
        plain = "".join(c for c in case["string"].lower() if c.isalnum())
        assert encode_offer(decode_offer(case["string"])) == plain
    else:
        with pytest.raises(PeerError):
            decode_text(case["string"])


@pytest.mark.parametrize("case", vectors("offers-test.json"))
def test_an_offer_of_the_bolt_is_read_or_refused(case: Any) -> None:
    if not case["valid"]:
        with pytest.raises(PeerError):
            decode_offer(case["bolt12"])
        return
    offer = decode_offer(case["bolt12"])
    assert records_of(offer) == [(f["type"], bytes.fromhex(f["hex"])) for f in case["fields"]]
    assert encode_offer(offer) == case["bolt12"].lower()


@pytest.mark.parametrize("case", vectors("signature-test.json"))
def test_each_node_of_a_tree_of_the_bolt_is_ours(case: Any) -> None:
    records = []
    for leaf in case["leaves"]:
        (name,) = (key for key in leaf if key.startswith("H(`LnLeaf`,"))
        record = bytes.fromhex(name.removeprefix("H(`LnLeaf`,").removesuffix(")"))
        records += read_records(Reader(record))
        assert tagged_hash(b"LnLeaf", record).hex() == leaf[name]
        nonce = next(value for key, value in leaf.items() if "LnNonce" in key)
        first = bytes.fromhex(case["first-tlv"])
        # Every type of the vectors is one byte.
        assert tagged_hash(b"LnNonce" + first, bytes([records[-1][0]])).hex() == nonce
    assert merkle_root(records).hex() == case["merkle"]


@pytest.mark.parametrize("case", vectors("signature-test.json"))
def test_a_signed_request_of_the_bolt_is_one(case: Any) -> None:
    if "bolt12" not in case:
        pytest.skip("a tree without a message")
    _, data = decode_text(case["bolt12"])
    request = decode_stream(InvoiceRequest, data)
    digest = signature_digest("invoice_request", records_of(request))
    assert digest.hex() == case["H(signature_tag,merkle)"]
    assert (request.signature or b"").hex() == case["signature"]
    assert request.invreq_payer_id == public_key(b"\x42" * 32)
    assert is_signed(request.invreq_payer_id, digest, request.signature)
    check_request(request)
