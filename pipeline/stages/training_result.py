"""The result of a training stage: log metrics and figures, upload the model, print the next command."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline import __version__
from pipeline.console import echo
from pipeline.data.splits import Split
from pipeline.networks.layered import LayeredNetwork
from pipeline.params import StageParams, TargetParams
from pipeline.params.entry_points import FitParams
from pipeline.report import run_plots
from pipeline.stages.class_table import log_class_tables, recall_metrics, shortened
from pipeline.stages.fit_summary import CONVERGED, FitSummary
from pipeline.stages.model_card import model_card
from pipeline.stages.next_command import after_training
from pipeline.tracking import names
from pipeline.tracking.cache_key import code_digest
from pipeline.tracking.graph_export import ModelFacts
from pipeline.tracking.model_export import images_of, log_model
from pipeline.tracking.queries import compare_link
from pipeline.tracking.stage_run import StageResult, StageRun
from pipeline.training.evaluate import Evaluation

logger = logging.getLogger(__name__)

MAX_CLASSES_DRAWN = 30  # in a confusion matrix


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
    log_results(run, trained, params, data_seconds=data_seconds, extra_metrics=extra_metrics or {})
    upload_model(run, trained, params, seen_before=seen_before)
    model_uri = run.wait_for_model()
    print_result(run, trained, f"run {run.run_id}, model {model_uri}")
    next_command = after_training(trained.network.architecture, trained.split, params, model_uri=model_uri)
    echo(f"next: python -m pipeline {next_command}")
    if not run.late and (link := compare_link(run)):
        echo(f"compare: {link}")
    return StageResult(run.run_id, model_uri, dict(run.final_metrics))


def log_results(
    run: StageRun,
    trained: TrainedNetwork,
    params: FitParams,
    *,
    data_seconds: float,
    extra_metrics: Mapping[str, float],
) -> None:
    """Log figures, tables, final metrics and checkpoints."""
    split = trained.split
    log_figures(run, trained, f"{params.entry_point}: {split.dataset} {shortened(split.classes_text)}")
    for table in trained.summary.write_tables(run.folder):
        run.log_file(table)
    seconds = {names.DATA_SECONDS: data_seconds, names.TOTAL_SECONDS: run.elapsed_seconds() + data_seconds}
    if run.run_history:
        seconds[names.LOST_SECONDS] = run.lost_seconds
    recalls = recall_metrics(split, trained.test.confusion_KK)
    log_class_tables(run, split, trained.test)
    run.log_final({**fit_metrics(trained), **recalls, **seconds, **extra_metrics})
    run.set_tags({names.CONVERGED: trained.summary.converged})
    if trained.checkpoints is not None:
        run.log_file(trained.checkpoints, names.CHECKPOINTS)


def upload_model(run: StageRun, trained: TrainedNetwork, params: FitParams, *, seen_before: Tensor | None) -> None:
    """Upload the model with its card and the identities of its images; returns before it is uploaded."""
    split = trained.split
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
