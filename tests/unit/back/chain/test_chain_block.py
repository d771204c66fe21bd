"""Raw blocks and transactions are read as another library reads them, and bad ones refused."""

import struct
from hashlib import sha256

import pytest
from embit.transaction import Transaction

from back.chain import block
from shared.chain import Outpoint

# The genesis block of mainnet: a coinbase without witness.
GENESIS = bytes.fromhex(
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e"
    "67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c01010000000100000000000000000000"
    "00000000000000000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d65732030332f"
    "4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f75742066"
    "6f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a6"
    "7962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
GENESIS_TXID = bytes.fromhex("4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b")[
    ::-1
]


def _transaction(
    spends: list[Outpoint], amounts: list[int], *, is_segwit: bool = True, padding: int = 0
) -> bytes:
    raw = struct.pack("<I", 2) + (b"\x00\x01" if is_segwit else b"") + bytes([len(spends)])
    for outpoint in spends:
        raw += block.outpoint_bytes(outpoint) + b"\x00" + b"\xfd\xff\xff\xff"
    raw += bytes([len(amounts)])
    for amount in amounts:
        script = b"\x00\x14" + bytes(20) + bytes(padding)
        size = (
            bytes([len(script)]) if len(script) < 0xFD else b"\xfd" + struct.pack("<H", len(script))
        )
        raw += struct.pack("<Q", amount) + size + script
    if is_segwit:
        raw += (b"\x02" + b"\x47" + bytes(71) + b"\x21" + bytes(33)) * len(spends)
    return raw + struct.pack("<I", 7)


def _block(transactions: list[bytes]) -> bytes:
    count = len(transactions)
    size = bytes([count]) if count < 0xFD else b"\xfd" + struct.pack("<H", count)
    return bytes(80) + size + b"".join(transactions)


def _outpoint(n: int) -> Outpoint:
    return Outpoint(sha256(bytes([n])).digest(), n)


def test_the_genesis_block_has_its_hash_time_and_coinbase() -> None:
    head = block.header(GENESIS)
    assert (
        head.hash[::-1].hex() == "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
    )
    assert (head.previous_hash, head.time) == (bytes(32), 1231006505)
    [match] = block.scan(GENESIS, set(), {GENESIS_TXID})
    assert match.transaction_index == 0
    assert block.txid(match.transaction) == GENESIS_TXID
    assert not block.scan(GENESIS, set(), set())


@pytest.mark.parametrize("is_segwit", [True, False])
@pytest.mark.parametrize("padding", [0, 300])
def test_a_transaction_reads_as_embit_reads_it(is_segwit: bool, padding: int) -> None:
    raw = _transaction(
        [_outpoint(1), _outpoint(2)], [5, 10**10], is_segwit=is_segwit, padding=padding
    )
    other = Transaction.parse(raw)
    assert block.txid(raw) == other.txid()[::-1]
    assert block.inputs(raw) == [Outpoint(i.txid[::-1], i.vout) for i in other.vin]
    assert block.outputs(raw) == [block.Output(o.value, o.script_pubkey.data) for o in other.vout]
    assert block.is_all_segwit(raw) == is_segwit


def test_a_transaction_with_one_input_without_witness_is_not_all_segwit() -> None:
    raw = bytearray(_transaction([_outpoint(1), _outpoint(2)], [5]))
    first_witness = len(raw) - 4 - 2 * 107
    mixed = bytes(raw[:first_witness]) + b"\x00" + bytes(raw[first_witness + 107 :])
    assert block.txid(mixed) == block.txid(bytes(raw))
    assert not block.is_all_segwit(mixed)


def test_a_scan_finds_spends_and_txids_and_nothing_else() -> None:
    transactions = [_transaction([_outpoint(n), _outpoint(100 + n)], [n]) for n in range(60)]
    raw = _block(transactions)
    wanted = {block.outpoint_bytes(_outpoint(n)) for n in (3, 103, 150)}
    matches = block.scan(raw, wanted, {block.txid(transactions[7])})
    assert [(m.transaction_index, m.spends) for m in matches] == [
        (3, (_outpoint(3), _outpoint(103))),
        (7, ()),
        (50, (_outpoint(150),)),
    ]
    assert [m.transaction for m in matches] == [transactions[n] for n in (3, 7, 50)]
    assert [m.txid for m in matches] == [block.txid(transactions[n]) for n in (3, 7, 50)]


def test_a_block_of_many_transactions_is_counted_right() -> None:
    transactions = [
        _transaction([_outpoint(n % 256)], [1], is_segwit=n % 2 == 0) for n in range(300)
    ]
    matches = block.scan(_block(transactions), {block.outpoint_bytes(_outpoint(43))}, set())
    assert [m.transaction_index for m in matches] == [43, 299]


@pytest.mark.parametrize("cut", [1, 4, 50, 120, 250])
def test_a_cut_block_or_transaction_is_refused(cut: int) -> None:
    raw = _transaction([_outpoint(1)], [5], padding=300)
    with pytest.raises(ValueError, match="not a transaction"):
        block.txid(raw[:-cut])
    with pytest.raises(ValueError, match="not a block"):
        block.scan(_block([raw])[:-cut], set(), set())


def test_bytes_left_over_are_refused() -> None:
    raw = _transaction([_outpoint(1)], [5])
    with pytest.raises(ValueError, match="left over"):
        block.inputs(raw + b"\x00")
    with pytest.raises(ValueError, match="left over"):
        block.scan(_block([raw]) + b"\x00", set(), set())
    with pytest.raises(ValueError, match="too short"):
        block.header(bytes(79))
