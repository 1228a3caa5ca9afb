"""What the stages that train have in common: fit under watch, evaluate, log, hand over, say what to do next."""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import say, watch
from pipeline.data.splits import Split
from pipeline.networks.layered import (
    CNNArchitecture,
    ConvolutionLayer,
    LayeredNetwork,
    MLPArchitecture,
)
from pipeline.params import FamilyParams, StageParams, TrainingParams
from pipeline.report import figures
from pipeline.runtime import Runtime
from pipeline.tracking import names
from pipeline.tracking.model import ModelFacts, log_model, register_model
from pipeline.tracking.run import StageResult, StageRun
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.evaluate import Evaluation, evaluate
from pipeline.training.loop import EpochRecord, Fit, FitSettings, Labelled


@dataclass(frozen=True)
class Trained:
    """A network after its fit, with what evaluation found.

    Attributes:
        network: With its best weights.
        fit: Its history and counters.
        train: Evaluation of the training images, best weights, evaluation mode.
        validation: Likewise of the validation images.
        test: Likewise of the test images: the one time that they are read.
    """

    network: LayeredNetwork
    fit: Fit
    train: Evaluation
    validation: Evaluation
    test: Evaluation


def settings_of(params: TrainingParams, runtime: Runtime) -> FitSettings:
    """Return the fit's settings that some parameters ask for."""
    return FitSettings(
        epochs=params.epochs,
        patience=params.patience,
        batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        weight_averaging=params.weight_averaging,
        seed=params.seed,
        checkpoint_every=params.checkpoint_every,
        train_dtype=runtime.train_dtype,
    )


def train_tracked(run: StageRun, network: LayeredNetwork, split: Split, settings: FitSettings) -> Trained:
    """Fit a network on a split, logging each epoch, and evaluate it once; interrupted, save a checkpoint first."""
    device = network.head.weight.device
    train, validation = (
        Labelled(network.scale(part.pixels.to(device)), part.labels.to(device))
        for part in (split.train, split.validation)
    )
    fit = Fit(network, train, validation, settings, checkpoints=CheckpointFolder(run.folder / names.CHECKPOINTS))
    try:
        for record in watch(fit, settings.epochs):
            run.log_epoch(record)
    except KeyboardInterrupt:
        fit.save_last()
        raise
    final_train, final_validation = (evaluate(network, part.values, part.labels) for part in (train, validation))
    del train, validation
    test = evaluate(network, network.scale(split.test.pixels.to(device)), split.test.labels)
    return Trained(network, fit, final_train, final_validation, test)


def finish(
    run: StageRun, trained: Trained, split: Split, params: TrainingParams, *, data_seconds: float
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
        }
    )
    run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)
    facts = ModelFacts(
        params.entry_point, split.dataset, split.classes_text, split.class_names, trained.validation.accuracy
    )
    model_uri = log_model(run, trained.network, split, facts)
    say_result(run, trained, model_uri)
    if params.register_as:
        say(register_model(run, model_uri, params.register_as, trained.validation.accuracy))
    return StageResult(run.run_id, model_uri, dict(run.final_metrics))


def log_figures(run: StageRun, trained: Trained, split: Split, title: str) -> None:
    """Log learning curves, confusion matrix, mistakes and the history as a table."""
    folder = run.folder / names.FIGURES
    history, best = trained.fit.history, trained.fit.progress.best_epoch
    figures.save_figure(figures.learning_curves(history, best, title), folder / "learning_curves.png")
    test_title = f"Test images, {100 * trained.test.accuracy:.2f} % right"
    figures.save_figure(
        figures.confusion_matrix(trained.test, split.class_names, test_title), folder / "confusion_matrix.png"
    )
    figures.save_figure(
        figures.mistakes(split.test, trained.test, split.class_names, "Mistakes on test images"),
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


def say_result(run: StageRun, trained: Trained, model_uri: str) -> None:
    """Print a stage's last lines."""
    progress = trained.fit.progress
    say(
        f"test accuracy {100 * trained.test.accuracy:.2f} %, precision {100 * trained.test.precision:.2f} %, "
        f"best epoch {progress.best_epoch} of {progress.epoch}, {progress.fit_seconds:.1f} s of training"
    )
    say(f"run {run.run_id}, model {model_uri}")


def architecture_of(params: FamilyParams, split: Split) -> MLPArchitecture | CNNArchitecture:
    """Return the description of the network that the parameters ask for, for the images of a split."""
    shape, classes = split.image_shape, split.classes
    if params.model == "mlp":
        assert params.hidden_layers is not None and params.width is not None
        return MLPArchitecture(
            image_shape=shape,
            classes=classes,
            hidden_layers=params.hidden_layers,
            width=params.width,
            batch_norm=bool(params.batch_norm),
            dropout=params.dropout,
        )
    return CNNArchitecture(
        image_shape=shape,
        classes=classes,
        dropout=params.dropout,
        convolutions=(
            ConvolutionLayer(channels=16, kernel=5, stride=2),
            ConvolutionLayer(channels=32, kernel=3, pool=True),
        ),
    )


def say_plan(params: StageParams, split: Split, architecture: MLPArchitecture | CNNArchitecture) -> StageResult:
    """Print what would be done; nothing is trained and no run is made."""
    say("dry run: nothing is trained")
    say(json.dumps(params.logged(), indent=2))
    say(f"network: {architecture.model_dump_json()}")
    say(f"images: {len(split.train)} to train on, {len(split.validation)} for validation, {len(split.test)} for test")
    return StageResult("", "", {})
