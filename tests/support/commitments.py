"""Commitments with arbitrary contents, for properties."""

from hashlib import sha256

from hypothesis import strategies as st

from back.transactions.commitment import (
    CommitmentKeys,
    CommitmentParameters,
    CommitmentType,
    HtlcOutput,
    commitment_keys,
)
from shared.chain import Outpoint
from shared.crypto.signature import public_key

FUNDING_SATOSHIS = 10_000_000
MAX_HTLCS = 30


def secret(name: str) -> bytes:
    """32 bytes that follow from a name."""
    return sha256(name.encode()).digest()


def point(name: str) -> bytes:
    """The public key of :func:`secret`."""
    return public_key(secret(name))


def keys(per_commitment_point: bytes = b"") -> CommitmentKeys:
    """The keys of a holder's commitment; every secret has its name."""
    return commitment_keys(
        per_commitment_point or point("per commitment"),
        local_delayed_payment_basepoint=point("local delayed"),
        local_htlc_basepoint=point("local htlc"),
        local_funding_pubkey=point("local funding"),
        remote_payment_basepoint=point("remote payment"),
        remote_htlc_basepoint=point("remote htlc"),
        remote_revocation_basepoint=point("remote revocation"),
        remote_funding_pubkey=point("remote funding"),
    )


KEYS = keys()


def parameters(**changes: object) -> CommitmentParameters:
    """Parameters of a plain commitment with ``changes``."""
    plain: dict[str, object] = {
        "commitment_type": CommitmentType.ANCHORS_ZERO_FEE_HTLC,
        "funding_outpoint": Outpoint(secret("funding"), 1),
        "funding_satoshis": FUNDING_SATOSHIS,
        "number": 5,
        "opener_payment_basepoint": point("local payment"),
        "accepter_payment_basepoint": point("remote payment"),
        "holder_is_opener": True,
        "to_self_delay": 144,
        "dust_limit_satoshis": 354,
        "feerate_per_kw": 253,
        "to_local_msat": 7_000_000_000,
        "to_remote_msat": 3_000_000_000,
        "htlcs": (),
        "keys": KEYS,
    }
    return CommitmentParameters(**(plain | changes))  # type: ignore[arg-type]


def htlc(number: int, amount_msat: int, *, offered: bool = True, **changes: object) -> HtlcOutput:
    """An HTLC."""
    plain: dict[str, object] = {
        "id": number,
        "offered": offered,
        "amount_msat": amount_msat,
        "payment_hash": secret(f"hash {number}"),
        "cltv_expiry": 500_000 + number,
    }
    return HtlcOutput(**(plain | changes))  # type: ignore[arg-type]


@st.composite
def any_parameters(draw: st.DrawFn) -> CommitmentParameters:
    """Any balances, HTLCs (also equal ones), feerate and dust limit that the funding can hold."""
    left = FUNDING_SATOSHIS * 1000
    htlcs = []
    # Few hashes, amounts and expiries: outputs that tie are the hard case of the order.
    amounts = st.one_of(
        st.integers(1, 20_000_000), st.sampled_from([354_000, 1_000_999, 1_000_000])
    )
    for number in range(draw(st.integers(0, MAX_HTLCS))):
        amount_msat = draw(amounts)
        left -= amount_msat
        htlcs.append(
            htlc(
                number,
                amount_msat,
                offered=draw(st.booleans()),
                payment_hash=secret(f"hash {draw(st.integers(0, 3))}"),
                cltv_expiry=draw(st.integers(500_000, 500_003)),
            )
        )
    to_local_msat = draw(st.one_of(st.integers(0, left), st.sampled_from([0, left, 353_999])))
    return parameters(
        commitment_type=draw(st.sampled_from(CommitmentType)),
        number=draw(st.integers(0, 2**48 - 1)),
        holder_is_opener=draw(st.booleans()),
        to_self_delay=draw(st.integers(0, 2016)),
        dust_limit_satoshis=draw(st.integers(354, 5_000)),
        feerate_per_kw=draw(st.one_of(st.integers(0, 5_000), st.integers(0, 10_000_000))),
        to_local_msat=to_local_msat,
        to_remote_msat=left - to_local_msat,
        htlcs=tuple(htlcs),
    )
