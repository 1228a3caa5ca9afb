"""`compare`: what differs between two runs or plan runs, and when it is a regression."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from pipeline import comparison
from pipeline.cli import cli
from pipeline.comparison import compare, regressions
from pipeline.errors import UserInputError
from pipeline.params import MainParams, TrainBaseParams
from pipeline.stages.main import main
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun
from pipeline.tracking.stage_run import StageResult

pytestmark = pytest.mark.usefixtures("no_figures")
PLAN = """
title: a base
profiles: {quick: {seeds: 1}}
arms:
  base: {run: train_base, params: {epochs: 1, width: 8, hidden_layers: 1}}
"""


def base(**more: object) -> StageResult:
    params = {"dataset": "digits", "epochs": 1, "width": 8, "hidden_layers": 1, **more}
    return train_base(TrainBaseParams(**params))  # type: ignore[arg-type]


def test_differing_settings_and_results_are_listed(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = base(), base(width=12)
    (verdict,) = compare(a.run_id, b.run_id)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["setting", "width", "8", "12"] in lines
    assert ["result", "cost/parameters", f"{28 * 28 * 8 + 8 + 45}", f"{28 * 28 * 12 + 12 + 65}"] in lines
    assert not any(line[:2] == ["setting", "epochs"] for line in lines)
    assert verdict.answer().startswith("no verdict (n = 1")


def test_plan_runs_are_compared_by_arm(store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    params = MainParams(plan=str(path), dataset="digits", threads=1, workers=1)
    first, second = main(params), main(params.model_copy(update={"rerun": True}))
    (verdict,) = compare(first.run_id, second.run_id)
    assert verdict.key == "base" and verdict.estimate is not None and verdict.estimate.mean == 0
    assert "no verdict (n = 1" in capsys.readouterr().out
    with pytest.raises(UserInputError, match="is not a plan run, but .* is"):
        compare(first.run_id, base().run_id)


@pytest.mark.parametrize(("shift", "code"), [(-0.05, 1), (0.05, 0), (0.0, 0)])
def test_only_a_verdict_of_worse_fails(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, shift: float, code: int
) -> None:
    def run(seed: int, shift: float) -> FinishedRun:
        accuracy = 0.9 + 0.001 * seed + shift * (1 + 0.1 * (seed % 2))
        return FinishedRun(f"{seed}", "x", "transfer", {}, {}, {names.TEST_ACCURACY: accuracy}, {})

    sides = {
        run_id: comparison.Side(run_id, {"arm": {seed: run(seed, value) for seed in range(5)}})
        for run_id, value in (("a", 0.0), ("b", shift))
    }
    monkeypatch.setattr(comparison, "read_plan_record", lambda client, run_id: "{}")
    monkeypatch.setattr(comparison, "_side", lambda client, run_id, record: sides[run_id])
    assert CliRunner().invoke(cli, ["compare", "a", "b", "--fail_on_regression"]).exit_code == code
    assert CliRunner().invoke(cli, ["compare", "a", "b"]).exit_code == 0


def test_preliminary_verdict_is_no_regression(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = base().run_id
    (verdict,) = compare(run_id, run_id)
    assert regressions([dataclasses.replace(verdict, sign="worse", preliminary=True)]) == []
    assert regressions([dataclasses.replace(verdict, sign="worse", preliminary=False)]) == [""]
