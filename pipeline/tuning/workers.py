"""Worker processes: started once a study, single-threaded, sharing the data in memory.

Each runs trials of the study until it has as many as it shall have; so does any further machine that runs the same
command. There is no scheduler: the study's storage is the queue.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.synchronize
import os
import signal
import statistics
from dataclasses import dataclass, replace
from typing import Any

import optuna
import torch
from torch import Tensor

from pipeline.errors import NonFiniteLossError
from pipeline.networks.from_params import architecture_from_params
from pipeline.params import TrainBaseParams
from pipeline.runtime import process_lives, resolve_runtime
from pipeline.tracking import names
from pipeline.tracking.lifecycle import stage_run
from pipeline.training.loop import FitSettings, Labelled
from pipeline.tuning.objective import FoldScore, score_folds
from pipeline.tuning.search_space import Space, suggest_setting, with_setting
from pipeline.tuning.shared import SharedTensors
from pipeline.tuning.study import (
    FAILURE,
    REASON,
    RUN_ID,
    StudySpec,
    mark,
    open_storage,
    open_study,
    pending_count,
    requeue,
    trial_sampler,
)


@dataclass(frozen=True)
class Job:
    """What every worker of a study needs to know.

    Attributes:
        spec: Of the study.
        space: What is searched.
        trials: How many finished trials the study shall have.
        params: What is not searched, the device resolved.
        image_shape: (C, H, W).
        classes: What the network tells apart.
        settings: Of a fold's fit, likewise.
        shared: All training images, scaled pixels and labels, and the places of each fold's held-out part.
        study_seed: What samplers and folds derive their seeds from.
        parent_run_id: The study's MLflow run.
        folder: The working directory of whoever started the study.
        environment: Which stores to use; workers are forked from a process that may have begun with others.
        owner: The process that started the workers, as `runtime.process_identity` writes it; they end with it.
    """

    spec: StudySpec
    space: Space
    trials: int
    params: TrainBaseParams
    image_shape: tuple[int, int, int]
    classes: tuple[int, ...]
    settings: FitSettings
    shared: SharedTensors
    study_seed: int
    parent_run_id: str
    folder: str
    environment: dict[str, str]
    owner: str

    @property
    def data(self) -> Labelled:
        """All training images: scaled pixels and labels."""
        return Labelled(*self.shared.tensors[:2])

    @property
    def folds(self) -> list[Tensor]:
        """The places of each fold's held-out part."""
        return self.shared.tensors[2:]


TURN_SECONDS = 5.0  # after which a worker goes on without its turn: the one that had it is dead

Worker = multiprocessing.context.ForkServerProcess


