"""Statistics checked by hand and against scipy; a comparison of arms from a real store."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy import stats

from pipeline.errors import UserInputError
from pipeline.params import FinetuneCnnParams, ReportParams, ScratchCnnParams, TrainBaseParams
from pipeline.report.comparison import comparison_table, explain_time
from pipeline.report.statistics import estimate, paired_difference, verdict
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.report import report
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.tracking.queries import read_arm
from tests.made_up_study import member


def test_confidence_interval_matches_scipy() -> None:
    values = [0.91, 0.93, 0.94, 0.92, 0.95]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert (found.low, found.high, found.count) == (0.91, 0.95, 5)


def test_one_seed_has_no_interval_or_verdict() -> None:
    found = estimate([0.9])
    assert math.isnan(found.half_width) and not found.excludes_zero and "one seed" in found.percent()
    assert verdict(found, "ahead", "behind") == "one seed, no verdict"
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_verdict_follows_paired_interval() -> None:
    up = paired_difference([0.92, 0.94, 0.93], [0.90, 0.92, 0.91])
    assert verdict(up, "ahead", "behind") == "ahead by 2.00 points (n = 3)"
    assert verdict(paired_difference([0.9, 0.92, 0.91], [0.92, 0.94, 0.931]), "ahead", "behind").startswith("behind")
    unclear = paired_difference([0.90, 0.95], [0.92, 0.92])
    assert verdict(unclear, "ahead", "behind") == "no difference shown (n = 2)"
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([1.0], [1.0, 2.0])


def test_comparison_explains_training_time_differences(store: MlflowClient, tmp_path: Path) -> None:
    quick = {"dataset": "digits", "epochs": 2}
    base = train_base(TrainBaseParams(model="cnn", **quick))
    tuned = finetune_cnn(FinetuneCnnParams(**quick))
    scratch = scratch_cnn(ScratchCnnParams(**quick))
    report(ReportParams(folder=str(tmp_path / "out")))
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert list(table["run"]) == [base.run_id, tuned.run_id, scratch.run_id]
    assert table["test accuracy %"].tolist() == pytest.approx(
        [100 * r.metrics["test/accuracy"] for r in (base, tuned, scratch)]
    )
    assert table["share of parameters trained %"][1] < table["share of parameters trained %"][2] == 100
    arms = [read_arm(store, run.run_id) for run in (tuned, scratch)]
    text = explain_time(*arms)
    assert "Epochs: 2 against 2 (ratio 1.00)" in text and "Multiply-adds an epoch" in text
    assert comparison_table(arms)["million multiply-adds an epoch"].is_monotonic_increasing


def test_times_on_different_devices_are_not_compared() -> None:
    here, there = (member("arm", 0, 0.9, params={"device": device}).run for device in ("cpu", "cuda"))
    assert "different hosts or devices" in explain_time(here, there)
    assert "different" not in explain_time(here, here)


def test_report_without_runs_is_rejected(store: MlflowClient) -> None:
    with pytest.raises(UserInputError, match="no finished finetune_cnn and scratch_cnn"):
        report(ReportParams())
    with pytest.raises(UserInputError, match="not found"):
        report(ReportParams(runs=",".join(["a" * 32, "b" * 32])))
    assert store.search_runs(["0"]) == []
