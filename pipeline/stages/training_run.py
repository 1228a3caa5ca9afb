"""The steps that all training stages share: fit or solve, evaluate, log, upload the model, print the next command."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline import __version__
from pipeline.console import echo
from pipeline.data.normalization import resolve_preprocessing
from pipeline.data.splits import Split
from pipeline.errors import Fault, UserInputError
from pipeline.interruption import raise_if_interrupted
from pipeline.networks.convolutions import bfloat16_is_faster
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import CNNArchitecture, LayeredNetwork, MLPArchitecture
from pipeline.networks.macs import trainable_fraction, training_macs
from pipeline.params import StageParams, TargetParams, TrainBaseParams
from pipeline.params.grid import grid_settings
from pipeline.params.stages import FitParams
from pipeline.params.target import ReuseParams
from pipeline.report import run_plots
from pipeline.runtime import Runtime, resolve_runtime
from pipeline.stages.class_table import log_class_tables, recall_metrics, shortened
from pipeline.stages.fit_summary import CONVERGED, FitSummary, summary_of_fit, summary_of_head
from pipeline.stages.fitting import FitInputs, fit_network
from pipeline.stages.model_card import model_card
from pipeline.stages.next_command import after_training
from pipeline.tracking import names
from pipeline.tracking.cache_key import code_digest
from pipeline.tracking.graph_export import ModelFacts
from pipeline.tracking.model_export import images_of, log_model
from pipeline.tracking.queries import compare_link
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.evaluate import Evaluation, evaluate
from pipeline.training.features import Features
from pipeline.training.head_fit import fit_head
from pipeline.training.inputs import model_inputs
from pipeline.training.records import FitSettings, Labelled

logger = logging.getLogger(__name__)

MAX_CLASSES_DRAWN = 30  # in a confusion matrix

P = TypeVar("P", bound=StageParams)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its best weights, and its evaluation (eval mode, float32) on each part of the split."""

    network: LayeredNetwork
    split: Split
    summary: FitSummary
    train: Evaluation
    validation: Evaluation
    test: Evaluation
    costs: dict[str, float]  # compute per epoch, size of the network and evaluation time, by metric name
    checkpoints: Path | None = None  # their folder; None for a solved head, which has none


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
        convolutional=bfloat16_is_faster(network),
    )


def settings_to_try(params: FitParams, runtime: Runtime) -> list[FitSettings]:
    """Return the settings that resolved parameters describe: several with `tune_on_validation`, else one."""
    return [fit_settings(params, runtime, **tried) for tried in grid_settings(params.tune_on_validation)]


def fit_settings(params: FitParams, runtime: Runtime, **tried: float) -> FitSettings:
    """Return the settings of a fit; `tried` are the fields that `tune_on_validation` varies."""
    shared = {field.name for field in dataclasses.fields(FitSettings)} & type(params).model_fields.keys()
    settings = FitSettings(**{**params.model_dump(include=shared), **tried}, train_dtype=runtime.train_dtype)
    if not isinstance(params, ReuseParams):
        return settings
    return dataclasses.replace(
        settings,
        copied_learning_rate_factor=params.unfrozen_learning_rate_factor,
        copied_weight_decay=None if params.unfrozen_weight_decay == "auto" else params.unfrozen_weight_decay,
    )


def fit_base(
    run: StageRun, network: LayeredNetwork, split: Split, params: TrainBaseParams, *, data_seconds: float = 0.0
) -> StageResult:
    """Train a base network, and log the result."""
    runtime = resolve_training_runtime(params, network, params.batch_size)
    with runtime.in_effect():
        settings = settings_to_try(params, runtime)
        trained = fit_and_evaluate(run, network.to(runtime.device), split, settings=settings)
        return finish(run, trained, params, data_seconds=data_seconds)


