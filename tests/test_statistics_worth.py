"""Worth in labels and the crossover, on curves whose answer is known."""

import math

import numpy as np
import pytest

from pipeline.statistics.worth import LabelCurves, crossover, crossover_text, curves, worth_in_labels

LABELS = np.array([10.0, 100.0, 1000.0])


def exact_curves(arm, scratch, *, seeds=5):
    columns = [np.repeat(np.array(curve, float)[:, None], seeds, axis=1) for curve in (arm, scratch)]
    return LabelCurves(LABELS, *columns)


def test_worth_interpolates_in_the_logarithm_of_labels():
    result = worth_in_labels(exact_curves([75, 85, 91], [70, 80, 90]), 10)
    assert result.labels == pytest.approx(math.sqrt(1000))
    assert (result.lower, result.upper) == pytest.approx((result.labels, result.labels))
    assert result.text() == "32 labels per class (95 % CI 32 to 32)"


def test_worth_beyond_the_measured_range_is_censored():
    result = worth_in_labels(exact_curves([95, 96, 97], [70, 80, 90]), 10)
    assert result.labels == math.inf
    assert result.text() == "more than 1000 labels per class (95 % CI more than 1000 to more than 1000)"


def test_harmful_reuse_is_worth_fewer_than_the_smallest_count():
    result = worth_in_labels(exact_curves([60, 70, 80], [70, 80, 90]), 10)
    assert result.text().startswith("fewer than 10 labels per class")


def test_arm_equal_to_scratch_is_worth_its_own_labels():
    result = worth_in_labels(exact_curves([70, 80, 90], [70, 80, 90]), 100)
    assert result.labels == pytest.approx(100)


def test_flat_part_of_the_curve_counts_the_fewest_labels():
    result = worth_in_labels(exact_curves([80, 80, 80], [70, 80, 80]), 10)
    assert result.labels == pytest.approx(100)


def test_dip_in_the_curve_is_made_monotone():
    result = worth_in_labels(exact_curves([78, 0, 0], [70, 80, 76]), 10)
    assert result.labels == pytest.approx(100)  # isotonic regression: 70, 78, 78


def test_bootstrap_resamples_whole_seeds():
    # Seeds differ by 10 points in both arms alike, so the worth is the same for any resampled seeds.
    offsets = np.array([-5.0, -2.0, 0.0, 2.0, 5.0])
    arm, scratch = np.array([75.0, 85, 95])[:, None] + offsets, np.array([70.0, 80, 90])[:, None] + offsets
    result = worth_in_labels(LabelCurves(LABELS, arm, scratch), 10)
    assert result.lower == pytest.approx(result.upper)


def test_interval_ends_can_be_censored():
    arm = np.array([[84.0, 85, 88, 97, 94], [85] * 5, [90] * 5])
    scratch = np.repeat(np.array([70.0, 80, 90])[:, None], 5, axis=1)
    result = worth_in_labels(LabelCurves(LABELS, arm, scratch), 10)
    assert result.upper == math.inf and 100 < result.lower < result.labels < 1000
    assert result.text().endswith("to more than 1000)")


def test_fewer_than_five_seeds_have_no_interval():
    result = worth_in_labels(exact_curves([75, 85, 91], [70, 80, 90], seeds=4), 10)
    assert math.isnan(result.lower) and result.text() == "32 labels per class"


def test_unmeasured_label_count_is_rejected():
    with pytest.raises(ValueError, match="must be one of"):
        worth_in_labels(exact_curves([75, 85, 91], [70, 80, 90]), 20)


def test_crossover_lies_where_the_difference_reaches_zero():
    result = crossover(exact_curves([80, 82, 88], [70, 80, 90]))
    assert result.labels == pytest.approx(math.sqrt(100 * 1000))
    assert crossover_text(result) == "reuse stops paying at 316 labels per class (95 % CI 316 to 316)"


def test_crossover_can_be_out_of_reach():
    assert crossover_text(crossover(exact_curves([80, 85, 91], [70, 80, 90]))) == "not reached by 1000 labels per class"


def test_crossover_reports_reuse_that_never_pays_off():
    text = crossover_text(crossover(exact_curves([60, 70, 80], [70, 80, 90])))
    assert text == "reuse does not pay at any count from 10 labels per class"


def test_early_dip_is_no_crossover():
    assert crossover(exact_curves([69, 85, 89], [70, 80, 90])).labels > 100


def test_curves_use_only_common_counts_and_seeds():
    arm = {10: {0: 1.0, 1: 2.0}, 30: {0: 3.0, 1: 4.0, 2: 5.0}, 100: {0: 6.0}}
    scratch = {10: {0: 1.0, 1: 1.0}, 30: {1: 1.0, 0: 2.0}}
    result = curves(arm, scratch)
    assert result.labels.tolist() == [10, 30]
    assert result.arm.tolist() == [[1, 2], [3, 4]] and result.scratch.tolist() == [[1, 1], [2, 1]]


@pytest.mark.parametrize("labels", [[10.0], [100.0, 10.0], [0.0, 10.0]])
def test_bad_label_counts_are_rejected(labels):
    values = np.zeros((len(labels), 3))
    with pytest.raises(ValueError, match="positive and ascending"):
        LabelCurves(np.array(labels), values, values)


def test_different_shapes_are_rejected():
    with pytest.raises(ValueError, match="shape"):
        LabelCurves(LABELS, np.zeros((3, 2)), np.zeros((3, 3)))
