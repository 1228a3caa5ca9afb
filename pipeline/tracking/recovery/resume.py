"""Which runs can be resumed, and whether what they depend on is still the same.

A run can be resumed where its process is gone and its state is here: in its local folder, or as the checkpoints
that an interrupted stage uploads. That its process is gone is seen, or assumed where no process holds that folder.
Parameters and base come from the run itself.
"""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import Fault, UserInputError
from pipeline.params import ENTRY_POINTS
from pipeline.runtime import process_lives
from pipeline.tracking import names
from pipeline.tracking.outbox.local_state import has_local_state, lock_run_state, run_folder
from pipeline.tracking.recovery.run_history import RunHistory, read_run_history
from pipeline.tracking.store import active_experiment_id
from pipeline.training.checkpoint import LAST, PREVIOUS

logger = logging.getLogger(__name__)

RESUMABLE = ("train_base", "transfer", "finetune_cnn", "scratch_cnn")
RUN_AGAIN = ("tune", "cache_features")


@dataclass(frozen=True)
class InterruptedRun:
    """A run that can go on.

    Attributes:
        run_id: MLflow's id.
        stage: Its entry point.
        parameters: As they were resolved.
        inherits_draw: Whether its labels are those of the base that it continues.
    """

    run_id: str
    stage: str
    parameters: dict[str, str]
    inherits_draw: bool


def find_interrupted(client: MlflowClient, run_id: str, *, force: bool = False) -> InterruptedRun:
    """Return an interrupted run.

    Args:
        client: Of the store.
        run_id: The run.
        force: Whether a run is taken to be interrupted whose process cannot be seen from here, and whose state is not
            here either; it does not help where the process is seen to live.

    Raises:
        UserInputError: There is none of that id, or it cannot be resumed; says what to do instead.
    """
    run = _get_run(client, run_id)
    run_history = read_run_history(client, run, run_folder(run_id))
    _check_is_over(run, run_history)
    if _is_open(run, run_history) and _lives(run_history) is None and not has_local_state(run_folder(run_id)):
        _check_forced(run_id, run_history, force)
    stage = run_history.tags.get(names.STAGE, "")
    parameters = json.loads(run_history.tags.get(names.PARAMETERS, "{}"))
    if stage in RUN_AGAIN:
        raise _refused(run_id, f"is a run of {stage}, which goes on by itself", _again(stage, parameters))
    if stage not in RESUMABLE:
        what = f"is a run of {stage}" if stage else "had not begun"
        raise _refused(run_id, f"{what}, and has nothing to go on from", "Run its command again.")
    if not has_local_state(run_folder(run_id)) and run_history.points and not _uploaded(client, run_id):
        host = run_history.tags.get("host", "another machine")
        raise _refused(
            run_id,
            f"has left no state in {run_folder(run_id)}, and no checkpoint in its artifacts",
            f"Resume it on {host}, in its folder or with its PIPELINE_STATE_DIR. Else: {_again(stage, parameters)}",
        )
    return InterruptedRun(run_id, stage, parameters, names.INHERITED_DRAW in run_history.tags)


def claim_interrupted(client: MlflowClient, run_id: str) -> tuple[str, FileLock, RunHistory]:
    """Take hold of an interrupted run's state, fetching its checkpoints where they are not here.

    Returns:
        The run's experiment, the hold, and what has been logged of it.

    Raises:
        UserInputError: Another process works on it, or it has ended.
    """
    lock = lock_run_state(run_folder(run_id))
    if lock is None:
        raise _alive(run_id, "another process works on it")
    try:
        run = _get_run(client, run_id)
        run_history = read_run_history(client, run, run_folder(run_id))
        _check_is_over(run, run_history)
        if _is_open(run, run_history) and _lives(run_history) is None and has_local_state(run_folder(run_id)):
            logger.info(
                f"{_began_elsewhere(run_history)}; its state is here and no process holds it: assumed to be interrupted"
            )
        if not (run_folder(run_id) / names.CHECKPOINTS).is_dir() and _uploaded(client, run_id):
            client.download_artifacts(run_id, names.CHECKPOINTS, str(run_folder(run_id)))
            logger.info("checkpoints were taken from the run's artifacts")
    except BaseException:
        lock.release()
        raise
    return str(run.info.experiment_id), lock, run_history


