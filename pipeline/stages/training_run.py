"""The steps that all training stages share: fit, evaluate, log, upload the model, print the next command."""

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
from pipeline.data.splits import Examples, Split
from pipeline.errors import CheckpointError, Fault, UserInputError
from pipeline.interruption import raise_if_interrupted
from pipeline.networks.build import build_network
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import CNNArchitecture, LayeredNetwork, MLPArchitecture
from pipeline.networks.macs import trainable_fraction, training_macs
from pipeline.params import FamilyParams, StageParams, TrainBaseParams, format_classes
from pipeline.params.stages import FitParams
from pipeline.params.target import ReuseParams
from pipeline.report import run_plots
from pipeline.runtime import Runtime, generator, resolve_runtime
from pipeline.tracking import names
from pipeline.tracking.model_export import ModelFacts, log_model
from pipeline.tracking.queries import compare_link
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.evaluate import Evaluation, evaluate
from pipeline.training.features import Features
from pipeline.training.loop import Fit
from pipeline.training.records import EpochRecord, FitSettings, Labelled

logger = logging.getLogger(__name__)

STOPPED_BY_CAP = "no: stopped by the epoch cap"

P = TypeVar("P", bound=StageParams)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its best weights, and its evaluation (eval mode, float32) on each part of the split."""

    network: LayeredNetwork
    split: Split
    fit: Fit
    train: Evaluation
    validation: Evaluation
    test: Evaluation
    costs: dict[str, float]  # compute per epoch, size of the network and evaluation time, by metric name


def resolve_machine(params: P, split: Split, runtime: Runtime) -> P:
    """Return parameters with the resolved dataset, device, threads and precision."""
    resolved = {"dataset": split.dataset, "device": str(runtime.device), "threads": runtime.threads}
    if "dtype" in type(params).model_fields:
        resolved["dtype"] = str(runtime.train_dtype).removeprefix("torch.")
    return params.model_copy(update=resolved)


def resolve_training_runtime(params: FitParams, network: LayeredNetwork, batch_size: int, *, start: int = 0) -> Runtime:
    """Resolve device, precision and threads for training a network (with frozen blocks) on inputs at depth `start`."""
    return resolve_runtime(
        params.device,
        params.dtype,
        params.threads,
        operations=batch_size * training_macs(network, start),
        convolutional=network.architecture.family == "cnn",
    )


def fit_settings(params: FitParams, runtime: Runtime) -> FitSettings:
    """Return the settings of the fit that resolved parameters describe."""
    shared = {field.name for field in dataclasses.fields(FitSettings)} & type(params).model_fields.keys()
    settings = FitSettings(**params.model_dump(include=shared), train_dtype=runtime.train_dtype)
    if not isinstance(params, ReuseParams):
        return settings
    return dataclasses.replace(
        settings,
        copied_learning_rate_factor=params.unfrozen_learning_rate_factor,
        copied_weight_decay=None if params.unfrozen_weight_decay == "auto" else params.unfrozen_weight_decay,
    )


def fit_base(run: StageRun, split: Split, params: TrainBaseParams, *, data_seconds: float = 0.0) -> StageResult:
    """Build a base network, train it, and log the result."""
    network = build_network(requested_architecture(params, split), generator(params.seed, "weights"))
    runtime = resolve_training_runtime(params, network, params.batch_size)
    with runtime.in_effect():
        settings = fit_settings(params, runtime)
        trained = fit_and_evaluate(run, network.to(runtime.device), split, settings=settings)
        return finish(run, trained, params, data_seconds=data_seconds)


def fit_and_evaluate(
    run: StageRun,
    network: LayeredNetwork,
    split: Split,
    *,
    settings: FitSettings,
    copied: int = 0,
    features: Features | None = None,
) -> TrainedNetwork:
    """Fit a network, logging each epoch, and evaluate it once; a resumed run continues from its newest checkpoint.

    Args:
        run: The stage's run.
        network: On its device, with its frozen blocks frozen.
        split: Training, validation and test images.
        settings: Budget and optimizer.
        copied: Number of blocks copied from the base.
        features: Cached outputs of the frozen blocks, to train on instead of pixels.
    """
    start = features.depth if features else 0
    train, validation = (model_inputs(network, part, features) for part in (split.train, split.validation))
    checkpoints = CheckpointFolder(run.folder / names.CHECKPOINTS)
    fit = Fit(network, train, validation, settings, start=start, copied=copied, checkpoints=checkpoints)
    costs = {
        names.EPOCH_OPERATIONS: float(training_macs(network, start) * len(split.train)),
        names.TRAINABLE_SHARE: trainable_fraction(network),
        names.PARAMETERS_COUNT: float(sum(parameter.numel() for parameter in network.parameters())),
    }
    if run.run_history is not None:
        restore_fit(run, fit, checkpoints)
    run_fit(run, fit, settings.epochs)
    began = time.perf_counter()
    on_train, on_validation = (evaluate(network, part.values, part.labels, start=start) for part in (train, validation))
    test = model_inputs(network, split.test)
    on_test = evaluate(network, test.values, split.test.labels)
    costs[names.EVALUATION_SECONDS] = time.perf_counter() - began
    return TrainedNetwork(network, split, fit, on_train, on_validation, on_test, costs)


def model_inputs(network: LayeredNetwork, examples: Examples, features: Features | None = None) -> Labelled:
    """Return scaled pixels, or cached features, with labels on the network's device."""
    device = network.device
    values = features.rows(examples.indices).to(device) if features else network.scale(examples.pixels.to(device))
    return Labelled(values, examples.labels.to(device))


