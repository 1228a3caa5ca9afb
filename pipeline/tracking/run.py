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
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus, RunTag
from mlflow.tracking.context.registry import resolve_tags

from pipeline.data.splits import Examples, Split
from pipeline.interruption import interruptible, raise_if_asked
from pipeline.params import StageParams
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.deliver import Sender
from pipeline.tracking.identity import code_digest
from pipeline.tracking.insist import insist_on_killed
from pipeline.tracking.journal import Delivery, Journal
from pipeline.tracking.store import active_experiment_id, open_store
from pipeline.training.loop import EpochRecord

Point = tuple[str, float, int, int]  # name, value, timestamp in ms, step

ARRIVAL_LIMIT_SECONDS = 60
KILLED_LIMIT_SECONDS = 5  # an interrupted stage must not keep its user waiting


@dataclass(frozen=True)
class StageResult:
    """What a stage returns.

    Attributes:
        run_id: Its MLflow run.
        model_uri: What later stages take as `base`; empty where the stage makes no model.
        metrics: The metrics logged at its end.
    """

    run_id: str
    model_uri: str
    metrics: dict[str, float]


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
        began: When the stage began, on the monotonic clock.
        adopted: Whether `mlflow run` made the run.
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
    began: float
    adopted: bool
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
        self.final_metrics.update(metrics)
        self.final_points += self._log_metrics(metrics, 0)

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> list[Point]:
        now = int(time.time() * 1000)
        points = [(name, float(value), now, step) for name, value in metrics.items()]
        self.delivery.put({"kind": "metrics", "metrics": points})
        return points

    def log_split(self, split: Split) -> None:
        """Log the training, validation and test inputs with their digests."""
        parts = (("training", split.train), ("validation", split.validation), ("testing", split.test))
        for context, examples in parts:
            self.delivery.put(_dataset_entry(split, context, examples))
        self.set_tags({names.DATASET: split.dataset, names.CLASSES: split.classes_text, "dataset_note": split.note})

    def log_file(self, path: Path, artifact_folder: str = "") -> None:
        """Log a file, or a folder's content, as artifact; it must stay where it is until it has arrived."""
        self.delivery.put({"kind": "file", "path": str(path.resolve()), "folder": artifact_folder})

    def log_base(self, model_id: str) -> None:
        """Log a model as this run's input, so that MLflow shows where it comes from."""
        self.delivery.put({"kind": "base", "model_id": model_id})

    def elapsed_seconds(self) -> float:
        """Return the wall-clock since the stage began."""
        return time.perf_counter() - self.began


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


def state_folder() -> Path:
    """Return where stages keep their state until it has arrived: `$PIPELINE_STATE_DIR`, else `.pipeline`."""
    return Path(os.environ.get("PIPELINE_STATE_DIR") or ".pipeline")


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
    params: StageParams, *, name: str, note: str, tags: Mapping[str, object], parent_run_id: str | None = None
) -> Iterator[StageRun]:
    """Open a stage's run, and end it FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM).

    The run that `mlflow run` made is adopted by the first stage of the process; any other is created.

    Args:
        params: Logged, each once, those that the run lacks.
        name: The run's name in the UI.
        note: What the run is, in words.
        tags: Further tags that are known at the start.
        parent_run_id: Makes the run a nested one.
    """
    client = open_store()
    if parent_run_id is None:
        close_lost_runs(client)
    run = _adopt_or_create(client, name, parent_run_id)
    with interruptible():
        try:
            raise_if_asked()
            given = run.client.get_run(run.run_id).data.params
            run.delivery.put({"kind": "params", "params": {k: v for k, v in params.logged().items() if k not in given}})
            run.set_tags(
                {
                    names.STAGE: params.entry_point,
                    names.NOTE: note,
                    names.CODE_DIGEST: code_digest(params.entry_point),
                    names.PARAMETERS: json.dumps(params.logged()),
                    **tags,
                }
            )
            yield run
            _end(run, RunStatus.FINISHED, "", ARRIVAL_LIMIT_SECONDS)
        except KeyboardInterrupt:
            _end(run, RunStatus.KILLED, f"{note}\n\nInterrupted; its last checkpoint is kept.", KILLED_LIMIT_SECONDS)
            if run.adopted and run.ended == RunStatus.KILLED:
                insist_on_killed(run.run_id, mlflow.get_tracking_uri())
            raise
        except BaseException as error:
            reason = f"{note}\n\nFailed with {type(error).__name__}: {error}"
            _end(run, RunStatus.FAILED, reason, ARRIVAL_LIMIT_SECONDS)
            raise


def _adopt_or_create(client: MlflowClient, name: str, parent_run_id: str | None) -> StageRun:
    began = time.perf_counter()
    adopted = os.environ.pop("MLFLOW_RUN_ID", None) if parent_run_id is None else None
    own = process_identity()  # with the run from its first moment, or a process killed then would leave it RUNNING
    if adopted:
        info = client.get_run(adopted).info
        client.update_run(adopted, status="RUNNING", name=name)
        client.log_batch(adopted, tags=[RunTag(key, value) for key, value in own.items()], synchronous=True)
    else:
        tags = resolve_tags({**own, names.PARENT_RUN_ID: parent_run_id} if parent_run_id else own)
        info = client.create_run(active_experiment_id(), tags=tags, run_name=name).info
    folder = state_folder() / "runs" / info.run_id
    journal = Journal(folder / "journal.jsonl")
    sender = Sender(client, info.run_id)
    delivery = Delivery(journal, sender)
    return StageRun(client, info.run_id, info.experiment_id, folder, delivery, sender, began, bool(adopted))


def _end(run: StageRun, status: int, note: str, limit_seconds: float) -> None:
    """Give the run its status; remove the local state of a finished run once all of it has arrived."""
    if run.ended is not None:  # interrupted while its end was being delivered: that end stands
        status = run.ended
    else:
        if note:
            run.set_tags({names.NOTE: note})
        ended = int(time.time() * 1000)
        run.delivery.put({"kind": "status", "status": RunStatus.to_string(status), "end_time": ended})
        run.ended = status
        if status != RunStatus.FINISHED and (run.folder / names.CHECKPOINTS).is_dir():
            run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)  # after the status, which is short
    arrived = run.delivery.close(limit_seconds)
    for refusal in run.sender.refused:
        print(f"warning: the tracking store refused {refusal}", flush=True)
    if not arrived:
        why = f" ({run.delivery.last_error})" if run.delivery.last_error else ""
        print(f"warning: not everything has reached the tracking store{why}; it is kept in {run.folder}", flush=True)
    elif status == RunStatus.FINISHED:
        shutil.rmtree(run.folder, ignore_errors=True)


def close_lost_runs(client: MlflowClient) -> None:
    """End the runs of the active experiment whose process on this machine is gone as KILLED."""
    for run in _running(client, f"tags.host = '{process_identity()['host']}'"):
        if not process_lives(run.data.tags.get("process", "")):
            _close(client, run, "KILLED", "Its process ended without a word; closed by a later command.")
            print(f"run {run.info.run_id} was left RUNNING by a process that is gone: now KILLED", flush=True)


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
