"""What a declared message does: layout, TLV rules, errors, names, signed data."""

from hashlib import sha256
from typing import Annotated

import pytest
from pydantic import ValidationError

from shared.errors import Action, MalformedMessage
from shared.wire import (
    MAX_MESSAGE_SIZE,
    AttributionData,
    ChannelAnnouncement,
    ChannelReady,
    ChannelUpdate,
    ClosingSigned,
    CommitmentSigned,
    Error,
    FeeRange,
    FundingCreated,
    Init,
    Message,
    NodeAnnouncement,
    OpenChannel2,
    PeerStorage,
    Ping,
    Pong,
    RevokeAndAck,
    Tlv,
    TxInitRbf,
    TxSignatures,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
    channel_token,
    decode,
    encode,
    from_json,
    message_by_name,
    signature_hash,
    signed_data,
    to_json,
)
from shared.wire.codec import BIG_SIZE
from shared.wire.types import U16, ChannelId

CHANNEL = bytes(range(32))
POINT = b"\2" + bytes(32)
ADD = UpdateAddHtlc(
    channel_id=CHANNEL,
    id=7,
    amount_msat=1000,
    payment_hash=bytes(32),
    cltv_expiry=500_000,
    onion_routing_packet=bytes(1366),
)
UPDATE = ChannelUpdate(
    signature=b"\1" * 64,
    chain_hash=bytes(32),
    short_channel_id=1,
    timestamp=2,
    message_flags=1,
    channel_flags=0,
    cltv_expiry_delta=144,
    htlc_minimum_msat=1,
    fee_base_msat=1000,
    fee_proportional_millionths=1,
    htlc_maximum_msat=(1 << 64) - 1,
)


def refused(wire: bytes) -> MalformedMessage:
    with pytest.raises(MalformedMessage) as caught:
        decode(wire)
    return caught.value


def test_an_unknown_odd_type_is_ignored() -> None:
    assert decode(bytes.fromhex("8001ff")) is None


def test_an_unknown_even_type_closes_the_connection() -> None:
    error = refused(bytes.fromhex("8000ff"))
    assert error.action is Action.DISCONNECT
    assert "32768" in str(error)


@pytest.mark.parametrize("wire", [b"", b"\0"])
def test_a_message_without_a_type_is_malformed(wire: bytes) -> None:
    assert refused(wire).action is Action.DISCONNECT


def test_a_ping_is_laid_out_byte_by_byte() -> None:
    ping = Ping(num_pong_bytes=0x0102, ignored=b"\xaa\xbb\xcc")
    assert encode(ping).hex() == "0012" + "0102" + "0003" + "aabbcc"


def test_records_are_written_in_the_order_of_their_types_known_or_not() -> None:
    init = Init(
        globalfeatures=b"", features=b"", remote_addr=b"\4", unknown_tlvs={5: b"", 70_001: b"\7"}
    )
    init = init.model_copy(update={"networks": [bytes(32)]})
    assert encode(init).hex() == "001000000000" + "0120" + "00" * 32 + "030104" + "0500" + (
        "fe00011171" + "0107"
    )


def test_unknown_odd_records_come_back_in_their_place() -> None:
    wire = bytes.fromhex("0010" + "0000" + "0000" + "0120" + "00" * 32 + "0500" + "fd01010102")
    message = decode(wire)
    assert isinstance(message, Init)
    assert message.unknown_tlvs == {5: b"", 257: b"\2"}
    assert encode(message) == wire


@pytest.mark.parametrize("number", [0, 2, 65536])
def test_an_unknown_even_record_is_refused(number: int) -> None:
    error = refused(encode(Pong(ignored=b"")) + BIG_SIZE.write(number) + b"\0")
    assert error.action is Action.DISCONNECT


@pytest.mark.parametrize("unknown", [{2: b""}, {1: b""}, {-1: b""}, {1 << 64 | 1: b""}])
def test_unknown_records_that_a_peer_would_refuse_cannot_be_made(unknown: dict[int, bytes]) -> None:
    with pytest.raises(ValidationError):
        ChannelReady(channel_id=CHANNEL, second_per_commitment_point=POINT, unknown_tlvs=unknown)


