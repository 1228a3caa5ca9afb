"""A stage's run: opened, fed, and given its status at the end, whatever the end is.

`MlflowClient` is used with explicit run ids throughout. The fluent active run is thread-local, its exit handler
marks a run FINISHED that was not, and `MLFLOW_RUN_ID` goes to whoever starts a run first: here it is read and
unset once, by the first stage of the process.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus, RunTag
from mlflow.tracking.context.registry import resolve_tags

from pipeline.console import say
from pipeline.data.splits import Examples, Split
from pipeline.interruption import interruptible, raise_if_asked
from pipeline.params import StageParams
from pipeline.redaction import without_password
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.deliver import Sender
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.earlier import Earlier
from pipeline.tracking.identity import code_digest
from pipeline.tracking.insist import insist_on_killed
from pipeline.tracking.journal import Journal
from pipeline.tracking.resuming import RESUMABLE, check_same_result, check_still_interrupted, offer_resume
from pipeline.tracking.state import hold, run_folder
from pipeline.tracking.store import active_experiment_id, first_line, open_store
from pipeline.training.loop import EpochRecord

Point = tuple[str, float, int, int]  # name, value, timestamp in ms, step

ARRIVAL_LIMIT_SECONDS = 30
LATE_LIMIT_SECONDS = 2  # once the store has been waited for in vain
KILLED_LIMIT_SECONDS = 1.2  # an interrupted stage must not keep its user waiting


@dataclass(frozen=True)
class StageResult:
    """What a stage returns.

    Attributes:
        run_id: Its MLflow run.
        model_uri: What later stages take as `base`; empty where the stage makes no model.
        metrics: The metrics logged at its end.
        reused: Whether a finished run was recognised instead of running the stage.
    """

    run_id: str
    model_uri: str
    metrics: dict[str, float]
    reused: bool = False


@dataclass
class StageRun:
    """A run that is under way.

    Attributes:
        client: Of the tracking store.
        run_id: MLflow's id.
        experiment_id: MLflow's id.
        folder: The stage's local state: journal, checkpoints, figures, until they have arrived.
        delivery: Takes what is logged to the store.
        sender: Knows what the store has refused.
        lock: Held while this process works on the run.
        began: When the stage began, on the monotonic clock.
        adopted: Whether `mlflow run` made the run.
        earlier: What was logged before this process resumed the run; None where it made it.
        worked_seconds: What earlier processes have spent on what was kept.
        lost_seconds: What they have spent on what was not.
        late: Whether the store has been waited for in vain.
        ended: The status that has been logged, None while it is under way.
        final_metrics: What was logged with `log_final`.
        final_points: The same as [name, value, timestamp in ms, step], so that a model can carry exact repeats.
    """

    client: MlflowClient
    run_id: str
    experiment_id: str
    folder: Path
    delivery: Delivery
    sender: Sender
    lock: FileLock
    began: float
    adopted: bool
    earlier: Earlier | None = None
    worked_seconds: float = 0.0
    lost_seconds: float = 0.0
    late: bool = False
    ended: int | None = None
    final_metrics: dict[str, float] = field(default_factory=dict)
    final_points: list[Point] = field(default_factory=list)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set some tags."""
        self.delivery.put({"kind": "tags", "tags": {name: str(value)[:8000] for name, value in tags.items()}})

    def log_epoch(self, record: EpochRecord) -> None:
        """Log one epoch's metrics, step = epoch."""
        self._log_metrics(
            {
                names.TRAIN_LOSS: record.train_loss,
                names.TRAIN_ACCURACY: record.train_accuracy,
                names.VAL_LOSS: record.val_loss,
                names.VAL_ACCURACY: record.val_accuracy,
                names.EPOCH_SECONDS: record.epoch_seconds,
            },
            record.epoch,
        )

    def log_fold(self, fold: int, metrics: Mapping[str, float]) -> None:
        """Log one fold's metrics, step = fold."""
        self._log_metrics(metrics, fold)

    def log_final(self, metrics: Mapping[str, float]) -> None:
        """Log metrics of the finished stage, at step 0."""
        points = self._log_metrics(metrics, 0)
        self.final_metrics.update({name: value for name, value, _, _ in points})
        self.final_points += points

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> list[Point]:
        """Log what no earlier process has, and return all of it as it stands: a step has one point, the first."""
        now = int(time.time() * 1000)
        known = self.earlier.points if self.earlier else {}
        fresh = [(name, float(value), now, step) for name, value in metrics.items() if (name, step) not in known]
        if fresh:
            self.delivery.put({"kind": "metrics", "metrics": fresh})
        else:
            self.delivery.put({"kind": "again", "step": step})
        return [(name, *known[name, step], step) for name in metrics if (name, step) in known] + fresh

    def log_restored(self, history: list[EpochRecord]) -> None:
        """Note where work goes on, and what the interruption has cost; log epochs that no process has.

        Args:
            history: Of the checkpoint that work goes on from; empty where it starts over.
        """
        assert self.earlier is not None, "only a resumed run can be restored"
        kept, lost = self.earlier.spent_seconds(len(history))
        kept += float(self.earlier.tags.get(names.WORKED_SECONDS, 0))
        lost += float(self.earlier.tags.get(names.WASTED_SECONDS, 0))
        self.worked_seconds = kept
        opened = int(time.time() * 1000)
        self.delivery.put({"kind": "restored", "epoch": len(history)})
        self.set_tags({names.OPENED: opened, names.WORKED_SECONDS: kept, names.WASTED_SECONDS: lost})
        for record in history:
            self.log_epoch(record)
        self.lost_seconds = lost

    def log_split(self, split: Split) -> None:
        """Log the training, validation and test inputs with their digests."""
        parts = (("training", split.train), ("validation", split.validation), ("testing", split.test))
        for context, examples in parts:
            self.delivery.put(_dataset_entry(split, context, examples))
        self.set_tags({names.DATASET: split.dataset, names.CLASSES: split.classes_text, "dataset_note": split.note})

    def log_file(self, path: Path, artifact_folder: str = "") -> None:
        """Log a file, or a folder's content, as artifact; it must stay where it is until it has arrived."""
        self.delivery.put({"kind": "file", "path": str(path.resolve()), "folder": artifact_folder})

    def log_base(self, model_uri: str) -> None:
        """Log a model as this run's input, so that MLflow shows where it comes from."""
        self.delivery.put({"kind": "base", "model_uri": model_uri})

    def wait_for_model(self) -> str:
        """Wait for what has been logged to arrive; return the model's URI, or `runs:/ID/model` while it is pending."""
        self.late = not self.delivery.flush(ARRIVAL_LIMIT_SECONDS)
        for line in self.sender.news:
            say(line)
        return self.sender.model_uri or f"runs:/{self.run_id}/{names.MODEL}"

    def elapsed_seconds(self) -> float:
        """Return the wall-clock since the stage began, and of what earlier processes did of it."""
        return time.perf_counter() - self.began + self.worked_seconds


