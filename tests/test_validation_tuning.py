"""`tune_on_validation`: every setting is tried, validation chooses, and tries survive interruptions."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.errors import NonFiniteLossError, UserInputError
from pipeline.params import ResumeParams, TrainBaseParams, TransferParams, TuneParams, parse_params
from pipeline.params.grid import canonical_grid, grid_settings
from pipeline.stages.resume import resume
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult
from pipeline.training.loop import Fit
from pipeline.training.records import EpochRecord

pytestmark = pytest.mark.usefixtures("no_figures")

BASE = {"dataset": "digits", "epochs": 4, "hidden_layers": 2, "width": 16, "batch_size": 32}
GRID = "learning_rate=0.0001,0.003,0.01 weight_decay=0.0001,0.1"
RATES = "learning_rate=0.0001,0.003,0.01"


def tries_of(store: MlflowClient, result: StageResult) -> list[dict[str, str]]:
    path = Path(store.download_artifacts(result.run_id, names.TRIES_TABLE))
    return list(csv.DictReader(path.read_text().splitlines()))


def val_losses(store: MlflowClient, result: StageResult) -> list[float]:
    return [point.value for point in store.get_metric_history(result.run_id, names.VAL_LOSS)]


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Learning rates whose fits fail in the second epoch."""
    rates: list[float] = []
    train_epoch = Fit.train_epoch

    def diverge(self: Fit, epoch: int) -> tuple[float, float]:
        return (math.nan, 0.0) if epoch == 2 and self.settings.learning_rate in rates else train_epoch(self, epoch)

    monkeypatch.setattr(Fit, "train_epoch", diverge)
    return rates


def test_setting_with_the_lowest_validation_loss_is_kept(store: MlflowClient) -> None:
    result = train_base(TrainBaseParams(**BASE, tune_on_validation=GRID))
    tries = tries_of(store, result)
    (chosen,) = [one for one in tries if one["chosen"] == "True"]
    assert len(tries) == result.metrics[names.TRIES] == 6
    assert float(chosen["val_loss"]) == min(float(one["val_loss"]) for one in tries)
    assert result.metrics["tuned/learning_rate"] == float(chosen["learning_rate"])
    assert result.metrics["tuned/weight_decay"] == float(chosen["weight_decay"])
    assert result.metrics[names.TRIES_SECONDS] == pytest.approx(sum(float(one["seconds"]) for one in tries))
    alone = train_base(
        TrainBaseParams(**BASE, learning_rate=chosen["learning_rate"], weight_decay=chosen["weight_decay"])
    )
    assert val_losses(store, result) == val_losses(store, alone)
    assert result.metrics["test/loss"] == alone.metrics["test/loss"]
    params = store.get_run(result.run_id).data.params
    assert params["tune_on_validation"] == GRID and not {"learning_rate", "weight_decay"} & params.keys()


def test_choice_at_the_edge_of_a_grid_is_flagged(store: MlflowClient) -> None:
    edge = train_base(TrainBaseParams(**BASE, tune_on_validation="learning_rate=0.00001,0.00002,0.003"))
    inside = train_base(TrainBaseParams(**BASE, tune_on_validation="learning_rate=0.00001,0.003,5"))
    two = train_base(TrainBaseParams(**BASE, tune_on_validation="learning_rate=0.00001,0.003"))
    assert [result.metrics[names.TUNED_AT_EDGE] for result in (edge, inside, two)] == [1, 0, 0]


def test_tuned_run_is_cached(store: MlflowClient) -> None:
    plan_context = PlanContext(store.create_run("0").info.run_id)
    first = train_base(TrainBaseParams(**BASE, tune_on_validation=RATES), plan_context=plan_context)
    spelled = {"learning_rate": ["0.01", 0.003, 1e-4]}
    again = train_base(
        parse_params(TrainBaseParams, {**BASE, "tune_on_validation": spelled}), plan_context=plan_context
    )
    other = train_base(TrainBaseParams(**BASE, tune_on_validation="learning_rate=0.003"), plan_context=plan_context)
    assert again.reused and again.run_id == first.run_id and not other.reused


