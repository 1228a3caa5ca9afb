"""What the stages that train have in common: fit under watch, evaluate, log, hand over, say what to do next."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from torch import Tensor

from pipeline.console import echo, watch
from pipeline.data.splits import Split
from pipeline.errors import CheckpointError, Fault, UserInputError
from pipeline.interruption import raise_if_interrupted
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import CNNArchitecture, LayeredNetwork, MLPArchitecture
from pipeline.networks.macs import trainable_fraction, training_macs
from pipeline.params import FamilyParams, MachineParams, StageParams, TrainingParams, format_classes
from pipeline.report import run_plots
from pipeline.runtime import Runtime
from pipeline.tracking import names
from pipeline.tracking.compare_link import compare_link
from pipeline.tracking.model_export import ModelFacts, log_model
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.evaluate import Evaluation, evaluate
from pipeline.training.features import Features
from pipeline.training.loop import EpochRecord, Fit, FitSettings, Labelled

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=MachineParams)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network after its fit, with what evaluation found.

    Attributes:
        network: With its best weights.
        fit: Its history and counters.
        train: Evaluation of the training images, best weights, evaluation mode.
        validation: Likewise of the validation images.
        test: Likewise of the test images: the one time that they are read.
        costs: What an epoch and the evaluation cost, under their metric names.
    """

    network: LayeredNetwork
    fit: Fit
    train: Evaluation
    validation: Evaluation
    test: Evaluation
    costs: dict[str, float]


def resolve_machine(params: P, split: Split, runtime: Runtime) -> P:
    """Return parameters in which the data set and the machine are resolved."""
    found: dict[str, object] = {"dataset": split.dataset, "device": str(runtime.device), "threads": runtime.threads}
    if isinstance(params, TrainingParams):
        found["dtype"] = str(runtime.train_dtype).removeprefix("torch.")
    return params.model_copy(update=found)


def fit_settings(params: TrainingParams, runtime: Runtime, **more: float | None) -> FitSettings:
    """Return the fit's settings that some parameters ask for; `more` are those of copied blocks."""
    return FitSettings(
        epochs=int(params.epochs),
        patience=int(params.patience),
        batch_size=int(params.batch_size),
        learning_rate=float(params.learning_rate),
        weight_decay=float(params.weight_decay),
        weight_averaging=params.weight_averaging,
        seed=params.seed,
        checkpoint_every=params.checkpoint_every,
        train_dtype=runtime.train_dtype,
        **more,  # type: ignore[arg-type]
    )


def fit_and_evaluate(
    run: StageRun,
    network: LayeredNetwork,
    split: Split,
    settings: FitSettings,
    *,
    copied: int = 0,
    features: Features | None = None,
) -> TrainedNetwork:
    """Fit a network on a split, logging each epoch, and evaluate it once; interrupted, save a checkpoint first.

    Args:
        run: Of the stage.
        network: On its device, frozen as wanted.
        split: What to train, validate and test on.
        settings: How.
        copied: How many of the first blocks are copies.
        features: Outputs of the frozen blocks to train on instead of pixels.
    """
    device = network.head.weight.device
    start = features.depth if features else 0
    train, validation = (
        Labelled(
            features.rows(part.indices).to(device) if features else network.scale(part.pixels.to(device)),
            part.labels.to(device),
        )
        for part in (split.train, split.validation)
    )
    checkpoints = CheckpointFolder(run.folder / names.CHECKPOINTS)
    fit = Fit(network, train, validation, settings, start=start, copied=copied, checkpoints=checkpoints)
    if run.run_history is not None:
        restore_fit(run, fit, checkpoints)
    costs = {
        names.EPOCH_OPERATIONS: float(training_macs(network, start) * len(split.train)),
        names.TRAINABLE_SHARE: trainable_fraction(network),
        names.PARAMETERS_COUNT: float(sum(parameter.numel() for parameter in network.parameters())),
    }
    try:
        for record in watch(fit, settings.epochs):
            run.log_epoch(record)
            raise_if_interrupted()
    except KeyboardInterrupt:
        fit.save_last()
        raise
    began = time.perf_counter()
    on_train, on_validation = (evaluate(network, part.values, part.labels, start=start) for part in (train, validation))
    test = evaluate(network, network.scale(split.test.pixels.to(device)), split.test.labels)
    costs[names.EVALUATION_SECONDS] = time.perf_counter() - began
    return TrainedNetwork(network, fit, on_train, on_validation, test, costs)


def restore_fit(run: StageRun, fit: Fit, checkpoints: CheckpointFolder) -> None:
    """Restore a resumed run's fit from its newest whole checkpoint, and say from where it goes on."""
    try:
        found = checkpoints.newest(lambda why: logger.warning(f"{why}; the one before it is taken"))
    except CheckpointError as error:
        logger.warning(f"no checkpoint is whole: {error}")
        found = None
    if found is not None:
        fit.restore(found)
    run.log_restored(fit.history)
    where = f"goes on after epoch {fit.progress.epoch}" if found else "starts over: it has no checkpoint"
    logger.info(f"run {run.run_id} {where}; interruptions have cost {run.lost_seconds:.1f} s of work")


