"""Fit a network in a run, with checkpoints and resuming: once, or once per setting of a grid (`tune_on_validation`)."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import watch
from pipeline.errors import CheckpointError, NonFiniteLossError
from pipeline.interruption import raise_if_interrupted
from pipeline.networks.layered import LayeredNetwork
from pipeline.params.grid import TUNABLE
from pipeline.tracking import names
from pipeline.tracking.stage_run import StageRun
from pipeline.training.checkpoint import Checkpoint, CheckpointFolder
from pipeline.training.loop import Fit
from pipeline.training.records import EpochRecord, FitSettings, Labelled

logger = logging.getLogger(__name__)

MIN_VALUES_WITH_EDGE = 3  # of fewer values, each is at an edge


@dataclass(frozen=True)
class FitInputs:
    """What a network is fitted on.

    Attributes:
        train: Inputs at depth `start`.
        validation: Likewise.
        start: Depth of the inputs: 0 for pixels.
        copied: Number of blocks copied from the base.
    """

    train: Labelled
    validation: Labelled
    start: int = 0
    copied: int = 0

    def fit(self, network: LayeredNetwork, settings: FitSettings, checkpoints: CheckpointFolder) -> Fit:
        """Return a fit of a network that has not started."""
        return Fit(
            network,
            self.train,
            self.validation,
            settings=settings,
            start=self.start,
            copied=self.copied,
            checkpoints=checkpoints,
        )


@dataclass(frozen=True)
class Try:
    """One setting of a grid, and its fit.

    Attributes:
        val_loss: The lowest of its epochs; infinite if the fit diverged.
        val_accuracy: In that epoch.
        best_epoch: That epoch.
        epochs: Number of epochs.
        seconds: Training time.
        converged: Whether early stopping ended the fit.
        chosen: Whether its validation loss is the lowest of all tries, the first of equal ones.
    """

    learning_rate: float
    weight_decay: float
    val_loss: float
    val_accuracy: float
    best_epoch: int
    epochs: int
    seconds: float
    converged: bool
    chosen: bool = False


@dataclass(frozen=True)
class FinishedFit:
    """The fit that a run keeps, and the tries that it was chosen from.

    Attributes:
        checkpoints: Folder with the checkpoints of the fit.
        tries: In the order of the grid; empty without one.
    """

    fit: Fit
    checkpoints: Path
    tries: tuple[Try, ...] = ()


def fit_network(
    run: StageRun, network: LayeredNetwork, inputs: FitInputs, *, settings: Sequence[FitSettings]
) -> FinishedFit:
    """Fit a network with each of the settings, and return the fit with the lowest validation loss.

    A single fit trains `network` itself and logs each epoch at once. Of several, each trains a copy, and the epochs of
    the chosen one are logged at the end. A resumed run continues from its newest checkpoints.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite, with every one of the settings.
    """
    folder = run.folder / names.CHECKPOINTS
    if len(settings) == 1:
        checkpoints = CheckpointFolder(folder)
        fit = inputs.fit(network, settings[0], checkpoints)
        if run.run_history is not None:
            restore_fit(run, fit, checkpoints)
        run_fit(fit, run.log_epoch)
        return FinishedFit(fit, folder)
    folders = [folder / f"try_{number}" for number in range(1, len(settings) + 1)]
    if run.run_history is not None:
        log_restored_tries(run, folders)
    best, tries = fit_all(run, network, inputs, settings=list(zip(settings, folders, strict=True)))
    chosen = min(range(len(tries)), key=lambda index: tries[index].val_loss)
    for record in best.history:
        run.log_epoch(record)
    tries[chosen] = dataclasses.replace(tries[chosen], chosen=True)
    return FinishedFit(best, folders[chosen], tuple(tries))


def fit_all(
    run: StageRun, network: LayeredNetwork, inputs: FitInputs, *, settings: Sequence[tuple[FitSettings, Path]]
) -> tuple[Fit, list[Try]]:
    """Fit a copy of the network with each of the settings; return the best fit, and the result of each."""
    best: Fit | None = None
    failure: NonFiniteLossError | None = None
    tries: list[Try] = []
    for number, (one, folder) in enumerate(settings, 1):
        checkpoints = CheckpointFolder(folder)
        fit = inputs.fit(copy.deepcopy(network), one, checkpoints)
        if run.run_history is not None and (checkpoint := newest_checkpoint(checkpoints)) is not None:
            fit.restore(checkpoint)
        try:
            run_fit(fit)
        except NonFiniteLossError as error:
            logger.warning(f"try {number} of {len(settings)} diverged: {error}")
            failure = error
            tries.append(describe_try(one, fit, diverged=True))
            continue
        tries.append(describe_try(one, fit))
        if best is None or fit.progress.best_loss < best.progress.best_loss:
            best = fit
        run.log_metrics({names.TRY_VAL_LOSS: tries[-1].val_loss, names.TRY_SECONDS: tries[-1].seconds}, number)
    if best is None:
        assert failure is not None, "a fit that did not fail has a finite loss"
        raise failure
    return best, tries


def describe_try(settings: FitSettings, fit: Fit, *, diverged: bool = False) -> Try:
    """Return the result of one setting."""
    progress = fit.progress
    return Try(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        val_loss=math.inf if diverged else progress.best_loss,
        val_accuracy=0.0 if diverged else fit.best_record.val_accuracy,
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        seconds=progress.fit_seconds,
        converged=fit.converged,
    )


def tuning_metrics(tries: Sequence[Try]) -> dict[str, float]:
    """Return the final metrics of a grid: the chosen setting, whether it is at an edge, and the time of all tries."""
    if not tries:
        return {}
    chosen = next(one for one in tries if one.chosen)
    metrics = {names.TRIES: float(len(tries)), names.TRIES_SECONDS: sum(one.seconds for one in tries)}
    at_edge = False
    for name in TUNABLE:
        values = sorted({getattr(one, name) for one in tries})
        if len(values) > 1:
            metrics[f"{names.TUNED}{name}"] = getattr(chosen, name)
        at_edge |= len(values) >= MIN_VALUES_WITH_EDGE and getattr(chosen, name) in (values[0], values[-1])
    return {**metrics, names.TUNED_AT_EDGE: float(at_edge)}


def run_fit(fit: Fit, on_epoch: Callable[[EpochRecord], None] = lambda record: None) -> None:
    """Train until the fit stops, calling `on_epoch` after each epoch; save a checkpoint on Ctrl-C or SIGTERM."""
    try:
        for record in watch(fit, fit.settings.epochs):
            on_epoch(record)
            raise_if_interrupted()
    except KeyboardInterrupt:
        fit.save_last()
        raise


def restore_fit(run: StageRun, fit: Fit, checkpoints: CheckpointFolder) -> None:
    """Continue a resumed run's fit from its newest valid checkpoint, or from the start."""
    checkpoint = newest_checkpoint(checkpoints)
    if checkpoint is not None:
        fit.restore(checkpoint)
    run.log_restored(fit.history)
    start = f"from epoch {fit.progress.epoch}" if checkpoint else "from the start, because it has no checkpoint"
    logger.info(f"resuming run {run.run_id} {start} ({run.lost_seconds:.1f} s of work lost to interruptions)")


def log_restored_tries(run: StageRun, folders: Sequence[Path]) -> None:
    """Log that a resumed run continues its tries, and how much of their work is saved."""
    checkpoints = [newest_checkpoint(CheckpointFolder(folder)) for folder in folders]
    started = [checkpoint.facts["progress"] for checkpoint in checkpoints if checkpoint is not None]
    run.log_restored([], kept_seconds=sum(float(progress["fit_seconds"]) for progress in started))
    place = f"in try {len(started)} of {len(folders)}" if started else "from the start, because it has no checkpoint"
    logger.info(f"resuming run {run.run_id} {place} ({run.lost_seconds:.1f} s of work lost to interruptions)")


def newest_checkpoint(checkpoints: CheckpointFolder) -> Checkpoint | None:
    """Return the newest valid checkpoint; None, with a warning if some are damaged, without one."""
    try:
        return checkpoints.newest(lambda why: logger.warning(f"{why}; using the previous checkpoint"))
    except CheckpointError as error:
        logger.warning(f"no valid checkpoint: {error}")
        return None
