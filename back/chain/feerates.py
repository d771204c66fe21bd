"""Feerates in sat per 1000 weight, from bitcoind's estimates: floored, capped and smoothed.

:func:`decide` is pure; :class:`FeerateSource` asks bitcoind and remembers the last answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, Decimal
from typing import Any

import structlog

from back.chain.bitcoind import Bitcoind
from shared.errors import BitcoindUnavailable, RpcError

__all__ = [
    "FALLBACK_PER_KW",
    "FLOOR_PER_KW",
    "FeerateLimits",
    "FeerateSource",
    "Feerates",
    "decide",
    "per_kw_from_btc_per_kvb",
    "sat_per_vb",
]

log = structlog.get_logger()

FLOOR_PER_KW = 253
"""1 sat per vbyte, rounded up so that no weight can fall below the relay minimum."""
ROUNDING_PER_KW = 3
"""What a transaction's weight may lose by bitcoind's rounding to whole vbytes."""
FALLBACK_PER_KW = 2_500
"""10 sat per vbyte: what regtest uses, and everyone until bitcoind knows better."""
CEILING_PER_KW = 100_000
"""400 sat per vbyte."""
RISE = 0.5
FALL = 0.25
"""Share of the way to a new estimate that one sample moves: quicker up, where waiting costs."""
CLOSE_PER_KW = 4
"""The last step is taken at once, or it would never arrive."""

TARGETS = {"slow": 144, "closing": 12, "funding": 12, "commitment": 6, "fast": 2}
"""Blocks within which each should confirm, the patient ones first."""


@dataclass(frozen=True, slots=True)
class Feerates:
    """The present estimates, sat per 1000 weight.

    Attributes:
        minimum_per_kw: below it bitcoind's mempool takes nothing now.
        slow_per_kw: within a day.
        closing_per_kw: for cooperative closes, within 12 blocks.
        funding_per_kw: for funding transactions and sends, within 12 blocks.
        commitment_per_kw: for commitment transactions, within 6 blocks.
        fast_per_kw: for claims with a deadline, within 2 blocks.
    """

    minimum_per_kw: int = FLOOR_PER_KW
    slow_per_kw: int = FALLBACK_PER_KW
    closing_per_kw: int = FALLBACK_PER_KW
    funding_per_kw: int = FALLBACK_PER_KW
    commitment_per_kw: int = FALLBACK_PER_KW
    fast_per_kw: int = FALLBACK_PER_KW


@dataclass(frozen=True, slots=True)
class FeerateLimits:
    """Bounds of every estimate."""

    floor_per_kw: int = FLOOR_PER_KW
    ceiling_per_kw: int = CEILING_PER_KW
    fallback_per_kw: int = FALLBACK_PER_KW


def per_kw_from_btc_per_kvb(feerate: Decimal) -> int:
    """Turn bitcoind's unit into sat per 1000 weight, rounded up."""
    return int((feerate * 25_000_000).to_integral_value(ROUND_CEILING))


def sat_per_vb(feerate_per_kw: int) -> str:
    """Turn sat per 1000 weight into the unit of bitcoind's ``fee_rate``: exact, 3 places."""
    thousandths = feerate_per_kw * 4
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"


def decide(
    estimates: Mapping[str, int | None],
    minimum_per_kw: int,
    previous: Feerates | None,
    limits: FeerateLimits,
) -> Feerates:
    """Return the feerates to use from now on.

    Args:
        estimates: per name of :data:`TARGETS`; None where bitcoind has no idea.
        minimum_per_kw: what its mempool demands now: a bound that smoothing does not soften.
        previous: what was used so far; None at the start.
        limits: bounds whatever bitcoind says.

    Where bitcoind knows nothing for a target, its next longer one stands in, then what was used so
    far, then the fallback. A shorter target never gets less than a longer one.
    """
    lowest = min(max(minimum_per_kw, limits.floor_per_kw), limits.ceiling_per_kw)
    result = {"minimum_per_kw": lowest}
    longer: int | None = None
    for name in TARGETS:
        before = getattr(previous, f"{name}_per_kw") if previous else None
        estimate = estimates.get(name)
        longer = longer if estimate is None else estimate
        sample = next(x for x in (longer, before, limits.fallback_per_kw) if x is not None)
        lowest = min(max(_smoothed(before, sample), lowest), limits.ceiling_per_kw)
        result[f"{name}_per_kw"] = lowest
    return Feerates(**result)


def _smoothed(before: int | None, sample: int) -> int:
    if before is None or abs(sample - before) <= CLOSE_PER_KW:
        return sample
    return before + round((sample - before) * (RISE if sample > before else FALL))


class FeerateSource:
    """Asks bitcoind, remembers the last answer and tells who listens when it changed.

    Args:
        has_market: False on regtest: what bitcoind makes of a few test transactions is no estimate,
            so only its mempool's minimum counts there.

    Attributes:
        current: what to use now; the fallback until the first answer.
    """

    def __init__(
        self, bitcoind: Bitcoind, limits: FeerateLimits | None = None, *, has_market: bool = True
    ) -> None:
        self._bitcoind = bitcoind
        self._has_market = has_market
        self._limits = limits or FeerateLimits()
        self._known: Feerates | None = None
        fallback = self._limits.fallback_per_kw
        names = [f.name for f in fields(Feerates) if f.name != "minimum_per_kw"]
        self.current = Feerates(self._limits.floor_per_kw, **dict.fromkeys(names, fallback))
        self.listeners: list[Callable[[Feerates], None]] = []

    async def refresh(self) -> Feerates:
        """Ask bitcoind now; its refusals leave the last answer in place.

        Raises:
            BitcoindUnavailable: no answer.
        """
        targets = sorted(set(TARGETS.values())) if self._has_market else []
        calls = [("estimatesmartfee", (blocks, "conservative")) for blocks in targets]
        *answers, mempool = await self._bitcoind.batch([*calls, ("getmempoolinfo", ())])
        by_target = dict(zip(targets, map(_estimate, answers), strict=True))
        if isinstance(mempool, RpcError):
            raise BitcoindUnavailable(str(mempool))
        minimum = max(Decimal(mempool["mempoolminfee"]), Decimal(mempool["minrelaytxfee"]))
        self._known = decide(
            {name: by_target.get(blocks) for name, blocks in TARGETS.items()},
            per_kw_from_btc_per_kvb(minimum) + ROUNDING_PER_KW,
            self._known,
            self._limits,
        )
        if self._known != self.current:
            self.current = self._known
            log.debug("feerates_changed", commitment_per_kw=self.current.commitment_per_kw)
            for listener in list(self.listeners):
                listener(self.current)
        return self.current


def _estimate(answer: Any) -> int | None:  # noqa: ANN401
    if isinstance(answer, RpcError) or "feerate" not in answer:
        return None
    return per_kw_from_btc_per_kvb(Decimal(answer["feerate"]))
