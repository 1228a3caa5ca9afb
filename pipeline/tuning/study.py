"""Studies: storage, sampler, pruner, opening one again, and clearing up after workers that died.

Optuna keeps neither sampler nor pruner, and a trial whose process is gone stays RUNNING: both are dealt with here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import Fault, UserInputError
from pipeline.redaction import without_password
from pipeline.runtime import derive_seed, process_identity, process_lives
from pipeline.tracking.database import (
    CONNECT_SECONDS,
    MLFLOW_TABLE,
    exclusive_setup,
    is_postgresql,
    prepare_sqlite,
)
from pipeline.tracking.recovery.orphans import close_runs_of_process

Study = optuna.Study

DEFAULT_STORAGE = "sqlite:///optuna.db"
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 40
UNMARKED_GRACE_SECONDS = 15  # a trial notes its process within milliseconds; one that has not by then never will
# a server that is gone is noticed within a minute, not after the two hours of most systems
KEEP_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
SEARCHER = {"optuna": optuna.__version__}  # its samplers and pruners change with it
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
NOTED = ("model", "dataset", "classes", "folds", "seed")
LOST = "Its process ended before the trial did; its parameters are queued again."
MAX_RETRIES = 2  # of a setting whose process is lost: memory may have run out by chance, or because of the setting
GIVEN_UP = (
    f"Its process ended before the trial did, {MAX_RETRIES + 1} times with these parameters: they are not tried again. "
    "Memory may have run out: lower workers, or the upper bounds of the space."
)
HOST, PROCESS, RUN_ID, RETRIED, REASON = "host", "process", "mlflow_run_id", "retried_from", "reason"
RETRIES = "retries"  # how often a trial's parameters have lost their process before
FAILURE = "failure"  # of a trial that raised what no trial should


def storage_url() -> str:
    """Return where studies are kept: `$PIPELINE_STORAGE`, else a file beside MLflow's."""
    return os.environ.get("PIPELINE_STORAGE") or DEFAULT_STORAGE


def open_storage() -> optuna.storages.RDBStorage:
    """Return the storage, its tables created, write-ahead logging on where it is sqlite.

    Raises:
        UserInputError: It cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url = storage_url()
    try:
        if url.startswith("sqlite:///"):
            prepare_sqlite(Path(url.removeprefix("sqlite:///")), lambda: _connect(url))
        with exclusive_setup(url, forbidden_table=MLFLOW_TABLE):
            return _connect(url)
    except (SQLAlchemyError, ImportError, OSError, sqlite3.Error, ValueError, RuntimeError) as error:
        why = without_password(str(error).strip().splitlines()[0].rstrip("."))
        remedy = "Unset it for sqlite:///optuna.db, or see docs/scaling.md."
        raise UserInputError(
            Fault("PIPELINE_STORAGE", without_password(url), f"cannot be used: {why}.", remedy)
        ) from None


def _connect(url: str) -> optuna.storages.RDBStorage:
    connect: dict[str, int] = {"timeout": 30} if url.startswith("sqlite") else {"connect_timeout": CONNECT_SECONDS}
    if is_postgresql(url):
        connect |= KEEP_ALIVE
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": connect, "pool_pre_ping": True},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=give_up,  # a worker that begins a trial fails stale ones before we look
    )


def build_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Return a fresh sampler."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def trial_sampler(name: str, study_seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial, seeded so that it does not matter which process runs it, or after what."""
    return build_sampler(name, derive_seed(study_seed, "trial", number) % 2**32)


def build_pruner(name: str) -> optuna.pruners.BasePruner:
    """Return the pruner: the median of running means at the same fold, or none."""
    if name == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)


@dataclass(frozen=True)
class StudySpec:
    """What a study is about; a study that exists with another one is refused."""

    name: str
    sampler: str
    pruner: str
    facts: dict[str, str]  # folds, classes, data digest, space, ...: by name


