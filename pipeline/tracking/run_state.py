"""Removing the local state of runs: once it has arrived all but what `resume` needs, and the rest with `clean`."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.leftovers import Leftover
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import JOURNAL, UPLOADED, ended_as, is_uploaded, logged_entries
from pipeline.tracking.outbox.local_state import (
    LOCK,
    has_local_state,
    lock_run_state,
    resolve_run_id,
    run_folder,
    state_folder,
)
from pipeline.tracking.outbox.sender import REFUSED
from pipeline.tracking.recovery.resume import RESUMABLE
from pipeline.tracking.store import first_line, open_store
from pipeline.training.checkpoint import LAST, PREVIOUS

KIND = "run state"


def clear_arrived(folder: Path) -> None:
    """Remove the state of a run that has ended and arrived; checkpoints stay where `resume` would find no others.

    Args:
        folder: Held by the caller.
    """
    if (folder / REFUSED).exists():
        return
    if not needed_to_resume(folder):
        _delete(folder)
        return
    _delete(folder, but=(names.CHECKPOINTS, LOCK))
    checkpoints = folder / names.CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)  # without one, the run would seem to have left nothing
    for path in checkpoints.iterdir():
        if path.stem not in (LAST, PREVIOUS):
            path.unlink()
    if (real := resolve_run_id(folder.name)) != folder.name:
        folder.rename(run_folder(real))


def _delete(folder: Path, but: Collection[str] = ()) -> None:
    """Delete a folder, or all in it but some names; the journal last, so that a kill in between is made up for."""
    last = (JOURNAL, UPLOADED, LOCK)
    for path in sorted(folder.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1):
        if path.name not in but:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not but:
        with contextlib.suppress(OSError):  # another process has taken hold since: the folder is its own now
            folder.rmdir()


def needed_to_resume(folder: Path) -> bool:
    """Whether `resume` needs the state of an arrived run: it had begun, and its newest checkpoints are not logged."""
    entries = logged_entries(folder)
    stage = next((e["tags"][names.STAGE] for e in reversed(entries) if names.STAGE in e.get("tags", {})), "")
    last_opened = max((number for number, entry in enumerate(entries) if entry["kind"] == "opened"), default=0)
    logged = any(e["kind"] == "file" and e["folder"] == names.CHECKPOINTS for e in entries[last_opened:])
    begun = (folder / names.CHECKPOINTS).is_dir() or any(entry["kind"] == "metrics" for entry in entries)
    return begun and stage in RESUMABLE and ended_as(entries) != "FINISHED" and not logged


def list_run_states() -> Iterator[Leftover]:
    """Yield the local state of every run, those of live processes included.

    Raises:
        UserInputError: The tracking store cannot be used.
    """
    folders = [path for path in sorted(state_folder().glob("runs/*")) if path.is_dir() and not path.is_symlink()]
    client = open_store() if folders else None
    for folder in folders:
        assert client is not None
        removable, why = _examine(client, folder)
        yield Leftover(KIND, folder, removable, why, functools.partial(_remove, client, folder))


def _examine(client: MlflowClient, folder: Path) -> tuple[bool, str]:
    """Return whether a run's state can be removed, and why or why not."""
    lock = lock_run_state(folder)
    if lock is None:
        return False, "its process is alive"
    try:
        return _examine_held(client, folder)
    except OSError as error:
        return False, f"cannot be read: {error}"
    finally:
        lock.release()


def _remove(client: MlflowClient, folder: Path) -> bool:
    lock = lock_run_state(folder)
    if lock is None:
        return False
    try:
        removable, _ = _examine_held(client, folder)
        if removable:
            _delete(folder)
        return removable
    finally:
        lock.release()


def _examine_held(client: MlflowClient, folder: Path) -> tuple[bool, str]:
    run_id = resolve_run_id(folder.name)
    if (folder / REFUSED).exists():
        return False, f"holds what the tracking store refused ({REFUSED})"
    if not is_uploaded(folder):
        return False, "is not uploaded yet: python -m pipeline sync"
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
        return True, "has been uploaded"
    if other := _finished_since(client, run):
        return True, f"run {other} has finished with the same parameters, code and data"
    return False, f"python -m pipeline resume --run_id {run_id} needs it"


def _finished_since(client: MlflowClient, run: Run) -> str:
    """Return a finished run with a run's cache key, or an empty string."""
    if not (key := run.data.tags.get(names.CACHE_KEY)):
        return ""
    wanted = f"attributes.status = 'FINISHED' and tags.{names.CACHE_KEY} = '{key}'"
    found = client.search_runs([run.info.experiment_id], wanted, max_results=1)
    return str(found[0].info.run_id) if found else ""