def run_fit(run: StageRun, fit: Fit, epochs: int) -> None:
    """Train until the fit stops, logging each epoch; save a checkpoint on Ctrl-C or SIGTERM."""
    try:
        for record in watch(fit, epochs):
            run.log_epoch(record)
            raise_if_interrupted()
    except KeyboardInterrupt:
        fit.save_last()
        raise


def restore_fit(run: StageRun, fit: Fit, checkpoints: CheckpointFolder) -> None:
    """Continue a resumed run's fit from its newest valid checkpoint, or from the start."""
    try:
        checkpoint = checkpoints.newest(lambda why: logger.warning(f"{why}; using the previous checkpoint"))
    except CheckpointError as error:
        logger.warning(f"no valid checkpoint: {error}")
        checkpoint = None
    if checkpoint is not None:
        fit.restore(checkpoint)
    run.log_restored(fit.history)
    start = f"from epoch {fit.progress.epoch}" if checkpoint else "from the start, because it has no checkpoint"
    logger.info(f"resuming run {run.run_id} {start} ({run.lost_seconds:.1f} s of work lost to interruptions)")


def finish(
    run: StageRun,
    trained: TrainedNetwork,
    params: FitParams,
    *,
    data_seconds: float,
    extra_metrics: Mapping[str, float] | None = None,
    seen_before: Tensor | None = None,
) -> StageResult:
    """Log figures, final metrics and checkpoints, upload the model, and print the result.

    `seen_before` has the indices (int64) of the images that the base, or one of its bases, was trained on.
    """
    split = trained.split
    log_figures(run, trained, f"{params.entry_point}: {split.dataset} {', '.join(split.class_names)}")
    seconds = {names.DATA_SECONDS: data_seconds, names.TOTAL_SECONDS: run.elapsed_seconds() + data_seconds}
    if run.run_history:
        seconds[names.LOST_SECONDS] = run.lost_seconds
    run.log_final({**fit_metrics(trained), **seconds, **(extra_metrics or {})})
    run.set_tags({names.CONVERGED: "yes" if trained.fit.converged else STOPPED_BY_CAP})
    run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)
    facts = ModelFacts(
        params.entry_point, split.dataset, split.classes_text, split.class_names, trained.validation.accuracy
    )
    log_model(run, trained.network, split, facts=facts, seen_before=seen_before, register_as=params.register_as)
    model_uri = run.wait_for_model()
    print_result(run, trained, f"run {run.run_id}, model {model_uri}")
    echo(f"next: python -m pipeline {next_command(trained, params.entry_point, model_uri)}")
    if not run.late and (link := compare_link(run)):
        echo(f"compare: {link}")
    return StageResult(run.run_id, model_uri, dict(run.final_metrics))


def fit_metrics(trained: TrainedNetwork) -> dict[str, float]:
    """Return the final metrics of a fit and its evaluation."""
    progress = trained.fit.progress
    return {
        **trained.test.metrics("test"),
        names.TRAIN_FINAL_ACCURACY: trained.train.accuracy,
        names.VAL_FINAL_ACCURACY: trained.validation.accuracy,
        names.BEST_EPOCH: progress.best_epoch,
        names.EPOCHS_RUN: progress.epoch,
        names.FIT_SECONDS: progress.fit_seconds,
        **reached_thresholds(trained.fit.history),
        **trained.costs,
    }


