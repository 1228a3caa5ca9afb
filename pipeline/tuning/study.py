"""Studies: storage, sampler, pruner, creating or resuming a study, and trials whose worker died.

Optuna stores neither sampler nor pruner, and leaves a trial RUNNING when its process dies; this module does both.
"""

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import invalid
from pipeline.redaction import first_line, without_password
from pipeline.runtime import derive_seed, process_identity, process_lives
from pipeline.state_dir import state_folder
from pipeline.tracking.database import (
    CONNECT_SECONDS,
    MLFLOW_TABLE,
    exclusive_setup,
    is_postgresql,
    prepare_sqlite,
    sqlite_path,
)
from pipeline.tracking.recovery.orphans import close_runs_of_process

Study = optuna.Study

DEFAULT_STORAGE = "sqlite:///optuna.db"
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 40
UNMARKED_GRACE_SECONDS = 15  # a worker records its process within milliseconds; after this, it must have died
# PostgreSQL: detect a dead server within a minute instead of the two hours that most systems default to
KEEP_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
SEARCHER = {"optuna": optuna.__version__}  # samplers and pruners change between versions
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
FACTS_IN_NOTE = ("model", "dataset", "classes", "folds", "seed")
MAX_RETRIES = 2  # per parameter set; its worker may have died because of the parameters, such as out of memory
GIVE_UP_MESSAGE = (
    f"Its worker process died {MAX_RETRIES + 1} times with these parameters: no more retries. "
    "If memory ran out: lower workers, or the upper bounds of the space."
)
SAMPLERS: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "random": optuna.samplers.RandomSampler,
}
PRUNERS: dict[str, optuna.pruners.BasePruner] = {  # for unpromising trials
    "median": optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    "none": optuna.pruners.NopPruner(),
}
# names of user attributes of a trial
HOST, PROCESS, RUN_ID, RETRIED, REASON = "host", "process", "mlflow_run_id", "retried_from", "reason"
RETRIES = "retries"  # number of earlier trials with the same parameters whose worker died
FAILURE = "failure"  # unexpected exception


def storage_url() -> str:
    """Return the URL of the study storage: `$PIPELINE_STORAGE`, or a sqlite file in the working directory."""
    return os.environ.get("PIPELINE_STORAGE") or DEFAULT_STORAGE


def trial_lock_path() -> Path:
    """Return the lock file for starting a trial on this machine: next to a sqlite storage, else in the state folder."""
    path = sqlite_path(storage_url())
    return path.with_name(f"{path.name}.trials.lock") if path else state_folder() / "trials.lock"


def open_storage() -> optuna.storages.RDBStorage:
    """Open the study storage; creates its tables, and enables write-ahead logging on sqlite.

    Raises:
        UserInputError: The storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url = storage_url()
    try:
        if path := sqlite_path(url):
            prepare_sqlite(path, lambda: _connect(url))
        with exclusive_setup(url, forbidden_table=MLFLOW_TABLE):
            return _connect(url)
    except (SQLAlchemyError, ImportError, OSError, sqlite3.Error, ValueError, RuntimeError) as error:
        remedy = "Unset it to use sqlite:///optuna.db, or see docs/scaling.md."
        problem = f"cannot be used: {first_line(error)}."
        raise invalid("PIPELINE_STORAGE", without_password(url), problem, remedy=remedy) from None


def _connect(url: str) -> optuna.storages.RDBStorage:
    connect: dict[str, int] = {"timeout": 30} if url.startswith("sqlite") else {"connect_timeout": CONNECT_SECONDS}
    if is_postgresql(url):
        connect |= KEEP_ALIVE
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs={"connect_args": connect, "pool_pre_ping": True},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=retry_lost_trial,  # Optuna may fail a stale trial before we do
    )


def trial_sampler(name: str, study_seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for one trial; its seed depends only on the study and the trial number."""
    return SAMPLERS[name](seed=derive_seed(study_seed, "trial", number) % 2**32)


@dataclass(frozen=True)
class StudySpec:
    """Name and configuration of a study."""

    name: str
    sampler: str
    pruner: str
    facts: dict[str, str]  # everything that the value of a trial depends on: folds, classes, data digest, space, ...


