"""Checks of the tracking store for `doctor`: reachable, writable, orphaned runs, pending uploads, clock."""

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from pipeline.checks import CheckResult, unwritable_reason
from pipeline.errors import UserInputError
from pipeline.redaction import first_line
from pipeline.state_dir import state_folder
from pipeline.tracking.database import sqlite_path
from pipeline.tracking.outbox.journal import JOURNAL, is_uploaded, read_part
from pipeline.tracking.recovery.orphans import orphaned_runs
from pipeline.tracking.store import SERVER_LIMIT_SECONDS, open_store, ping_server, search_running

STORE = "tracking store"
CLOCK_TOLERANCE_SECONDS = 60.0
TEST_TAG = "doctor"  # set on the experiment and deleted again
MAX_LISTED = 5


def store_folder() -> Path:
    """Return the folder of a sqlite store, or the working directory for other stores."""
    path = sqlite_path(mlflow.get_tracking_uri())
    return path.absolute().parent if path is not None else Path.cwd()


def examine_store() -> Iterator[CheckResult]:
    """Check the store, the active experiment, orphaned runs and pending uploads."""
    path = sqlite_path(mlflow.get_tracking_uri())
    if path is not None and not path.exists():
        yield check_new_sqlite(STORE, path, created="the first stage creates it", variable="MLFLOW_TRACKING_URI")
    else:
        yield from _check_store()
    yield from _check_journals()


def check_new_sqlite(what: str, path: Path, *, created: str, variable: str) -> CheckResult:
    """Check that a sqlite file that does not exist yet can be created; `variable` sets its location."""
    if reason := unwritable_reason(path.parent):
        fix = f"Make the folder writable, or set {variable} to another location."
        return CheckResult("FAIL", what, f"{path} cannot be created: {reason}", fix)
    return CheckResult("note", what, f"{path} does not exist yet; {created}")


def check_failed(what: str, error: UserInputError) -> CheckResult:
    """Convert an error to a failed check."""
    fault = error.faults[0]
    return CheckResult("FAIL", what, f"{fault.name}={fault.value} {fault.allowed}", fault.remedy)


def _check_store() -> Iterator[CheckResult]:
    try:
        client = open_store()
    except UserInputError as error:
        yield check_failed(STORE, error)
        return
    experiment = _active_experiment(client)
    if experiment is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID")
        text = f"{mlflow.get_tracking_uri()} is readable; experiment {name} does not exist yet"
        yield CheckResult("note", STORE, text, "The first stage creates it.")
        return
    yield from _check_writable(client, experiment)
    yield _check_runs(client, experiment.experiment_id)


def _active_experiment(client: MlflowClient) -> Experiment | None:
    """Return the experiment that a stage would log to, without creating it."""
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return client.get_experiment_by_name(name)
    try:
        return client.get_experiment(os.environ.get("MLFLOW_EXPERIMENT_ID") or "0")
    except MlflowException:
        return None


def _check_writable(client: MlflowClient, experiment: Experiment) -> Iterator[CheckResult]:
    """Set and delete a tag of the experiment, and check its artifact folder."""
    uri = mlflow.get_tracking_uri()
    if experiment.lifecycle_stage != "active":
        fix = "Restore it, or set MLFLOW_EXPERIMENT_NAME to another one."
        yield CheckResult("FAIL", STORE, f"experiment {experiment.name} is deleted", fix)
        return
    try:
        client.set_experiment_tag(experiment.experiment_id, TEST_TAG, uuid.uuid4().hex)
        client.delete_experiment_tag(experiment.experiment_id, TEST_TAG)
    except (MlflowException, sqlite3.Error, OSError) as error:
        fix = "Make it writable, or set MLFLOW_TRACKING_URI to another store."
        yield CheckResult("FAIL", STORE, f"{uri} is read-only: {first_line(error)}", fix)
        return
    yield CheckResult("ok", STORE, f"{uri} is writable, experiment {experiment.name}{_sqlite_details(uri)}")
    folder = str(experiment.artifact_location).removeprefix("file://")
    if "://" not in folder and ":/" not in folder and (reason := unwritable_reason(Path(folder))):
        yield CheckResult("FAIL", "artifacts", f"not writable: {reason}", "Make the folder writable.")


def _sqlite_details(uri: str) -> str:
    path = sqlite_path(uri)
    if path is None:
        return ""
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return f", schema {schema}, journal mode {mode}"


def _check_runs(client: MlflowClient, experiment_id: str) -> CheckResult:
    """Report RUNNING runs whose process is known to be gone."""
    if orphans := [run.info.run_id for run in orphaned_runs(client, experiment_id)]:
        text = f"{len(orphans)} RUNNING without a process: {', '.join(orphans[:MAX_LISTED])}"
        return CheckResult("note", "runs", text, "The next stage marks them KILLED.")
    running = search_running(client, experiment_id, "tags.process LIKE '% %'")
    return CheckResult("ok", "runs", f"{len(running)} RUNNING, none orphaned")


def _check_journals() -> Iterator[CheckResult]:
    """Check the state folder and report journals that are damaged or not uploaded."""
    root = state_folder()
    if reason := unwritable_reason(root):
        fix = "Set PIPELINE_STATE_DIR to another folder."
        yield CheckResult("FAIL", "state folder", f"not writable: {reason}", fix)
        return
    journals = sorted(root.glob(f"runs/*/{JOURNAL}"))
    pending = []
    for path in journals:
        try:
            damaged = read_part(path).damaged
        except OSError as error:
            damaged = [f"{path}: {error}"]
        if damaged:
            fix = "python -m pipeline sync uploads the rest; keep its checkpoints."
            yield CheckResult("FAIL", "journal", f"partly unreadable: {damaged[0]}", fix)
        elif not is_uploaded(path.parent):
            pending.append(path.parent.name)
    if pending:
        text = f"{len(pending)} of {len(journals)} in {root} not uploaded: {', '.join(pending[:MAX_LISTED])}"
        yield CheckResult("note", "journals", text, "python -m pipeline sync uploads them.")
    else:
        yield CheckResult("ok", "journals", f"{len(journals)} in {root}, all uploaded")


def examine_server_clock() -> Iterator[CheckResult]:
    """Compare this machine's clock with that of the tracking server, if there is one and it responds."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return
    try:
        response = ping_server(uri, SERVER_LIMIT_SECONDS)
        server_time = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (MlflowException, KeyError, ValueError, TypeError):
        return  # reported by examine_store
    ahead = time.time() - server_time
    if abs(ahead) > CLOCK_TOLERANCE_SECONDS:
        text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the tracking server's"
        yield CheckResult("note", "clock", text, "Synchronize both clocks (NTP); runs are sorted by time.")
    else:
        yield CheckResult("ok", "clock", "within a minute of the tracking server's")
