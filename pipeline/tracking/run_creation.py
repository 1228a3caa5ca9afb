"""Create the run of a stage, adopt the one created by `mlflow run`, or resume an interrupted one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterable
from uuid import uuid4

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from pipeline.errors import UserInputError
from pipeline.redaction import first_line, without_password
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.claims import Claim
from pipeline.tracking.outbox.journal import Entry, Journal
from pipeline.tracking.outbox.local_state import has_local_state, lock_run_state, run_folder
from pipeline.tracking.outbox.sender import Sender
from pipeline.tracking.outbox.uploader import Uploader
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.recovery.resume import RESUMABLE, claim_interrupted, suggest_resume
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import (
    active_experiment_id,
    holds_runs_of_this_process,
    note_run_of_this_process,
    open_store,
    reach_store,
    set_run_tags,
    unusable_store,
)

logger = logging.getLogger(__name__)


def create_claimed_run(
    name: str, tags: dict[str, str], claim: Claim, *, rerun: bool
) -> tuple[StageRun, Collection[str]]:
    """Resume the run of a claim's last holder if that is known to be dead; else create a run that supersedes it."""
    client, previous = open_store(), claim.previous_run_id
    if previous and not rerun and _was_interrupted_here(client, previous):
        try:
            run, logged_params = resume_run(client, previous, tags, claim=claim)
            claim.record_run(run.run_id)
            return run, logged_params
        except UserInputError as error:
            logger.info(f"run {previous} cannot be resumed: {first_line(error)}")
    run, logged_params = create_run(name, tags, claim)
    claim.record_run(run.run_id)
    if previous and not rerun:
        _supersede(client, previous, run.run_id)
    return run, logged_params


def _was_interrupted_here(client: MlflowClient, run_id: str) -> bool:
    """Whether a run was interrupted or killed on this host, and can be resumed."""
    with contextlib.suppress(MlflowException):
        run = client.get_run(run_id)
        tags = run.data.tags
        dead = process_lives(tags.get("process", ""), tags.get("host", "")) is False
        interrupted = run.info.status == "KILLED" or (run.info.status == "RUNNING" and dead)
        here = tags.get("host") == process_identity()["host"] and has_local_state(run_folder(run_id))
        return here and interrupted and tags.get(names.STAGE) in RESUMABLE
    return False


def _supersede(client: MlflowClient, run_id: str, successor: str) -> None:
    """Tag a run whose step another run has taken over: its result does not count, even if it ends after all."""
    with contextlib.suppress(MlflowException):
        client.set_tag(run_id, names.SUPERSEDED_BY, successor)
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")


def create_run(name: str, tags: dict[str, str], claim: Claim | None = None) -> tuple[StageRun, Collection[str]]:
    """Create a run, or adopt the one created by `mlflow run`; also return the names of parameters it already has.

    If the store is unreachable but holds runs of this process, the run is started locally and created there later;
    otherwise, UserInputError is raised.
    """
    nested = names.PARENT_RUN_ID in tags
    may_wait = nested or holds_runs_of_this_process()
    try:
        client = reach_store()
        if not nested:
            close_orphaned_runs(client)
        suggest_resume(client, tags[names.STAGE], tags.get(names.CACHE_KEY, ""))
        return _adopt_or_create(client, name, tags, claim=claim)
    except (MlflowException, UserInputError) as error:
        if not may_wait:
            raise unusable_store(error) from error
        logger.warning(f"tracking store unreachable ({first_line(error)}): storing this run locally until it is back")
        return _create_offline(name, tags, claim), ()


def _adopt_or_create(
    client: MlflowClient, name: str, tags: dict[str, str], *, claim: Claim | None
) -> tuple[StageRun, Collection[str]]:
    adopted_id = os.environ.get("MLFLOW_RUN_ID") if names.PARENT_RUN_ID not in tags else None
    if adopted_id:
        mlflow_run = client.get_run(adopted_id)
        client.update_run(adopted_id, status="RUNNING", name=name)
        set_run_tags(client, adopted_id, tags)
        del os.environ["MLFLOW_RUN_ID"]
    else:
        # resolve_tags adds MLflow's own: user, source, commit
        mlflow_run = client.create_run(active_experiment_id(), tags=resolve_tags(tags), run_name=name)
    note_run_of_this_process()
    ids = mlflow_run.info.run_id, mlflow_run.info.experiment_id
    run = _open(client, *ids, entries=[_tags_entry(tags)], claim=claim)
    run.adopted = bool(adopted_id)
    return run, mlflow_run.data.params


def _create_offline(name: str, tags: dict[str, str], claim: Claim | None) -> StageRun:
    """Start a run under a local id; the store assigns another one when the run is uploaded."""
    experiment_id = active_experiment_id()
    creation = {
        "kind": "create",
        "experiment_id": experiment_id,
        "name": name,
        "start_time": int(time.time() * 1000),
        "tags": resolve_tags(tags),
    }
    client = MlflowClient(mlflow.get_tracking_uri())
    return _open(client, uuid4().hex, experiment_id, entries=[creation, _tags_entry(tags)], claim=claim)


def resume_run(
    client: MlflowClient, run_id: str, tags: dict[str, str], *, claim: Claim | None = None
) -> tuple[StageRun, Collection[str]]:
    """Reopen an interrupted run; raise UserInputError if it is in progress, has ended, or its inputs have changed."""
    started = time.perf_counter()
    lock, history, differences = claim_interrupted(client, run_id, tags)
    set_run_tags(client, run_id, process_identity())
    tags = {name: value for name, value in tags.items() if name not in (names.OPENED, names.CODE_DIGEST)}
    if differences:  # neither version alone would reproduce the result, so it must not be cached
        tags |= {names.RESUMED_WITH: json.dumps(differences), names.CACHE_KEY: ""}
    entries = [{"kind": "status", "status": "RUNNING"}, _tags_entry(tags)]
    run = _open(client, run_id, history.experiment_id, entries=entries, lock=lock, claim=claim)
    run.started, run.run_history = started, history
    return run, history.params


def _tags_entry(tags: dict[str, str]) -> Entry:
    return {"kind": "tags", "tags": tags}


def _open(
    client: MlflowClient,
    run_id: str,
    experiment_id: str,
    *,
    entries: Iterable[Entry],
    lock: FileLock | None = None,
    claim: Claim | None = None,
) -> StageRun:
    """Lock the run's local state, write the first journal entries and start the uploader."""
    folder = run_folder(run_id)
    lock = lock or lock_run_state(folder)
    assert lock is not None, "no other process knows of a run that was just created"
    journal = Journal(folder)
    store = without_password(mlflow.get_tracking_uri())
    for entry in ({"kind": "opened", "run_id": run_id, "store": store, **process_identity()}, *entries):
        journal.append(entry)
    sender = Sender(client, run_id, folder, claim=claim)
    uploader = Uploader(journal, sender.send, sender.report_damaged)
    return StageRun(client, run_id, experiment_id, folder, uploader, sender, lock, claim)
