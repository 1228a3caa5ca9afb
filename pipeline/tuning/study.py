"""Studies: storage, and creating or resuming a study."""

import os
import sqlite3
import warnings
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import invalid
from pipeline.redaction import first_line, without_password
from pipeline.tracking.claims import Claims, open_claims
from pipeline.tracking.database import (
    CONNECT_SECONDS,
    MLFLOW_TABLE,
    exclusive_setup,
    is_postgresql,
    prepare_sqlite,
    sqlite_path,
)
from pipeline.tuning.schedule import FAILURE, FINISHED, GENERATION, fold_metrics

Study = optuna.Study

DEFAULT_STORAGE = "sqlite:///optuna.db"
# PostgreSQL: detect a dead server within a minute instead of the two hours that most systems default to
KEEP_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
SEARCHER = {"optuna": optuna.__version__}  # samplers change between versions
FACTS_IN_NOTE = ("model", "dataset", "classes", "folds", "seed", "sampler", "pruner")
RUN_ID, REASON = "mlflow_run_id", "reason"  # user attributes of a trial; the reason why it ended early


def storage_url() -> str:
    """Return the URL of the study storage: `$PIPELINE_STORAGE`, or a sqlite file in the working directory."""
    return os.environ.get("PIPELINE_STORAGE") or DEFAULT_STORAGE


def open_study_claims() -> Claims:
    """Return the claims of the tasks of studies: in a file next to a sqlite storage, else in its database.

    Raises:
        UserInputError: The database cannot be used.
    """
    path = sqlite_path(storage_url())
    return open_claims(f"sqlite:///{path.absolute()}.claims" if path else storage_url())


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
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": connect, "pool_pre_ping": True})


@dataclass(frozen=True)
class StudySpec:
    """Name and configuration of a study."""

    name: str
    facts: dict[str, str]  # everything that the value of a trial depends on: folds, classes, data digest, space, ...


def open_study(storage: optuna.storages.RDBStorage, spec: StudySpec) -> optuna.Study:
    """Create or resume a study.

    Raises:
        UserInputError: A study of this name exists with other settings, or with trials that belong to no generation.
    """
    study = optuna.create_study(study_name=spec.name, storage=storage, direction="maximize", load_if_exists=True)
    stored = study.user_attrs
    changes = [f"{name} is {stored[name]}, not {value}" for name, value in spec.facts.items()
               if stored.get(name, value) != value]  # fmt: skip
    if changes:
        problem = f"already exists with other settings: {'; '.join(changes)}."
        raise invalid("study", spec.name, problem, remedy="Choose another name with study=NAME.")
    if any(GENERATION not in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        problem = "has trials of an earlier release, or of another program."
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
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    values = (
        "A trial's value is its mean accuracy on the held-out images of all folds, its intermediate value at step k "
        f"the mean over the first k folds. Attribute `{RUN_ID}` is its MLflow run, which is logged when the trial ends."
    )
    save_note(study, f"## {spec.name}\n\n{lines}\n\n{values}")


def finished_count(study: optuna.Study) -> int:
    """Return the number of complete or pruned trials."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def has_complete_trial(study: optuna.Study) -> bool:
    """Return whether any trial has run all folds."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def scored_folds(study: optuna.Study) -> int:
    """Return the number of folds that have been scored, over all trials."""
    return sum(len(fold_metrics(trial)) for trial in study.get_trials(deepcopy=False))


def failures(study: optuna.Study) -> list[str]:
    """Return the exceptions of failed trials; trials whose workers died have none."""
    trials = study.get_trials(deepcopy=False)
    return [str(trial.user_attrs[FAILURE]) for trial in trials if FAILURE in trial.user_attrs]
