"""Feature bits (BOLT 9).

A feature is a pair of bits: the even one says "required", the odd one above it "optional". It is
*offered* when either is set, and *negotiated* when both sides offer it or we require it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Context", "Feature", "FeatureSet"]


class Context(Enum):
    """Where a feature is presented (BOLT 9, column Context)."""

    INIT = auto()
    """I: the `init` message."""
    NODE = auto()
    """N: `node_announcement`."""
    CHANNEL = auto()
    """C: `channel_announcement`."""
    INVOICE = auto()
    """9: BOLT 11 invoices."""
    BLINDED_PATH = auto()
    """B: `allowed_features` of a blinded path."""
    CHANNEL_TYPE = auto()
    """T: `channel_type` of an opening."""


_LETTERS = {
    "I": Context.INIT,
    "N": Context.NODE,
    "C": Context.CHANNEL,
    "9": Context.INVOICE,
    "B": Context.BLINDED_PATH,
    "T": Context.CHANNEL_TYPE,
}


class Feature(Enum):
    """The assigned features: even bit, contexts, dependencies.

    Features that BOLT 9 calls ASSUMED, and `gossip_queries`, have no context there any more. Here
    they keep the one they were defined with, because peers still want to see the bits.
    """

    option_data_loss_protect = 0, "IN"
    option_upfront_shutdown_script = 4, "IN"
    gossip_queries = 6, "IN"
    var_onion_optin = 8, "IN9"
    gossip_queries_ex = 10, "IN"
    option_static_remotekey = 12, "INT"
    payment_secret = 14, "IN9"
    basic_mpp = 16, "IN9", ("payment_secret",)
    option_support_large_channel = 18, "IN"
    option_anchors = 22, "INT"
    option_route_blinding = 24, "IN9"
    option_shutdown_anysegwit = 26, "IN"
    option_dual_fund = 28, "IN"
    option_quiesce = 34, "IN"
    option_attribution_data = 36, "IN9"
    option_onion_messages = 38, "IN"
    option_provide_storage = 42, "IN"
    option_channel_type = 44, "IN"
    option_scid_alias = 46, "INT"
    option_payment_metadata = 48, "9"
    option_zeroconf = 50, "INT", ("option_scid_alias",)
    keysend = 54, "N"
    """bLIP 3: payments without an invoice."""
    option_simple_close = 60, "IN", ("option_shutdown_anysegwit",)
    option_splice = 62, "IN"

    def __init__(self, bit: int, contexts: str, dependencies: tuple[str, ...] = ()) -> None:
        self.bit = bit
        """The even bit, which says "required"; ``bit + 1`` says "optional"."""
        self.contexts = frozenset(_LETTERS[letter] for letter in contexts)
        """Where the feature may be presented."""
        self._dependency_names = dependencies

    @property
    def optional_bit(self) -> int:
        """The odd bit, which says "optional"."""
        return self.bit + 1

    @property
    def dependencies(self) -> tuple["Feature", ...]:
        """Features that must be set wherever this one is (BOLT 9, direct ones)."""
        return tuple(Feature[name] for name in self._dependency_names)


_KNOWN = {feature.bit: feature for feature in Feature}


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """An immutable set of feature bits.

    Attributes:
        bits: the numbers of the bits that are set; bit 0 is the least significant.
    """

    bits: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, *, required: Iterable[Feature] = (), optional: Iterable[Feature] = ()
    ) -> "FeatureSet":
        """Build from features.

        Raises:
            ValueError: a feature is both required and optional (BOLT 9 forbids both bits).
        """
        even, odd = {f.bit for f in required}, {f.optional_bit for f in optional}
        if both := [f.name for f in Feature if f.bit in even and f.optional_bit in odd]:
            raise ValueError(f"both required and optional: {', '.join(both)}")
        return cls(frozenset(even | odd))

    @classmethod
    def from_bytes(cls, data: bytes) -> "FeatureSet":
        """Read a bit field as in `init`: big-endian, any number of leading zero bytes."""
        # Byte by byte: shifting one big integer would take a peer's 65 kB field half a minute.
        return cls(
            frozenset(
                8 * place + bit
                for place, byte in enumerate(reversed(data))
                if byte
                for bit in range(8)
                if byte >> bit & 1
            )
        )

    def to_bytes(self) -> bytes:
        """Return the shortest bit field."""
        field = bytearray(max(self.bits, default=-1) // 8 + 1)
        for bit in self.bits:
            field[-1 - bit // 8] |= 1 << bit % 8
        return bytes(field)

    def supports(self, feature: Feature) -> bool:
        """Whether either bit of ``feature`` is set."""
        return feature.bit in self.bits or feature.optional_bit in self.bits

    def requires(self, feature: Feature) -> bool:
        """Whether the even bit of ``feature`` is set; with both set it counts as required."""
        return feature.bit in self.bits

    @property
    def features(self) -> tuple[Feature, ...]:
        """The known features that are set, by ascending bit."""
        return tuple(f for f in Feature if self.supports(f))

    def union(self, other: "FeatureSet") -> "FeatureSet":
        """Return the bits of both, as `globalfeatures` and `features` of one `init` combine."""
        return FeatureSet(self.bits | other.bits)

    def only(self, context: Context) -> "FeatureSet":
        """Return the known features that may be presented in ``context``, with their bits."""
        allowed = {b for f in Feature if context in f.contexts for b in (f.bit, f.optional_bit)}
        return FeatureSet(self.bits & allowed)

    @staticmethod
    def negotiated(ours: "FeatureSet", theirs: "FeatureSet") -> frozenset[Feature]:
        """Return the features in force on a connection (BOLT 1 § `init`).

        Those that both sides offer, and those that we require: a peer without them had to leave.
        """
        return frozenset(
            f for f in Feature if ours.requires(f) or (ours.supports(f) and theirs.supports(f))
        )

    def unknown_required(self) -> tuple[int, ...]:
        """Return the even bits that no known feature has: they close the connection (BOLT 1)."""
        return tuple(sorted(b for b in self.bits if b % 2 == 0 and b not in _KNOWN))

    def missing_dependencies(self) -> tuple[tuple[Feature, Feature], ...]:
        """Return pairs of a feature that is set and one it needs that is not (BOLT 1, BOLT 9).

        Empty when all known, transitive dependencies are set.
        """
        return tuple(
            (f, needed)
            for f in self.features
            for needed in f.dependencies
            if not self.supports(needed)
        )

    def __str__(self) -> str:
        names = []
        for bit in sorted(self.bits):
            feature = _KNOWN.get(bit & ~1)
            name = feature.name if feature else f"bit {bit & ~1}"
            names.append(name if bit % 2 == 0 else f"{name}?")
        return ", ".join(names)