@pytest.mark.parametrize("interrupted_in", [1, 3])
def test_resumed_tries_give_the_same_result(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, interrupted_in: int
) -> None:
    params = TrainBaseParams(**BASE, tune_on_validation=RATES, checkpoint_every=1)
    expected = train_base(params)
    rates = (0.0001, 0.003, 0.01)
    fitted: list[float] = []
    one_epoch = Fit._one_epoch

    def interrupt(self: Fit) -> EpochRecord:
        if self.settings.learning_rate == rates[interrupted_in - 1] and self.progress.epoch == 2:
            raise KeyboardInterrupt
        return one_epoch(self)

    def count(self: Fit) -> EpochRecord:
        fitted.append(self.settings.learning_rate)
        return one_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_one_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_base(params)
    (killed,) = store.search_runs(["0"], "attributes.status = 'KILLED'")
    monkeypatch.setattr(Fit, "_one_epoch", count)
    resumed = resume(ResumeParams(run_id=killed.info.run_id))
    assert f"in try {interrupted_in} of 3" in caplog.text
    assert fitted == [rates[interrupted_in - 1]] * 2 + [rate for rate in rates[interrupted_in:] for _ in range(4)]
    assert val_losses(store, resumed) == val_losses(store, expected)
    assert resumed.metrics["test/loss"] == expected.metrics["test/loss"]
    files = {Path(item.path).name for item in store.list_artifacts(resumed.run_id, names.CHECKPOINTS)}
    assert "last.safetensors" in files


def test_diverged_try_is_not_chosen(store: MlflowClient, diverging: list[float]) -> None:
    diverging.append(0.003)
    result = train_base(TrainBaseParams(**BASE, tune_on_validation=RATES))
    losses = {float(one["learning_rate"]): float(one["val_loss"]) for one in tries_of(store, result)}
    assert losses[0.003] == math.inf and result.metrics["tuned/learning_rate"] != 0.003


def test_run_fails_if_every_try_diverges(store: MlflowClient, diverging: list[float]) -> None:
    diverging += [0.0001, 0.003, 0.01]
    with pytest.raises(NonFiniteLossError, match="in epoch 2"):
        train_base(TrainBaseParams(**BASE, tune_on_validation=RATES))


def test_solved_head_ignores_the_grid(store: MlflowClient) -> None:
    train_base(TrainBaseParams(**BASE))
    few = {"dataset": "digits", "per_class": 20, "val_per_class": 10, "tune_on_validation": RATES}
    tuned = transfer(TransferParams(**few, unfreeze=2, epochs=2))
    solved = transfer(TransferParams(**few, head_solver="convex"))
    assert tuned.metrics[names.TRIES] == 3 and names.TRIES not in solved.metrics
    assert "tune_on_validation" not in store.get_run(solved.run_id).data.params


def test_grid_is_spelled_in_one_way() -> None:
    mapping = {"weight_decay": [0.01, 0], "learning_rate": ["1e-3", 0.0003]}
    text = canonical_grid(mapping)
    assert text == "learning_rate=0.0003,0.001 weight_decay=0.0,0.01" == canonical_grid(text)
    assert grid_settings(text)[1] == {"learning_rate": 0.0003, "weight_decay": 0.01}
    assert grid_settings("") == [{}] and canonical_grid("") == ""


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("dropout=0.1,0.2", "Dropout cannot be tuned on validation; learning_rate and weight_decay can"),
        ("learning_rate=0,0.1", "Learning_rate needs one or more valid values"),
        ("learning_rate", "needs one or more valid values"),
        ({"learning_rate": 0.1}, "needs one or more valid values"),
        ("learning_rate=0.1,0.1", "has a duplicate value"),
        ("learning_rate=0.1 learning_rate=0.2", "Duplicate name"),
        ({"weight_decay": [number / 1000 for number in range(101)]}, "At most 100 combinations"),
    ],
)
def test_invalid_grid_is_rejected(grid: object, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        parse_params(TransferParams, {"tune_on_validation": grid})


def test_cross_validated_search_rejects_a_grid() -> None:
    with pytest.raises(UserInputError, match="searches by cross-validation"):
        parse_params(TuneParams, {"tune_on_validation": RATES})
