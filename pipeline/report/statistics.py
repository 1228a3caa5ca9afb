"""What can be said of a few seeds: means with intervals, and paired differences.

Sources: Student's t interval for a mean, and for the mean of paired differences; scipy computes the quantiles.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval.

    Attributes:
        mean: Of the values.
        half_width: The interval is mean +- this; NaN where one value says nothing of spread.
        count: How many values.
        low: The smallest value.
        high: The largest value.
    """

    mean: float
    half_width: float
    count: int
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return abs(self.mean) > self.half_width  # False with NaN

    def percent(self) -> str:
        """Return the estimate in percent, such as `94.71 +- 0.35`."""
        if math.isnan(self.half_width):
            return f"{100 * self.mean:.2f} (one seed)"
        return f"{100 * self.mean:.2f} +- {100 * self.half_width:.2f}"


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean of some values with its t interval.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values to estimate a mean from")
    count, mean = len(values), statistics.fmean(values)
    half_width = float("nan")
    if count > 1:
        from scipy.stats import t

        half_width = float(t.ppf(0.5 + confidence / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, half_width, count, min(values), max(values))


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Return the mean of value - reference, seed by seed, with its interval.

    Raises:
        ValueError: The two do not have the same seeds.
    """
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} values cannot be paired with {len(reference)}")
    return estimate([mine - theirs for mine, theirs in zip(values, reference, strict=True)])


def verdict(difference: Estimate, better: str, worse: str) -> str:
    """Say in words what a paired difference shows; with few seeds that may be nothing."""
    if difference.count < 2:
        return "one seed, no verdict"
    if not difference.excludes_zero:
        return f"no difference shown (n = {difference.count})"
    side = better if difference.mean > 0 else worse
    return f"{side} by {100 * abs(difference.mean):.2f} points (n = {difference.count})"