def test_a_known_record_of_the_wrong_length_is_refused() -> None:
    ready = encode(ChannelReady(channel_id=CHANNEL, second_per_commitment_point=POINT))
    assert decode(ready + bytes.fromhex("0108" + "00" * 8)) is not None
    for record in ("0107" + "00" * 7, "0109" + "00" * 9, "0108" + "00" * 7):
        assert refused(ready + bytes.fromhex(record)).action is Action.DISCONNECT


@pytest.mark.parametrize("first", [0, 1, 4, 5, 255])
def test_a_point_starts_with_02_or_03(first: int) -> None:
    wire = bytearray(
        encode(
            RevokeAndAck(
                channel_id=CHANNEL, per_commitment_secret=bytes(32), next_per_commitment_point=POINT
            )
        )
    )
    wire[-33] = first
    error = refused(bytes(wire))
    assert error.action is Action.DISCONNECT
    assert "next_per_commitment_point" in str(error)


def test_more_than_21_million_bitcoin_cannot_move() -> None:
    most = 2_100_000_000_000_000_000
    assert ADD.model_copy(update={"amount_msat": most})
    with pytest.raises(ValidationError):
        UpdateAddHtlc.model_validate(dict(ADD) | {"amount_msat": most + 1})
    wire = bytearray(encode(ADD))
    wire[2 + 32 + 8 : 2 + 32 + 16] = (most + 1).to_bytes(8, "big")
    assert "amount_msat" in str(refused(bytes(wire)))


def test_a_message_of_65535_bytes_is_the_longest() -> None:
    fits = PeerStorage(blob=bytes(MAX_MESSAGE_SIZE - 4))
    assert len(encode(fits)) == 65535
    with pytest.raises(ValueError, match="peer_storage of 65536 bytes, at most 65535"):
        encode(PeerStorage(blob=bytes(MAX_MESSAGE_SIZE - 3)))


def test_too_many_htlc_signatures_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        encode(
            CommitmentSigned(
                channel_id=CHANNEL, signature=bytes(64), htlc_signature=[bytes(64)] * 1100
            )
        )


def test_a_flag_record_is_there_or_not() -> None:
    rbf = TxInitRbf(channel_id=CHANNEL, locktime=1, feerate=253)
    assert encode(rbf)[-4:].hex() == "000000fd"
    flagged = rbf.model_copy(update={"require_confirmed_inputs": True})
    assert encode(flagged)[-6:].hex() == "000000fd" + "0200"
    assert decode(encode(flagged)) == flagged
    assert b"require_confirmed_inputs" not in to_json(rbf)
    assert b'"require_confirmed_inputs":true' in to_json(flagged)


def test_a_flag_record_with_a_value_is_refused() -> None:
    rbf = encode(TxInitRbf(channel_id=CHANNEL, locktime=1, feerate=253))
    refused(rbf + bytes.fromhex("020101"))


def test_a_negative_contribution_is_two_s_complement() -> None:
    rbf = TxInitRbf(channel_id=CHANNEL, locktime=1, feerate=253, funding_output_contribution=-2)
    assert encode(rbf)[-10:].hex() == "0008" + "fffffffffffffffe"
    assert decode(encode(rbf)) == rbf


def test_a_contribution_of_zero_is_still_a_record() -> None:
    rbf = TxInitRbf(channel_id=CHANNEL, locktime=1, feerate=253, funding_output_contribution=0)
    assert encode(rbf)[-10:].hex() == "0008" + "00" * 8


def test_witnesses_are_counted_and_measured() -> None:
    signed = TxSignatures(channel_id=CHANNEL, txid=bytes(32), witnesses=[b"\1\2", b""])
    assert encode(signed)[66:].hex() == "0002" + "0002" + "0102" + "0000"


