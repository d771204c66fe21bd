"""Every script of a channel (BOLT 3 § Transactions)."""

import hashlib
from functools import lru_cache

from back.transactions.transaction import push
from shared.errors import MalformedMessage

__all__ = [
    "anchor_script",
    "funding_keys",
    "funding_script",
    "funding_script_pubkey",
    "is_standard_shutdown_script",
    "offered_htlc_script",
    "p2wpkh",
    "p2wsh",
    "received_htlc_script",
    "to_local_script",
    "to_remote_anchors_script",
]

OP_0, OP_1, OP_2, OP_16 = 0x00, 0x51, 0x52, 0x60
OP_IF, OP_NOTIF, OP_ELSE, OP_ENDIF = 0x63, 0x64, 0x67, 0x68
OP_DROP, OP_DUP, OP_SWAP, OP_SIZE, OP_IFDUP = 0x75, 0x76, 0x7C, 0x82, 0x73
OP_EQUAL, OP_EQUALVERIFY = 0x87, 0x88
OP_HASH160, OP_CHECKSIG, OP_CHECKSIGVERIFY, OP_CHECKMULTISIG = 0xA9, 0xAC, 0xAD, 0xAE
OP_CLTV, OP_CSV = 0xB1, 0xB2


def hash160(data: bytes) -> bytes:
    """RIPEMD160 of SHA256."""
    return ripemd160(hashlib.sha256(data).digest())


@lru_cache(maxsize=8192)
def ripemd160(data: bytes) -> bytes:
    """RIPEMD160; embit carries its own where the system's OpenSSL has none."""
    from embit.hashes import ripemd160 as embit_ripemd160  # noqa: PLC0415 - a slow import

    digest: bytes = embit_ripemd160(data)
    return digest


def _number(number: int) -> bytes:
    """Minimal push of a non-negative script number."""
    if number == 0:
        return bytes((OP_0,))
    if number <= 16:
        return bytes((OP_1 + number - 1,))
    size = number.bit_length() // 8 + 1
    return push(number.to_bytes(size, "little"))


def p2wsh(script: bytes) -> bytes:
    """Version 0 script hash output."""
    return b"\x00\x20" + hashlib.sha256(script).digest()


def p2wpkh(public_key: bytes) -> bytes:
    """Version 0 key hash output."""
    return b"\x00\x14" + hash160(public_key)


@lru_cache(maxsize=4096)
def funding_script(one: bytes, other: bytes) -> bytes:
    """The 2-of-2, keys in lexicographic order."""
    first, second = sorted((one, other))
    return bytes((OP_2,)) + push(first) + push(second) + bytes((OP_2, OP_CHECKMULTISIG))


def funding_keys(script: bytes) -> tuple[bytes, bytes]:
    """The two keys of a 2-of-2 seen in a witness.

    Raises:
        MalformedMessage: another script.
    """
    one, other = script[2:35], script[36:69]
    if len(script) != 71 or script != funding_script(one, other):
        raise MalformedMessage("not a 2-of-2 script", bolt="BOLT 3 § Funding Transaction Output")
    return one, other


def funding_script_pubkey(one: bytes, other: bytes) -> bytes:
    """The funding output's scriptpubkey."""
    return p2wsh(funding_script(one, other))


def to_local_script(
    revocation_pubkey: bytes, to_self_delay: int, local_delayed_pubkey: bytes
) -> bytes:
    """The holder's own output: after a delay, or at once to who knows the revocation key."""
    return b"".join(
        (
            bytes((OP_IF,)),
            push(revocation_pubkey),
            bytes((OP_ELSE,)),
            _number(to_self_delay),
            bytes((OP_CSV, OP_DROP)),
            push(local_delayed_pubkey),
            bytes((OP_ENDIF, OP_CHECKSIG)),
        )
    )


def to_remote_anchors_script(remote_pubkey: bytes) -> bytes:
    """The other side's output with option_anchors: one block of delay."""
    return push(remote_pubkey) + bytes((OP_CHECKSIGVERIFY, OP_1, OP_CSV))


def anchor_script(funding_pubkey: bytes) -> bytes:
    """An anchor: its owner at once, anybody after 16 blocks."""
    return push(funding_pubkey) + bytes((OP_CHECKSIG, OP_IFDUP, OP_NOTIF, OP_16, OP_CSV, OP_ENDIF))


def _htlc_head(revocation_pubkey: bytes, remote_htlc_pubkey: bytes) -> bytes:
    return b"".join(
        (
            bytes((OP_DUP, OP_HASH160)),
            push(hash160(revocation_pubkey)),
            bytes((OP_EQUAL, OP_IF, OP_CHECKSIG, OP_ELSE)),
            push(remote_htlc_pubkey),
            bytes((OP_SWAP, OP_SIZE)),
            push(b"\x20"),
            bytes((OP_EQUAL,)),
        )
    )


def _htlc_tail(*, anchors: bool) -> bytes:
    csv = bytes((OP_1, OP_CSV, OP_DROP)) if anchors else b""
    return csv + bytes((OP_ENDIF,))


def offered_htlc_script(
    revocation_pubkey: bytes,
    local_htlc_pubkey: bytes,
    remote_htlc_pubkey: bytes,
    payment_hash: bytes,
    *,
    anchors: bool,
) -> bytes:
    """An HTLC that the commitment's holder offered."""
    return b"".join(
        (
            _htlc_head(revocation_pubkey, remote_htlc_pubkey),
            bytes((OP_NOTIF, OP_DROP, OP_2, OP_SWAP)),
            push(local_htlc_pubkey),
            bytes((OP_2, OP_CHECKMULTISIG, OP_ELSE, OP_HASH160)),
            push(ripemd160(payment_hash)),
            bytes((OP_EQUALVERIFY, OP_CHECKSIG, OP_ENDIF)),
            _htlc_tail(anchors=anchors),
        )
    )


def received_htlc_script(
    revocation_pubkey: bytes,
    local_htlc_pubkey: bytes,
    remote_htlc_pubkey: bytes,
    payment_hash: bytes,
    cltv_expiry: int,
    *,
    anchors: bool,
) -> bytes:
    """An HTLC that the commitment's holder received."""
    return b"".join(
        (
            _htlc_head(revocation_pubkey, remote_htlc_pubkey),
            bytes((OP_IF, OP_HASH160)),
            push(ripemd160(payment_hash)),
            bytes((OP_EQUALVERIFY, OP_2, OP_SWAP)),
            push(local_htlc_pubkey),
            bytes((OP_2, OP_CHECKMULTISIG, OP_ELSE, OP_DROP)),
            _number(cltv_expiry),
            bytes((OP_CLTV, OP_DROP, OP_CHECKSIG, OP_ENDIF)),
            _htlc_tail(anchors=anchors),
        )
    )


def is_standard_shutdown_script(script: bytes, *, anysegwit: bool) -> bool:
    """Whether a scriptpubkey may be in shutdown (BOLT 2 § Closing Initiation, forms 1 to 3)."""
    if script[:2] == b"\x00\x14":
        return len(script) == 22
    if script[:2] == b"\x00\x20":
        return len(script) == 34
    if not anysegwit or not 4 <= len(script) <= 42:
        return False
    return OP_1 <= script[0] <= OP_16 and script[1] == len(script) - 2
