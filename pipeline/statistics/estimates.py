"""Means with t intervals, and paired results of two arms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Scale = Literal["difference", "ratio"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its standard deviation and confidence interval."""

    mean: float
    deviation: float  # sample standard deviation; NaN for one seed
    lower: float  # lower end of the 95 % interval; NaN for one seed
    upper: float
    count: int  # number of seeds

    @property
    def half_width(self) -> float:
        """Half-width of the interval before clipping; NaN for one seed. Undefined for ratios."""
        if self.count < 2:
            return math.nan
        return _quantile(self.count, CONFIDENCE) * self.deviation / math.sqrt(self.count)

    def excludes(self, value: float) -> bool:
        """Return whether the interval excludes a value; False for one seed."""
        return self.lower > value or self.upper < value


@dataclass(frozen=True)
class Pairs:
    """Results of an arm and its reference with the same seeds, in ascending order of seed."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    reference: tuple[float, ...]

    def differences(self, scale: Scale = "difference") -> Floats:
        """Return value - reference, or log(value / reference), shape (seeds,); ratios need positive values."""
        values, reference = np.asarray(self.values, float), np.asarray(self.reference, float)
        if scale == "difference":
            differences: Floats = values - reference
            return differences
        if min(values.min(initial=math.inf), reference.min(initial=math.inf)) <= 0:
            raise ValueError("ratios need positive values: compare differences instead")
        ratios: Floats = np.log(values) - np.log(reference)
        return ratios


def pair(values: Mapping[int, float], reference: Mapping[int, float]) -> Pairs:
    """Return the results of two arms for the seeds that both have; raises ValueError for NaN or infinite results."""
    seeds = tuple(sorted(values.keys() & reference.keys()))
    pairs = Pairs(seeds, tuple(values[seed] for seed in seeds), tuple(reference[seed] for seed in seeds))
    if not np.isfinite([pairs.values, pairs.reference]).all():
        raise ValueError(f"results must be finite, got {pairs.values} and {pairs.reference} for seeds {seeds}")
    return pairs


def estimate(
    values: Sequence[float] | Floats,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return the mean of one value per seed with Student's t interval.

    Args:
        values: One value per seed.
        bounds: Range of possible means, such as (0, 100) for an accuracy in percent; clips the interval.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: There are no values.
    """
    sample = np.asarray(values, float)
    if not sample.size:
        raise ValueError("an estimate needs at least one value, got none")
    mean = float(sample.mean())
    if sample.size == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    deviation = float(sample.std(ddof=1))
    half_width = _quantile(sample.size, confidence) * deviation / math.sqrt(sample.size)
    return Estimate(mean, deviation, max(mean - half_width, bounds[0]), min(mean + half_width, bounds[1]), sample.size)


def _quantile(count: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, count - 1))


def estimate_pairs(pairs: Pairs, *, scale: Scale = "difference") -> Estimate:
    """Return the mean difference, or the geometric mean ratio, with its interval.

    The deviation of a ratio is that of the logarithms (0.1 means a spread of about 10 %).
    """
    result = estimate(pairs.differences(scale))
    if scale == "difference":
        return result
    mean, lower, upper = (math.exp(value) for value in (result.mean, result.lower, result.upper))
    return Estimate(mean, result.deviation, lower, upper, result.count)


def sign_flip_p(differences: Sequence[float] | Floats) -> float:
    """Return the two-sided p value of the sign-flip permutation test of mean 0.

    Exact up to 13 seeds (smallest possible p: 2 / 2^seeds), from 9,999 random flips beyond.
    """
    sample = np.asarray(differences, float)
    if sample.size < 2 or not sample.any():
        return 1.0
    flips = stats.permutation_test(
        (sample,), np.mean, permutation_type="samples", vectorized=True, n_resamples=9_999, rng=np.random.default_rng(0)
    )
    return float(flips.pvalue)
