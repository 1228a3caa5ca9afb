"""What can be said of a few seeds: means with intervals, paired differences and ratios, and what they show.

Sources: Student's t interval for a mean, and the paired t test, for differences and for logarithms of ratios. scipy
computes quantiles and tails; of scipy only `special`, which is imported three times as fast as `stats`.
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

    def percent(self, unit: str = "") -> str:
        """Return the estimate in percent, such as `94.71 +- 0.35`."""
        return self.text(100, 2, unit)

    def text(self, scale: float, digits: int, unit: str = "") -> str:
        """Return the estimate times `scale` with so many digits after the point, such as `94.71 +- 0.35` and a unit."""
        if math.isnan(self.half_width):
            return f"{scale * self.mean:.{digits}f}{unit} (one seed)"
        return f"{scale * self.mean:.{digits}f} +- {scale * self.half_width:.{digits}f}{unit}"


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios over seeds and its 95 % interval.

    Attributes:
        mean: Geometric.
        lower: The interval's lower end; NaN with one seed.
        upper: Its upper end.
        count: How many seeds.
    """

    mean: float
    lower: float
    upper: float
    count: int

    @property
    def excludes_one(self) -> bool:
        """Whether the interval lies on one side of one."""
        return self.lower > 1 or self.upper < 1  # False with NaN

    def text(self) -> str:
        """Return the ratio with its interval, such as `0.83 (0.79 to 0.88)`."""
        if math.isnan(self.lower):
            return f"{self.mean:.2f} (one seed)"
        return f"{self.mean:.2f} ({self.lower:.2f} to {self.upper:.2f})"


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
        from scipy.special import stdtrit

        half_width = float(stdtrit(count - 1, 0.5 + confidence / 2)) * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, half_width, count, min(values), max(values))


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """Return the mean of value - reference, seed by seed, with its interval.

    Raises:
        ValueError: The two do not have the same seeds.
    """
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} values cannot be paired with {len(reference)}")
    return estimate([mine - theirs for mine, theirs in zip(values, reference, strict=True)])


def paired_ratio(values: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the geometric mean of value / reference, seed by seed, with its interval; all are above zero.

    Raises:
        ValueError: The two do not have the same seeds.
    """
    logs = paired_difference([math.log(value) for value in values], [math.log(value) for value in reference])
    ends = (math.exp(logs.mean - logs.half_width), math.exp(logs.mean + logs.half_width))
    return Ratio(math.exp(logs.mean), *ends, logs.count)


def paired_p_value(difference: Estimate, confidence: float = 0.95) -> float:
    """Return the two-sided p value of the paired t test whose interval `difference` carries; NaN with one seed."""
    if difference.count < 2:
        return float("nan")
    if difference.half_width == 0:  # the same difference in every seed
        return 0.0 if difference.mean else 1.0
    from scipy.special import stdtr, stdtrit

    freedom = difference.count - 1
    statistic = difference.mean / difference.half_width * float(stdtrit(freedom, 0.5 + confidence / 2))
    return 2 * float(stdtr(freedom, -abs(statistic)))


def verdict(
    difference: Estimate, better: str, worse: str, *, unit: str = "points", scale: float = 100, digits: int = 2
) -> str:
    """Say in words what a paired difference shows; with few seeds that may be nothing.

    Args:
        difference: Of an arm to its reference.
        better: What to say of a positive one.
        worse: What to say of a negative one.
        unit: Of the number that is shown.
        scale: The number that is shown is the difference times this.
        digits: After the point.
    """
    if difference.count < 2:
        return "one seed, no verdict"
    if not difference.excludes_zero:
        return f"no difference shown (n = {difference.count})"
    side = better if difference.mean > 0 else worse
    return f"{side} by {scale * abs(difference.mean):.{digits}f} {unit} (n = {difference.count})"


def ratio_verdict(ratio: Ratio, more: str, less: str) -> str:
    """Say in words what a paired ratio shows, such as `1.60 times as fast (1.51 to 1.70, n = 5)`.

    Args:
        ratio: Of an arm to its reference.
        more: What follows a ratio that is shown to be above one, such as `times as fast`.
        less: What follows one that is shown to be below one.
    """
    if ratio.count < 2:
        return "one seed, no verdict"
    if not ratio.excludes_one:
        return f"no difference shown (n = {ratio.count})"
    side = more if ratio.mean > 1 else less
    return f"{ratio.mean:.2f} {side} ({ratio.lower:.2f} to {ratio.upper:.2f}, n = {ratio.count})"
