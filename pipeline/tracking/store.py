"""Connection to the tracking store: MLflow's default store, set up once before processes use it concurrently.

MLflow's sqlite store has no write-ahead logging by default, and two processes on a new file race in its schema
migration. Here the schema is created under a lock (see `schema`) and write-ahead logging enabled once.
"""

import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.fluent import _get_experiment_id  # MLflow's rule for the active experiment
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import Response
from sqlalchemy.exc import SQLAlchemyError

from pipeline.disk_space import REMEDY as FREE_SOME_SPACE
from pipeline.disk_space import disk_full_message
from pipeline.errors import UserInputError, invalid
from pipeline.redaction import first_line
from pipeline.tracking.database import OPTUNA_TABLE, exclusive_setup, prepare_sqlite, sqlite_path
from pipeline.tracking.schema import write_schema

Client = MlflowClient

SERVER_LIMIT_SECONDS = 8
KNOWN_SERVER_LIMIT_SECONDS = 3  # for a store that already has runs of this process: uploads can wait
SEARCHED_RUNS = 1000
# with the defaults (seven retries), a dead server looks like a hang for minutes
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # the uploader has its own pauses
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
TLS_REMEDY = (
    "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the server's CA certificate, and MLFLOW_TRACKING_CLIENT_CERT_PATH to "
    "your client certificate if the server requires one."
)
LOGIN_REMEDY = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account with access."

# caches of this process about stores that it has reached
_stores_with_runs: set[str] = set()  # tracking URIs
_experiment_ids: dict[tuple[str, str], str] = {}  # (tracking URI, name in the environment) -> id


def open_store() -> MlflowClient:
    """Return a client of the active tracking store, with its schema in place.

    If the store holds runs of this process, it may be unreachable: data logged to it is uploaded later.

    Raises:
        UserInputError: The store is not usable or its server does not respond.
    """
    try:
        return reach_store()
    except UserInputError:
        if not holds_runs_of_this_process():
            raise
        return MlflowClient(mlflow.get_tracking_uri())


def reach_store() -> MlflowClient:
    """Return a client of the active tracking store that has just responded; raise UserInputError if it does not."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # hides errors of inserts that MLflow handles
    uri = move_credentials_to_environment(mlflow.get_tracking_uri())
    try:
        if path := sqlite_path(uri):
            prepare_sqlite(path, lambda: _create_tables(path, uri))
        elif uri.startswith(("http://", "https://")):
            ping_server(uri, KNOWN_SERVER_LIMIT_SECONDS if holds_runs_of_this_process() else SERVER_LIMIT_SECONDS)
        with exclusive_setup(uri, forbidden_table=OPTUNA_TABLE):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, CommandError, ImportError, ValueError, OSError, sqlite3.Error) as error:
        raise unusable_store(error) from error
    return client


def _create_tables(path: Path, uri: str) -> None:
    write_schema(path)
    MlflowClient(uri).search_experiments(max_results=1)  # creates the default experiment


def move_credentials_to_environment(uri: str) -> str:
    """Return a server's URI without user and password, which are passed in MLflow's environment variables instead.

    Otherwise, they would appear in error messages, links and notes.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    user_info, _, host = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    clean = parts._replace(netloc=host).geturl()
    mlflow.set_tracking_uri(clean)
    return clean


def unusable_store(error: Exception) -> UserInputError:
    """Convert an error of the active tracking store to a message for the user, with a remedy."""
    if isinstance(error, UserInputError):
        return error
    reason = first_line(error)
    uri = mlflow.get_tracking_uri()
    if path := sqlite_path(uri):
        remedy = _sqlite_remedy(path.absolute(), error)
    elif re.search(r"error code 40[13]\b", reason):
        remedy = LOGIN_REMEDY
    elif uri.startswith("https://") and "SSL" in str(error):
        remedy = TLS_REMEDY
    else:
        remedy = "Unset it to use sqlite:///mlflow.db, or start the server."
    return invalid("MLFLOW_TRACKING_URI", uri, f"cannot be used as a tracking store: {reason}.", remedy=remedy)


def _sqlite_remedy(path: Path, error: Exception) -> str:
    """Return how to repair a sqlite store, as commands if possible."""
    text, quoted = str(error).lower(), shlex.quote(str(path))
    if disk_full_message(error):
        return FREE_SOME_SPACE
    if any(phrase in text for phrase in ("unable to open", "readonly", "permission denied", "read-only")):
        return "Make its folder writable, or set MLFLOW_TRACKING_URI to another file."
    if "locked" in text or isinstance(error, TimeoutError):
        return "It is locked by another process: stop that process and try again."
    backup = shlex.quote(str(path.parent / "broken-store"))
    return (
        "Restore it from a backup; or move it away, and the next command creates an empty one: "
        f"mkdir -p {backup} && mv {quoted}* {backup}"
    )


def note_run_of_this_process() -> None:
    """Remember that the active store holds a run of this process: from now on, uploads may wait for it."""
    _stores_with_runs.add(mlflow.get_tracking_uri())


def holds_runs_of_this_process() -> bool:
    """Return whether the active store holds a run created by this process."""
    return mlflow.get_tracking_uri() in _stores_with_runs


def active_experiment_id() -> str:
    """Return the experiment that MLflow would log to: set in code, in the environment, or Default."""
    key = (mlflow.get_tracking_uri(), os.environ.get("MLFLOW_EXPERIMENT_NAME", ""))
    try:
        experiment_id = _get_experiment_id()
    except MlflowException:
        if key not in _experiment_ids:
            raise
        return _experiment_ids[key]  # the store is unreachable at the moment
    assert experiment_id is not None
    _experiment_ids[key] = experiment_id
    return experiment_id


def search_newest_runs(client: MlflowClient, condition: str, *, limit: int = SEARCHED_RUNS) -> list[Run]:
    """Return up to `limit` runs of the active experiment that match a filter string, the latest ended first."""
    order = ["attributes.end_time DESC"]
    return list(client.search_runs([active_experiment_id()], condition, max_results=limit, order_by=order))


def search_running(client: MlflowClient, experiment_id: str, condition: str) -> list[Run]:
    """Return the RUNNING runs of an experiment that match a filter string."""
    condition = f"attributes.status = 'RUNNING' and {condition}"
    return list(client.search_runs([experiment_id], condition, max_results=SEARCHED_RUNS))


def set_run_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request."""
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()], synchronous=True)


def store_environment() -> dict[str, str]:
    """Return the environment variables that point another process to the same store and experiment."""
    return {
        **{name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_EXPERIMENT_ID": active_experiment_id(),
    }


def ping_server(uri: str, limit_seconds: float) -> Response:
    """Send one request to a tracking server with MLflow's certificates and credentials, and return any response.

    Raises:
        MlflowException: The server does not respond in time, or rejects the connection.
    """
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    options = {"timeout": limit_seconds, "max_retries": 0, "raise_on_status": False}
    response: Response = http_request(credentials, "/health", "GET", **options)  # type: ignore[no-untyped-call]
    return response
