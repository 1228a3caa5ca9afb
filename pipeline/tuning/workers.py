"""Worker processes of a study: single-threaded, forked once per study, sharing the images in memory.

Each worker runs trials until the study has enough. The same command on another machine adds workers. There is no
scheduler: the study storage is the queue.
"""

import contextlib
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.forkserver
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

import optuna
import torch
from filelock import FileLock
from torch import Tensor

from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import NonFiniteLossError
from pipeline.networks.from_params import architecture_from_params, with_convolutions
from pipeline.networks.layered import CNNArchitecture, MLPArchitecture
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import process_lives, resolve_runtime
from pipeline.tracking import names
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.stage_run import StageRun
from pipeline.training.records import FitSettings
from pipeline.tuning.objective import Metrics, score_folds, summarize
from pipeline.tuning.search_space import Space, suggest_setting, with_setting
from pipeline.tuning.shared import SharedTensors
from pipeline.tuning.shared_examples import SharedExamples
from pipeline.tuning.study import (
    FAILURE,
    REASON,
    RUN_ID,
    StudySpec,
    enqueue_retry,
    open_storage,
    open_study,
    record_worker,
    started_count,
    trial_lock_path,
    trial_sampler,
)

Worker = multiprocessing.context.ForkServerProcess


@dataclass(frozen=True)
class Job:
    """The configuration and data shared by the workers of a study."""

    spec: StudySpec
    space: Space
    params: TuneParams  # with the device resolved
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    settings: FitSettings  # of each fold's fit; a trial replaces the searched values
    data: SharedExamples  # all training images
    identities_and_folds: SharedTensors  # identities of these images, then the held-out indices of each fold
    parent_run_id: str  # the study's MLflow run
    folder: str  # working directory
    environment: dict[str, str]  # MLFLOW_* and PIPELINE_*; those of the fork server may differ
    owner: str  # process that started the workers (see `runtime.process_identity`); they exit with it

    @property
    def folds(self) -> list[Tensor]:
        """Indices of the held-out images of each fold."""
        return self.identities_and_folds.tensors[1:]

    def architecture(self, params: TrainBaseParams) -> MLPArchitecture | CNNArchitecture:
        """Return the architecture of a trial."""
        return architecture_from_params(params, self.preprocessing, self.classes)


def start_forkserver() -> multiprocessing.context.ForkServerContext:
    """Start the process that workers are forked from; it imports their modules while the caller loads data."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.tuning.preload"])
    multiprocessing.forkserver.ensure_running()
    return context


class Workers:
    """`count` worker processes for one job."""

    def __init__(self, job: Job, count: int):
        self.job, self.count = job, count
        self.context = start_forkserver()
        self.processes: list[Worker] = []

    def fill(self) -> list[int]:
        """Start the missing workers; return the exit codes of those that died since the last call."""
        exit_codes = [process.exitcode for process in self.processes if not process.is_alive() and process.exitcode]
        self.processes = [process for process in self.processes if process.is_alive()]
        while len(self.processes) < self.count:
            process = self.context.Process(target=work, args=(self.job,))
            process.start()
            self.processes.append(process)
        return exit_codes

    def any_alive(self) -> bool:
        """Whether any worker is running."""
        return any(process.is_alive() for process in self.processes)

    def any_died(self) -> bool:
        """Whether any worker exited with an error."""
        return any(not process.is_alive() and process.exitcode != 0 for process in self.processes)

    def wait(self, limit_seconds: float) -> None:
        """Wait until a worker exits, or for `limit_seconds`."""
        multiprocessing.connection.wait([process.sentinel for process in self.processes], timeout=limit_seconds)

    def stop(self, limit_seconds: float = 30) -> None:
        """Terminate the workers; kill those that do not exit in time."""
        for process in self.processes:
            if process.is_alive():  # checked first: after an exit, another process may have its id
                process.terminate()
        for process in self.processes:
            process.join(limit_seconds)
            if process.is_alive():
                process.kill()
                process.join()


def work(job: Job) -> None:
    """Run trials until the study has enough; the target of a worker process.

    The lock is held from counting the trials until the next one is recorded, so that no extra trial starts and no two
    workers take the same enqueued trial (possible with sqlite). The system releases it if the worker is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the owner sends SIGTERM
    os.chdir(job.folder)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_"))]:
        del os.environ[name]
    os.environ.update(job.environment)
    study = open_study(open_storage(), job.spec)
    lock = FileLock(trial_lock_path())
    runtime = resolve_runtime(job.params.device, "float32", 1, operations=0)  # a trial's dtype is in its settings
    with runtime.in_effect(), contextlib.suppress(KeyboardInterrupt):
        while True:
            lock.acquire(poll_interval=0.01)
            if started_count(study) >= job.params.trials or not process_lives(job.owner):
                lock.release()
                return
            study.optimize(lambda trial: run_or_requeue(trial, job, lock), n_trials=1, catch=(Exception,))


