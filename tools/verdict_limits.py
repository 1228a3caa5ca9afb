"""Measures how often the verdict procedure is wrong: `python -m tools.verdict_limits [FAMILIES]` prints a table.

The error rates in docs/verdicts.md come from here (20,000 families, one to four minutes). Differences have mean
0 unless stated otherwise, so every answer "better" or "worse" is a wrong one. Standard errors: 0.2 points or less at
20,000 families, 1 point at the 1,000 runs of the worth in labels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.estimates import estimate
from pipeline.statistics.family import adjust_family
from pipeline.statistics.looks import ALPHA, LOOKS, simulate_looks
from pipeline.statistics.worth import LabelCurves, worth_in_labels

Floats = NDArray[np.float64]
Sampler = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return standard normal differences."""
    return generator.standard_normal(shape)


def heavy_tailed(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return differences from Student's t with three degrees of freedom."""
    return generator.standard_t(3, shape)


def collapsing(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return differences in which one seed in ten collapses: it loses three standard deviations. The mean is 0."""
    return generator.standard_normal(shape) - 3.0 * (generator.random(shape) < 0.1) + 0.3


def collapsing_far(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return differences in which one seed in ten loses five standard deviations. The mean is 0."""
    return generator.standard_normal(shape) - 5.0 * (generator.random(shape) < 0.1) + 0.5


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return skewed differences: exponential (skewness 2), less their mean."""
    return generator.standard_exponential(shape) - 1.0


def strongly_skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Return strongly skewed differences: lognormal with sigma 1 (skewness 6.2), less their mean."""
    return generator.lognormal(0.0, 1.0, shape) - math.exp(0.5)


def independent(sampler: Sampler, generator: np.random.Generator, families: int, *, questions: int) -> Floats:
    """Return differences of unrelated arms, shape (families, questions, 20)."""
    return sampler(generator, (families, questions, LOOKS[-1]))


def shared_reference(sampler: Sampler, generator: np.random.Generator, families: int, *, questions: int) -> Floats:
    """Return differences of arms with one common reference (correlation 0.5), shape (families, questions, 20)."""
    return sampler(generator, (families, questions, LOOKS[-1])) - sampler(generator, (families, 1, LOOKS[-1]))


def family_answers(sample: Floats, margin: float) -> NDArray[np.bool_]:
    """Return which answers (sign given, within margin) a look up to the last gives; shape (families, questions, 2)."""
    sign_p, size_p = simulate_looks(sample, margin)
    p_values = np.stack([sign_p[..., -1], size_p[..., -1]], axis=-1)
    return np.array([adjust_family(family) for family in p_values]) <= ALPHA


def separate_answers(sample: Floats, margin: float) -> NDArray[np.bool_]:
    """Return what `family_answers` would be if signs and sizes were two families with a correction each."""
    last = [p_values[..., -1:] for p_values in simulate_looks(sample, margin)]
    adjusted = [np.array([adjust_family(family) for family in p_values]) for p_values in last]
    return np.concatenate(adjusted, axis=-1) <= ALPHA


def wrong_families(answers: NDArray[np.bool_], means: Floats, margin: float) -> float:
    """Return the share of families with a wrong answer, given the true mean difference of each question."""
    wrong = (answers[..., 0] & (means == 0)) | (answers[..., 1] & (np.abs(means) >= margin))
    return float(wrong.any(axis=1).mean())


def mixed_family(generator: np.random.Generator, families: int, margin: float) -> tuple[Floats, Floats]:
    """Return differences and true means of three questions: one without a difference, two exactly at the margin."""
    means = np.array([0.0, margin, margin])
    return independent(normal, generator, families, questions=3) + means[:, None], means


def size_error(sampler: Sampler, generator: np.random.Generator, runs: int, *, margin: float) -> float:
    """Return how often one question is wrongly within the margin; the true mean is -margin."""
    answers = family_answers(independent(sampler, generator, runs, questions=1) - margin, margin)
    return float(answers[..., 1].mean())


def interval_coverage(sample: Floats) -> float:
    """Return how often the 95 % t interval contains 0 when a question stops at the first look that gives a sign.

    Args:
        sample: Differences with mean 0, shape (runs, 20).
    """
    sign_p = simulate_looks(sample, 1.0)[0]
    stops = np.where((sign_p <= ALPHA).any(axis=1), (sign_p <= ALPHA).argmax(axis=1), len(LOOKS) - 1)
    intervals = (estimate(run[: LOOKS[stop]]) for run, stop in zip(sample, stops, strict=True))
    return float(np.mean([not interval.excludes(0.0) for interval in intervals]))


def worth_coverage(generator: np.random.Generator, runs: int, seeds: int) -> float:
    """Return how often the interval of the worth in labels contains the true worth, 31.6 labels per class.

    Label curves 70, 80, 90 % from scratch and 75, 83, 91 % for the arm at 10, 100, 1000 labels per class; each seed
    has a standard deviation of 1 point at each count, and 1 point common to all of its results.
    """
    labels = np.array([10.0, 100.0, 1000.0])
    truth = np.array([[75.0, 83.0, 91.0], [70.0, 80.0, 90.0]])[..., None]
    hits = 0
    for _ in range(runs):
        arm, scratch = truth + generator.standard_normal((2, 3, seeds)) + generator.standard_normal(seeds)
        worth = worth_in_labels(LabelCurves(labels, arm, scratch), 10.0)
        hits += worth.lower <= math.sqrt(1000) <= worth.upper
    return hits / runs


def main(families: int) -> None:
    """Print the table."""
    generator = np.random.default_rng(2026)
    margin = 0.5
    for name, draw in (("independent", independent), ("shared reference", shared_reference)):
        answers = family_answers(draw(normal, generator, families, questions=9), margin)
        print(f"nine questions, normal, {name}: {100 * wrong_families(answers, np.zeros(9), margin):.1f} %")
    for sampler in (normal, heavy_tailed, collapsing, collapsing_far, skewed, strongly_skewed):
        for questions in (1, 3):
            answers = family_answers(independent(sampler, generator, families, questions=questions), margin)
            rate = wrong_families(answers, np.zeros(questions), margin)
            print(f"{questions} question(s), {sampler.__name__}: {100 * rate:.1f} %")
    for true_margin in (0.7, 3.0):
        sample, means = mixed_family(generator, families, true_margin)
        answers = family_answers(sample, true_margin)
        print(f"mixed family, margin {true_margin} sd: {100 * wrong_families(answers, means, true_margin):.1f} %")
        answers = separate_answers(sample, true_margin)
        print(f"  signs and sizes corrected apart: {100 * wrong_families(answers, means, true_margin):.1f} %")
    for sampler in (normal, heavy_tailed, collapsing, collapsing_far, skewed, strongly_skewed):
        rate = size_error(sampler, generator, families, margin=0.7)
        print(f"size at -margin, margin 0.7, {sampler.__name__}: {100 * rate:.1f} %")
    for seeds in (5, 8):
        coverage = worth_coverage(generator, families // 20, seeds)
        print(f"worth in labels, {seeds} seeds, {families // 20} runs: {100 * coverage:.1f} %")
    print(f"interval after stopping: {100 * interval_coverage(generator.standard_normal((families, LOOKS[-1]))):.1f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
