"""The evidence for one question: two p values that remain valid although results are examined several times (looks).

A question is examined when 5, 8, 12 and 20 pairs are complete, never in between. The smallest p value over the looks so
far, times the number of looks (Bonferroni), is a valid p value at every look. Three or four pairs give a preliminary
answer from the plain p value, which does not count as a look. Pairs beyond the last look refine the interval only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.estimates import Floats

Flags = NDArray[np.bool_]

LOOKS = (5, 8, 12, 20)
PRELIMINARY_PAIRS = 3
ALPHA = 0.05


@dataclass(frozen=True)
class Evidence:
    """The p values of one question, before the correction for its family."""

    sign_p: float  # of "no mean difference"; 1 without a look
    size_p: float  # of "the mean difference is at least the margin"; NaN without a margin
    direction: int  # +1 or -1: the sign of the mean at the look with the smallest sign p; 0 without a look
    look: int  # pairs at the last look; 0 before the first
    preliminary: bool  # from three or four pairs, before the first look


def looks_passed(count: int) -> tuple[int, ...]:
    """Return the looks at or below a number of pairs; between two looks the last one counts."""
    return tuple(look for look in LOOKS if look <= count)


def next_look(count: int) -> int | None:
    """Return the first look above a number of pairs, None after the last."""
    return next((look for look in LOOKS if look > count), None)


def _constant_rows(rows: Floats) -> Flags:
    """Return which rows of shape (..., pairs) are constant up to rounding."""
    spread: Flags = np.ptp(rows, axis=-1) <= 1e-9 * np.abs(rows).max(axis=-1)
    return spread


def sign_test(differences: Floats) -> Floats:
    """Return two-sided p values of the paired t test of mean 0.

    Identical differences have no variance to test against; they get the p value of the exact sign test, 2 / 2^pairs.

    Args:
        differences: Shape (..., pairs), two pairs or more.
    """
    constant, means = _constant_rows(differences), differences.mean(axis=-1)
    p_values = np.where(means == 0, 1.0, 2.0 ** (1 - differences.shape[-1]))
    p_values[~constant] = stats.ttest_1samp(differences[~constant], 0.0, axis=-1).pvalue
    return p_values


def size_test(differences: Floats, margin: float) -> Floats:
    """Return p values of two one-sided t tests (TOST) that the mean lies strictly between -margin and margin.

    Args:
        differences: Shape (..., pairs), two pairs or more.
        margin: The smallest mean difference that matters, positive.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657-680.
    """
    constant, means = _constant_rows(differences), differences.mean(axis=-1)
    p_values = np.where(np.abs(means) < margin, 2.0 ** -differences.shape[-1], 1.0)
    above = stats.ttest_1samp(differences[~constant], -margin, axis=-1, alternative="greater").pvalue
    below = stats.ttest_1samp(differences[~constant], margin, axis=-1, alternative="less").pvalue
    p_values[~constant] = np.maximum(above, below)
    return p_values


def adjusted_p(p_values: Floats) -> Floats:
    """Return min(1, number of looks x smallest p), for p values of shape (..., looks so far)."""
    adjusted: Floats = np.minimum(1.0, len(LOOKS) * p_values.min(axis=-1))
    return adjusted


def simulate_looks(sample: Floats, margin: float) -> tuple[Floats, Floats]:
    """Return sign and size p values, adjusted for looks, after each look.

    Args:
        sample: Differences, shape (..., pairs).
        margin: The smallest mean difference that matters.

    Returns:
        Two arrays of shape (..., looks).
    """
    steps = [sample[..., :look] for look in looks_passed(sample.shape[-1])]
    signs = np.stack([sign_test(step) for step in steps], axis=-1)
    sizes = np.stack([size_test(step, margin) for step in steps], axis=-1)
    counts = range(1, len(steps) + 1)
    return (
        np.stack([adjusted_p(signs[..., :count]) for count in counts], axis=-1),
        np.stack([adjusted_p(sizes[..., :count]) for count in counts], axis=-1),
    )


def gather_evidence(differences: Floats, margin: float | None) -> Evidence:
    """Return the evidence in differences of shape (pairs,), in ascending order of seed."""
    looks = looks_passed(differences.size)
    preliminary = not looks and differences.size >= PRELIMINARY_PAIRS
    steps = [differences] if preliminary else [differences[:look] for look in looks]
    if not steps:
        return Evidence(1.0, 1.0 if margin else np.nan, 0, 0, False)
    signs = np.array([sign_test(step[None])[0] for step in steps])
    sizes = np.array([size_test(step[None], margin)[0] if margin else np.nan for step in steps])
    direction = int(np.sign(steps[int(signs.argmin())].mean()))
    adjust = np.min if preliminary else adjusted_p
    return Evidence(float(adjust(signs)), float(adjust(sizes)), direction, looks[-1] if looks else 0, preliminary)