def test_a_fee_range_is_a_structure() -> None:
    closing = ClosingSigned(
        channel_id=CHANNEL,
        fee_satoshis=183,
        signature=bytes(64),
        fee_range=FeeRange(min_fee_satoshis=1, max_fee_satoshis=2),
    )
    assert encode(closing)[-18:].hex() == "0110" + "0000000000000001" + "0000000000000002"
    assert b'"fee_range":{"min_fee_satoshis":1,"max_fee_satoshis":2}' in to_json(closing)


def test_attribution_data_is_920_bytes() -> None:
    data = AttributionData(htlc_hold_times=list(range(20)), truncated_hmacs=bytes(840))
    fail = UpdateFailHtlc(channel_id=CHANNEL, id=1, reason=b"", attribution_data=data)
    bare = UpdateFailHtlc(channel_id=CHANNEL, id=1, reason=b"")
    record = encode(fail)[len(encode(bare)) :]
    assert record[:4].hex() == "01fd0398"
    assert record[4:84] == b"".join(i.to_bytes(4, "big") for i in range(20))
    assert decode(encode(fail)) == fail
    fulfill = UpdateFulfillHtlc(
        channel_id=CHANNEL, id=1, payment_preimage=bytes(32), attribution_data=data
    )
    assert encode(fulfill).endswith(record)


def test_bytes_are_lower_case_hex_in_json() -> None:
    fee = UpdateFee(channel_id=b"\xab" * 32, feerate_per_kw=253)
    assert to_json(fee) == b'{"channel_id":"' + b"ab" * 32 + b'","feerate_per_kw":253}'


