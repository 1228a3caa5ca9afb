"""Which runs can be resumed, and whether their inputs are unchanged.

A run can be resumed if its process is gone and its state is available, in its local folder or as uploaded checkpoints.
Parameters and base are read from the run. A process on another host cannot be checked; it counts as gone if the run's
state folder is on this machine and unlocked.
"""

import json
import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import UserInputError, invalid
from pipeline.params import ENTRY_POINTS
from pipeline.params.family import OWN_PREFIX
from pipeline.runtime import process_lives
from pipeline.tracking import names
from pipeline.tracking.outbox.local_state import has_local_state, lock_run_state, run_folder
from pipeline.tracking.recovery.run_history import RunHistory, read_run_history
from pipeline.tracking.store import search_newest_runs
from pipeline.training.checkpoint import LAST, PREVIOUS

logger = logging.getLogger(__name__)

RESUMABLE = ("train_base", "transfer", "finetune_cnn", "scratch_cnn")
RENAMED = {"channels": "conv_channels"}  # parameters of earlier releases
CONTINUED_BY_RERUN = ("tune", "cache_features")

_invalid_run = partial(invalid, "run_id")


@dataclass(frozen=True)
class InterruptedRun:
    """A run that can be resumed."""

    run_id: str
    stage: str
    parameters: dict[str, str]  # resolved
    inherits_labels: bool  # trains on the label sample of its base


def find_interrupted(client: MlflowClient, run_id: str, *, force: bool = False) -> InterruptedRun:
    """Return an interrupted run; `force` also accepts one whose process is not visible and whose state is elsewhere.

    Raises:
        UserInputError: The run does not exist or cannot be resumed; the message says what to do.
    """
    _, history, process_is_invisible = _read_interrupted(client, run_id)
    local_state = has_local_state(run_folder(run_id))
    if process_is_invisible and not local_state:
        _check_forced(run_id, history, force)
    stage = history.tags.get(names.STAGE, "")
    parameters = json.loads(history.tags.get(names.PARAMETERS, "{}"))
    if stage in CONTINUED_BY_RERUN:
        remedy = f"Run it again to continue: {_command(stage, parameters)}"
        raise _invalid_run(run_id, f"{stage} runs are not resumed.", remedy=remedy)
    if stage not in RESUMABLE:
        problem = f"{stage} runs have no checkpoints" if stage else "the run had not started"
        raise _invalid_run(run_id, f"{problem}.", remedy="Run its command again.")
    if history.tags.get(names.FORMAT) != names.FORMAT_VERSION:
        remedy = f"Run it again: {_command(stage, parameters)}"
        raise _invalid_run(run_id, "started by an earlier release, which sampled images by position.", remedy=remedy)
    if not local_state and history.metrics and not _has_checkpoints(client, run_id):
        raise _invalid_run(
            run_id,
            f"no local state in {run_folder(run_id)} and no checkpoint in its artifacts.",
            remedy=f"Resume it on {_host(history)}, in its folder or with its PIPELINE_STATE_DIR, or run it again: "
            f"{_command(stage, parameters)}",
        )
    return InterruptedRun(run_id, stage, parameters, names.INHERITED_LABELS in history.tags)


def claim_interrupted(
    client: MlflowClient, run_id: str, tags: Mapping[str, str]
) -> tuple[FileLock, RunHistory, dict[str, list[str]]]:
    """Lock an interrupted run's state, download missing checkpoints, and compare its tags with the present `tags`.

    Returns:
        The lock, the run's history, and what has changed on the machine or in the code, as name -> [before, now].

    Raises:
        UserInputError: Another process is working on the run, it has ended, or its data or base have changed.
    """
    folder = run_folder(run_id)
    lock = lock_run_state(folder)
    if lock is None:
        raise _in_progress(run_id, "another process is working on it")
    try:
        _, history, process_is_invisible = _read_interrupted(client, run_id)
        if process_is_invisible and has_local_state(folder):
            logger.info(
                f"the process on {_host(history)} is not visible from here, but its state is here and unlocked: "
                "assuming it was interrupted"
            )
        if not (folder / names.CHECKPOINTS).is_dir() and _has_checkpoints(client, run_id):
            client.download_artifacts(run_id, names.CHECKPOINTS, str(folder))
            logger.info("downloaded checkpoints from the run's artifacts")
        return lock, history, _check_same_result(run_id, history.tags, tags)
    except BaseException:
        lock.release()
        raise


