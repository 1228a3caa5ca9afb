"""The statistics package against scipy, worked examples and properties."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.statistics.estimates import estimate, estimate_pairs, pair, sign_flip_p
from pipeline.statistics.family import adjust_family
from pipeline.statistics.looks import adjusted_p, gather_evidence, looks_passed, next_look, sign_test, size_test
from pipeline.statistics.planning import (
    LOOKS,
    chances,
    detectable_difference,
    deviation_interval,
    look_level,
    plan_seeds,
    seeds_needed,
    sign_power,
    verdict_cost,
)
from pipeline.statistics.sources import (
    binomial_error,
    difference_error_bound,
    image_error,
    precision_scores,
    sources_text,
)
from pipeline.statistics.stopping import ArmsOfQuestion, needs_seeds, next_seed_counts, round_seconds
from pipeline.statistics.surfaces import choose_cell, fresh
from pipeline.statistics.verdict import Comparison, Verdict, convergence_flag, judge

DIFFERENCES = np.array([0.9, 1.4, 0.7, 1.1, 1.3, 0.8, 1.2, 1.0])


def pairs_of(differences, reference=90.0):
    return pair(
        {s: reference + d for s, d in enumerate(differences)}, dict.fromkeys(range(len(differences)), reference)
    )


def verdict_of(differences, *, margin=0.5, **settings) -> Verdict:
    return judge([Comparison("q", pairs_of(differences), margin, **settings)])[0]


# Estimates


def test_interval_equals_scipys_t_interval():
    low, high = stats.ttest_1samp(DIFFERENCES, 0.0).confidence_interval(0.95)
    result = estimate(DIFFERENCES)
    assert (result.lower, result.upper) == pytest.approx((low, high))
    assert result.deviation == pytest.approx(np.std(DIFFERENCES, ddof=1))


def test_interval_of_an_accuracy_stays_below_100_percent():
    unbounded = estimate([99.0, 99.9, 100.0])
    bounded = estimate([99.0, 99.9, 100.0], bounds=(0, 100))
    assert unbounded.upper > 100
    assert (bounded.upper, bounded.lower) == (100, unbounded.lower)


def test_single_seed_has_no_interval():
    result = estimate([94.0])
    assert math.isnan(result.lower) and math.isnan(result.deviation)
    assert not result.excludes(0.0)


def test_estimate_without_values_is_rejected():
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_pairs_keep_common_seeds_in_ascending_order():
    pairs = pair({3: 1.0, 0: 2.0, 7: 3.0}, {7: 1.0, 3: 0.5, 1: 9.0})
    assert pairs.seeds == (3, 7)
    assert pairs.differences().tolist() == [0.5, 2.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_results_are_rejected(value):
    with pytest.raises(ValueError, match="finite"):
        pair({0: value}, {0: 1.0})


def test_ratio_estimate_is_a_geometric_mean():
    result = estimate_pairs(pair({0: 1.0, 1: 4.0}, {0: 2.0, 1: 2.0}), scale="ratio")
    assert result.mean == pytest.approx(1.0)
    assert result.lower == pytest.approx(1 / result.upper)


def test_ratio_of_zero_is_rejected():
    with pytest.raises(ValueError, match="positive"):
        pair({0: 0.0}, {0: 1.0}).differences("ratio")


def test_smallest_sign_flip_p_of_five_seeds_is_a_sixteenth():
    assert sign_flip_p([1.0, 1.1, 1.2, 1.3, 1.4]) == pytest.approx(2 / 32)


# Looks


def test_last_look_passed_counts_between_looks():
    assert [looks_passed(count) for count in (4, 5, 7, 8, 19, 25)] == [(), (5,), (5,), (5, 8), (5, 8, 12), LOOKS]
    assert [next_look(count) for count in (0, 5, 13, 20)] == [5, 8, 20, None]


def test_sign_test_equals_scipys_paired_t_test():
    expected = stats.ttest_rel(90 + DIFFERENCES, np.full(8, 90.0)).pvalue
    assert sign_test(DIFFERENCES[None])[0] == pytest.approx(expected)


def test_size_test_is_the_larger_of_two_one_sided_tests():
    sample = DIFFERENCES - 0.9
    expected = max(
        stats.ttest_1samp(sample, -0.5, alternative="greater").pvalue,
        stats.ttest_1samp(sample, 0.5, alternative="less").pvalue,
    )
    assert size_test(sample[None], 0.5)[0] == pytest.approx(expected)


def test_identical_differences_get_the_exact_sign_test():
    sample = np.full((1, 5), 0.02)
    assert sign_test(sample)[0] == 2 / 32
    assert size_test(sample, 0.1)[0] == 1 / 32
    assert size_test(sample, 0.01)[0] == 1.0


def test_equal_arms_have_no_sign():
    assert sign_test(np.zeros((1, 8)))[0] == 1.0


def test_adjusted_p_is_four_times_the_smallest():
    assert adjusted_p(np.array([0.3, 0.01, 0.02])) == pytest.approx(0.04)
    assert adjusted_p(np.array([0.6])) == 1.0


def test_evidence_never_weakens_at_a_later_look():
    generator = np.random.default_rng(0)
    for sample in generator.normal(0.3, 1.0, (20, 20)):
        p_values = [gather_evidence(sample[:count], 0.5) for count in (5, 8, 12, 20)]
        assert sorted((item.sign_p for item in p_values), reverse=True) == [item.sign_p for item in p_values]


def test_pairs_after_a_look_do_not_change_the_evidence():
    longer = np.concatenate([DIFFERENCES, [50.0, -50.0]])
    assert gather_evidence(longer, 0.5) == gather_evidence(DIFFERENCES, 0.5)


def test_pairs_beyond_the_last_look_refine_only_the_interval():
    sample = np.random.default_rng(1).normal(0.5, 0.7, 24)
    at_last_look, beyond = verdict_of(sample[:20]), verdict_of(sample)
    assert (at_last_look.sign_p, at_last_look.look) == (beyond.sign_p, beyond.look)
    assert at_last_look.estimate != beyond.estimate


def test_preliminary_evidence_is_the_plain_p_value():
    evidence = gather_evidence(DIFFERENCES[:3], 0.5)
    assert evidence.preliminary and evidence.look == 0
    assert evidence.sign_p == pytest.approx(stats.ttest_1samp(DIFFERENCES[:3], 0.0).pvalue)


def test_direction_comes_from_the_look_with_the_smallest_p():
    sample = np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 3.0, 3.1, 3.2, 3.0, 3.1, 3.2, 3.0])
    assert sample[:5].mean() < 0 < sample.mean()
    assert gather_evidence(sample, 0.5).direction == 1


# Families


def plain_holm(p_values):
    order = np.argsort(p_values)
    scaled = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, scaled)
    return adjusted


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_one_answer_per_question_is_holms_procedure(p_values):
    table = np.column_stack([p_values, np.full(len(p_values), np.nan)])
    adjusted = adjust_family(table)
    assert adjusted[:, 0] == pytest.approx(plain_holm(p_values))
    assert np.isnan(adjusted[:, 1]).all()


def test_question_counts_until_both_answers_are_settled():
    adjusted = adjust_family(np.array([[0.001, 0.002], [0.02, 0.03]]))
    assert adjusted == pytest.approx(np.array([[0.002, 0.004], [0.02, 0.03]]))
    adjusted = adjust_family(np.array([[0.001, 0.9], [0.02, 0.03]]))
    assert adjusted == pytest.approx(np.array([[0.002, 0.9], [0.04, 0.06]]))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_adjustment_lies_between_no_correction_and_bonferroni(p_values):
    table = np.array(p_values)
    adjusted = adjust_family(table)
    assert (adjusted >= table).all()
    assert (adjusted <= np.minimum(1, table * len(table)) + 1e-12).all()


# Verdicts


def test_clear_difference_is_better_with_size_open():
    verdict = verdict_of(DIFFERENCES)
    assert (verdict.sign, verdict.size, verdict.look) == ("better", "open", 8)
    assert (verdict.wins, verdict.worst_seed) == (8, 2)
    assert verdict.worst == pytest.approx(0.7)
    assert verdict.answer() == "better; size open"


def test_lower_is_better_turns_the_sign_but_not_the_estimate():
    verdict = verdict_of(DIFFERENCES, lower_is_better=True)
    assert verdict.sign == "worse" and verdict.wins == 0
    assert verdict.estimate is not None and verdict.estimate.mean == pytest.approx(DIFFERENCES.mean())
    assert (verdict.worst_seed, verdict.worst) == (1, pytest.approx(1.4))


def test_small_differences_are_within_the_margin():
    verdict = verdict_of([0.05, -0.04, 0.02, -0.03, 0.01, -0.02, 0.03, -0.01])
    assert (verdict.sign, verdict.size) == ("open", "within margin")
    assert verdict.answer() == "sign open; within margin"


def test_arm_can_be_better_and_within_the_margin():
    verdict = verdict_of(DIFFERENCES / 10)
    assert verdict.answer() == "better; within margin"


def test_ten_percent_margin_holds_for_ratios_on_both_sides():
    for factor in (1.03, 1 / 1.03):
        times = {s: 100 * factor * (1 + 0.005 * (-1) ** s) for s in range(8)}
        pairs = pair(times, dict.fromkeys(range(8), 100.0))
        verdict = judge([Comparison("time", pairs, 0.1, scale="ratio", lower_is_better=True)])[0]
        assert verdict.size == "within margin"
        assert verdict.sign == ("worse" if factor > 1 else "better")


def test_margin_of_a_ratio_is_tested_on_the_logarithm():
    assert Comparison("time", pairs_of(DIFFERENCES), 0.1, scale="ratio").test_margin == pytest.approx(math.log(1.1))


def test_three_pairs_give_a_preliminary_verdict():
    verdict = verdict_of([1.0, 1.1, 0.9])
    assert verdict.answer() == "preliminary (n = 3): better; size open"
    assert not verdict.settled and verdict.look == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_pairs_give_no_verdict(count):
    verdict = verdict_of(DIFFERENCES[:count])
    assert (verdict.sign, verdict.size) == (None, None)
    assert verdict.answer() == f"no verdict (n = {count}; at least 3 needed)"


def test_question_without_margin_has_no_size():
    verdict = verdict_of(DIFFERENCES, margin=None)
    assert verdict.size is None and math.isnan(verdict.size_p)
    assert verdict.answer() == "better"


def test_family_correction_can_open_a_sign():
    borderline = np.array([0.1, 1.1, 0.4, 0.2, 1.0, 0.3, 0.9, 0.2])
    alone = Comparison("alone", pairs_of(borderline), 0.5)
    noise = Comparison("noise", pairs_of([1, -1, 1, -1, 1, -1, 1, -1]), 0.5)
    assert judge([alone])[0].sign == "better"
    assert judge([alone, noise, noise])[0].sign == "open"


def test_preliminary_question_does_not_lower_the_bar():
    borderline = np.array([0.1, 1.1, 0.4, 0.2, 1.0, 0.3, 0.9, 0.2])
    looked_at = Comparison("a", pairs_of(borderline), None)
    preliminary = Comparison("b", pairs_of([1.0, 1.001, 0.999]), None)
    missing = Comparison("b", pairs_of([]), None)
    with_preliminary, with_missing = judge([looked_at, preliminary]), judge([looked_at, missing])
    assert with_preliminary[1].sign == "better"
    assert with_preliminary[0].sign_p == with_missing[0].sign_p == pytest.approx(2 * judge([looked_at])[0].sign_p)


def test_unconverged_fits_are_named():
    flag = convergence_flag({"from scratch": ({"stopped by the epoch cap": 3}, 8), "fine-tuned": ({}, 8)})
    assert flag == "not converged: from scratch: 3 of 8 fits stopped by the epoch cap"
    assert verdict_of(DIFFERENCES, unconverged=flag).unconverged == flag
    assert convergence_flag({"fine-tuned": ({}, 8)}) == ""


def test_margin_of_zero_is_rejected():
    with pytest.raises(ValueError, match="margin of q must be positive, got 0"):
        Comparison("q", pairs_of(DIFFERENCES), 0)


# Planning


def test_deviation_interval_matches_the_chi_squared_quantiles():
    low, high = deviation_interval(1.0, 5)
    assert (low, high) == pytest.approx((math.sqrt(4 / 7.7794), math.sqrt(4 / 1.0636)), rel=1e-4)


def test_power_matches_a_published_sample_size():
    # Paired t test, effect 0.5, 5 % two-sided: 80 % power needs 34 pairs (Cohen 1988, table 2.4.1; G*Power 3.1).
    assert sign_power(0.5, 34, 0.05) >= 0.8 > sign_power(0.5, 33, 0.05)


def test_needed_seeds_have_the_promised_power():
    count = seeds_needed(0.73, 0.5)
    assert sign_power(0.5 / 0.73, count, 0.0125) >= 0.8
    assert seeds_needed(0.0, 0.5) == 5


def test_larger_families_need_more_seeds():
    assert seeds_needed(0.73, 0.5, questions=3) > seeds_needed(0.73, 0.5)
    assert look_level(3) == pytest.approx(0.05 / 4 / 3)


def test_more_pilot_seeds_narrow_the_range():
    few, many = plan_seeds(0.73, 5, 0.5), plan_seeds(0.73, 20, 0.5)
    assert few.low < many.low < seeds_needed(0.73, 0.5) < many.high < few.high
    assert few.text() == f"{few.low} to {few.high} seeds (the last look is at 20)"


def test_detectable_difference_is_found_with_80_percent_power():
    difference = detectable_difference(0.73, 12)
    assert sign_power(difference / 0.73, 12, 0.0125) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(detectable_difference(0.73, 4))


def test_cost_counts_only_the_missing_seeds():
    cost = verdict_cost(0.2, 5, 0.5, minutes_per_seed=2.0)
    assert (cost.minutes_low, cost.minutes_high) == ((cost.seeds.low - 5) * 2, (cost.seeds.high - 5) * 2)
    assert cost.detectable == detectable_difference(0.2, 20)


def test_chances_add_up_to_one():
    result = chances(0.25, 0.73, 0.5, runs=500)
    assert result.better + result.worse + result.within + result.open == pytest.approx(1.0)
    assert chances(0.25, 0.73, 0.5, max_seeds=4).open == 1.0


# Stopping


def test_open_question_gets_the_seeds_of_its_next_look():
    questions = [ArmsOfQuestion("a", ("reuse", "scratch", "base")), ArmsOfQuestion("b", ("frozen", "scratch"))]
    verdicts = {"a": verdict_of(DIFFERENCES), "b": verdict_of([1, -1, 1, -1, 1])}
    assert next_seed_counts(questions, verdicts, max_seeds=20) == {"frozen": 8, "scratch": 8}
    assert next_seed_counts(questions, verdicts, max_seeds=7) == {}


def test_plan_stops_when_all_questions_are_settled():
    questions = [ArmsOfQuestion("a", ("reuse", "scratch"))]
    assert next_seed_counts(questions, {"a": verdict_of(DIFFERENCES)}, max_seeds=20) == {}


def test_preliminary_question_needs_seeds():
    assert needs_seeds(verdict_of([1.0, 1.1, 0.9]))


def test_both_answers_can_be_required():
    verdict = verdict_of(DIFFERENCES)
    assert not needs_seeds(verdict) and needs_seeds(verdict, both=True)
    assert not needs_seeds(verdict_of(DIFFERENCES / 10), both=True)


def test_nothing_needs_seeds_after_the_last_look():
    assert not needs_seeds(verdict_of(np.tile([1.0, -1.0], 10)))


def test_round_counts_the_time_of_missing_seeds():
    assert round_seconds({"a": 8, "b": 8}, {"a": 5}, {"a": 10.0, "b": 1.0}) == 38.0


# Sources of variation


def test_binomial_error_of_a_known_case():
    assert binomial_error(90.0, 900) == pytest.approx(1.0)


def test_image_error_equals_a_bootstrap_over_images():
    scores = (np.random.default_rng(0).random((3, 400)) < 0.9).astype(float)
    means = scores.mean(axis=0)
    bootstrap = stats.bootstrap((means,), np.mean, n_resamples=4_000, rng=np.random.default_rng(1)).standard_error
    assert image_error(scores) == pytest.approx(100 * bootstrap, rel=0.05)


def test_error_bound_adds_the_variances_of_both_arms():
    assert difference_error_bound(90.0, 90.0, 900) == pytest.approx(math.sqrt(2))


def test_paired_images_have_a_smaller_error_than_the_bound():
    generator = np.random.default_rng(0)
    hard = generator.random(2_000) < 0.15
    arm, reference = (~(hard & (generator.random((2, 2_000)) < 0.8))).astype(float)
    bound = difference_error_bound(100 * arm.mean(), 100 * reference.mean(), 2_000)
    assert 0 < image_error((arm - reference)[None]) < bound


def test_precision_scores_agree_with_a_bootstrap_over_images():
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 4, 600)
    predicted = np.where(generator.random(600) < 0.8, classes, generator.integers(0, 4, 600))

    def precision(rows: npt.NDArray[np.int64]) -> float:
        true, guess = classes[rows], predicted[rows]
        return float(np.mean([(true[guess == k] == k).mean() for k in range(4)]))

    scores = precision_scores(classes, predicted)
    assert scores.mean() == pytest.approx(precision(np.arange(600)))
    resampled = [precision(generator.integers(0, 600, 600)) for _ in range(2_000)]
    assert image_error(scores[None]) == pytest.approx(100 * np.std(resampled), rel=0.08)


def test_class_that_is_never_predicted_has_precision_0():
    scores = precision_scores(np.array([0, 0, 1]), np.array([0, 0, 0]))
    assert scores.mean() == pytest.approx((2 / 3 + 0) / 2)


def test_sources_name_what_the_interval_does_not_cover():
    text = sources_text(random_class_split=False, fixed=["base"])
    covered, missing = text.split(";")
    assert "labels" in covered and "base" not in covered
    assert "base, test images, class split" in missing


# Surfaces


def test_cell_with_best_mean_validation_score_is_chosen():
    assert choose_cell({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 3.0, 1: 3.0, 2: 0.0, 3: 99.0}}) == "a"


def test_seeds_of_the_choice_are_not_fresh():
    assert fresh({0: 1.0, 2: 1.0, 3: 0.5, 10: 0.25}) == {3: 0.5, 10: 0.25}