def reached_thresholds(history: list[EpochRecord]) -> dict[str, float]:
    """Return epochs and training seconds until validation accuracy first reached each threshold."""
    metrics: dict[str, float] = {}
    seconds = 0.0
    for record in history:
        seconds += record.epoch_seconds
        for threshold in names.VAL_THRESHOLDS:
            if record.val_accuracy >= threshold and f"epochs/to_val_{threshold}" not in metrics:
                metrics[f"epochs/to_val_{threshold}"] = record.epoch
                metrics[f"time/to_val_{threshold}"] = seconds
    return metrics


def log_figures(run: StageRun, trained: TrainedNetwork, title: str) -> None:
    """Log learning curves, confusion matrix, misclassified images, and the history as CSV."""
    folder, split, test = run.folder / names.FIGURES, trained.split, trained.test
    history, best = trained.fit.history, trained.fit.progress.best_epoch
    test_title = f"Test images, {100 * test.accuracy:.2f} % correct"
    figures = {
        "learning_curves": run_plots.learning_curves(history, best, title),
        "confusion_matrix": run_plots.confusion_matrix(test, split.class_names, test_title),
        "mistakes": run_plots.mistakes(split.test, test, split.class_names, title="Misclassified test images"),
    }
    for name, figure in figures.items():
        run_plots.save_figure(figure, folder / f"{name}.png")
    run.log_file(folder, names.FIGURES)
    run.log_file(write_history(history, run.folder / names.HISTORY))


def write_history(history: list[EpochRecord], path: Path) -> Path:
    """Write one CSV row per epoch."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in dataclasses.fields(EpochRecord))
        writer.writerows(map(dataclasses.astuple, history))
    return path


def print_result(run: StageRun, trained: TrainedNetwork, ids: str) -> None:
    """Print accuracy, training time, run id and model URI."""
    progress = trained.fit.progress
    if not trained.fit.converged:
        logger.warning(f"not converged: stopped by the epoch cap after {progress.epoch} epochs")
    echo(
        f"test accuracy {100 * trained.test.accuracy:.2f} %, precision {100 * trained.test.precision:.2f} %, "
        f"best epoch {progress.best_epoch} of {progress.epoch}, {progress.fit_seconds:.1f} s of training"
    )
    echo(ids)
    if run.late:
        echo("model URI pending: run python -m pipeline sync")


def next_command(trained: TrainedNetwork, entry_point: str, model_uri: str) -> str:
    """Return a command that uses the stage's model."""
    architecture = trained.network.architecture
    if entry_point == "transfer":  # continues training on the same classes
        unfreeze, classes = min(2, architecture.depth), format_classes(architecture.classes)
        return f"transfer --base {model_uri} --classes {classes} --unfreeze {unfreeze}"
    if entry_point in ("finetune_cnn", "scratch_cnn"):
        return "report"
    return f"{'transfer' if architecture.family == 'mlp' else 'finetune_cnn'} --base {model_uri}"


def requested_architecture(params: FamilyParams, split: Split) -> MLPArchitecture | CNNArchitecture:
    """Return the architecture that the parameters describe, for the images and classes of a split.

    Raises:
        UserInputError: It is too large, or too deep for the images.
    """
    try:
        return architecture_from_params(params, split.image_shape, split.classes)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        name = "hidden_layers, width" if params.model == "mlp" else "channels, kernels, strides, pool, dense_width"
        raise UserInputError(Fault(name, None, f"invalid network: {reason}.", "Choose smaller values.")) from None


def describe_split(split: Split) -> str:
    """Return dataset, classes and number of images, for notes."""
    sizes = f"{len(split.train)} training, {len(split.validation)} validation and {len(split.test)} test images"
    return f"classes {split.classes_text} of {split.dataset} ({sizes})"


def print_dry_run(params: StageParams, split: Split, *lines: str) -> StageResult:
    """Print the resolved configuration; no run is created."""
    echo("dry run: nothing is trained")
    echo(json.dumps(params.logged(), indent=2))
    for line in (f"data: {describe_split(split)}", *lines):
        echo(line)
    return StageResult("", "", {})
