"""Statistics against scipy; the report of finished runs from a real store."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy import stats

from pipeline.errors import UserInputError
from pipeline.params import FinetuneCnnParams, ReportParams, ScratchCnnParams, TrainBaseParams
from pipeline.report.questions.arm_differences import incomparable_times
from pipeline.report.questions.quantities import TEST_ACCURACY
from pipeline.report.statistics import estimate, paired_difference
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.report import report
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.queries import read_trained_run
from tests.synthetic_plan_run import arm_of, member


def test_confidence_interval_matches_scipy() -> None:
    values = [0.91, 0.93, 0.94, 0.92, 0.95]
    result = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    assert (result.mean - result.half_width, result.mean + result.half_width) == pytest.approx((low, high))
    assert result.count == 5


def test_one_seed_has_no_interval_and_no_verdict() -> None:
    result = estimate([0.9])
    assert math.isnan(result.half_width) and not result.significant and result.text(2) == "0.90 (1 seed)"
    assert TEST_ACCURACY.verdict(result) == "no verdict (1 seed)"
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_a_verdict_follows_the_paired_interval() -> None:
    higher = paired_difference([92, 94, 93], [90, 92, 91])
    assert TEST_ACCURACY.verdict(higher) == "2.00 pp higher (3 seeds)"
    lower = paired_difference([90, 92, 91], [92, 94, 93.1])
    assert TEST_ACCURACY.verdict(lower) == "2.03 pp lower (3 seeds)"
    unclear = paired_difference([90, 95], [92, 92])
    assert TEST_ACCURACY.verdict(unclear) == "not significant (95 % CI includes 0, 2 seeds)"
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


def test_comparison_explains_training_time_differences(store: MlflowClient, tmp_path: Path) -> None:
    quick = {"dataset": "digits", "epochs": 2}
    base = train_base(TrainBaseParams(model="cnn", **quick))
    tuned = finetune_cnn(FinetuneCnnParams(**quick))
    scratch = scratch_cnn(ScratchCnnParams(**quick))
    run_id = report(ReportParams(folder=str(tmp_path / "out"))).run_id
    folder = tmp_path / "out" / "comparison"
    table = pd.read_csv(folder / "study.csv")
    assert list(table["run_id"]) == [base.run_id, tuned.run_id, scratch.run_id]
    assert table[names.TEST_ACCURACY].tolist() == pytest.approx(
        [run.metrics[names.TEST_ACCURACY] for run in (base, tuned, scratch)]
    )
    assert table[names.TRAINABLE_SHARE][1] < table[names.TRAINABLE_SHARE][2] == 1
    assert table[names.EPOCH_OPERATIONS][1] < table[names.EPOCH_OPERATIONS][2]
    text = (folder / "study.md").read_text()
    label, reference = (read_trained_run(store, run.run_id).name.replace("_", "\\_") for run in (tuned, scratch))
    assert f"Ratios {label} / {reference}: epochs 1.00 (1 seed); time per epoch" in text and "MACs per epoch" in text
    assert f"Test accuracy: {label} " in text and "no verdict (1 seed)" in text
    files = {item.path for item in store.list_artifacts(run_id, "report")}
    assert {"report/study.html", "report/study.md", "report/study.csv"} <= files
    report(ReportParams(folder=str(tmp_path / "two"), runs=f"{base.run_id},{scratch.run_id}"))
    text = (tmp_path / "two" / "comparison" / "study.md").read_text()
    assert "## Methods" in text and "Test accuracy vs." not in text  # different classes


def test_seconds_on_different_devices_are_called_incomparable() -> None:
    here, there = (arm_of(device, [member(device, 0, 0.9, params={"device": device})]) for device in ("cpu", "cuda"))
    assert "more than one host or device (bench, bench (cuda))" in incomparable_times([here, there])
    assert incomparable_times([here, here]) == ""


def test_a_report_of_nothing_is_refused(store: MlflowClient) -> None:
    with pytest.raises(UserInputError, match="no finished finetune_cnn run has a matching scratch_cnn"):
        report(ReportParams())
    with pytest.raises(UserInputError, match="not found"):
        report(ReportParams(runs=",".join(["a" * 32, "b" * 32])))
    assert store.search_runs(["0"]) == []
