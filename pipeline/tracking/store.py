"""Where runs are remembered: MLflow's own default store, made ready before anything runs side by side.

MLflow's sqlite store comes without write-ahead logging, and two processes that meet a fresh one race in its
schema migration. Here the schema is made under a lock and the log switched on once; after that a look suffices.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import mlflow
import requests
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _get_experiment_id  # MLflow's own rule for the active experiment
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import Fault, UserInputError
from pipeline.tracking.database import OPTUNA_TABLE, prepare_sqlite, set_up_alone, without_password

Client = MlflowClient

SERVER_LIMIT_SECONDS = 8


def open_store() -> MlflowClient:
    """Return a client of the active tracking store, with its schema in place.

    Raises:
        UserInputError: The store cannot be used or its server does not answer.
    """
    # the client's own patience (seven tries, minutes) would make a dead server look like a hang
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # MLflow inserts what is there already, and then looks
    uri = mlflow.get_tracking_uri()
    try:
        if path := sqlite_path(uri):
            prepare_sqlite(path, lambda: MlflowClient(uri).search_experiments(max_results=1))
        elif uri.startswith(("http://", "https://")):
            _check_server(uri)
        with set_up_alone(uri, not_beside=OPTUNA_TABLE):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, CommandError, ImportError, ValueError, OSError, sqlite3.Error) as error:
        why = without_password(str(error).strip().splitlines()[0])
        raise UserInputError(
            Fault(
                "MLFLOW_TRACKING_URI",
                without_password(uri),
                f"cannot be used as a tracking store: {why}",
                "Unset it for sqlite:///mlflow.db, or start the server.",
            )
        ) from error
    return client


def active_experiment_id() -> str:
    """Return the experiment that MLflow itself would log to: set in code, by environment, else Default."""
    experiment_id = _get_experiment_id()
    assert experiment_id is not None
    return experiment_id


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a sqlite URI, None for another kind."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _check_server(uri: str) -> None:
    """Raise OSError where a tracking server does not answer in time; any HTTP answer will do."""
    verify = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("true", "1")
    requests.get(uri.rstrip("/") + "/health", timeout=SERVER_LIMIT_SECONDS, verify=verify)