def open_study(storage: optuna.storages.RDBStorage, spec: StudySpec) -> optuna.Study:
    """Return the study, created or resumed.

    Raises:
        UserInputError: It exists and is about something else; says what differs.
    """
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=build_sampler(spec.sampler, 0),
        pruner=build_pruner(spec.pruner),
    )
    known = study.user_attrs
    differing = [
        f"{name} is {known[name]}, not {value}" for name, value in spec.facts.items() if known.get(name, value) != value
    ]
    if differing:
        raise UserInputError(
            Fault("study", spec.name, f"exists and differs: {'; '.join(differing)}.", "Name a new one with study=NAME.")
        )
    for name, value in spec.facts.items():
        if name not in known:
            study.set_user_attr(name, value)
    if not known:
        study.set_metric_names(["mean fold accuracy"])
        describe(study, spec)
    return study


def describe(study: optuna.Study, spec: StudySpec) -> None:
    """Write what the study is about where the dashboard shows it."""
    from optuna_dashboard import save_note  # brings scikit-learn along, so only here

    about = [f"- {name}: {spec.facts[name]}" for name in NOTED if name in spec.facts]
    values = (
        "A trial's value is its mean accuracy over the folds' held-out parts; its intermediate value at step k is the "
        f"mean over the first k folds. Its attribute `{RUN_ID}` names its run in MLflow, and `{HOST}` where it ran."
    )
    lines = [*about, f"- sampler: {spec.sampler}", f"- pruner: {spec.pruner}", "", values]
    save_note(study, "\n".join([f"## {spec.name}", "", *lines]))


def finished_count(study: optuna.Study) -> int:
    """Return how many trials are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def pending_count(study: optuna.Study) -> int:
    """Return how many trials are finished or under way."""
    return len(study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)))


def failures(study: optuna.Study) -> list[str]:
    """Return why trials failed that raised an error, rather than lost their process."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return [str(trial.user_attrs[FAILURE]) for trial in failed if FAILURE in trial.user_attrs]


def mark(trial: optuna.Trial) -> None:
    """Note in a trial which process runs it; its first act."""
    trial.set_user_attr(RUN_ID, "")
    for name, value in process_identity().items():
        trial.set_user_attr(name, value)


def reap(study: optuna.Study) -> list[FrozenTrial]:
    """Fail running trials whose process is gone, queue their parameters again (`MAX_RETRIES` times), and return them.

    Processes that can be seen from here are looked at directly; others are judged by their heartbeat.
    """
    dead = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if is_dead(study, trial)]
    reaped = []
    for trial in dead:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, RuntimeError, ValueError):
            if not may_retry(trial):
                study._storage.set_trial_user_attr(trial._trial_id, REASON, GIVEN_UP)
            study.tell(trial.number, state=TrialState.FAIL)
            give_up(study, trial)
            reaped.append(trial)
    return reaped


def may_retry(trial: FrozenTrial) -> bool:
    """Whether a trial whose process is gone has retries left."""
    return int(trial.user_attrs.get(RETRIES, 0)) < MAX_RETRIES


def loss_note(trial: FrozenTrial) -> str:
    """Return what becomes of a trial whose process is gone, in words."""
    return LOST if may_retry(trial) else GIVEN_UP


def give_up(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a failed trial's parameters again where retries are left, and close the MLflow runs of its lost process."""
    if may_retry(trial):
        requeue(study, trial, lost=True)
    host, process = trial.user_attrs.get(HOST), trial.user_attrs.get(PROCESS)
    if host is not None and process is not None:
        run_id = str(trial.user_attrs.get(RUN_ID, ""))
        close_runs_of_process(str(host), str(process), run_id=run_id, reason=loss_note(trial))


def requeue(study: optuna.Study, trial: FrozenTrial | optuna.Trial, *, lost: bool = False) -> None:
    """Have a trial's parameters tried again, counting lost processes; without any, a new trial will suggest its own."""
    if trial.params:
        retries = int(trial.user_attrs.get(RETRIES, 0)) + lost
        study.enqueue_trial(trial.params, user_attrs={RETRIED: trial.number, RETRIES: retries})


def is_dead(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a running trial's process is gone."""
    host, process = trial.user_attrs.get(HOST), trial.user_attrs.get(PROCESS)
    if host is None or process is None:
        age = datetime.now() - (trial.datetime_start or datetime.min)
        return age > timedelta(seconds=UNMARKED_GRACE_SECONDS)
    if (lives := process_lives(str(process), str(host))) is not None:
        return not lives
    return trial._trial_id in study._storage._get_stale_trial_ids(study._study_id)  # type: ignore[attr-defined]
