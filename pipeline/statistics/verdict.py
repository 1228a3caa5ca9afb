"""The verdict on a question: is the arm better or worse, and is the difference within the margin?

`judge` takes all comparisons of a family at once, because Holm's correction needs them all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.statistics.estimates import Estimate, Floats, Pairs, Scale, estimate_pairs, sign_flip_p
from pipeline.statistics.family import adjust_family
from pipeline.statistics.looks import ALPHA, PRELIMINARY_PAIRS, Evidence, gather_evidence

Sign = Literal["better", "worse", "open"]
Size = Literal["within margin", "open"]


@dataclass(frozen=True)
class Comparison:
    """One question: an arm and its reference, paired by seed.

    Attributes:
        key: Identifies the question.
        pairs: The results of both.
        margin: The smallest difference that matters, positive: in the unit of the results, or relative for ratios
            (0.1: ratios between 1 / 1.1 and 1.1 do not matter). None: the size is not tested.
        scale: Whether differences or ratios are compared.
        lower_is_better: True for times and losses.
        unconverged: Description of the fits that did not converge (see `convergence_flag`); empty if all did.
    """

    key: str
    pairs: Pairs
    margin: float | None
    scale: Scale = "difference"
    lower_is_better: bool = False
    unconverged: str = ""

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ValueError(f"the margin of {self.key} must be positive, got {self.margin}")

    @property
    def test_margin(self) -> float | None:
        """The margin in the unit of `differences`."""
        return math.log1p(self.margin) if self.margin and self.scale == "ratio" else self.margin

    @property
    def differences(self) -> Floats:
        """Differences, or logarithms of ratios, per seed; positive where the arm is better. Shape (pairs,)."""
        differences = self.pairs.differences(self.scale)
        return -differences if self.lower_is_better else differences


@dataclass(frozen=True)
class Verdict:
    """Two answers and the underlying numbers.

    Sign and size are None with fewer than three pairs. The p values are adjusted for looks and family (a preliminary
    verdict's for its family only) and compared with 0.05.
    """

    key: str
    sign: Sign | None
    size: Size | None  # None also without a margin
    count: int  # number of pairs
    estimate: Estimate | None  # mean difference or geometric mean ratio, with its 95 % interval; None without pairs
    scale: Scale
    margin: float | None
    sign_p: float  # 1 without a look
    size_p: float  # NaN without a margin
    look: int  # pairs at the last look, 0 before the first
    preliminary: bool  # three or four pairs, before the first look
    unconverged: str  # empty if all fits converged
    sign_flip_p: float  # descriptive: permutation p value, not adjusted
    wins: int  # descriptive: pairs in which the arm is better
    worst_seed: int | None  # descriptive: the seed with the worst result relative to the reference
    worst: float  # its difference or ratio; NaN without pairs

    @property
    def settled(self) -> bool:
        """Whether a look has given one of the two answers, so that no more seeds are needed."""
        return not self.preliminary and (self.sign in ("better", "worse") or self.size == "within margin")

    def answer(self) -> str:
        """Return both answers, such as `better; size open` or `preliminary (n = 3): sign open; within margin`."""
        if self.sign is None:
            return f"no verdict (n = {self.count}; at least {PRELIMINARY_PAIRS} needed)"
        words: list[str] = ["sign open" if self.sign == "open" else self.sign]
        if self.size is not None:
            words.append("size open" if self.size == "open" else self.size)
        return (f"preliminary (n = {self.count}): " if self.preliminary else "") + "; ".join(words)


def convergence_flag(unconverged: Mapping[str, tuple[Mapping[str, int], int]]) -> str:
    """Return which fits did not converge, and why; empty if all converged.

    Args:
        unconverged: Per label of an arm, the number of unconverged fits by reason (such as `stopped by the epoch cap`),
            and the number of all its fits.
    """
    parts = [
        f"{label}: {count} of {fits} fits {reason}"
        for label, (reasons, fits) in unconverged.items()
        for reason, count in reasons.items()
    ]
    return "not converged: " + ", ".join(parts) if parts else ""


def judge(comparisons: Sequence[Comparison]) -> tuple[Verdict, ...]:
    """Return one verdict per comparison of a family, in order.

    Pass all comparisons of the family, including those without results: the correction counts them.
    """
    evidence = [gather_evidence(comparison.differences, comparison.test_margin) for comparison in comparisons]
    p_values = np.array([[item.sign_p, item.size_p] for item in evidence]).reshape(-1, 2)
    return tuple(map(_verdict, comparisons, evidence, _adjust_with_preliminary(p_values, evidence)))


def _adjust_with_preliminary(p_values: Floats, evidence: Sequence[Evidence]) -> Floats:
    """Adjust for the family; preliminary questions count, but never make the others less strict."""
    preliminary = np.array([item.preliminary for item in evidence], bool)
    pending = np.where(preliminary[:, None] & ~np.isnan(p_values), 1.0, p_values)
    return np.where(preliminary[:, None], adjust_family(p_values), adjust_family(pending))


def _verdict(comparison: Comparison, evidence: Evidence, p_values: Floats) -> Verdict:
    differences, (sign_p, size_p) = comparison.differences, map(float, p_values)
    count = differences.size
    worst = int(differences.argmin()) if count else None
    enough = count >= PRELIMINARY_PAIRS
    return Verdict(
        key=comparison.key,
        sign=_sign(sign_p, evidence.direction) if enough else None,
        size=_size(size_p) if enough and comparison.margin is not None else None,
        count=count,
        estimate=estimate_pairs(comparison.pairs, scale=comparison.scale) if count else None,
        scale=comparison.scale,
        margin=comparison.margin,
        sign_p=sign_p,
        size_p=size_p,
        look=evidence.look,
        preliminary=evidence.preliminary,
        unconverged=comparison.unconverged,
        sign_flip_p=sign_flip_p(differences),
        wins=int((differences > 0).sum()),
        worst_seed=None if worst is None else comparison.pairs.seeds[worst],
        worst=math.nan if worst is None else _in_unit(differences[worst], comparison),
    )


def _in_unit(difference: float, comparison: Comparison) -> float:
    oriented = -difference if comparison.lower_is_better else difference
    return float(math.exp(oriented) if comparison.scale == "ratio" else oriented)


def _sign(p_value: float, direction: int) -> Sign:
    if p_value > ALPHA or not direction:
        return "open"
    return "better" if direction > 0 else "worse"


def _size(p_value: float) -> Size:
    return "within margin" if p_value <= ALPHA else "open"