def test_unknown_records_are_hex_by_type_in_json() -> None:
    message = ADD.model_copy(update={"unknown_tlvs": {65537: b"\xab"}})
    assert b'"unknown_tlvs":{"65537":"ab"}' in to_json(message)
    assert from_json("update_add_htlc", to_json(message)) == message


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("no_such_message", b"{}"),
        ("update_fee", b""),
        ("update_fee", b"[]"),
        ("update_fee", b'{"channel_id":"00","feerate_per_kw":253}'),
        ("update_fee", b'{"channel_id":"' + b"0g" * 32 + b'","feerate_per_kw":253}'),
        ("update_fee", b'{"channel_id":"' + b"00" * 32 + b'","feerate_per_kw":"253"}'),
        ("update_fee", b'{"channel_id":"' + b"00" * 32 + b'","feerate_per_kw":4294967296}'),
        ("update_fee", b'{"channel_id":"' + b"00" * 32 + b'","feerate_per_kw":1,"x":1}'),
    ],
)
def test_json_that_is_no_message_is_malformed(name: str, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        from_json(name, data)


def test_an_error_never_shows_the_payload() -> None:
    secret = "5ec7e7" * 11
    with pytest.raises(MalformedMessage) as caught:
        from_json("update_fulfill_htlc", b'{"payment_preimage":"' + secret.encode() + b'"}')
    assert secret not in str(caught.value)
    assert "payment_preimage" in str(caught.value)


def test_secrets_stay_out_of_the_repr() -> None:
    preimage = b"\x5e" * 32
    message = UpdateFulfillHtlc(channel_id=CHANNEL, id=1, payment_preimage=preimage)
    assert repr(preimage) not in repr(message)
    assert "payment_preimage" not in repr(message)


def test_a_payload_stays_out_of_the_repr() -> None:
    assert "onion_routing_packet" not in repr(ADD)
    assert "amount_msat=1000" in repr(ADD)


def test_no_message_is_too_long_for_the_fabric() -> None:
    # Empty records with three-byte types grow the most: four bytes become eleven characters.
    head = encode(TxInitRbf(channel_id=CHANNEL, locktime=1, feerate=253))
    count = (MAX_MESSAGE_SIZE - len(head)) // 4
    records = b"".join(b"\xfd" + (257 + 2 * i).to_bytes(2, "big") + b"\0" for i in range(count))
    message = decode(head + records)
    assert message is not None
    assert len(to_json(message)) < 192 * 1024
    assert from_json(message.NAME, to_json(message)) == message


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ADD.amount_msat = 2  # type: ignore[misc]


def test_a_channel_token_is_the_id_the_message_carries() -> None:
    assert channel_token(ADD) == CHANNEL.hex()
    created = FundingCreated(
        temporary_channel_id=CHANNEL,
        funding_txid=bytes(32),
        funding_output_index=0,
        signature=bytes(64),
    )
    assert channel_token(created) == CHANNEL.hex()
    assert channel_token(Ping(num_pong_bytes=0, ignored=b"")) == "-"
    assert channel_token(Error(channel_id=CHANNEL, data=b"")) == CHANNEL.hex()
    assert channel_token(Error(channel_id=bytes(32), data=b"")) == "-"


def test_names_are_those_of_the_bolts() -> None:
    assert OpenChannel2.NAME == "open_channel2"
    assert message_by_name("open_channel2") is OpenChannel2
    assert message_by_name("error") is Error
    with pytest.raises(KeyError):
        message_by_name("message")


def test_a_type_is_declared_once() -> None:
    with pytest.raises(TypeError, match="type 18 is already Ping"):

        class Again(Message, type=18):
            """A second ping."""

    assert decode(encode(Pong(ignored=b""))) == Pong(ignored=b"")


def test_a_record_is_declared_once() -> None:
    with pytest.raises(TypeError, match="declares tlv 1 twice"):

        class Twice(Message):
            """Two records of one type."""

            channel_id: ChannelId
            one: Annotated[U16 | None, Tlv(1)] = None
            two: Annotated[U16 | None, Tlv(1)] = None


def test_a_field_without_a_layout_is_no_field() -> None:
    with pytest.raises(TypeError, match="declares no wire codec"):

        class Loose(Message):
            """A field of unknown layout."""

            amount: int


def test_what_a_channel_update_signs_starts_after_its_signature() -> None:
    wire = encode(UPDATE) + bytes.fromhex("020100ff")
    update = decode(wire)
    assert isinstance(update, ChannelUpdate)
    assert update.extension == bytes.fromhex("020100ff")
    assert encode(update) == wire
    assert signed_data(update) == wire[66:]
    assert signature_hash(update) == sha256(sha256(wire[66:]).digest()).digest()


def test_what_the_other_announcements_sign_starts_after_their_signatures() -> None:
    channel = ChannelAnnouncement(
        node_signature_1=bytes(64),
        node_signature_2=bytes(64),
        bitcoin_signature_1=bytes(64),
        bitcoin_signature_2=bytes(64),
        features=b"",
        chain_hash=bytes(32),
        short_channel_id=1,
        node_id_1=POINT,
        node_id_2=POINT,
        bitcoin_key_1=POINT,
        bitcoin_key_2=POINT,
    )
    # BOLT 7 counts offset 256 from the end of the type.
    assert signed_data(channel) == encode(channel)[2 + 256 :]
    node = NodeAnnouncement(
        signature=bytes(64),
        features=b"",
        timestamp=1,
        node_id=POINT,
        rgb_color=b"\1\2\3",
        alias=bytes(32),
        addresses=b"",
    )
    assert signed_data(node) == encode(node)[2 + 64 :]


def test_a_bad_point_in_an_announcement_is_no_reason_to_disconnect() -> None:
    node = encode(
        NodeAnnouncement(
            signature=bytes(64),
            features=b"",
            timestamp=1,
            node_id=POINT,
            rgb_color=b"\1\2\3",
            alias=bytes(32),
            addresses=b"",
        )
    )
    bad = node.replace(POINT, b"\5" + bytes(32))
    assert refused(bad).action is Action.WARN


def test_an_announcement_has_no_unknown_records_beside_its_extension() -> None:
    with pytest.raises(ValidationError):
        ChannelUpdate.model_validate(dict(UPDATE) | {"unknown_tlvs": {1: b""}})
