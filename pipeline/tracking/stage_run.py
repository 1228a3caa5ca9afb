"""The MLflow run of a stage: logs tags, metrics, datasets, models and files through the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient

from pipeline.console import echo
from pipeline.data.examples import Examples
from pipeline.data.splits import Split
from pipeline.tracking import names
from pipeline.tracking.claims import Claim, ClaimLostError
from pipeline.tracking.outbox.sender import Sender
from pipeline.tracking.outbox.uploader import Uploader
from pipeline.tracking.recovery.run_history import RunHistory
from pipeline.training.records import EpochRecord

Point = tuple[str, float, int, int]  # name, value, timestamp in ms, step

UPLOAD_LIMIT_SECONDS = 30


@dataclass(frozen=True)
class StageResult:
    """What a stage returns."""

    run_id: str
    model_uri: str  # accepted by later stages as `base`; empty if the stage trains no model
    metrics: dict[str, float]  # final metrics
    reused: bool = False  # whether this is a cached result


@dataclass
class StageRun:
    """A run in progress."""

    client: MlflowClient
    run_id: str
    experiment_id: str
    folder: Path  # local state: journal, checkpoints and figures until they are uploaded
    uploader: Uploader
    sender: Sender
    lock: FileLock  # held while this process works on the run
    claim: Claim | None = None  # of a plan step
    save_log: Callable[[Path], None] | None = None  # writes what a plan step has printed so far to a file
    started: float = field(default_factory=time.perf_counter)  # of the stage
    adopted: bool = False  # created by `mlflow run`
    nested: bool = False  # has a parent run
    exports_graph: bool = True  # whether its model gets a servable graph
    run_history: RunHistory | None = None  # what earlier processes logged; None if this process created the run
    worked_seconds: float = 0.0  # work of earlier processes up to the restored checkpoint
    lost_seconds: float = 0.0  # work of earlier processes after that checkpoint
    late: bool = False  # uploading has exceeded the time limit
    final_status: int | None = None  # as logged; None while the run is in progress
    final_points: list[Point] = field(default_factory=list)  # everything logged with `log_final`

    @property
    def final_metrics(self) -> dict[str, float]:
        """Everything logged with `log_final`, by name."""
        return {name: value for name, value, _, _ in self.final_points}

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        self.uploader.put({"kind": "tags", "tags": tag_values(tags)})

    def log_epoch(self, record: EpochRecord) -> None:
        """Log one epoch's metrics at step = epoch.

        Raises:
            ClaimLostError: Another process has taken over this plan step.
        """
        if self.claim is not None and self.claim.lost:
            raise ClaimLostError(self.claim.key)
        self.log_metrics(
            {
                names.TRAIN_LOSS: record.train_loss,
                names.TRAIN_ACCURACY: record.train_accuracy,
                names.VAL_LOSS: record.val_loss,
                names.VAL_ACCURACY: record.val_accuracy,
                names.EPOCH_SECONDS: record.epoch_seconds,
            },
            record.epoch,
        )

    def log_final(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics at step 0."""
        self.final_points += self.log_metrics(metrics, 0)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> list[Point]:
        """Log values that no earlier process has logged; return all values, earlier ones unchanged."""
        now = int(time.time() * 1000)
        logged = self.run_history.metrics if self.run_history else {}
        new = [(name, float(value), now, step) for name, value in metrics.items() if (name, step) not in logged]
        self.uploader.put({"kind": "metrics", "metrics": new} if new else {"kind": "again", "step": step})
        return [(name, *logged[name, step], step) for name in metrics if (name, step) in logged] + new

    def log_restored(self, history: list[EpochRecord], *, kept_seconds: float = 0.0) -> None:
        """Log the epoch from which training resumes, the work lost, and epochs that no earlier process has logged.

        `history` has the epochs up to the restored checkpoint; it is empty if training starts over. `kept_seconds` is
        the time of later work that is also kept.
        """
        assert self.run_history is not None, "only a resumed run can be restored"
        kept, lost = self.run_history.spent_seconds(len(history))
        kept, lost = kept + min(kept_seconds, lost), lost - min(kept_seconds, lost)
        self.worked_seconds = kept + float(self.run_history.tags.get(names.WORKED_SECONDS, 0))
        self.lost_seconds = lost + float(self.run_history.tags.get(names.WASTED_SECONDS, 0))
        self.uploader.put({"kind": "restored", "epoch": len(history)})
        spent = {names.WORKED_SECONDS: self.worked_seconds, names.WASTED_SECONDS: self.lost_seconds}
        self.set_tags({names.OPENED: int(time.time() * 1000), **spent})
        for record in history:
            self.log_epoch(record)

    def log_split(self, split: Split) -> None:
        """Log the training, validation and test data, as far as there are any, as inputs with their digests."""
        for context, examples in (("training", split.train), ("validation", split.validation), ("testing", split.test)):
            if len(examples):
                self.uploader.put(_dataset_entry(split, context, examples))
        self.set_tags({names.DATASET: split.dataset, names.CLASSES: split.classes_text, "dataset_note": split.note})

    def log_file(self, path: Path, artifact_folder: str = "") -> None:
        """Log a file, or the content of a folder, as artifact; it must exist until it is uploaded."""
        self.uploader.put({"kind": "file", "path": str(path.resolve()), "folder": artifact_folder})

    def log_base(self, model_uri: str) -> None:
        """Log a model as input of this run, so that MLflow shows the lineage."""
        self.uploader.put({"kind": "base", "model_uri": model_uri})

    def wait_for_model(self) -> str:
        """Wait for pending uploads; return the model's URI, or `runs:/ID/model` if it is still pending."""
        self.late = not self.uploader.flush(UPLOAD_LIMIT_SECONDS)
        for message in self.sender.messages:
            echo(message)
        return self.sender.model_uri or f"runs:/{self.run_id}/{names.MODEL}"

    def elapsed_seconds(self) -> float:
        """Return the wall-clock time of the stage, including the work of earlier processes that was kept."""
        return time.perf_counter() - self.started + self.worked_seconds


def tag_values(tags: Mapping[str, object]) -> dict[str, str]:
    """Return tags as strings, truncated to a length that every store accepts."""
    return {name: str(value)[: names.MAX_TAG_LENGTH] for name, value in tags.items()}


def _dataset_entry(split: Split, context: str, examples: Examples) -> dict[str, object]:
    shape = [-1, *examples.image_shape]
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
