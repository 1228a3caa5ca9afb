"""Where runs are remembered: MLflow's own default store, made ready before anything runs side by side.

MLflow's sqlite store comes without write-ahead logging, and two processes that meet a fresh one race in its
schema migration. Here the schema is made under a lock (`schema.py` says how) and the log switched on once; after
that a look suffices.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import mlflow
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _get_experiment_id  # MLflow's own rule for the active experiment
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import Response
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.disk_space import REMEDY as FREE_SOME
from pipeline.disk_space import disk_full_message
from pipeline.errors import Fault, UserInputError
from pipeline.redaction import without_password
from pipeline.tracking.database import OPTUNA_TABLE, exclusive_setup, prepare_sqlite
from pipeline.tracking.schema import write_schema

Client = MlflowClient

SERVER_LIMIT_SECONDS = 8
KNOWN_SERVER_LIMIT_SECONDS = 3  # of one that is not needed now, since it can be waited for
TLS = (
    "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of the server's authority, and "
    "MLFLOW_TRACKING_CLIENT_CERT_PATH to your own where the server wants one."
)
LOG_IN = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that may use it."


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
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # MLflow inserts what is there already, and then looks
    uri = take_credentials(mlflow.get_tracking_uri())
    try:
        if path := sqlite_path(uri):
            prepare_sqlite(path, lambda: _make_tables(path, uri))
        elif uri.startswith(("http://", "https://")):
            ask_server(uri, KNOWN_SERVER_LIMIT_SECONDS if holds_runs_of_this_process() else SERVER_LIMIT_SECONDS)
        with exclusive_setup(uri, not_beside=OPTUNA_TABLE):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, CommandError, ImportError, ValueError, OSError, sqlite3.Error) as error:
        raise unusable_store(error) from error
    return client


def _make_tables(path: Path, uri: str) -> None:
    write_schema(path)
    MlflowClient(uri).search_experiments(max_results=1)  # makes the default experiment


def take_credentials(uri: str) -> str:
    """Return a server's address without user and password, which from here on travel by MLflow's own variables.

    Else they would stand in every error message, link and note that names the server.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    mlflow.set_tracking_uri(clean)
    return clean


def unusable_store(error: Exception) -> UserInputError:
    """Return the refusal of the active tracking store, which an error of it makes unusable."""
    if isinstance(error, UserInputError):
        return error
    why = first_line(error)
    uri = mlflow.get_tracking_uri()
    if path := sqlite_path(uri):
        remedy = _sqlite_remedy(path.absolute(), error)
    elif re.search(r"error code 40[13]\b", why):
        remedy = LOG_IN
    elif uri.startswith("https://") and "SSL" in str(error):
        remedy = TLS
    else:
        remedy = "Unset it for sqlite:///mlflow.db, or start the server."
    return UserInputError(Fault("MLFLOW_TRACKING_URI", uri, f"cannot be used as a tracking store: {why}", remedy))


def _sqlite_remedy(path: Path, error: Exception) -> str:
    """Return what makes a store in a sqlite file usable again, as commands where there are some."""
    words, quoted = str(error).lower(), shlex.quote(str(path))
    if disk_full_message(error):
        return FREE_SOME
    if any(word in words for word in ("unable to open", "readonly", "permission denied", "read-only")):
        return "Make its folder writable for you, or have MLFLOW_TRACKING_URI name another file."
    if "locked" in words or isinstance(error, TimeoutError):
        return "Another process has held it for long: end that one, and try again."
    capture_output = shlex.quote(str(path.parent / "broken-store"))
    return (
        "Put a copy of yours in its place; or move it aside, and the next command makes an empty one: "
        f"mkdir -p {capture_output} && mv {quoted}* {capture_output}"
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


def store_environment() -> dict[str, str]:
    """Return the environment variables by which another process finds the store and experiment of this one."""
    found = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    return {
        **found,
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_EXPERIMENT_ID": active_experiment_id(),
    }


def sqlite_path(uri: str) -> Path | None:
    """Return the file behind a sqlite URI, in which MLflow writes a space as %20; None for another kind."""
    return Path(make_url(uri).database or "") if uri.startswith("sqlite:///") else None


def ask_server(uri: str, limit_seconds: float) -> Response:
    """Return whatever a tracking server answers, asked once as MLflow asks: with its certificates and credentials.

    Raises:
        MlflowException: It does not answer in time, or not to us.
    """
    creds = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    answer: Response = http_request(  # type: ignore[no-untyped-call]
        creds, "/health", "GET", timeout=limit_seconds, max_retries=0, raise_on_status=False
    )
    return answer


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line and without passwords."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0])