def fit_and_evaluate(
    run: StageRun,
    network: LayeredNetwork,
    split: Split,
    *,
    settings: Sequence[FitSettings],
    copied: int = 0,
    features: Features | None = None,
) -> TrainedNetwork:
    """Fit a network, logging each epoch, and evaluate it once; a resumed run continues from its newest checkpoint.

    Args:
        run: The stage's run.
        network: On its device, with its frozen blocks frozen.
        split: Training, validation and test images.
        settings: Budget and optimizer; of several, the fit with the lowest validation loss is kept.
        copied: Number of blocks copied from the base.
        features: Cached outputs of the frozen blocks, to train on instead of pixels.
    """
    start = features.depth if features else 0
    train = model_inputs(network, split.train, features, augment=settings[0].augment)
    validation = model_inputs(network, split.validation, features)
    operations = float(training_macs(network, start) * len(split.train))
    finished = fit_network(run, network, FitInputs(train, validation, start, copied), settings)
    parts, summary = (train, validation), summary_of_fit(finished)
    trained = evaluate_parts(finished.fit.network, split, summary, parts=parts, features=features)
    costs = {names.EPOCH_OPERATIONS: operations, **trained.costs}
    return dataclasses.replace(trained, costs=costs, checkpoints=finished.checkpoints)


def solve_and_evaluate(
    run: StageRun, network: LayeredNetwork, split: Split, features: Features | None = None
) -> TrainedNetwork:
    """Solve the head of a network whose blocks are all frozen, and evaluate it once; a resumed run solves it again.

    Args:
        run: The stage's run.
        network: On its device, with all blocks frozen and a linear head.
        split: Training, validation and test images.
        features: Cached outputs of the blocks, to solve on instead of pixels.
    """
    start = features.depth if features else 0
    parts = model_inputs(network, split.train, features), model_inputs(network, split.validation, features)
    if run.run_history is not None:
        run.log_restored([])
        logger.info(f"resuming run {run.run_id} from the start: solved heads have no checkpoints")
    fit = fit_head(network, *parts, start=start)
    raise_if_interrupted()
    return evaluate_parts(network, split, summary_of_head(fit), parts=parts, features=features)


