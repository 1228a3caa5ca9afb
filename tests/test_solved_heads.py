"""Stages with `head_solver=convex`: what is logged and exported, caching, resuming, rejected parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline.data.records import Dataset
from pipeline.data.splits import LabelSample, split_for_target
from pipeline.errors import UserInputError
from pipeline.params import (
    CacheFeaturesParams,
    FinetuneCnnParams,
    ResumeParams,
    TrainBaseParams,
    TransferParams,
    parse_params,
)
from pipeline.stages.cache_features import cache_features
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.resume import resume
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult
from pipeline.training.convex_head import L2_GRID, solve_head
from pipeline.training.head_fit import HeadFit, fit_head, head_inputs
from pipeline.training.inputs import model_inputs

BASE = {"dataset": "digits", "epochs": 5, "hidden_layers": 3, "width": 16, "batch_size": 32}
SOLVED = {"dataset": "digits", "per_class": 20, "val_per_class": 10, "head_solver": "convex"}
without_figures = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def base(store: MlflowClient) -> StageResult:
    """A small base on digits 0-4."""
    return train_base(TrainBaseParams(**BASE))


def test_solved_head_is_logged_without_epochs(base: StageResult, store: MlflowClient) -> None:
    result = transfer(TransferParams(**SOLVED, reuse_layers=2))
    run = store.get_run(result.run_id)
    assert run.data.tags[names.CONVERGED] == "yes"
    assert run.data.metrics[names.FIT_SECONDS] > 0 and run.data.metrics[names.HEAD_L2] > 0
    assert run.data.metrics[names.HEAD_L2_AT_EDGE] in (0, 1)
    absent = {names.EPOCHS_RUN, names.BEST_EPOCH, names.VAL_LOSS, names.EPOCH_SECONDS, names.EPOCH_OPERATIONS}
    assert not absent & run.data.metrics.keys()
    assert not {"epochs", "patience", "learning_rate", "weight_decay"} & run.data.params.keys()
    figures = {Path(item.path).name for item in store.list_artifacts(result.run_id, names.FIGURES)}
    assert {"l2_path.png", "confusion_matrix.png"} <= figures and "learning_curves.png" not in figures
    path = Path(store.download_artifacts(result.run_id, names.L2_PATH)).read_text().splitlines()
    assert path[0].startswith("l2,val_loss,val_accuracy") and len(path) == 1 + len(L2_GRID)


@without_figures
def test_exported_head_is_the_minimizer(base: StageResult, store: MlflowClient, digits: Dataset) -> None:
    exported = load_base(store, transfer(TransferParams(**SOLVED, seed=4)).run_id).network
    source = load_base(store, base.run_id).network
    sample = LabelSample(per_class=20, val_per_class=10, val_fraction=0.1, seed=4)
    split = split_for_target(digits, (5, 6, 7, 8, 9), sample)
    features, val_features = (
        head_inputs(source, model_inputs(source, part)) for part in (split.train, split.validation)
    )
    expected = solve_head(features, split.train.labels, val_features, validation_labels=split.validation.labels)
    assert torch.equal(exported.head.weight, expected.weight.float())
    assert torch.equal(exported.head.bias, expected.bias.float())
    for name, value in source.blocks.state_dict().items():
        assert torch.equal(exported.blocks.state_dict()[name], value), name


@without_figures
def test_solved_head_is_the_same_on_cached_features(base: StageResult, store: MlflowClient) -> None:
    named = cache_features(CacheFeaturesParams(dataset="digits"))
    plain, *cached = (
        transfer(TransferParams(**SOLVED, **more)) for more in ({}, {"features": "auto"}, {"features": named.run_id})
    )
    for result in cached:
        assert result.metrics["test/loss"] == pytest.approx(plain.metrics["test/loss"], rel=1e-4)
        assert result.metrics[names.FEATURES_SECONDS] > 0 and names.BREAK_EVEN_EPOCHS not in result.metrics


@without_figures
def test_fine_tuning_continues_from_a_solved_head(base: StageResult, store: MlflowClient) -> None:
    solved = transfer(TransferParams(**SOLVED))
    tuned = transfer(TransferParams(dataset="digits", base=solved.run_id, unfreeze=2, epochs=3))
    run = store.get_run(tuned.run_id)
    assert run.data.params["per_class"] == "20" and run.data.metrics[names.EPOCHS_RUN] == 3
    first = store.get_metric_history(tuned.run_id, names.VAL_LOSS)[0].value
    assert first == pytest.approx(solved.metrics["test/loss"], abs=0.5)


@without_figures
def test_cache_key_of_a_solved_head_ignores_epochs(base: StageResult) -> None:
    plan_context = PlanContext(base.run_id)
    first = transfer(TransferParams(**SOLVED, epochs=7), plan_context=plan_context)
    again = transfer(TransferParams(**SOLVED, epochs=9), plan_context=plan_context)
    trained = transfer(TransferParams(**{**SOLVED, "head_solver": "sgd"}, epochs=1), plan_context=plan_context)
    assert again.reused and again.run_id == first.run_id and not trained.reused


@without_figures
def test_interrupted_solve_is_resumed(base: StageResult, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **more: object) -> HeadFit:
        raise KeyboardInterrupt

    uninterrupted = transfer(TransferParams(**SOLVED))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.training_run.fit_head", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transfer(TransferParams(**SOLVED))
    (killed,) = store.search_runs(["0"], "attributes.status = 'KILLED'")
    resumed = resume(ResumeParams(run_id=killed.info.run_id))
    assert resumed.run_id == killed.info.run_id
    assert store.get_run(resumed.run_id).info.status == "FINISHED"
    assert resumed.metrics["test/loss"] == uninterrupted.metrics["test/loss"]


@without_figures
def test_solve_above_the_tolerance_is_not_converged(
    base: StageResult, store: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stopped_early(*arguments: object, **more: object) -> HeadFit:
        fit = fit_head(*arguments, **more)  # type: ignore[arg-type]
        path = tuple(dataclasses.replace(point, converged=False) for point in fit.head.path)
        return dataclasses.replace(fit, head=dataclasses.replace(fit.head, path=path))

    monkeypatch.setattr("pipeline.stages.training_run.fit_head", stopped_early)
    result = transfer(TransferParams(**SOLVED))
    reason = "stopped above the gradient tolerance of 1e-06"
    assert store.get_run(result.run_id).data.tags[names.CONVERGED] == f"no: {reason}"
    assert f"not converged: {reason}" in caplog.text


@without_figures
def test_head_of_a_fully_frozen_cnn_is_solved(store: MlflowClient) -> None:
    cnn = {"dataset": "digits", "epochs": 1, "model": "cnn", "conv_channels": "4,6", "dense_width": 12}
    train_base(TrainBaseParams(**cnn))
    result = finetune_cnn(FinetuneCnnParams(**SOLVED, frozen=3, intermediate=0))
    assert store.get_run(result.run_id).data.tags[names.CONVERGED] == "yes"
    with pytest.raises(UserInputError, match="trains the head alone, but 1 of 3 blocks are not frozen"):
        finetune_cnn(FinetuneCnnParams(**SOLVED, frozen=2, intermediate=0))


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (TransferParams, {"unfreeze": 1}, "unfreeze=1: .*are frozen; use unfreeze=0, or head_solver=sgd"),
        (TransferParams, {"reuse_layers": 0}, "reuse_layers=0: .*copy at least one layer"),
        (TransferParams, {"upper": "fresh"}, "upper=fresh: .*use upper=drop"),
        (TransferParams, {"augment": "flip"}, "head_solver=convex: .*before augmentation .augment=flip."),
        (FinetuneCnnParams, {}, "intermediate: .*All blocks below a solved head .*; use intermediate=0"),
    ],
)
def test_convex_solver_needs_frozen_blocks(
    kind: type[TransferParams | FinetuneCnnParams], more: dict[str, object], message: str
) -> None:
    with pytest.raises(UserInputError, match=message):
        parse_params(kind, {"head_solver": "convex", **more})
