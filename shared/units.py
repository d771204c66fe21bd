"""Amounts and channel positions.

Names carry their unit: ``_msat`` (thousandths of a satoshi), ``_sat``, ``_per_kw`` (per 1000 units
of weight), ``_per_vbyte``.
"""

import re
from typing import NamedTuple

__all__ = [
    "MSAT_PER_SAT",
    "ShortChannelId",
    "fee_sat",
    "msat_to_sat",
    "sat_to_msat",
    "vbyte_to_kw",
]

MSAT_PER_SAT = 1000

_SCID = re.compile(r"(\d{1,8})x(\d{1,8})x(\d{1,5})", re.ASCII)


def sat_to_msat(amount_sat: int) -> int:
    """Return satoshis as millisatoshis."""
    return amount_sat * MSAT_PER_SAT


def msat_to_sat(amount_msat: int) -> int:
    """Return whole satoshis, rounded down as commitment outputs are (BOLT 3)."""
    return amount_msat // MSAT_PER_SAT


def fee_sat(feerate_per_kw: int, weight: int) -> int:
    """Return the fee in satoshis of a transaction of ``weight``, rounded down (BOLT 3 § Fees)."""
    return feerate_per_kw * weight // 1000


def vbyte_to_kw(sat_per_vbyte: float) -> int:
    """Return a feerate per 1000 weight for one per virtual byte (4 weight), rounded up."""
    return -int(-sat_per_vbyte * 1000 // 4)


class ShortChannelId(NamedTuple):
    """Where a funding output is in the chain (BOLT 7 § Definition of `short_channel_id`).

    Attributes:
        block: height, 24 bits.
        transaction: index within the block, 24 bits.
        output: output index, 16 bits.
    """

    block: int
    transaction: int
    output: int

    @classmethod
    def unpack(cls, value: int) -> "ShortChannelId":
        """Take the 8-byte integer of a message apart.

        Raises:
            ValueError: ``value`` is not a u64.
        """
        if not 0 <= value < 1 << 64:
            raise ValueError(f"short_channel_id {value} is not 8 bytes")
        return cls(value >> 40, value >> 16 & 0xFFFFFF, value & 0xFFFF)

    @classmethod
    def parse(cls, text: str) -> "ShortChannelId":
        """Read the form ``539268x845x1``.

        Raises:
            ValueError: another form, or a part too large.
        """
        match = _SCID.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not of the form 539268x845x1")
        scid = cls(*map(int, match.groups()))
        scid.pack()
        return scid

    def pack(self) -> int:
        """Return the 8-byte integer of messages.

        Raises:
            ValueError: a part is too large.
        """
        if not (
            0 <= self.block < 1 << 24
            and 0 <= self.transaction < 1 << 24
            and 0 <= self.output < 1 << 16
        ):
            raise ValueError(f"{self} does not fit in 24, 24 and 16 bits")
        return self.block << 40 | self.transaction << 16 | self.output

    def __str__(self) -> str:
        return f"{self.block}x{self.transaction}x{self.output}"
