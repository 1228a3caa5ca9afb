"""Where runs are remembered: MLflow's own default store, made ready before anything runs side by side.

MLflow's sqlite store comes without write-ahead logging, and two processes that meet a fresh one race in its
schema migration. Here the schema is made under a lock and the log switched on once; after that a look suffices.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import ClassVar

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _get_experiment_id  # MLflow's own rule for the active experiment

from pipeline.errors import Fault, UserInputError

Client = MlflowClient

SERVER_LIMIT_SECONDS = 8
KNOWN_SERVER_LIMIT_SECONDS = 3  # of one that is not needed now, since it can be waited for


class _Known:
    """What this process has learnt of stores that have answered it."""

    holding_runs: ClassVar[set[str]] = set()  # tracking URIs
    experiments: ClassVar[dict[tuple[str, str], str]] = {}  # (tracking URI, name in the environment) -> id


def open_store() -> MlflowClient:
    """Return a client of the active tracking store, with its schema in place.

    A store that holds runs of this process may be down by now: what is logged to it waits until it is back.

    Raises:
        UserInputError: The store cannot be used or its server does not answer.
    """
    try:
        return reach_store()
    except UserInputError:
        if not holds_runs_of_this_process():
            raise
        return MlflowClient(mlflow.get_tracking_uri())


def reach_store() -> MlflowClient:
    """Return a client of the active tracking store, which has answered just now.

    Raises:
        UserInputError: The store cannot be used or its server does not answer.
    """
    # the client's own patience (seven tries, minutes) would make a dead server look like a hang
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")  # delivery has pauses of its own
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = mlflow.get_tracking_uri()
    try:
        if uri.startswith("sqlite:"):
            _prepare_sqlite(uri)
        elif uri.startswith(("http://", "https://")):
            _check_server(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError, sqlite3.Error) as error:
        raise unusable_store(error) from error
    return client


def unusable_store(error: Exception) -> UserInputError:
    """Return the refusal of the active tracking store, which an error of it makes unusable."""
    if isinstance(error, UserInputError):
        return error
    return UserInputError(
        Fault(
            "MLFLOW_TRACKING_URI",
            shown_uri(mlflow.get_tracking_uri()),
            f"cannot be used as a tracking store: {first_line(error)}",
            "Unset it for sqlite:///mlflow.db, or start the server.",
        )
    )


def note_run_of_this_process() -> None:
    """Remember that the active store holds a run that this process has made: from now on it can be waited for."""
    _Known.holding_runs.add(mlflow.get_tracking_uri())


def holds_runs_of_this_process() -> bool:
    """Whether the active store holds a run that this process has made."""
    return mlflow.get_tracking_uri() in _Known.holding_runs


def active_experiment_id() -> str:
    """Return the experiment that MLflow itself would log to: set in code, by environment, else Default."""
    asked = (mlflow.get_tracking_uri(), os.environ.get("MLFLOW_EXPERIMENT_NAME", ""))
    try:
        experiment_id = _get_experiment_id()
    except MlflowException:
        if asked not in _Known.experiments:
            raise
        return _Known.experiments[asked]  # the store does not answer now
    assert experiment_id is not None
    _Known.experiments[asked] = experiment_id
    return experiment_id


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a sqlite URI, None for another kind."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _prepare_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None or _has_wal(path):
        return
    with FileLock(path.with_name(path.name + ".lock"), timeout=60):
        if not _has_wal(path):
            MlflowClient(uri).search_experiments(max_results=1)  # makes the schema
            with sqlite3.connect(path, timeout=20) as connection:
                connection.execute("PRAGMA journal_mode=WAL")


def _has_wal(path: Path) -> bool:
    if not path.is_file():
        return False
    with sqlite3.connect(path, timeout=20) as connection:
        return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def _check_server(uri: str) -> None:
    """Raise OSError where a tracking server does not answer in time; any HTTP answer will do."""
    verify = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("true", "1")
    limit = KNOWN_SERVER_LIMIT_SECONDS if holds_runs_of_this_process() else SERVER_LIMIT_SECONDS
    requests.get(uri.rstrip("/") + "/health", timeout=limit, verify=verify)


def shown_uri(text: str) -> str:
    """Return a URI, or a text with some, without user and password."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line and without passwords."""
    return shown_uri((str(error).strip() or type(error).__name__).splitlines()[0])
