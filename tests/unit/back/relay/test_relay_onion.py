"""What a received onion asks of us (BOLT 4 § Payload format, § Route Blinding)."""

from hashlib import sha256
from typing import Any

import pytest

from back.channel.model import Htlc, HtlcState
from back.payment.decision import Fail, Malformed
from back.relay.onion import Final, Forward, Place, interpret
from shared.crypto.failures import INVALID_ONION_BLINDING, decode_failure, encode_failure
from shared.crypto.payload import Payload, PaymentData, encode_payload
from shared.crypto.recipient_data import (
    Opened,
    PaymentConstraints,
    PaymentRelay,
    RecipientData,
)
from shared.crypto.sphinx import Peeled
from shared.errors import InvalidOnion

POINT = b"\x02" + sha256(b"x").digest()
NEXT_KEY = b"\x03" + sha256(b"next").digest()
RELAY = PaymentRelay(cltv_expiry_delta=40, fee_proportional_millionths=1_000, fee_base_msat=100)


def htlc(*, path_key: bytes | None = None) -> Htlc:
    return Htlc(
        offered=False,
        id=7,
        amount_msat=1_000_000,
        payment_hash=bytes(32),
        cltv_expiry=700,
        state=HtlcState.RCVD_ADD_ACK_REVOCATION,
        onion_routing_packet=b"onion",
        path_key=path_key,
    )


def read(
    payload: Payload | bytes,
    *,
    is_final: bool = False,
    path_key: bytes | None = None,
    opened: RecipientData | None = None,
) -> Any:
    def open_data(key: bytes, encrypted: bytes) -> Opened:
        assert key == POINT
        if encrypted != b"sealed" or opened is None:
            raise InvalidOnion("it does not decrypt", code=INVALID_ONION_BLINDING)
        return Opened(opened, NEXT_KEY)

    data = payload if isinstance(payload, bytes) else encode_payload(payload)
    peeled = Peeled(data, None if is_final else b"next", bytes(32))
    return interpret(htlc(path_key=path_key), peeled, open_data)


def code(decision: Any) -> str:
    assert isinstance(decision, Fail)
    return decode_failure(decision.message).name


def test_a_payment_for_another_names_channel_amount_and_expiry() -> None:
    read_ = read(Payload(amt_to_forward=5, outgoing_cltv_value=6, short_channel_id=9))
    assert isinstance(read_, Forward)
    assert (read_.short_channel_id, read_.amt_to_forward_msat) == (9, 5)
    assert (read_.outgoing_cltv_value, read_.next_packet) == (6, b"next")
    assert read_.next_path_key is None


def test_a_payment_to_us_is_final() -> None:
    data = PaymentData(payment_secret=bytes(32), total_msat=5)
    payload = Payload(amt_to_forward=5, outgoing_cltv_value=6, payment_data=data)
    read_ = read(payload, is_final=True)
    assert isinstance(read_, Final)
    assert read_.payload.payment_data == data
    assert read_.place is Place.OUTSIDE


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (Payload(outgoing_cltv_value=6, short_channel_id=9), 2),
        (Payload(amt_to_forward=5, short_channel_id=9), 4),
        (Payload(amt_to_forward=5, outgoing_cltv_value=6), 6),
    ],
)
def test_what_is_missing_is_named(payload: Payload, number: int) -> None:
    decision = read(payload)
    assert code(decision) == "invalid_onion_payload"
    assert decode_failure(decision.message).fields[0] == ("type", number)


def test_a_payload_that_is_no_tlv_stream_is_invalid() -> None:
    assert code(read(b"\x02\x08\x01")) == "invalid_onion_payload"


# --- blinded paths ----------------------------------------------------------------------------


def relayed(**changed: Any) -> RecipientData:
    return RecipientData(**({"short_channel_id": 9, "payment_relay": RELAY} | changed))


def test_inside_a_blinded_path_amount_and_expiry_follow_from_what_its_maker_wrote() -> None:
    sealed = Payload(encrypted_recipient_data=b"sealed")
    read_ = read(sealed, path_key=POINT, opened=relayed())
    assert isinstance(read_, Forward)
    # ((1000000 - 100) * 1000000 + 1000000 + 1000 - 1) // 1001000
    assert read_.amt_to_forward_msat == 998_902
    assert read_.outgoing_cltv_value == 660
    assert (read_.place, read_.next_path_key) == (Place.INSIDE, NEXT_KEY)


def test_the_introduction_node_finds_its_path_key_in_the_payload() -> None:
    sealed = Payload(encrypted_recipient_data=b"sealed", current_path_key=POINT)
    read_ = read(sealed, opened=relayed())
    assert isinstance(read_, Forward)
    assert read_.place is Place.INTRODUCTION


