"""Means over seeds, paired differences and paired ratios, each with a 95 % confidence interval.

Sources: Student's t interval for a mean and the paired t test, on differences and on logarithms of ratios. Imports
`scipy.special` rather than `scipy.stats`, which takes three times as long to import.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its confidence interval."""

    mean: float  # arithmetic mean
    half_width: float  # the interval is mean +- half_width; NaN for one seed
    p_value: float  # of the two-sided t test of mean = 0; NaN for one seed
    count: int  # number of seeds

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero; False for one seed."""
        return abs(self.mean) > self.half_width

    @property
    def p_text(self) -> str:
        """The p value, such as `0.032` or `< 0.001`; `-` for one seed."""
        if math.isnan(self.p_value):
            return "-"
        return "< 0.001" if self.p_value < 0.001 else f"{self.p_value:.3f}"

    def text(self, digits: int, *, unit: str = "", sign: bool = False) -> str:
        """Return `94.71 +- 0.35`, then the unit."""
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        if math.isnan(self.half_width):
            return f"{mean}{unit} (1 seed)"
        return f"{mean} +- {self.half_width:.{digits}f}{unit}"


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios over seeds with its confidence interval."""

    mean: float  # geometric mean
    lower: float  # lower end of the interval; NaN for one seed
    upper: float  # upper end of the interval
    count: int  # number of seeds

    @property
    def significant(self) -> bool:
        """Whether the interval excludes one; False for one seed."""
        return self.lower > 1 or self.upper < 1

    def text(self) -> str:
        """Return `0.83 (0.79 to 0.88)`."""
        if math.isnan(self.lower):
            return f"{self.mean:.2f} (1 seed)"
        return f"{self.mean:.2f} ({self.lower:.2f} to {self.upper:.2f})"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of one value per seed with its t interval; raises ValueError without values."""
    count, mean = len(values), statistics.fmean(values)
    half_width = p_value = math.nan
    if count > 1:
        from scipy.special import stdtr, stdtrit

        error = statistics.stdev(values) / math.sqrt(count)
        half_width = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * error
        p_value = 2 * float(stdtr(count - 1, -abs(mean) / error)) if error else float(mean == 0)
    return Estimate(mean, half_width, p_value, count)


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Return the mean of value - reference over seeds; raises ValueError if the lengths differ."""
    return estimate([value - other for value, other in zip(values, reference, strict=True)])


def paired_ratio(values: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the geometric mean of value / reference over seeds; all values must be positive."""
    logs = paired_difference([math.log(value) for value in values], [math.log(value) for value in reference])
    ends = (math.exp(logs.mean - logs.half_width), math.exp(logs.mean + logs.half_width))
    return Ratio(math.exp(logs.mean), *ends, logs.count)


def seeds_text(count: int) -> str:
    """Return `1 seed` or `3 seeds`."""
    return f"{count} seed{'s' if count != 1 else ''}"


def ratio_verdict(ratio: Ratio, *, above: str, below: str) -> str:
    """Return a paired ratio in words, such as `1.60x faster (95 % CI 1.51 to 1.70, 5 seeds)`.

    A ratio below one is inverted and described by `below`, any other by `above`. `: open` marks an interval that
    includes one, and a single seed.
    """
    inverse = Ratio(1 / ratio.mean, 1 / ratio.upper, 1 / ratio.lower, ratio.count)
    word, shown = (above, ratio) if ratio.mean >= 1 else (below, inverse)
    interval = f"95 % CI {shown.lower:.2f} to {shown.upper:.2f}, " if ratio.count > 1 else ""
    verdict = "" if ratio.significant else ": open"
    return f"{shown.mean:.2f}x {word} ({interval}{seeds_text(ratio.count)}){verdict}"