def check_same_result(run_id: str, before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Say what differs from when a run began, and return it as name -> [then, now].

    Raises:
        UserInputError: The data or the base are others: the result could not be the same.
    """
    then, current = (json.loads(tags.get(names.KEY_PARTS, "{}")) for tags in (before, now))
    inputs = _differing(then.get("inputs", {}), current["inputs"])
    if names.KEY_PARTS in before and inputs:
        told = "; ".join(f"{name} had the digest {old}, now {new}" for name, (old, new) in inputs.items())
        raise _refused(run_id, f"reads something else by now: {told}", "Bring that back, or run its command again.")
    found = _differing(then.get("machine", {}), current["machine"])
    if before.get(names.CODE_DIGEST) != now[names.CODE_DIGEST]:
        found["code"] = [before.get(names.CODE_DIGEST, "unknown"), now[names.CODE_DIGEST]]
    if before.get("host") != now["host"]:
        found["host"] = [before.get("host", "unknown"), now["host"]]
    for name, (old, new) in found.items():
        logger.warning(f"{name} is not what the run began with ({old}, now {new}): its result may differ")
    return found


def suggest_resume(client: MlflowClient, stage: str, key: str) -> None:
    """Say so where a stage with the same parameters, code and data was interrupted and could go on instead."""
    if stage not in RESUMABLE or not key:
        return
    for run in client.search_runs(
        [active_experiment_id()],
        f"attributes.status = 'KILLED' and tags.{names.CACHE_KEY} = '{key}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    ):
        run_id = run.info.run_id
        if has_local_state(run_folder(run_id)) or _uploaded(client, run_id):
            logger.info(
                f"run {run_id} of the same parameters was interrupted; this one starts afresh. To go on with that one:"
            )
            logger.info(f"  python -m pipeline resume --run_id {run_id}")


def resume_command(stage: str, run_id: str) -> str:
    """Return what continues an interrupted stage, in words."""
    return f"python -m pipeline resume --run_id {run_id}" if stage in RESUMABLE else "run the same command again"


def _get_run(client: MlflowClient, run_id: str) -> Run:
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise _refused(run_id, "is not in this tracking store", "Look at MLFLOW_TRACKING_URI, or at the id.") from None
    if run.info.lifecycle_stage != "active":
        raise _refused(run_id, "was deleted", "Restore it with mlflow runs restore, or run its command again.")
    return run


def _check_is_over(run: Run, run_history: RunHistory) -> None:
    """Refuse a run that has ended, or whose process is seen to live.

    Raises:
        UserInputError: Says what to do.
    """
    run_id, tags = run.info.run_id, run_history.tags
    if names.RESUMED_RUN_ID in tags:
        other = tags[names.RESUMED_RUN_ID]
        raise _refused(run_id, "only resumed another one", f"To go on: python -m pipeline resume --run_id {other}.")
    if run.info.status == "FINISHED":
        raise _refused(run_id, f"is FINISHED, with the model {tags.get(names.MODEL_URI, '(none)')}", "Use that.")
    if run_history.status == "FINISHED":
        raise _refused(run_id, "has finished; only its delivery is pending", "Run python -m pipeline sync.")
    if _is_open(run, run_history) and _lives(run_history):
        raise _alive(run_id, f"its process {tags['process'].split()[0]} lives")


def _is_open(run: Run, run_history: RunHistory) -> bool:
    """Whether neither the store nor the journal knows of an end."""
    return run.info.status == "RUNNING" and not run_history.status


def _lives(run_history: RunHistory) -> bool | None:
    """Whether a run's process lives; None where that cannot be seen from here, False where it never noted itself."""
    if "process" not in run_history.tags:
        return False
    return process_lives(run_history.tags["process"], run_history.tags.get("host", ""))


def _check_forced(run_id: str, run_history: RunHistory, force: bool) -> None:
    """Say that a process is assumed to be gone of which nothing is known here.

    Raises:
        UserInputError: That is not forced.
    """
    if force:
        logger.info(f"{_began_elsewhere(run_history)}: with force=true it is assumed to be gone")
        return
    last = max((at for _, at in run_history.points.values()), default=0)
    heard = f", and logged its last value at {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(last / 1000))}"
    remedy = "Resume it there, once its process is gone; where it is certainly gone: --force true."
    raise _refused(
        run_id, f"is RUNNING on {run_history.tags.get('host', 'another machine')}{heard if last else ''}", remedy
    )


def _began_elsewhere(run_history: RunHistory) -> str:
    return f"its process on {run_history.tags.get('host', 'another machine')} cannot be seen from here"


def _uploaded(client: MlflowClient, run_id: str) -> bool:
    """Whether a run has a checkpoint to go on from among its artifacts."""
    found = {Path(item.path).stem for item in client.list_artifacts(run_id, names.CHECKPOINTS)}
    return bool(found & {LAST, PREVIOUS})


def _differing(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what differs between two records, as name -> [then, now]."""
    return {
        name: [then.get(name, "unknown"), now.get(name, "unknown")]
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    }


def _again(stage: str, parameters: Mapping[str, str]) -> str:
    """Return the command that would run a stage again with parameters that are not its defaults."""
    defaults = ENTRY_POINTS[stage]().logged()
    given = [f"--{name} {shlex.quote(value)}" for name, value in parameters.items() if defaults.get(name) != value]
    return " ".join(["python -m pipeline", stage, *given])


def _alive(run_id: str, why: str) -> UserInputError:
    return _refused(run_id, f"is still under way: {why}", "Wait for it, or stop it with Ctrl-C or SIGTERM first.")


def _refused(run_id: str, why: str, remedy: str) -> UserInputError:
    return UserInputError(Fault("run_id", run_id, f"{why}.", remedy))