def evaluate_parts(
    network: LayeredNetwork,
    split: Split,
    summary: FitSummary,
    *,
    parts: tuple[Labelled, Labelled],
    features: Features | None,
) -> TrainedNetwork:
    """Evaluate a trained network once on training and validation inputs, and on the test images.

    Args:
        network: With its best weights.
        split: Its test images are read unless they have cached features too.
        summary: Of its training.
        parts: Training and validation inputs, at the depth of the features.
        features: Cached ones; None for pixels.
    """
    began = time.perf_counter()
    start = features.depth if features else 0
    on_train, on_validation = (evaluate(network, part, start=start, probabilities=False) for part in parts)
    cached = features is not None and features.has_all(split.test.ids)
    test = model_inputs(network, split.test, features if cached else None)
    on_test = evaluate(network, test, start=start if cached else 0)
    costs = {
        names.TRAINABLE_SHARE: trainable_fraction(network),
        names.PARAMETERS_COUNT: float(sum(parameter.numel() for parameter in network.parameters())),
        names.EVALUATION_SECONDS: time.perf_counter() - began,
    }
    return TrainedNetwork(network, split, summary, on_train, on_validation, on_test, costs)


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

    `seen_before` has the identities (int64) of the images that the base, or one of its bases, was trained on.
    """
    split = trained.split
    log_figures(run, trained, f"{params.entry_point}: {split.dataset} {shortened(split.classes_text)}")
    for table in trained.summary.write_tables(run.folder):
        run.log_file(table)
    seconds = {names.DATA_SECONDS: data_seconds, names.TOTAL_SECONDS: run.elapsed_seconds() + data_seconds}
    if run.run_history:
        seconds[names.LOST_SECONDS] = run.lost_seconds
    recalls = recall_metrics(split, trained.test.confusion_KK)
    log_class_tables(run, split, trained.test)
    run.log_final({**fit_metrics(trained), **recalls, **seconds, **(extra_metrics or {})})
    run.set_tags({names.CONVERGED: trained.summary.converged})
    if trained.checkpoints is not None:
        run.log_file(trained.checkpoints, names.CHECKPOINTS)
    facts = ModelFacts(
        params.entry_point, split.dataset, split.classes_text, split.class_names, trained.validation.accuracy
    )
    card = model_card(
        trained.network,
        split,
        trained.test,
        stage=params.entry_point,
        converged=trained.summary.converged,
        lineage=model_lineage(run, params),
    )
    images = images_of(split, seen_before)
    log_model(run, trained.network, facts=facts, images=images, card=card, register_as=params.register_as)
    model_uri = run.wait_for_model()
    print_result(run, trained, f"run {run.run_id}, model {model_uri}")
    next_command = after_training(trained.network.architecture, split, params, model_uri=model_uri)
    echo(f"next: python -m pipeline {next_command}")
    if not run.late and (link := compare_link(run)):
        echo(f"compare: {link}")
    return StageResult(run.run_id, model_uri, dict(run.final_metrics))


def model_lineage(run: StageRun, params: FitParams) -> dict[str, str]:
    """Return where a model comes from, for its card."""
    return {
        "run": run.run_id,
        "base": params.base if isinstance(params, TargetParams) and params.base != "auto" else "",
        "seed": str(params.seed),
        "code": code_digest(params.entry_point),
        "software": f"mlflow-transfer-pipeline {__version__}, torch {torch.__version__}",
    }


def fit_metrics(trained: TrainedNetwork) -> dict[str, float]:
    """Return the final metrics of a fit and its evaluation."""
    return {
        **trained.test.metrics("test"),
        names.TRAIN_FINAL_ACCURACY: trained.train.accuracy,
        names.VAL_FINAL_ACCURACY: trained.validation.accuracy,
        **trained.summary.metrics,
        **trained.costs,
    }


def log_figures(run: StageRun, trained: TrainedNetwork, title: str) -> None:
    """Log learning curves or L2 path, confusion matrix and misclassified images."""
    folder, split, test = run.folder / names.FIGURES, trained.split, trained.test
    test_title = f"Test images, {100 * test.accuracy:.2f} % correct"
    figures = {
        trained.summary.figure: trained.summary.draw(title),
        "mistakes": run_plots.mistakes(split.test, test, split.class_names, title="Misclassified test images"),
    }
    if len(split.classes) <= MAX_CLASSES_DRAWN:
        figures["confusion_matrix"] = run_plots.confusion_matrix(test, split.class_names, test_title)
    for name, figure in figures.items():
        run_plots.save_figure(figure, folder / f"{name}.png")
    run.log_file(folder, names.FIGURES)


def print_result(run: StageRun, trained: TrainedNetwork, ids: str) -> None:
    """Print accuracy, training time, run id and model URI."""
    summary = trained.summary
    if summary.converged != CONVERGED:
        logger.warning(f"not converged: {summary.converged.removeprefix('no: ')}")
    accuracy, precision = 100 * trained.test.accuracy, 100 * trained.test.precision
    echo(f"test accuracy {accuracy:.2f} %, precision {precision:.2f} %, {summary.text}")
    echo(ids)
    if run.late:
        echo("model URI pending: run python -m pipeline sync")


def requested_architecture(params: TrainBaseParams, split: Split) -> MLPArchitecture | CNNArchitecture:
    """Return the architecture that the parameters describe, for the images and classes of a split.

    Raises:
        UserInputError: It is too large, or too deep for the images.
    """
    preprocessing = resolve_preprocessing(params, split.geometry, split.train)
    try:
        return architecture_from_params(params, preprocessing, split.class_names)
    except ValueError as error:
        first = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = first.removeprefix("Value error, ")
        name = (
            "hidden_layers, width"
            if params.model == "mlp"
            else "conv_channels, kernels, strides, padding, pool, dense_width"
        )
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