def _dataset_entry(split: Split, context: str, examples: Examples) -> dict[str, object]:
    shape = [-1, *examples.pixels.shape[1:]]
    pixels = [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": shape}}]
    labels = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
    return {
        "kind": "dataset",
        "name": f"{split.dataset} {split.classes_text}",
        "digest": examples.digest,
        "context": context,
        "source": json.dumps({"uri": split.source}),
        "schema": json.dumps({"mlflow_tensorspec": {"features": json.dumps(pixels), "targets": json.dumps(labels)}}),
        "profile": json.dumps({"num_examples": len(examples), "classes": list(split.class_names)}),
    }


def mark_as_resuming(run_id: str) -> None:
    """Note on the run that `mlflow run -e resume` made which one it resumes, and whose process it is."""
    if own := os.environ.get("MLFLOW_RUN_ID"):
        tags = {names.RESUMED_RUN_ID: run_id, names.NOTE: f"Resumes run {run_id}.", **process_identity()}
        open_store().log_batch(own, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)


@contextmanager
def adoption_held_back() -> Iterator[None]:
    """Keep the run that `mlflow run` made for the stage that was asked for, while another one runs before it."""
    held = os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        yield
    finally:
        if held is not None:
            os.environ["MLFLOW_RUN_ID"] = held


@contextmanager
def stage_run(
    params: StageParams,
    *,
    name: str,
    note: str,
    tags: Mapping[str, object],
    parent_run_id: str | None = None,
    resumed_run_id: str | None = None,
) -> Iterator[StageRun]:
    """Open a stage's run, and end it FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM).

    The run that `mlflow run` made is adopted by the first stage of the process; any other is created.

    Args:
        params: Logged, each once, those that the run lacks.
        name: The run's name in the UI.
        note: What the run is, in words.
        tags: Further tags that are known at the start.
        parent_run_id: Makes the run a nested one.
        resumed_run_id: The interrupted run to go on with, instead of a new one.

    Raises:
        UserInputError: The store cannot be used; or the run cannot be resumed, or not to the same result.
    """
    client = open_store()
    if parent_run_id is None:
        close_lost_runs(client)
    whole = _all_tags(params, note, tags)
    with interruptible():
        if resumed_run_id is not None:
            run = _reopen(client, resumed_run_id, whole)
        else:
            offer_resume(client, params.entry_point, str(tags.get(names.CACHE_KEY, "")))
            run = _adopt_or_create(client, name, parent_run_id, whole)
        try:
            raise_if_asked()
            given = run.earlier.params if run.earlier else set(run.client.get_run(run.run_id).data.params)
            run.delivery.put({"kind": "params", "params": {k: v for k, v in params.logged().items() if k not in given}})
            yield run
            _end(run, RunStatus.FINISHED, "", LATE_LIMIT_SECONDS if run.late else ARRIVAL_LIMIT_SECONDS)
        except KeyboardInterrupt:
            _end(run, RunStatus.KILLED, f"{note}\n\nInterrupted; its last checkpoint is kept.", KILLED_LIMIT_SECONDS)
            if run.ended == RunStatus.KILLED and params.entry_point in RESUMABLE:
                say(f"to go on: python -m pipeline resume --run_id {run.run_id}")
            if run.adopted and run.ended == RunStatus.KILLED:
                insist_on_killed(run.run_id, mlflow.get_tracking_uri())
            raise
        except BaseException as error:
            reason = f"{note}\n\nFailed with {type(error).__name__}: {error}"
            _end(run, RunStatus.FAILED, reason, LATE_LIMIT_SECONDS if run.late else ARRIVAL_LIMIT_SECONDS)
            raise


def _all_tags(params: StageParams, note: str, tags: Mapping[str, object]) -> dict[str, str]:
    """Return what a run carries from its first moment; a process killed then would leave it RUNNING without it."""
    found = {
        names.STAGE: params.entry_point,
        names.NOTE: note,
        names.CODE_DIGEST: code_digest(params.entry_point),
        names.PARAMETERS: json.dumps(params.logged()),
        names.OPENED: int(time.time() * 1000),
        **process_identity(),
        **tags,
    }
    return {name: str(value)[:8000] for name, value in found.items()}


def _adopt_or_create(client: MlflowClient, name: str, parent_run_id: str | None, tags: dict[str, str]) -> StageRun:
    began = time.perf_counter()
    adopted = os.environ.pop("MLFLOW_RUN_ID", None) if parent_run_id is None else None
    if adopted:
        info = client.get_run(adopted).info
        client.update_run(adopted, status="RUNNING", name=name)
        client.log_batch(adopted, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
    else:
        given = resolve_tags({**tags, names.PARENT_RUN_ID: parent_run_id} if parent_run_id else tags)
        info = client.create_run(active_experiment_id(), tags=given, run_name=name).info
    lock = hold(run_folder(info.run_id))
    assert lock is not None, "nobody else can know of a run that has just been made"
    run = _open(client, info.run_id, info.experiment_id, lock, began)
    run.adopted = bool(adopted)
    run.delivery.put({"kind": "tags", "tags": tags})
    return run


def _reopen(client: MlflowClient, run_id: str, tags: dict[str, str]) -> StageRun:
    """Take an interrupted run up again, once it is certain that its result will be what it would have been.

    Raises:
        UserInputError: Another process works on it, it has ended, or what it reads is no longer the same.
    """
    began = time.perf_counter()
    experiment_id, lock, earlier = check_still_interrupted(client, run_id)
    try:
        differing = check_same_result(run_id, earlier.tags, tags)
    except BaseException:
        lock.release()
        raise
    own = process_identity()
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()], synchronous=True)
    run = _open(client, run_id, experiment_id, lock, began)
    run.earlier = earlier
    kept = {name: value for name, value in tags.items() if name not in (names.OPENED, names.CODE_DIGEST)}
    if differing:  # not to be taken for what either version alone would make
        kept |= {names.RESUMED_WITH: json.dumps(differing), names.CACHE_KEY: ""}
    run.delivery.put({"kind": "status", "status": "RUNNING"})
    run.delivery.put({"kind": "tags", "tags": kept})
    return run


