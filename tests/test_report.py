"""The report of finished runs from a real store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.errors import UserInputError
from pipeline.params import FinetuneCnnParams, ReportParams, ScratchCnnParams, TrainBaseParams
from pipeline.report.questions.arm_differences import incomparable_times
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.report import report
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.queries import read_trained_run
from tests.synthetic_plan_run import arm_of, member


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
    assert (
        f"Ratios {label} / {reference}: epochs ratio 1.00 (1 seed); time per epoch" in text and "MACs per epoch" in text
    )
    assert f"Test accuracy: {label} " in text and "no verdict (n = 1; at least 3 needed)" in text
    files = {item.path for item in store.list_artifacts(run_id, "report")}
    assert {"report/study.html", "report/study.md", "report/study.csv"} <= files
    report(ReportParams(folder=str(tmp_path / "two"), runs=f"{base.run_id},{scratch.run_id}"))
    text = (tmp_path / "two" / "comparison" / "study.md").read_text()
    assert "## Methods" in text and "Test accuracy vs." not in text  # different classes


def test_times_on_different_devices_are_reported_as_incomparable() -> None:
    here, there = (arm_of(device, [member(device, 0, 0.9, params={"device": device})]) for device in ("cpu", "cuda"))
    assert "more than one host or device (bench, bench (cuda))" in incomparable_times([here, there])
    assert incomparable_times([here, here]) == ""


def test_report_without_runs_is_rejected(store: MlflowClient) -> None:
    with pytest.raises(UserInputError, match="no finished finetune_cnn run has a matching scratch_cnn"):
        report(ReportParams())
    with pytest.raises(UserInputError, match="not found"):
        report(ReportParams(runs=",".join(["a" * 32, "b" * 32])))
    assert store.search_runs(["0"]) == []
