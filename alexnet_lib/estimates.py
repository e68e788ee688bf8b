"""A number with its uncertainty: paired over seeds, with two intervals, a p-value, and what it could have missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
CONFIDENCE = 0.95
RESAMPLED = 5
"""Pairs of seeds from which the bootstrap is shown: of three it is 35 to 40 % as wide as the t-interval, always."""
POWER = 0.8
"""Chance of an interval without zero that the smallest detectable effect is worked out for."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; ``at_least`` marks a lower bound, from runs that stopped at their cap."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]
    """One value a seed, in the order of the seeds."""
    unit: str = "ratio"
    """``ratio``, ``points`` (of error rate, in per cent) or ``per cent``."""
    bootstrap: tuple[float, float] = (-math.inf, math.inf)
    """The percentile bootstrap's interval, beside the t-interval ``low`` to ``high``."""
    p: float | None = None
    """Two-sided p-value of no effect; None for a level, which has none, and for a single seed, which gives none."""
    at_least: bool = False
    note: str = ""
    why: str = ""
    """What the verdict on it rests on, in words."""

    @property
    def n(self) -> int:
        """Number of pairs of seeds."""
        return len(self.values)

    @property
    def unsettled(self) -> bool:
        """Whether the interval of an effect holds "no effect"; a level in per cent has no such value."""
        return self.unit != "per cent" and self.low <= (1.0 if self.unit == "ratio" else 0.0) <= self.high


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of the mean; infinitely wide for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return mean - half, mean + half


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean, always the same; for few values it is too narrow."""
    if len(values) < 2:
        return -math.inf, math.inf
    drawn = np.random.default_rng(0).choice(values, size=(9999, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def p_value(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the paired t-test: that the mean is zero; None for a single value."""
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # the t statistic is then infinite, or 0 / 0
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups, taken to be the same in all, and its degrees of freedom.

    Groups of one value have no say; without any of more it is (nan, 0).
    """
    spread = [(np.var(values, ddof=1), len(values) - 1) for values in groups if len(values) > 1]
    freedom = sum(free for _, free in spread)
    return math.sqrt(sum(variance * free for variance, free in spread) / freedom) if freedom else math.nan, freedom


def estimate(values: Sequence[float], unit: str) -> Estimate | None:
    """Return the mean of one value a seed with its intervals, None without any; ratios are averaged as logarithms."""
    if not values:
        return None
    carried = [math.log(value) for value in values] if unit == "ratio" else list(values)
    back: Callable[[float], float] = math.exp if unit == "ratio" else float
    low, high = interval(carried)
    again = bootstrap(carried)
    return Estimate(
        mean=back(float(np.mean(carried))),
        low=back(low),
        high=back(high),
        values=tuple(values),
        unit=unit,
        bootstrap=(back(again[0]), back(again[1])),
        p=None if unit == "per cent" else p_value(carried),
    )


def detectable(found: Estimate) -> float:
    """Return the smallest effect whose interval would have excluded no effect with a chance of ``POWER``.

    From the spread of the pairs as observed and their number; in the estimate's unit, a ratio above 1 for ratios;
    infinite for a single pair.
    """
    values = np.log(found.values) if found.unit == "ratio" else np.asarray(found.values)
    if found.n < 2:
        return math.inf
    free = found.n - 1
    # The noncentral t distribution as an average over the spread that a sample may have: scipy's own nct gives NaN
    # for few values and large effects.
    spreads = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, free) / free)
    edges = float(stats.t.ppf((1 + CONFIDENCE) / 2, free)) * spreads

    def lacking(shift: float) -> float:
        return float(np.mean(stats.norm.sf(edges - shift) + stats.norm.cdf(-edges - shift))) - POWER

    effect = float(optimize.brentq(lacking, 0.0, 3 * edges.max())) * float(stats.sem(values))
    return math.exp(effect) if found.unit == "ratio" else effect


def paired_ratio(upper: Mapping[int, float], lower: Mapping[int, float]) -> Estimate | None:
    """Return the geometric mean of ``upper / lower`` over the seeds that both have, or None without any."""
    return estimate([upper[seed] / lower[seed] for seed in sorted(upper.keys() & lower.keys())], "ratio")


def show(found: Estimate) -> str:
    """Return an estimate as the ledger prints it: ``at least 5.10 x``, ``-0.52 points``, ``24.31 %``."""
    note = f" ({found.note})" if found.note else ""
    number = {
        "ratio": f"{found.mean:.2f} x",
        "points": f"{found.mean:+z.2f} points".replace("+0.00", "0.00"),
        "per cent": f"{found.mean:.2f} %",
    }[found.unit]
    return f"{'at least ' if found.at_least else ''}{number.replace('-', MINUS)}{note}"


def show_interval(found: Estimate) -> str:
    """Return the interval as the ledger prints it: a dash where one seed gives none, no upper end of a bound."""
    return DASH if math.isinf(found.high) else _ends(found, (found.low, found.high))


def show_bootstrap(found: Estimate) -> str:
    """Return the bootstrap's interval, as `show_interval`; a dash where fewer than ``RESAMPLED`` pairs are."""
    return DASH if found.n < RESAMPLED else _ends(found, found.bootstrap)


def _ends(found: Estimate, ends: tuple[float, float]) -> str:
    sign = "+" if found.unit == "points" else ""
    low, high = (f"{end:{sign}z.2f}".replace("-", MINUS) for end in ends)
    return f"{low} or more" if found.at_least else f"{low} to {high}"


def show_detectable(found: Estimate) -> str:
    """Return the smallest effect that the design would detect with `POWER`; empty for a single pair: none."""
    if found.n < 2:
        return ""
    size = detectable(found)
    return f"a factor of {size:.2f}" if found.unit == "ratio" else f"{size:.2f} points"


def show_missed(found: Estimate) -> str:
    """Return the same as an inconclusive result prints it."""
    seen = f"smallest effect that {found.n} pairs of this spread would detect with {100 * POWER:.0f} % power"
    return f"{seen}: {show_detectable(found)}" if found.n > 1 else ""