def _open(client: MlflowClient, run_id: str, experiment_id: str, lock: FileLock, began: float) -> StageRun:
    folder = run_folder(run_id)
    journal = Journal(folder)
    journal.append(
        {"kind": "opened", "run_id": run_id, "store": without_password(mlflow.get_tracking_uri()), **process_identity()}
    )
    sender = Sender(client, run_id, folder)
    delivery = Delivery(journal, sender, sender.note_damaged)
    return StageRun(client, run_id, experiment_id, folder, delivery, sender, lock, began, adopted=False)


def _end(run: StageRun, status: int, note: str, limit_seconds: float) -> None:
    """Give the run its status; remove the local state of a finished run once all of it has arrived."""
    if run.ended is None:  # else interrupted while its end was being delivered: that end stands
        if note:
            run.set_tags({names.NOTE: note})
        ended = int(time.time() * 1000)
        run.delivery.put({"kind": "status", "status": RunStatus.to_string(status), "end_time": ended})
        run.ended = status
        if status != RunStatus.FINISHED and (run.folder / names.CHECKPOINTS).is_dir():
            run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)  # after the status, which is short
    arrived = run.delivery.end(limit_seconds, lambda: _leave(run))
    for refusal in run.sender.refused:
        say(f"warning: the tracking store did not get {refusal}; it is kept in {run.folder}")
    if not arrived:
        why = f" ({first_line(run.delivery.last_error)})" if run.delivery.last_error else ""
        say(f"warning: not everything has reached the tracking store{why}; it is kept in {run.folder}")
        say("what is pending is delivered by: python -m pipeline sync")
    elif run.ended == RunStatus.FINISHED and not run.sender.refused:
        say("everything has arrived at the tracking store")


