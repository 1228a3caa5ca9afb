"""Error rates, power and coverage of the verdict procedure, by simulation.

Every test is seeded. It states its number of simulated families; the tolerance is three standard errors of a rate of
5 % (or of the rate it checks) with that number. `tools/verdict_limits.py` measures the same rates with 20,000.
"""

import math

import numpy as np
import pytest

from pipeline.statistics.estimates import estimate, pair
from pipeline.statistics.looks import sign_test, size_test
from pipeline.statistics.planning import chances, detectable_difference, seeds_needed, sign_power
from pipeline.statistics.verdict import Comparison, judge
from tools.report_simulation import DEVIATION, answer_shares, wrong_share
from tools.verdict_limits import (
    collapsing,
    collapsing_far,
    family_answers,
    heavy_tailed,
    independent,
    interval_coverage,
    mixed_family,
    normal,
    shared_reference,
    size_error,
    skewed,
    worth_coverage,
    wrong_families,
)

MARGIN = 0.5


def tolerance(rate, runs):
    return 3 * math.sqrt(rate * (1 - rate) / runs)


@pytest.mark.parametrize("draw", [independent, shared_reference])
def test_nine_nulls_have_at_most_five_percent_wrong_families(draw):
    families = 1_500
    answers = family_answers(draw(normal, np.random.default_rng(1), families, questions=9), MARGIN)
    rate = wrong_families(answers, np.zeros(9), MARGIN)
    assert 0.02 < rate <= 0.05 + tolerance(0.05, families)


def test_looks_without_adjustment_exceed_five_percent():
    # The check that the simulation can fail: the smallest p over the looks, not multiplied by their number.
    sample = np.random.default_rng(2).standard_normal((3_000, 20))
    smallest = np.min([sign_test(sample[:, :look]) for look in (5, 8, 12, 20)], axis=0)
    assert (smallest <= 0.05).mean() == pytest.approx(0.135, abs=tolerance(0.135, 3_000))


@pytest.mark.parametrize("margin", [0.7, 3.0])
def test_sign_and_size_together_err_in_at_most_five_percent(margin):
    families = 2_000
    sample, means = mixed_family(np.random.default_rng(3), families, margin)
    rate = wrong_families(family_answers(sample, margin), means, margin)
    assert 0.01 < rate <= 0.05 + tolerance(0.05, families)


def test_within_margin_is_rarely_wrong_at_the_margin():
    rate = size_error(normal, np.random.default_rng(4), 4_000, margin=0.7)
    assert 0.01 < rate <= 0.05


def test_one_tost_has_its_nominal_level_at_the_margin():
    sample = np.random.default_rng(5).normal(1.5, 1.0, (10_000, 20))
    assert (size_test(sample, 1.5) <= 0.05).mean() == pytest.approx(0.05, abs=tolerance(0.05, 10_000))


@pytest.mark.parametrize(
    ("sampler", "published"), [(heavy_tailed, 0.028), (collapsing, 0.048), (collapsing_far, 0.099), (skewed, 0.129)]
)
def test_published_limits_hold_for_differences_that_are_not_normal(sampler, published):
    runs = 3_000
    answers = family_answers(independent(sampler, np.random.default_rng(6), runs, questions=1), MARGIN)
    assert wrong_families(answers, np.zeros(1), MARGIN) == pytest.approx(
        published, abs=tolerance(published, runs) + 0.002
    )


def test_interval_covers_95_percent_at_a_fixed_number_of_seeds():
    runs = 2_000
    sample = np.random.default_rng(7).standard_normal((runs, 5))
    coverage = np.mean([not estimate(row).excludes(0.0) for row in sample])
    assert coverage == pytest.approx(0.95, abs=tolerance(0.05, runs))


def test_interval_after_stopping_covers_its_published_rate():
    runs = 2_000
    coverage = interval_coverage(np.random.default_rng(8).standard_normal((runs, 20)))
    assert coverage == pytest.approx(0.929, abs=tolerance(0.071, runs))


def test_planned_power_is_found_in_simulation():
    runs, deviation = 4_000, 0.73
    difference = detectable_difference(deviation, 12)
    sample = np.random.default_rng(9).normal(difference, deviation, (runs, 12))
    assert (sign_test(sample) <= 0.0125).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("true_difference", [0.0, 0.5])
def test_planned_seeds_settle_80_percent_at_one_look(true_difference):
    runs, count = 4_000, seeds_needed(0.73, 0.5)
    sample = np.random.default_rng(10).normal(true_difference, 0.73, (runs, count))
    p_values = sign_test(sample) if true_difference else size_test(sample, 0.5)
    assert (p_values <= 0.0125).mean() >= 0.8 - tolerance(0.2, runs)


def test_cohens_textbook_power_is_found_in_simulation():
    sample = np.random.default_rng(11).normal(0.5, 1.0, (4_000, 34))
    assert (sign_test(sample) <= 0.05).mean() == pytest.approx(sign_power(0.5, 34, 0.05), abs=0.02)


@pytest.mark.parametrize(
    ("difference", "decided"),
    [(0.0, {"within": 0.485, "open": 0.476}), (0.25, {"better": 0.183, "open": 0.600}), (1.0, {"better": 0.999})],
)
def test_chances_equal_the_published_ones(difference, decided):
    result = chances(difference, 0.73, 0.5, runs=3_000)
    for answer, published in decided.items():
        assert getattr(result, answer) == pytest.approx(published, abs=0.03)


def test_interval_of_worth_covers_most_true_values():
    assert worth_coverage(np.random.default_rng(12), 60, 5) >= 0.85


def judged_wrong(generator, means, margin):
    """Whether `judge` gives a wrong answer in one family; arms share the reference, seeds their difficulty."""
    difficulty = generator.normal(90, 2, 20)
    reference = difficulty + generator.normal(0, 0.5, 20)
    arms = [difficulty + mean + generator.normal(0, 0.5, 20) for mean in means]
    comparisons = [
        Comparison(str(index), pair(dict(enumerate(arm)), dict(enumerate(reference))), margin)
        for index, arm in enumerate(arms)
    ]
    return any(
        (mean == 0 and verdict.sign != "open") or (abs(mean) >= margin and verdict.size == "within margin")
        for mean, verdict in zip(means, judge(comparisons), strict=True)
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_judge_errs_in_at_most_five_percent_of_families():
    generator, families = np.random.default_rng(13), 2_000
    rate = np.mean([judged_wrong(generator, (0.0, 0.0, -0.5), 0.5) for _ in range(families)])
    assert 0.005 < rate <= 0.05 + tolerance(0.05, families)


# The real report


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_report_is_wrong_in_five_percent_of_families_at_most():
    families = 250
    assert wrong_share(families) <= 0.05 + tolerance(0.05, families)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("difference", [0.0, 0.5])
def test_report_has_the_promised_power(difference):
    runs = 250
    shares, promised = answer_shares(difference, runs), chances(difference, DEVIATION, MARGIN)
    for answer, share in shares.items():
        expected = getattr(promised, answer)
        assert share == pytest.approx(expected, abs=max(0.03, tolerance(expected, runs)))
