"""What a stage logs about training, whether a network was trained by epochs or its head was solved."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.report import run_plots
from pipeline.stages.fitting import FinishedFit, Try, tuning_metrics
from pipeline.tracking import names
from pipeline.training.convex_head import TOLERANCE, GridPoint
from pipeline.training.head_fit import HeadFit
from pipeline.training.loop import Fit
from pipeline.training.records import EpochRecord

CONVERGED = "yes"
STOPPED_BY_CAP = "no: stopped by the epoch cap"
SCHEDULE_ENDED = "no: the schedule ended before the training images were fitted"
FITTED_LOSS = (
    0.05  # training loss of a fit that has learned its training images, as a fraction of that of uniform guessing
)
ABOVE_TOLERANCE = "no: stopped above the gradient tolerance"


@dataclass(frozen=True)
class FitSummary:
    """What is logged about training.

    Attributes:
        converged: Value of the tag: `yes`, or `no: ` and the reason.
        metrics: Final metrics.
        text: For the console.
        figure: File name of the figure, without its suffix.
        draw: Draws it under a title.
        tables: Rows by file name: one per epoch, try or L2 penalty.
    """

    converged: str
    metrics: Mapping[str, float]
    text: str
    figure: str
    draw: Callable[[str], Figure]
    tables: Mapping[str, Sequence[EpochRecord | GridPoint | Try]]

    def write_tables(self, folder: Path) -> list[Path]:
        """Write the tables as CSV, and return their paths."""
        for name, rows in self.tables.items():
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(field.name for field in dataclasses.fields(rows[0]))
                writer.writerows(map(dataclasses.astuple, rows))
        return [folder / name for name in self.tables]


def summary_of_fit(finished: FinishedFit) -> FitSummary:
    """Return what is logged about a fit by epochs."""
    fit, progress, tries = finished.fit, finished.fit.progress, finished.tries
    metrics = {
        names.BEST_EPOCH: progress.best_epoch,
        names.EPOCHS_RUN: progress.epoch,
        names.FIT_SECONDS: progress.fit_seconds,
        **reached_thresholds(fit.history),
        **tuning_metrics(tries),
    }
    chosen = "".join(
        f", chosen from {len(tries)} tries: learning rate {one.learning_rate:g}, weight decay {one.weight_decay:g}"
        for one in tries
        if one.chosen
    )
    return FitSummary(
        converged=convergence(fit),
        metrics=metrics,
        text=f"best epoch {progress.best_epoch} of {progress.epoch}, {progress.fit_seconds:.1f} s of training{chosen}",
        figure="learning_curves",
        draw=partial(run_plots.learning_curves, list(fit.history), progress.best_epoch),
        tables={names.HISTORY: fit.history, **({names.TRIES_TABLE: tries} if tries else {})},
    )


def convergence(fit: Fit) -> str:
    """Return the value of the tag `converged` for a finished fit.

    A decayed learning rate ends a fit whether or not it has converged. It has if its training images are fitted: more
    steps could hardly lower the training loss.
    """
    if fit.converged:
        return CONVERGED
    if fit.settings.schedule == "constant":
        return STOPPED_BY_CAP
    guessing = math.log(len(fit.network.architecture.classes))
    return CONVERGED if fit.history[-1].train_loss <= FITTED_LOSS * guessing else SCHEDULE_ENDED


def summary_of_head(fit: HeadFit) -> FitSummary:
    """Return what is logged about a solved head, which has no epochs."""
    head = fit.head
    metrics = {
        names.FIT_SECONDS: fit.seconds,
        names.HEAD_L2: head.chosen.l2,
        names.HEAD_L2_AT_EDGE: float(head.at_grid_edge),
        names.HEAD_ITERATIONS: head.iterations,
        names.HEAD_DROPPED_UNITS: head.dropped_units,
    }
    edge = " (at the edge of the grid)" if head.at_grid_edge else ""
    return FitSummary(
        converged=CONVERGED if head.converged else f"{ABOVE_TOLERANCE} of {TOLERANCE:g}",
        metrics=metrics,
        text=f"head solved for {len(head.path)} L2 penalties in {fit.seconds:.2f} s, chosen {head.chosen.l2:.2g}{edge}",
        figure="l2_path",
        draw=partial(run_plots.l2_path, head.path, head.chosen),
        tables={names.L2_PATH: head.path},
    )


def reached_thresholds(history: Sequence[EpochRecord]) -> dict[str, float]:
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