def _leave(run: StageRun) -> None:
    """Clear up after a run whose journal has arrived; called in the delivering thread."""
    if run.ended == RunStatus.FINISHED and not run.sender.refused:
        shutil.rmtree(run.folder, ignore_errors=True)
    run.lock.release()


def close_lost_runs(client: MlflowClient) -> None:
    """End the runs of the active experiment whose process on this machine is gone as KILLED."""
    for run in _running(client, f"tags.host = '{process_identity()['host']}'"):
        if not process_lives(run.data.tags.get("process", "")):
            _close(client, run, "KILLED", "Its process ended without a word; closed by a later command.")
            say(f"run {run.info.run_id} was left RUNNING by a process that is gone: now KILLED")


def close_lost_process(host: str, process: str, run_id: str, reason: str) -> None:
    """End the runs of a process that is gone as FAILED, and the run they are nested in as KILLED if its process is too.

    A process of another machine that is gone was not missed there within seconds: so its parent is gone as well.

    Args:
        host: As `runtime.process_identity` writes it, like `process`.
        process: Likewise.
        run_id: The run of what it was doing, where it had got so far as to say; FAILED even if it has ended.
        reason: Goes into the note of the nested runs.
    """
    client = open_store()
    lost = {run.info.run_id: run for run in _running(client, f"tags.host = '{host}' and tags.process = '{process}'")}
    if run_id:
        lost[run_id] = client.get_run(run_id)
    for run in lost.values():
        _close(client, run, "FAILED", reason)
        if parent_id := run.data.tags.get(names.PARENT_RUN_ID):
            parent = client.get_run(parent_id)
            elsewhere = parent.data.tags.get("host") != process_identity()["host"]
            if parent.info.status == "RUNNING" and (
                elsewhere or not process_lives(parent.data.tags.get("process", ""))
            ):
                _close(client, parent, "KILLED", "Its process is gone; closed by another machine or command.")


def _running(client: MlflowClient, which: str) -> list[Run]:
    found = client.search_runs([active_experiment_id()], f"attributes.status = 'RUNNING' and {which}", max_results=1000)
    return list(found)


def _close(client: MlflowClient, run: Run, status: str, reason: str) -> None:
    client.set_tag(run.info.run_id, names.NOTE, f"{run.data.tags.get(names.NOTE, '')}\n\n{reason}".strip()[:8000])
    client.set_terminated(run.info.run_id, status)


def fail_untouched_run(note: str) -> None:
    """End the run that `mlflow run` made, and that no stage has taken over, as FAILED with a note."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id:
        client = open_store()
        client.set_tag(run_id, names.NOTE, note[:8000])
        client.set_terminated(run_id, "FAILED")