def test_a_path_may_name_the_next_node_instead_of_a_channel() -> None:
    sealed = Payload(encrypted_recipient_data=b"sealed")
    data = RecipientData(next_node_id=NEXT_KEY, payment_relay=RELAY)
    read_ = read(sealed, path_key=POINT, opened=data)
    assert (read_.short_channel_id, read_.next_node_id) == (None, NEXT_KEY)


SEALED = Payload(encrypted_recipient_data=b"sealed")
LIMITS = PaymentConstraints(max_cltv_expiry=699, htlc_minimum_msat=1)
SMALL = PaymentConstraints(max_cltv_expiry=700, htlc_minimum_msat=1_000_001)
WRONG_INSIDE: list[tuple[Payload, RecipientData | None]] = [
    (SEALED, None),
    (SEALED, relayed(payment_relay=None)),
    (SEALED, relayed(short_channel_id=None)),
    (SEALED, relayed(next_node_id=NEXT_KEY)),
    (SEALED, relayed(payment_constraints=LIMITS)),
    (SEALED, relayed(payment_constraints=SMALL)),
    (SEALED, relayed(allowed_features=b"\x01")),
    (SEALED.model_copy(update={"amt_to_forward": 5}), relayed()),
    (SEALED.model_copy(update={"unknown_tlvs": {65_537: b""}}), relayed()),
]


@pytest.mark.parametrize(("payload", "data"), WRONG_INSIDE)
def test_every_error_inside_a_blinded_path_looks_alike(
    payload: Payload, data: RecipientData | None
) -> None:
    assert read(payload, path_key=POINT, opened=data) == Malformed(INVALID_ONION_BLINDING)


@pytest.mark.parametrize(("payload", "data"), WRONG_INSIDE)
def test_the_introduction_node_tells_the_same_in_an_error_onion(
    payload: Payload, data: RecipientData | None
) -> None:
    first = payload.model_copy(update={"current_path_key": POINT})
    decision = read(first, opened=data)
    digest = sha256(b"onion").digest()
    assert decision == Fail(encode_failure("invalid_onion_blinding", sha256_of_onion=digest))


@pytest.mark.parametrize(
    ("payload", "path_key"),
    [
        (SEALED, None),
        (Payload(amt_to_forward=5, outgoing_cltv_value=6, current_path_key=POINT), None),
    ],
)
def test_a_path_key_and_what_it_opens_come_together(
    payload: Payload, path_key: bytes | None
) -> None:
    assert code(read(payload, path_key=path_key, opened=relayed())) == "invalid_onion_blinding"


def test_a_path_key_in_both_places_is_an_error() -> None:
    both = SEALED.model_copy(update={"current_path_key": POINT})
    assert read(both, path_key=POINT, opened=relayed()) == Malformed(INVALID_ONION_BLINDING)


def test_a_path_key_without_a_sealed_payload_is_an_error() -> None:
    plain = Payload(amt_to_forward=5, outgoing_cltv_value=6, short_channel_id=9)
    assert read(plain, path_key=POINT) == Malformed(INVALID_ONION_BLINDING)


LAST = Payload(
    encrypted_recipient_data=b"sealed",
    amt_to_forward=5,
    outgoing_cltv_value=6,
    total_amount_msat=5,
)


def test_the_end_of_a_blinded_path_is_final_and_has_what_we_wrote() -> None:
    data = RecipientData(path_id=b"ours")
    read_ = read(LAST, is_final=True, path_key=POINT, opened=data)
    assert isinstance(read_, Final)
    assert read_.opened == data
    assert read_.refused(b"\x40\x0f") == Malformed(INVALID_ONION_BLINDING)


@pytest.mark.parametrize("field", ["amt_to_forward", "outgoing_cltv_value", "total_amount_msat"])
def test_the_end_of_a_blinded_path_needs_amounts_and_expiry(field: str) -> None:
    less = LAST.model_copy(update={field: None})
    data = RecipientData(path_id=b"ours")
    assert read(less, is_final=True, path_key=POINT, opened=data) == Malformed(
        INVALID_ONION_BLINDING
    )


def test_a_later_failure_is_told_as_ours_inside_a_blinded_path() -> None:
    inside = read(SEALED, path_key=POINT, opened=relayed())
    assert inside.refused(b"\x10\x07\0\0") == Malformed(INVALID_ONION_BLINDING)
    first = SEALED.model_copy(update={"current_path_key": POINT})
    assert code(read(first, opened=relayed()).refused(b"\x10\x07\0\0")) == "invalid_onion_blinding"
