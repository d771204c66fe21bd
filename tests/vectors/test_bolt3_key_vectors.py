"""BOLT 3 Appendices D and E: shachain and key derivation."""

import json
from pathlib import Path

import pytest

from shared.crypto import keys
from shared.crypto.shachain import ShachainStore, generate_secret
from shared.crypto.signature import public_key
from shared.errors import ProtocolViolation

VECTORS = json.loads(Path(__file__).with_name("bolt3_shachain.json").read_text())
BASE_SECRET = bytes(range(32))
COMMITMENT_SECRET = bytes(reversed(range(32)))


@pytest.mark.parametrize("case", VECTORS["generation"], ids=lambda c: str(c["index"]))
def test_a_secret_is_generated_from_its_seed(case) -> None:
    assert generate_secret(bytes.fromhex(case["seed"]), case["index"]).hex() == case["output"]


@pytest.mark.parametrize("case", VECTORS["storage"], ids=lambda c: c["name"])
def test_the_store_takes_true_secrets_and_refuses_the_first_false_one(case) -> None:
    store = ShachainStore()
    for insert in case["inserts"]:
        secret = bytes.fromhex(insert["secret"])
        if not insert["ok"]:
            with pytest.raises(ProtocolViolation):
                store.insert(insert["index"], secret)
            return
        store = store.insert(insert["index"], secret)
    for insert in case["inserts"]:
        assert store.get(insert["index"]) == bytes.fromhex(insert["secret"])


def test_keys_are_derived_as_in_appendix_e() -> None:
    basepoint, point = public_key(BASE_SECRET), public_key(COMMITMENT_SECRET)
    assert (
        keys.derive_public_key(basepoint, point).hex()
        == "0235f2dbfaa89b57ec7b055afe29849ef7ddfeb1cefdb9ebdc43f5494984db29e5"
    )
    assert (
        keys.derive_private_key(BASE_SECRET, point).hex()
        == "cbced912d3b21bf196a766651e436aff192362621ce317704ea2f75d87e7be0f"
    )
    assert (
        keys.derive_revocation_public_key(basepoint, point).hex()
        == "02916e326636d19c33f13e8c0c3a03dd157f332f3e99c317c141dd865eb01f8ff0"
    )
    assert (
        keys.derive_revocation_private_key(BASE_SECRET, COMMITMENT_SECRET).hex()
        == "d09ffff62ddb2297ab000cc85bcb4283fdeb6aa052affbc9dddcf33b61078110"
    )


def test_a_secret_that_was_not_inserted_is_unknown() -> None:
    store = ShachainStore().insert((1 << 48) - 1, generate_secret(bytes(32), (1 << 48) - 1))
    assert store.get((1 << 48) - 2) is None
