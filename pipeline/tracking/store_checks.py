"""Whether the tracking store would take a run: reached, written to and put back as it was, and what is left in it."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from pipeline.checks import CheckResult, unwritable_reason
from pipeline.errors import UserInputError
from pipeline.tracking.outbox.journal import is_uploaded, read_part
from pipeline.tracking.outbox.local_state import state_folder
from pipeline.tracking.recovery.orphans import lost_runs
from pipeline.tracking.store import SERVER_LIMIT_SECONDS, ask_server, open_store, sqlite_path
from pipeline.tracking.unstarted import unstarted_runs

WHAT = "tracking store"
CLOCK_LIMIT_SECONDS = 60.0
TAG = "doctor"  # of the experiment; set, read back and taken away again


def store_folder() -> Path:
    """Return the folder of the store's file, or the working directory where it is no file."""
    path = sqlite_path(mlflow.get_tracking_uri())
    return path.absolute().parent if path is not None else Path.cwd()


def examine_store() -> Iterator[CheckResult]:
    """Look at the store, the experiment, the runs left open in it and what has not arrived."""
    path = sqlite_path(mlflow.get_tracking_uri())
    if path is not None and not path.exists():
        why = unwritable_reason(path.parent)
        fix = "Make the folder writable, or have MLFLOW_TRACKING_URI name another place."
        made = f"{path} is not there yet; the first stage makes it"
        yield (
            CheckResult("FAIL", WHAT, f"{path} cannot be made: {why}", fix) if why else CheckResult("note", WHAT, made)
        )
        yield from _examine_state(None)
        return
    try:
        client = open_store()
    except UserInputError as error:
        fault = error.faults[0]
        yield CheckResult("FAIL", WHAT, f"{fault.name}={fault.value} {fault.allowed}", fault.remedy)
        yield from _examine_state(None)
        return
    yield from _examine_write(client)
    yield from _examine_runs(client)
    yield from _examine_state(client)


def _examine_write(client: MlflowClient) -> Iterator[CheckResult]:
    """Write to the active experiment, take it back, and see whether its artifacts can be kept."""
    uri = mlflow.get_tracking_uri()
    experiment = _experiment(client)
    if experiment is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID")
        yield CheckResult(
            "note", WHAT, f"{uri} can be read; experiment {name} is not there yet", "The first stage makes it."
        )
        return
    if experiment.lifecycle_stage != "active":
        fix = "Restore it, or name another with MLFLOW_EXPERIMENT_NAME."
        yield CheckResult("FAIL", WHAT, f"experiment {experiment.name} is deleted", fix)
        return
    token = uuid.uuid4().hex
    try:
        client.set_experiment_tag(experiment.experiment_id, TAG, token)
        client.delete_experiment_tag(experiment.experiment_id, TAG)
    except (MlflowException, sqlite3.Error, OSError) as error:
        why = str(error).splitlines()[0]
        fix = "Make it writable for you, or have MLFLOW_TRACKING_URI name another store."
        yield CheckResult("FAIL", WHAT, f"{uri} can be read and not written: {why}", fix)
        return
    yield CheckResult("ok", WHAT, f"{uri}: written and put back, experiment {experiment.name}{_sqlite_facts(uri)}")
    folder = str(experiment.artifact_location).removeprefix("file://")
    if "://" not in folder and ":/" not in folder and (why := unwritable_reason(Path(folder))):
        yield CheckResult("FAIL", "artifacts", f"cannot be written to {why}", "Make the folder writable.")


def _experiment(client: MlflowClient) -> Experiment | None:
    """Return the experiment that a stage would log to; unlike a stage, make none."""
    name, number = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    if name:
        return client.get_experiment_by_name(name)
    try:
        return client.get_experiment(number or "0")
    except MlflowException:
        return None


def _sqlite_facts(uri: str) -> str:
    path = sqlite_path(uri)
    if path is None:
        return ""
    with sqlite3.connect(path, timeout=5) as connection:
        schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return f", schema {schema}, journal mode {mode}"


def _examine_runs(client: MlflowClient) -> Iterator[CheckResult]:
    """Name runs that are RUNNING though their process is known to be gone."""
    experiment = _experiment(client)
    if experiment is None:
        return
    wanted = "attributes.status = 'RUNNING' and tags.process LIKE '% %'"
    running = client.search_runs([experiment.experiment_id], wanted, max_results=1000)
    stale = [run.info.run_id for run in lost_runs(client, experiment.experiment_id)]
    stale += [run.info.run_id for run in unstarted_runs(client, experiment.experiment_id)]
    if stale:
        text = f"{len(stale)} RUNNING though the process is gone: {', '.join(stale[:5])}"
        yield CheckResult("note", "runs", text, "The next stage ends them as KILLED.")
    else:
        yield CheckResult("ok", "runs", f"{len(running)} RUNNING, none known to be left behind")


def _examine_state(client: MlflowClient | None) -> Iterator[CheckResult]:
    """Look at what stages left in the state folder: journals that have not arrived, or cannot be read."""
    root = state_folder()
    if why := unwritable_reason(root):
        yield CheckResult(
            "FAIL", "state folder", f"cannot be written to: {why}", "Have PIPELINE_STATE_DIR name another."
        )
        return
    journals = sorted(root.glob("runs/*/journal.jsonl"))
    unsent = []
    for path in journals:
        try:
            damaged = read_part(path).damaged
        except OSError as error:
            damaged = [f"{path}: {error}"]
        if damaged:
            text = f"cannot be read whole: {damaged[0]}"
            yield CheckResult("FAIL", "journal", text, "python -m pipeline sync sends the rest; keep its checkpoints.")
        elif not is_uploaded(path.parent):
            unsent.append(path.parent.name)
    if unsent:
        text = f"{len(unsent)} of {len(journals)} in {root} may not have arrived: {', '.join(unsent[:5])}"
        yield CheckResult("note", "journals", text, "python -m pipeline sync sends them.")
    else:
        yield CheckResult("ok", "journals", f"{len(journals)} kept in {root}, none waits to be sent")


def examine_server_clock() -> Iterator[CheckResult]:
    """Compare this machine's clock with the tracking server's, where there is one that answers."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return
    try:
        answer = ask_server(uri, SERVER_LIMIT_SECONDS)
        theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (MlflowException, KeyError, ValueError, TypeError):
        return  # that it does not answer is said of the store
    ahead = time.time() - theirs
    if abs(ahead) > CLOCK_LIMIT_SECONDS:
        text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the tracking server's"
        yield CheckResult("note", "clock", text, "Set both clocks (NTP); runs are sorted by time.")
    else:
        yield CheckResult("ok", "clock", "agrees with the tracking server's within a minute")