def open_study(storage: optuna.storages.RDBStorage, spec: StudySpec) -> optuna.Study:
    """Create or resume a study.

    Raises:
        UserInputError: A study of this name exists with other settings.
    """
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=SAMPLERS[spec.sampler](seed=0),
        pruner=PRUNERS[spec.pruner],
    )
    stored = study.user_attrs
    changes = [f"{name} is {stored[name]}, not {value}" for name, value in spec.facts.items()
               if stored.get(name, value) != value]  # fmt: skip
    if changes:
        problem = f"already exists with other settings: {'; '.join(changes)}."
        raise invalid("study", spec.name, problem, remedy="Choose another name with study=NAME.")
    for name in spec.facts.keys() - stored.keys():
        study.set_user_attr(name, spec.facts[name])
    if not stored:
        study.set_metric_names(["mean fold accuracy"])
        save_study_note(study, spec)
    return study


def save_study_note(study: optuna.Study, spec: StudySpec) -> None:
    """Save a note about the study for the dashboard."""
    from optuna_dashboard import save_note  # imports scikit-learn

    facts = {name: spec.facts[name] for name in FACTS_IN_NOTE if name in spec.facts}
    facts |= {"sampler": spec.sampler, "pruner": spec.pruner}
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    values = (
        "A trial's value is its mean accuracy on the held-out images of all folds, its intermediate value at step k "
        f"the mean over the first k folds. Attribute `{RUN_ID}` is its MLflow run, `{HOST}` the machine it ran on."
    )
    save_note(study, f"## {spec.name}\n\n{lines}\n\n{values}")


def finished_count(study: optuna.Study) -> int:
    """Return the number of complete or pruned trials."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def started_count(study: optuna.Study) -> int:
    """Return the number of finished or running trials."""
    return len(study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING)))


def failures(study: optuna.Study) -> list[str]:
    """Return the exceptions of failed trials; trials whose worker died have none."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return [str(trial.user_attrs[FAILURE]) for trial in failed if FAILURE in trial.user_attrs]


def record_worker(trial: optuna.Trial) -> None:
    """Record this process as the trial's worker; must be the first step of a trial."""
    for name, value in ({RUN_ID: ""} | process_identity()).items():
        trial.set_user_attr(name, value)


def fail_stale_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Fail running trials whose worker died, enqueue a retry (at most `MAX_RETRIES` times), and return the trials."""
    stale = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not has_lost_worker(study, trial):
            continue
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, RuntimeError, ValueError):
            if not may_retry(trial):
                study._storage.set_trial_user_attr(trial._trial_id, REASON, GIVE_UP_MESSAGE)
            study.tell(trial.number, state=TrialState.FAIL)
            retry_lost_trial(study, trial)
            stale.append(trial)
    return stale


def has_lost_worker(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Return whether the worker of a running trial died, from the process on this machine, else from its heartbeat."""
    host, process = trial.user_attrs.get(HOST), trial.user_attrs.get(PROCESS)
    if host is None or process is None:
        age = datetime.now() - (trial.datetime_start or datetime.min)
        return age > timedelta(seconds=UNMARKED_GRACE_SECONDS)
    if (alive := process_lives(str(process), str(host))) is not None:
        return not alive
    return trial._trial_id in study._storage._get_stale_trial_ids(study._study_id)  # type: ignore[attr-defined]


def may_retry(trial: FrozenTrial) -> bool:
    """Return whether a trial whose worker died has retries left."""
    return int(trial.user_attrs.get(RETRIES, 0)) < MAX_RETRIES


def retry_message(trial: FrozenTrial) -> str:
    """Return the message for a trial whose worker died, for logs and the run's note."""
    return "Its worker process died; its parameters are enqueued again." if may_retry(trial) else GIVE_UP_MESSAGE


def retry_lost_trial(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue a retry of a failed trial if any are left, and close the MLflow runs of its worker."""
    if may_retry(trial):
        enqueue_retry(study, trial, worker_died=True)
    host, process = trial.user_attrs.get(HOST), trial.user_attrs.get(PROCESS)
    if host is not None and process is not None:
        run_id = str(trial.user_attrs.get(RUN_ID, ""))
        close_runs_of_process(str(host), str(process), run_id=run_id, reason=retry_message(trial))


def enqueue_retry(study: optuna.Study, trial: FrozenTrial | optuna.Trial, *, worker_died: bool = False) -> None:
    """Enqueue a trial's parameters again; only retries after a dead worker are counted."""
    if trial.params:
        retries = int(trial.user_attrs.get(RETRIES, 0)) + worker_died
        study.enqueue_trial(trial.params, user_attrs={RETRIED: trial.number, RETRIES: retries})
