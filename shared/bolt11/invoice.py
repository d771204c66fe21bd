"""The invoice and its encoding (BOLT 11 § Data Part, § Tagged Fields)."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from shared.bolt11.bits import (
    bech32_decode,
    bech32_encode,
    from_groups,
    minimal,
    number,
    padded_bytes,
    to_groups,
    to_number,
)
from shared.chain import CHAINS, MAINNET, Chain
from shared.crypto.keys import is_valid_point
from shared.crypto.signature import recover, verify_compact
from shared.errors import MalformedMessage
from shared.features import FeatureSet

__all__ = ["Fallback", "Invoice", "RouteHint", "assemble", "decode", "signing_digest"]

BOLT = "BOLT 11 § Tagged Fields"
DEFAULT_EXPIRY_S = 3600
DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA = 18
SIGNATURE_GROUPS = 104
TIMESTAMP_GROUPS = 7
HASH_GROUPS, KEY_GROUPS = 52, 53
MSAT_PER_BTC = 100_000_000_000
HINT = 51
"""Bytes of one hop in a route hint."""
MAX_FIELD_GROUPS = 1023
MAX_AMOUNT_MSAT = 21_000_000 * MSAT_PER_BTC
MAX_AMOUNT_DIGITS = 20
"""All bitcoin in the smallest unit."""
MAX_NUMBER = (1 << 53) - 1
"""Of seconds and blocks: what JSON and databases can hold. More than that, no invoice means."""
P2PKH, P2SH, MAX_WITNESS_VERSION = 17, 18, 16

_AMOUNT = re.compile(r"(?:ln)(?P<currency>bcrt|tbs|bc|tb)(?P<amount>[0-9]+[munp]?)?")
_MULTIPLIERS = {"": 1, "m": 10**3, "u": 10**6, "n": 10**9, "p": 10**12}

P, S, D, M, N, H, X, C, F, R, NINE = 1, 16, 13, 27, 19, 23, 6, 24, 9, 3, 5


@dataclass(frozen=True, slots=True)
class RouteHint:
    """One hop of a route that leads to the payee."""

    node_id: bytes
    short_channel_id: int
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int


@dataclass(frozen=True, slots=True)
class Fallback:
    """An on-chain address: witness version 0 to 16, 17 for P2PKH, 18 for P2SH."""

    version: int
    program: bytes


@dataclass(frozen=True, slots=True)
class Invoice:
    """A BOLT 11 invoice.

    Attributes:
        amount_msat: None: the payer chooses.
        timestamp: seconds since 1970.
        payee: node id; 33 zero bytes in an invoice that is not signed yet.
        description: None where only its hash is given.
        routes: route hints, each a sequence of hops.
        features: bits of field ``9``.
        unknown: fields that we do not know, as (type, groups).
        has_payee_field: whether ``n`` is written out.
    """

    chain: Chain
    timestamp: int
    payment_hash: bytes
    payment_secret: bytes = field(repr=False)
    amount_msat: int | None = None
    description: str | None = None
    description_hash: bytes | None = None
    expiry_s: int = DEFAULT_EXPIRY_S
    min_final_cltv_expiry_delta: int = DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA
    payee: bytes = bytes(33)
    features: FeatureSet = field(default_factory=FeatureSet)
    routes: tuple[tuple[RouteHint, ...], ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    payment_metadata: bytes | None = None
    unknown: tuple[tuple[int, tuple[int, ...]], ...] = ()
    has_payee_field: bool = False

    @property
    def expires_at(self) -> int:
        """Seconds since 1970."""
        return self.timestamp + self.expiry_s

    def is_expired(self, now: float) -> bool:
        """Whether it may not be paid any more."""
        return now >= self.expires_at


# --- writing -------------------------------------------------------------------------------------


def signing_digest(invoice: Invoice) -> bytes:
    """Return what the payee's node key signs.

    Raises:
        ValueError: BOLT 11 has no form for it: a field is too long, or an amount not positive.
    """
    return _digest(_prefix(invoice), _data(invoice))


def assemble(invoice: Invoice, signature: bytes) -> str:
    """Return the invoice string.

    Args:
        invoice: what was digested.
        signature: 65 bytes, recovery id last.
    """
    return bech32_encode(_prefix(invoice), [*_data(invoice), *to_groups(signature)])


def _digest(prefix: str, groups: list[int]) -> bytes:
    return hashlib.sha256(prefix.encode() + padded_bytes(groups)).digest()


def _prefix(invoice: Invoice) -> str:
    prefix = "ln" + invoice.chain.invoice_prefix
    if invoice.amount_msat is None:
        return prefix
    if not 0 < invoice.amount_msat <= MAX_AMOUNT_MSAT:
        raise ValueError(f"an invoice asks for 1 to {MAX_AMOUNT_MSAT} msat, or names no amount")
    for letter, divisor in _MULTIPLIERS.items():
        pico = invoice.amount_msat * divisor
        if pico % MSAT_PER_BTC == 0:
            return f"{prefix}{pico // MSAT_PER_BTC}{letter}"
    raise ValueError(f"{invoice.amount_msat} msat has no BOLT 11 form")


def _data(invoice: Invoice) -> list[int]:
    if (invoice.description is None) == (invoice.description_hash is None):
        raise ValueError("an invoice has either a description or the hash of one")
    groups = number(invoice.timestamp, TIMESTAMP_GROUPS)

    def add(kind: int, content: list[int]) -> None:
        if len(content) > MAX_FIELD_GROUPS:
            raise ValueError(f"field {kind} has {len(content)} groups of {MAX_FIELD_GROUPS}")
        groups.extend([kind, *number(len(content), 2), *content])

    add(P, to_groups(invoice.payment_hash))
    add(S, to_groups(invoice.payment_secret))
    if invoice.description is not None:
        add(D, to_groups(invoice.description.encode()))
    if invoice.description_hash is not None:
        add(H, to_groups(invoice.description_hash))
    if invoice.payment_metadata is not None:
        add(M, to_groups(invoice.payment_metadata))
    if invoice.has_payee_field:
        add(N, to_groups(invoice.payee))
    if invoice.expiry_s != DEFAULT_EXPIRY_S:
        add(X, minimal(invoice.expiry_s))
    add(C, minimal(invoice.min_final_cltv_expiry_delta))
    for kind, content in _repeated(invoice):
        add(kind, content)
    return groups


def _repeated(invoice: Invoice) -> Iterator[tuple[int, list[int]]]:
    """Fields that may come more than once, features, and what we do not know."""
    for fallback in invoice.fallbacks:
        yield F, [fallback.version, *to_groups(fallback.program)]
    for route in invoice.routes:
        yield R, to_groups(b"".join(_hint(hop) for hop in route))
    if invoice.features.bits:
        yield NINE, minimal(sum(1 << bit for bit in invoice.features.bits))
    for kind, content in invoice.unknown:
        yield kind, list(content)


def _hint(hop: RouteHint) -> bytes:
    return b"".join(
        (
            hop.node_id,
            hop.short_channel_id.to_bytes(8, "big"),
            hop.fee_base_msat.to_bytes(4, "big"),
            hop.fee_proportional_millionths.to_bytes(4, "big"),
            hop.cltv_expiry_delta.to_bytes(2, "big"),
        )
    )


# --- reading -------------------------------------------------------------------------------------


def decode(text: str) -> Invoice:
    """Read and check an invoice, its signature too.

    Raises:
        MalformedMessage: it may not be paid; says why.
    """
    text = text.strip()
    if text[:10].lower() == "lightning:":
        text = text[10:]
    prefix, groups = bech32_decode(text)
    if len(groups) < TIMESTAMP_GROUPS + SIGNATURE_GROUPS:
        raise _wrong("the string is too short")
    data, signature = groups[:-SIGNATURE_GROUPS], from_groups(groups[-SIGNATURE_GROUPS:])
    chain, amount_msat = _amount(prefix)
    fields = _Fields()
    fields.read(data[TIMESTAMP_GROUPS:])
    invoice = fields.invoice(chain, amount_msat, to_number(data[:TIMESTAMP_GROUPS]))
    return _signed(invoice, signature, _digest(prefix, data))


def _wrong(why: str, bolt: str = BOLT) -> MalformedMessage:
    return MalformedMessage(why, bolt=bolt)


def _signed(invoice: Invoice, signature: bytes, digest: bytes) -> Invoice:
    if not invoice.has_payee_field:
        return replace(invoice, payee=recover(signature, digest))
    if not verify_compact(invoice.payee, digest, signature[:64]):
        raise _wrong("the signature is not the payee's, or not low-S")
    return invoice


def _amount(prefix: str) -> tuple[Chain, int | None]:
    match = _AMOUNT.fullmatch(prefix)
    if match is None:
        raise _wrong(
            f"prefix {prefix[:40]!r} is not one that we know", "BOLT 11 § Human-Readable Part"
        )
    chain = next((c for c in CHAINS.values() if c.invoice_prefix == match["currency"]), MAINNET)
    amount = match["amount"]
    if amount is None:
        return chain, None
    digits, letter = (amount[:-1], amount[-1]) if amount[-1].isalpha() else (amount, "")
    msat, rest = 0, 0
    if len(digits) <= MAX_AMOUNT_DIGITS and digits[0] != "0":
        msat, rest = divmod(int(digits) * MSAT_PER_BTC, _MULTIPLIERS[letter])
    if rest or not 0 < msat <= MAX_AMOUNT_MSAT:
        raise _wrong(
            f"amount {amount[:40]!r} is not a whole number of msat above 0, or more than exists",
            "BOLT 11 § Human-Readable Part",
        )
    return chain, msat


class _Fields:
    """The tagged fields, as they are met; of several the first valid one counts."""

    def __init__(self) -> None:
        self.met: set[int] = set()
        self.hashes: dict[int, bytes] = {}
        self.description: str | None = None
        self.expiry_s = DEFAULT_EXPIRY_S
        self.delta = DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA
        self.features = FeatureSet()
        self.metadata: bytes | None = None
        self.routes: list[tuple[RouteHint, ...]] = []
        self.fallbacks: list[Fallback] = []
        self.unknown: list[tuple[int, tuple[int, ...]]] = []
        self.readers: dict[int, Callable[[list[int]], None]] = {
            D: self._description,
            X: self._expiry,
            C: self._delta,
            F: self._fallback,
            R: self._route,
            NINE: self._features,
            M: self._metadata,
        }

    def read(self, groups: list[int]) -> None:
        at = 0
        while at < len(groups):
            head = groups[at : at + 3]
            size = to_number(head[1:])
            content = groups[at + 3 : at + 3 + size]
            if len(head) < 3 or len(content) < size:
                raise _wrong("a field is cut off")
            at += 3 + size
            self._field(head[0], content)

    def _field(self, kind: int, content: list[int]) -> None:
        if kind in {D, X, C, NINE, M}:
            # The most preferred of several comes first.
            if kind in self.met:
                return
            self.met.add(kind)
        if kind in {P, S, H, N}:
            # One with another length is skipped, as the BOLT's example of ignored fields has it.
            if len(content) == (KEY_GROUPS if kind == N else HASH_GROUPS):
                self.hashes.setdefault(kind, from_groups(content))
        elif reader := self.readers.get(kind):
            reader(content)
        else:
            self.unknown.append((kind, tuple(content)))

    def _description(self, content: list[int]) -> None:
        try:
            self.description = from_groups(content).decode()
        except UnicodeDecodeError:
            raise _wrong("the description is not UTF-8") from None

    def _expiry(self, content: list[int]) -> None:
        self.expiry_s = _minimal_number(content, "x")

    def _delta(self, content: list[int]) -> None:
        self.delta = _minimal_number(content, "c")

    def _metadata(self, content: list[int]) -> None:
        self.metadata = from_groups(content)

    def _features(self, content: list[int]) -> None:
        _check_minimal(content, "9")
        self.features = FeatureSet(
            frozenset(
                5 * place + bit
                for place, group in enumerate(reversed(content))
                for bit in range(5)
                if group >> bit & 1
            )
        )

    def _fallback(self, content: list[int]) -> None:
        if content and _is_program(content[0], program := from_groups(content[1:])):
            self.fallbacks.append(Fallback(content[0], program))

    def _route(self, content: list[int]) -> None:
        data = from_groups(content)
        if not data or len(data) % HINT:
            raise _wrong("a route hint has another size")
        self.routes.append(tuple(_read_hint(data[i : i + HINT]) for i in range(0, len(data), HINT)))

    def invoice(self, chain: Chain, amount_msat: int | None, timestamp: int) -> Invoice:
        """Check what is missing or too much, and build the invoice."""
        if P not in self.hashes:
            raise _wrong("payment_hash (p) is missing")
        if S not in self.hashes:
            raise _wrong("payment_secret (s) is missing")
        if (self.description is None) == (H not in self.hashes):
            raise _wrong("exactly one of description (d) and its hash (h) must be there")
        if unknown := self.features.unknown_required():
            raise _wrong(f"feature {unknown[0]} is required and unknown", "BOLT 11 § Feature Bits")
        return Invoice(
            chain=chain,
            timestamp=timestamp,
            payment_hash=self.hashes[P],
            payment_secret=self.hashes[S],
            amount_msat=amount_msat,
            description=self.description,
            description_hash=self.hashes.get(H),
            expiry_s=self.expiry_s,
            min_final_cltv_expiry_delta=self.delta,
            payee=self.hashes.get(N, bytes(33)),
            features=self.features,
            routes=tuple(self.routes),
            fallbacks=tuple(self.fallbacks),
            payment_metadata=self.metadata,
            unknown=tuple(self.unknown),
            has_payee_field=N in self.hashes,
        )


def _check_minimal(content: list[int], name: str) -> None:
    if len(content) > 1 and content[0] == 0:
        raise _wrong(f"field {name} is longer than it needs to be")


def _minimal_number(content: list[int], name: str) -> int:
    _check_minimal(content, name)
    value = to_number(content)
    if value > MAX_NUMBER:
        raise _wrong(f"the number in field {name} has {value.bit_length()} bits")
    return value


def _is_program(version: int, program: bytes) -> bool:
    """Whether a fallback is an address that may exist; others are skipped."""
    if version in {P2PKH, P2SH}:
        return len(program) == 20
    if version == 0:
        return len(program) in {20, 32}
    return version <= MAX_WITNESS_VERSION and 2 <= len(program) <= 40


def _read_hint(data: bytes) -> RouteHint:
    if not is_valid_point(data[:33]):
        raise _wrong("a route hint names a node id that is none")
    return RouteHint(
        node_id=data[:33],
        short_channel_id=int.from_bytes(data[33:41], "big"),
        fee_base_msat=int.from_bytes(data[41:45], "big"),
        fee_proportional_millionths=int.from_bytes(data[45:49], "big"),
        cltv_expiry_delta=int.from_bytes(data[49:51], "big"),
    )