def finish(
    run: StageRun,
    trained: TrainedNetwork,
    split: Split,
    params: TrainingParams,
    *,
    data_seconds: float,
    more: Mapping[str, float] | None = None,
    seen_before: Tensor | None = None,
) -> StageResult:
    """Log everything that a trained stage leaves behind, hand its model over, and say how to go on."""
    title = f"{params.entry_point}: {split.dataset} {', '.join(split.class_names)}"
    log_figures(run, trained, split, title)
    progress = trained.fit.progress
    run.log_final(
        {
            **trained.test.metrics("test"),
            names.TRAIN_FINAL_ACCURACY: trained.train.accuracy,
            names.VAL_FINAL_ACCURACY: trained.validation.accuracy,
            names.BEST_EPOCH: progress.best_epoch,
            names.EPOCHS_RUN: progress.epoch,
            names.FIT_SECONDS: progress.fit_seconds,
            names.DATA_SECONDS: data_seconds,
            names.TOTAL_SECONDS: run.elapsed_seconds() + data_seconds,
            **reached_thresholds(trained.fit.history),
            **trained.costs,
            **({names.LOST_SECONDS: run.lost_seconds} if run.run_history else {}),
            **(more or {}),
        }
    )
    run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)
    facts = ModelFacts(
        params.entry_point, split.dataset, split.classes_text, split.class_names, trained.validation.accuracy
    )
    log_model(run, trained.network, split, facts, seen_before=seen_before, register_as=params.register_as)
    model_uri = run.wait_for_model()
    print_result(run, trained, params, model_uri)
    return StageResult(run.run_id, model_uri, dict(run.final_metrics))


def reached_thresholds(history: list[EpochRecord]) -> dict[str, float]:
    """Return epochs and training seconds until validation accuracy first reached each threshold that it did."""
    found: dict[str, float] = {}
    seconds = 0.0
    for record in history:
        seconds += record.epoch_seconds
        for threshold in names.VAL_THRESHOLDS:
            if record.val_accuracy >= threshold and f"epochs/to_val_{threshold}" not in found:
                found[f"epochs/to_val_{threshold}"] = record.epoch
                found[f"time/to_val_{threshold}"] = seconds
    return found


def log_figures(run: StageRun, trained: TrainedNetwork, split: Split, title: str) -> None:
    """Log learning curves, confusion matrix, mistakes and the history as a table."""
    folder = run.folder / names.FIGURES
    history, best = trained.fit.history, trained.fit.progress.best_epoch
    run_plots.save_figure(run_plots.learning_curves(history, best, title), folder / "learning_curves.png")
    test_title = f"Test images, {100 * trained.test.accuracy:.2f} % right"
    run_plots.save_figure(
        run_plots.confusion_matrix(trained.test, split.class_names, test_title), folder / "confusion_matrix.png"
    )
    run_plots.save_figure(
        run_plots.mistakes(split.test, trained.test, split.class_names, "Mistakes on test images"),
        folder / "mistakes.png",
    )
    run.log_file(folder, names.FIGURES)
    run.log_file(write_history(history, run.folder / names.HISTORY))


def write_history(history: list[EpochRecord], path: Path) -> Path:
    """Write one row an epoch as CSV."""
    columns = [field.name for field in dataclasses.fields(EpochRecord)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([getattr(record, column) for column in columns] for record in history)
    return path


def print_result(run: StageRun, trained: TrainedNetwork, params: TrainingParams, model_uri: str) -> None:
    """Print a stage's last lines: what was reached, under which names it is kept, what would use it next."""
    progress = trained.fit.progress
    echo(
        f"test accuracy {100 * trained.test.accuracy:.2f} %, precision {100 * trained.test.precision:.2f} %, "
        f"best epoch {progress.best_epoch} of {progress.epoch}, {progress.fit_seconds:.1f} s of training"
    )
    echo(f"run {run.run_id}, model {model_uri}")
    if run.late:
        echo("model URI pending: run python -m pipeline sync")
    echo(f"next: python -m pipeline {next_command(trained, params, model_uri)}")
    if not run.late and (link := compare_link(run)):
        echo(f"compare: {link}")


def next_command(trained: TrainedNetwork, params: TrainingParams, model_uri: str) -> str:
    """Return the command that would use a stage's model next."""
    if params.entry_point == "transfer":  # a target's model is continued on its own classes
        unfreeze = min(2, trained.network.architecture.depth)
        classes = format_classes(trained.network.architecture.classes)
        return f"transfer --base {model_uri} --classes {classes} --unfreeze {unfreeze}"
    if params.entry_point in ("finetune_cnn", "scratch_cnn"):
        return "report"
    return f"{'transfer' if trained.network.architecture.family == 'mlp' else 'finetune_cnn'} --base {model_uri}"


def requested_architecture(params: FamilyParams, split: Split) -> MLPArchitecture | CNNArchitecture:
    """Return the description of the network that the parameters ask for, for the images of a split.

    Raises:
        UserInputError: It would be too large, or too deep for the images.
    """
    try:
        return architecture_from_params(params, split.image_shape, split.classes)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        name = "hidden_layers, width" if params.model == "mlp" else "channels, kernels, strides, pool, dense_width"
        raise UserInputError(
            Fault(name, None, f"these do not make a network: {why}.", "Choose smaller ones.")
        ) from None


def print_dry_run(params: StageParams, split: Split, *lines: str) -> StageResult:
    """Print what would be done; nothing is trained and no run is made."""
    echo("dry run: nothing is trained")
    echo(json.dumps(params.logged(), indent=2))
    echo(f"images: {len(split.train)} to train on, {len(split.validation)} for validation, {len(split.test)} for test")
    for line in lines:
        echo(line)
    return StageResult("", "", {})