def run_or_requeue(trial: optuna.Trial, job: Job, lock: FileLock) -> float:
    """Run a trial; if the worker is terminated meanwhile, enqueue the parameters again."""
    try:
        return run_trial(trial, job, lock)
    except KeyboardInterrupt:
        enqueue_retry(trial.study, trial)
        raise


def run_trial(trial: optuna.Trial, job: Job, lock: FileLock) -> float:
    """Return the mean fold accuracy of a trial, logged as a nested MLflow run."""
    record_worker(trial)
    lock.release()
    trial.study.sampler = trial_sampler(job.spec.sampler, job.params.seed, trial.number)
    setting = suggest_setting(trial, job.space)
    params = with_convolutions(with_setting(job.params, setting), job.preprocessing.image_shape)
    tags: dict[str, object] = {
        names.STAGE: "trial",
        "architecture": job.architecture(params).model_dump_json(),
        "study": job.spec.name,
        "trial": trial.number,
    }
    note = f"Trial {trial.number} of study {job.spec.name}: {setting}"
    with stage_run(params, name=f"trial {trial.number}", note=note, tags=tags, parent_run_id=job.parent_run_id) as run:
        trial.set_user_attr(RUN_ID, run.run_id)
        try:
            metrics, pruned = run_folds(trial, job, params, run=run)
        except Exception as error:
            trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
            raise
        trial.set_user_attr(REASON, pruned)
        run.set_tags({"trial_state": "PRUNED" if pruned else "COMPLETE"})
        if pruned:
            run.set_tags({names.NOTE: f"{note}\n\n{pruned}"})
        if metrics:
            run.log_final(metrics)
    if pruned:
        raise optuna.TrialPruned(pruned)
    for name, value in metrics.items():
        trial.set_user_attr(name, value)
    return metrics["cv/accuracy"]


def run_folds(trial: optuna.Trial, job: Job, params: TrainBaseParams, *, run: StageRun) -> tuple[Metrics, str]:
    """Return the trial's metrics (empty if the first fold diverged) and, if it was pruned, the reason."""
    folds: list[Metrics] = []
    pruned = ""
    try:
        for number, metrics in enumerate(fold_scores(job, params), 1):
            folds.append(metrics)
            run.log_metrics(metrics, number)
            trial.report(summarize(folds)["cv/accuracy"], number)
            if number < len(job.folds) and trial.should_prune():
                pruned = f"pruned after fold {number} of {len(job.folds)}"
                break
    except NonFiniteLossError as error:  # not FAIL: the sampler would try similar parameters again
        pruned = f"pruned: {error}"
    return summarize(folds) if folds else {}, pruned


def fold_scores(job: Job, params: TrainBaseParams) -> Iterator[Metrics]:
    """Yield the metrics of each fold; raises KeyboardInterrupt if the process that started the workers is gone."""

    def check_owner() -> None:
        if not process_lives(job.owner):
            raise KeyboardInterrupt

    settings = replace(
        job.settings,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        weight_decay=params.weight_decay,
        weight_averaging=params.weight_averaging,
    )
    return score_folds(
        job.architecture(params),
        settings,
        job.data.labelled(),
        ids=job.identities_and_folds.tensors[0],
        folds=job.folds,
        val_fraction=params.val_fraction,
        device=torch.device(params.device),
        on_epoch=check_owner,
    )
