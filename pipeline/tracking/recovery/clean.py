"""Delete the local state of runs: automatically after the upload unless `resume` needs it, else with `clean`."""

import contextlib
import functools
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.leftovers import Leftover
from pipeline.redaction import first_line
from pipeline.state_dir import state_folder
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import JOURNAL, UPLOADED, final_status, is_uploaded, logged_entries
from pipeline.tracking.outbox.local_state import (
    LOCK,
    has_local_state,
    locked_run_state,
    resolve_run_id,
    run_folder,
)
from pipeline.tracking.outbox.sender import REJECTED
from pipeline.tracking.recovery.resume import RESUMABLE
from pipeline.tracking.store import open_store
from pipeline.training.checkpoint import LAST, PREVIOUS


def clear_uploaded(folder: Path) -> None:
    """Delete the locked state of an ended, uploaded run, except checkpoints that `resume` would find nowhere else."""
    if (folder / REJECTED).exists():
        return
    if not needed_to_resume(folder):
        _delete(folder)
        return
    _delete(folder, keep=(names.CHECKPOINTS, LOCK))
    checkpoints = folder / names.CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)  # without this folder, the run would seem to have no local state
    for path in checkpoints.iterdir():
        if path.stem not in (LAST, PREVIOUS):
            path.unlink()
    if (run_id := resolve_run_id(folder.name)) != folder.name:
        folder.rename(run_folder(run_id))


def _delete(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete a folder, or its content except `keep`; the journal last, so that a later call can complete this."""
    last = (JOURNAL, UPLOADED, LOCK)
    for path in sorted(folder.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1):
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not keep:
        with contextlib.suppress(OSError):  # another process has just locked the folder
            folder.rmdir()


def needed_to_resume(folder: Path) -> bool:
    """Return whether `resume` needs an uploaded run's state: training began and the last checkpoints are not logged."""
    entries = logged_entries(folder)
    stage = next((e["tags"][names.STAGE] for e in reversed(entries) if names.STAGE in e.get("tags", {})), "")
    last_opened = max((index for index, entry in enumerate(entries) if entry["kind"] == "opened"), default=0)
    logged = any(e["kind"] == "file" and e["folder"] == names.CHECKPOINTS for e in entries[last_opened:])
    began = (folder / names.CHECKPOINTS).is_dir() or any(entry["kind"] == "metrics" for entry in entries)
    return began and stage in RESUMABLE and final_status(entries) != "FINISHED" and not logged


def list_run_states() -> Iterator[Leftover]:
    """Yield the local state of every run, including those in progress.

    Raises:
        UserInputError: The tracking store is not usable.
    """
    folders = [path for path in sorted(state_folder().glob("runs/*")) if path.is_dir() and not path.is_symlink()]
    if not folders:
        return
    client = open_store()
    for folder in folders:
        removable, reason = _check(client, folder)
        yield Leftover("run state", folder, removable, reason, functools.partial(_remove, client, folder))


def _remove(client: MlflowClient, folder: Path) -> bool:
    return _check(client, folder, delete=True)[0]


def _check(client: MlflowClient, folder: Path, *, delete: bool = False) -> tuple[bool, str]:
    """Return whether a run's state can be deleted, and the reason; delete it if requested."""
    with locked_run_state(folder) as locked:
        removable, reason = _check_locked(client, folder) if locked else (False, "its process is alive")
        if removable and delete:
            _delete(folder)
        return removable, reason


def _check_locked(client: MlflowClient, folder: Path) -> tuple[bool, str]:
    run_id = resolve_run_id(folder.name)
    if (folder / REJECTED).exists():
        return False, f"contains entries that the tracking store rejected ({REJECTED})"
    try:
        if not is_uploaded(folder):
            return False, "not uploaded yet: python -m pipeline sync"
    except OSError as error:
        return False, f"unreadable: {error}"
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        return False, f"its run is not in this tracking store: {first_line(error)}"
    if run.info.lifecycle_stage != "active":
        return True, "its run was deleted"
    if run.info.status == "FINISHED":
        return True, "its run is FINISHED"
    if run.info.status == "RUNNING":
        return False, "its run is RUNNING"
    if not has_local_state(folder) or ((folder / JOURNAL).exists() and not needed_to_resume(folder)):
        return True, "uploaded"
    if other := _finished_duplicate(client, run):
        return True, f"run {other} finished with the same parameters, code and data"
    return False, f"needed by python -m pipeline resume --run_id {run_id}"


def _finished_duplicate(client: MlflowClient, run: Run) -> str:
    """Return the id of a FINISHED run with the same cache key, or an empty string."""
    if not (key := run.data.tags.get(names.CACHE_KEY)):
        return ""
    condition = f"attributes.status = 'FINISHED' and tags.{names.CACHE_KEY} = '{key}'"
    runs = client.search_runs([run.info.experiment_id], condition, max_results=1)
    return str(runs[0].info.run_id) if runs else ""