def _check_same_result(run_id: str, before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Warn about differences between a run's tags and the present ones; raise UserInputError if its input differs."""
    old_key, new_key = (json.loads(tags.get(names.KEY_PARTS, "{}")) for tags in (before, now))
    inputs = _differences(old_key.get("inputs", {}), new_key["inputs"])
    if names.KEY_PARTS in before and inputs:
        changes = "; ".join(f"{name} had digest {old}, now {new}" for name, (old, new) in inputs.items())
        remedy = "Restore the original input, or run its command again."
        raise _invalid_run(run_id, f"its input has changed: {changes}.", remedy=remedy)
    differences = _differences(old_key.get("machine", {}), new_key["machine"])
    for label, tag in (("code", names.CODE_DIGEST), ("host", "host")):
        if before.get(tag) != now[tag]:
            differences[label] = [before.get(tag, "unknown"), now[tag]]
    for name, (old, new) in differences.items():
        logger.warning(f"{name} has changed since the run started (was {old}, now {new}); the result may differ")
    return differences


def suggest_resume(client: MlflowClient, stage: str, key: str) -> None:
    """Log a hint if a run with the same cache key was interrupted and can be resumed instead."""
    if stage not in RESUMABLE or not key:
        return
    condition = f"attributes.status = 'KILLED' and tags.{names.CACHE_KEY} = '{key}'"
    for run in search_newest_runs(client, condition, limit=1):
        run_id = run.info.run_id
        if has_local_state(run_folder(run_id)) or _has_checkpoints(client, run_id):
            logger.info(
                f"run {run_id} with the same parameters was interrupted; starting a new one. To resume it instead:\n"
                f"  {resume_command(stage, run_id)}"
            )


def resume_command(stage: str, run_id: str, model: str = "") -> str:
    """Return the command that resumes an interrupted stage; `model` is named again if it is the user's own code."""
    if stage not in RESUMABLE:
        return "run the same command again"
    code = f" --model {shlex.quote(model)}" if model.startswith(OWN_PREFIX) else ""
    return f"python -m pipeline resume --run_id {run_id}{code}"


def _read_interrupted(client: MlflowClient, run_id: str) -> tuple[Run, RunHistory, bool]:
    """Return a run, its history, and whether it may be in progress in a process that is not visible from here.

    Raises:
        UserInputError: The run does not exist, has finished, or its process is visibly alive.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException:
        remedy = "Check MLFLOW_TRACKING_URI and the id."
        raise _invalid_run(run_id, "not in this tracking store.", remedy=remedy) from None
    if run.info.lifecycle_stage != "active":
        raise _invalid_run(run_id, "deleted.", remedy="Restore it with mlflow runs restore, or run its command again.")
    history = read_run_history(client, run, run_folder(run_id))
    tags = history.tags
    if names.RESUMED_RUN_ID in tags:
        remedy = f"Resume that one: python -m pipeline resume --run_id {tags[names.RESUMED_RUN_ID]}."
        raise _invalid_run(run_id, "this run resumed another one.", remedy=remedy)
    if run.info.status == "FINISHED":
        model = tags.get(names.MODEL_URI, "(none)")
        raise _invalid_run(run_id, f"already FINISHED, with model {model}.", remedy="Use that model.")
    if history.final_status == "FINISHED":
        raise _invalid_run(run_id, "finished, but not uploaded yet.", remedy="Run python -m pipeline sync.")
    if run.info.status != "RUNNING" or history.final_status or "process" not in tags:
        return run, history, False
    alive = process_lives(tags["process"], tags.get("host", ""))
    if alive:
        raise _in_progress(run_id, f"process {tags['process'].split()[0]} is alive")
    return run, history, alive is None


def _check_forced(run_id: str, history: RunHistory, force: bool) -> None:
    """Raise UserInputError unless `force` is set, which assumes that a process on another host is gone."""
    host = _host(history)
    if force:
        logger.info(f"the process on {host} is not visible from here: assumed to be gone because of force=true")
        return
    last = max((timestamp for _, timestamp in history.metrics.values()), default=0)
    logged = f", last metric logged at {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(last / 1000))}" if last else ""
    remedy = "Resume it there after its process has exited, or pass --force true if that process is certainly gone."
    raise _invalid_run(run_id, f"RUNNING on {host}{logged}.", remedy=remedy)


def _host(history: RunHistory) -> str:
    return history.tags.get("host", "another machine")


def _has_checkpoints(client: MlflowClient, run_id: str) -> bool:
    """Return whether a run's artifacts contain a checkpoint to resume from."""
    items = client.list_artifacts(run_id, names.CHECKPOINTS)
    return any(item.is_dir or Path(item.path).stem in (LAST, PREVIOUS) for item in items)  # a folder per try of a grid


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the entries that differ, as name -> [before, now]."""
    pairs = {name: [before.get(name, "unknown"), now.get(name, "unknown")] for name in sorted({*before, *now})}
    return {name: pair for name, pair in pairs.items() if before.get(name) != now.get(name)}


def _command(stage: str, parameters: Mapping[str, str]) -> str:
    """Return the command that runs a stage with these parameters, without those at their defaults."""
    defaults, known = ENTRY_POINTS[stage]().logged(), ENTRY_POINTS[stage].model_fields
    if "conv_channels" in known and "conv_channels" not in parameters:  # of an earlier release
        parameters = {RENAMED.get(name, name): value for name, value in parameters.items()}
    options = [
        f"--{name} {shlex.quote(value)}"
        for name, value in parameters.items()
        if name in known and defaults.get(name) != value
    ]
    return " ".join(["python -m pipeline", stage, *options])


def _in_progress(run_id: str, reason: str) -> UserInputError:
    remedy = "Wait, or stop it with Ctrl-C or SIGTERM first."
    return _invalid_run(run_id, f"still in progress: {reason}.", remedy=remedy)
