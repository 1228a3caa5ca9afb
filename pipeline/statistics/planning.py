"""Estimate the number of seeds that a question needs from the standard deviation and the margin, not the mean.

The observed mean of a few seeds is too noisy for planning, and would bias the plan towards lucky answers.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from pipeline.statistics.looks import ALPHA, LOOKS, looks_passed, simulate_looks

POWER = 0.8
DEVIATION_CONFIDENCE = 0.8
MAX_SEEDS = 100_000  # larger results are clipped
MAX_EFFECT = 50.0  # in standard deviations; detected at any look


@dataclass(frozen=True)
class SeedRange:
    """Numbers of seeds needed for a verdict, for the smallest and largest plausible standard deviation."""

    low: int
    high: int

    def text(self) -> str:
        """Format the range, such as `12 to 34 seeds`, with a remark if it exceeds the last look."""
        count = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        beyond = f" (the last look is at {LOOKS[-1]})" if self.high > LOOKS[-1] else ""
        return f"{count} seeds{beyond}"


@dataclass(frozen=True)
class Cost:
    """The cost of settling an open question."""

    seeds: SeedRange
    minutes_low: float  # for the missing seeds
    minutes_high: float
    detectable: float  # mean difference with 80 % power at the last look within the budget; NaN without one


@dataclass(frozen=True)
class Chances:
    """Probabilities of the answers at the look that settles a question, and the mean number of seeds."""

    better: float
    worse: float
    within: float
    open: float
    mean_seeds: float


def look_level(questions: int = 1) -> float:
    """Return the level of one test at one look: 0.05 split across the looks and the questions of the family."""
    return ALPHA / len(LOOKS) / questions


def deviation_interval(deviation: float, count: int) -> tuple[float, float]:
    """Return the 80 % interval of a standard deviation measured over `count` seeds (two or more), chi-squared."""
    if count < 2:
        raise ValueError(f"a standard deviation needs at least 2 seeds, got {count}")
    tail = (1 - DEVIATION_CONFIDENCE) / 2
    low, high = (deviation * math.sqrt((count - 1) / stats.chi2.ppf(q, count - 1)) for q in (1 - tail, tail))
    return float(low), float(high)


def sign_power(effect: float, count: int, level: float) -> float:
    """Return the power of the two-sided paired t test to find the right sign; `effect` is mean / standard deviation."""
    critical = stats.t.ppf(1 - level / 2, count - 1)
    return 1 - float(special.nctdtr(count - 1, effect * math.sqrt(count), critical))


def size_power(margin_effect: float, count: int, level: float) -> float:
    """Return the approximate power of TOST at a true difference of 0; `margin_effect` is margin / standard deviation.

    The approximation 2 P(one test rejects) - 1 is exact for many seeds and a lower bound otherwise.
    """
    critical = stats.t.ppf(1 - level, count - 1)
    return max(0.0, 1 - 2 * float(special.nctdtr(count - 1, margin_effect * math.sqrt(count), critical)))


def seeds_needed(deviation: float, margin: float, *, questions: int = 1) -> int:
    """Return the number of seeds that settles a question at one look with 80 % power.

    Sufficient to detect a true difference of the margin, and to show that a true difference of zero is within it.

    Args:
        deviation: Standard deviation of the paired differences.
        margin: The smallest difference that matters, in the same unit.
        questions: Size of the family.
    """
    effect, level = margin / max(deviation, margin / MAX_EFFECT), look_level(questions)

    def enough(count: int) -> bool:
        return min(sign_power(effect, count, level), size_power(effect, count, level)) >= POWER

    high = LOOKS[0]
    while not enough(high) and high < MAX_SEEDS:
        high *= 2
    low = 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle > 1 and enough(middle) else (middle, high)
    return min(max(high, LOOKS[0]), MAX_SEEDS)


def plan_seeds(deviation: float, count: int, margin: float, *, questions: int = 1) -> SeedRange:
    """Return the range of seeds that an open question needs for a verdict, from `count` pilot seeds (two or more)."""
    low, high = deviation_interval(deviation, count)
    return SeedRange(*(seeds_needed(value, margin, questions=questions) for value in (low, high)))


def detectable_difference(deviation: float, count: int, *, questions: int = 1) -> float:
    """Return the mean difference whose sign `count` seeds detect with 80 % power; NaN below the first look."""
    looks = looks_passed(count)
    if not looks:
        return math.nan
    level = look_level(questions)
    effect = optimize.brentq(lambda value: sign_power(value, looks[-1], level) - POWER, 0.0, MAX_EFFECT)
    return float(effect) * deviation


def verdict_cost(
    deviation: float,
    count: int,
    margin: float,
    *,
    minutes_per_seed: float,
    max_seeds: int = LOOKS[-1],
    questions: int = 1,
) -> Cost:
    """Estimate the seeds and minutes that an open question still needs from `count` pilot seeds (two or more)."""
    seeds = plan_seeds(deviation, count, margin, questions=questions)
    low, high = (max(0, needed - count) * minutes_per_seed for needed in (seeds.low, seeds.high))
    return Cost(seeds, low, high, detectable_difference(deviation, max_seeds, questions=questions))


def chances(
    difference: float,
    deviation: float,
    margin: float,
    *,
    max_seeds: int = LOOKS[-1],
    questions: int = 1,
    runs: int = 20_000,
) -> Chances:
    """Simulate the procedure on normal differences, stopping at the first look that settles either answer.

    Deterministic. With 20,000 runs the standard error of a probability is at most 0.4 percentage points.
    """
    looks = looks_passed(max_seeds)
    if not looks:
        return Chances(0.0, 0.0, 0.0, 1.0, float(max_seeds))
    sample = np.random.default_rng(0).normal(difference, deviation, (runs, looks[-1]))
    sign_p, size_p = simulate_looks(sample, margin)
    pending, seeds = np.ones(runs, bool), np.full(runs, looks[-1])
    counts = {"better": 0, "worse": 0, "within": 0}
    for index, look in enumerate(looks):
        sign = pending & (sign_p[:, index] * questions <= ALPHA)
        within = pending & (size_p[:, index] * questions <= ALPHA)
        above = sample[:, :look].mean(axis=1) > 0
        counts["better"] += int((sign & above).sum())
        counts["worse"] += int((sign & ~above).sum())
        counts["within"] += int((within & ~sign).sum())
        seeds[pending & (sign | within)] = look
        pending &= ~(sign | within)
    shares = {name: count / runs for name, count in counts.items()}
    return Chances(**shares, open=float(pending.mean()), mean_seeds=float(seeds.mean()))