def start_forkserver() -> multiprocessing.context.ForkServerContext:
    """Start the process that workers are forked from, which imports what they need, and return at once.

    Called early, it imports while the caller loads its data.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.tuning.preload"])
    multiprocessing.forkserver.ensure_running()
    return context


class OwnerGone(KeyboardInterrupt):
    """The process that started this worker is gone."""


class Workers:
    """The worker processes of one job.

    Args:
        job: What they do.
        count: How many there shall be.
    """

    def __init__(self, job: Job, count: int):
        self.job, self.count = job, count
        self.context = start_forkserver()
        self.turn = self.context.Lock()  # lives as long as any worker may need it
        self.processes: list[Worker] = []

    def fill(self) -> list[int]:
        """Start as many as are missing, and return the exit codes of those that died before their work was done."""
        died = [process.exitcode for process in self.processes if not process.is_alive() and process.exitcode]
        self.processes = [process for process in self.processes if process.is_alive()]
        while len(self.processes) < self.count:
            process = self.context.Process(target=work, args=(self.job, self.turn))
            process.start()
            self.processes.append(process)
        return died

    def any_alive(self) -> bool:
        """Whether a worker is still running."""
        return any(process.is_alive() for process in self.processes)

    def any_died(self) -> bool:
        """Whether a worker ended before its work was done."""
        return any(not process.is_alive() and process.exitcode != 0 for process in self.processes)

    def wait(self, limit_seconds: float) -> None:
        """Wait until a worker ends, or the limit is over."""
        multiprocessing.connection.wait([process.sentinel for process in self.processes], timeout=limit_seconds)

    def stop(self, limit_seconds: float = 10) -> None:
        """Ask them to end, wait, and end those that do not."""
        for process in self.processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGTERM)
        for process in self.processes:
            process.join(limit_seconds)
            if process.is_alive():
                process.kill()
                process.join()


def work(job: Job, turn: multiprocessing.synchronize.Lock) -> None:
    """Run trials until the study has enough; the target of a worker process.

    Args:
        job: What to do.
        turn: Held while a worker looks whether another trial is needed and takes it.
    """
    resolve_runtime(job.params.device, "float32", 1)  # sets this process up; the dtype of trials is in their settings
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the owner decides and sends SIGTERM
    os.chdir(job.folder)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_"))]:
        del os.environ[name]
    os.environ.update(job.environment)
    study = open_study(open_storage(), job.spec)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            turn.acquire(timeout=TURN_SECONDS)
            if pending_count(study) >= job.trials or not process_lives(job.owner):
                give_turn(turn)
                return
            study.optimize(lambda trial: run_or_queue(trial, job, turn), n_trials=1, catch=(Exception,))


def give_turn(turn: multiprocessing.synchronize.Lock) -> None:
    """Let the next worker look; a worker that died in its turn may have left it taken, or another taken it over."""
    with contextlib.suppress(ValueError):
        turn.release()


def run_or_queue(trial: optuna.Trial, job: Job, turn: multiprocessing.synchronize.Lock) -> float:
    """Score one setting; where the process is asked to stop meanwhile, queue the setting again."""
    try:
        return run_trial(trial, job, turn)
    except KeyboardInterrupt:
        requeue(trial.study, trial)
        raise


def run_trial(trial: optuna.Trial, job: Job, turn: multiprocessing.synchronize.Lock) -> float:
    """Score one setting; log it as an MLflow run nested in the study's."""
    mark(trial)
    give_turn(turn)
    trial.study.sampler = trial_sampler(job.spec.sampler, job.study_seed, trial.number)
    setting = suggest_setting(trial, job.space)
    params = with_setting(job.params, setting)
    architecture = architecture_from_params(params, job.image_shape, job.classes).model_dump_json()
    tags: dict[str, object] = {
        names.STAGE: "trial",
        "architecture": architecture,
        "study": job.spec.name,
        "trial": trial.number,
    }
    note = f"Trial {trial.number} of study {job.spec.name}: {setting}"
    pruned = ""
    with stage_run(params, name=f"trial {trial.number}", note=note, tags=tags, parent_run_id=job.parent_run_id) as run:
        trial.set_user_attr(RUN_ID, run.run_id)
        scores: list[FoldScore] = []
        try:
            for score in folds_of(job, params):
                scores.append(score)
                run.log_fold(score.fold, _fold_metrics(score))
                trial.report(statistics.fmean(s.accuracy for s in scores), score.fold)
                if score.fold < len(job.folds) and trial.should_prune():
                    pruned = f"pruned after fold {score.fold} of {len(job.folds)}"
                    break
        except NonFiniteLossError as error:
            pruned = f"pruned: {error}"  # a failed trial's neighbourhood would be visited again
        except Exception as error:
            trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
            raise
        trial.set_user_attr(REASON, pruned)
        run.set_tags({"trial_state": "PRUNED" if pruned else "COMPLETE"})
        if pruned:
            run.set_tags({names.NOTE: f"{note}\n\n{pruned}"})
        if scores:
            run.log_final(summary(scores))
    if pruned:
        raise optuna.TrialPruned(pruned)
    for name, value in summary(scores).items():
        trial.set_user_attr(name, value)
    return statistics.fmean(score.accuracy for score in scores)


def folds_of(job: Job, params: TrainBaseParams) -> Any:
    """Return the fold scores of a setting, ending early where the owner is gone."""

    def watch() -> None:
        if not process_lives(job.owner):
            raise OwnerGone

    settings = replace(
        job.settings,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        weight_decay=params.weight_decay,
        weight_averaging=params.weight_averaging,
    )
    architecture = architecture_from_params(params, job.image_shape, job.classes)
    return score_folds(
        architecture,
        settings,
        job.data,
        job.folds,
        val_fraction=params.val_fraction,
        device=torch.device(params.device),
        watch=watch,
    )


def summary(scores: list[FoldScore]) -> dict[str, float]:
    """Return mean accuracy with its standard deviation over folds, precision, loss and seconds."""
    accuracies = [score.accuracy for score in scores]
    return {
        "cv/accuracy": statistics.fmean(accuracies),
        "cv/accuracy_std": statistics.stdev(accuracies) if len(scores) > 1 else 0.0,
        "cv/precision": statistics.fmean(score.precision for score in scores),
        "cv/loss": statistics.fmean(score.loss for score in scores),
        "cv/folds": len(scores),
        "time/trial_seconds": sum(score.seconds for score in scores),
    }


def _fold_metrics(score: FoldScore) -> dict[str, float]:
    return {
        "fold/accuracy": score.accuracy,
        "fold/precision": score.precision,
        "fold/loss": score.loss,
        "fold/epochs": score.epochs,
        "time/fold_seconds": score.seconds,
    }
