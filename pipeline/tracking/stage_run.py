"""What a stage hands to its run while it works: tags, metrics, data sets, files; all of it goes into the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient

from pipeline.console import echo
from pipeline.data.splits import Examples, Split
from pipeline.tracking import names
from pipeline.tracking.outbox.sender import Sender
from pipeline.tracking.outbox.uploader import Uploader
from pipeline.tracking.recovery.run_history import RunHistory
from pipeline.training.loop import EpochRecord

Point = tuple[str, float, int, int]  # name, value, timestamp in ms, step

ARRIVAL_LIMIT_SECONDS = 30


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
        nested: Whether it is part of another run, which says what has arrived.
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
    uploader: Uploader
    sender: Sender
    lock: FileLock
    began: float
    adopted: bool
    nested: bool = False
    run_history: RunHistory | None = None
    worked_seconds: float = 0.0
    lost_seconds: float = 0.0
    late: bool = False
    ended: int | None = None
    final_metrics: dict[str, float] = field(default_factory=dict)
    final_points: list[Point] = field(default_factory=list)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set some tags."""
        self.uploader.put({"kind": "tags", "tags": {name: str(value)[:8000] for name, value in tags.items()}})

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
        known = self.run_history.points if self.run_history else {}
        fresh = [(name, float(value), now, step) for name, value in metrics.items() if (name, step) not in known]
        if fresh:
            self.uploader.put({"kind": "metrics", "metrics": fresh})
        else:
            self.uploader.put({"kind": "again", "step": step})
        return [(name, *known[name, step], step) for name in metrics if (name, step) in known] + fresh

    def log_restored(self, history: list[EpochRecord]) -> None:
        """Note where work goes on, and what the interruption has cost; log epochs that no process has.

        Args:
            history: Of the checkpoint that work goes on from; empty where it starts over.
        """
        assert self.run_history is not None, "only a resumed run can be restored"
        kept, lost = self.run_history.spent_seconds(len(history))
        kept += float(self.run_history.tags.get(names.WORKED_SECONDS, 0))
        lost += float(self.run_history.tags.get(names.WASTED_SECONDS, 0))
        self.worked_seconds = kept
        opened = int(time.time() * 1000)
        self.uploader.put({"kind": "restored", "epoch": len(history)})
        self.set_tags({names.OPENED: opened, names.WORKED_SECONDS: kept, names.WASTED_SECONDS: lost})
        for record in history:
            self.log_epoch(record)
        self.lost_seconds = lost

    def log_split(self, split: Split) -> None:
        """Log the training, validation and test inputs with their digests."""
        parts = (("training", split.train), ("validation", split.validation), ("testing", split.test))
        for context, examples in parts:
            self.uploader.put(_dataset_entry(split, context, examples))
        self.set_tags({names.DATASET: split.dataset, names.CLASSES: split.classes_text, "dataset_note": split.note})

    def log_file(self, path: Path, artifact_folder: str = "") -> None:
        """Log a file, or a folder's content, as artifact; it must stay where it is until it has arrived."""
        self.uploader.put({"kind": "file", "path": str(path.resolve()), "folder": artifact_folder})

    def log_base(self, model_uri: str) -> None:
        """Log a model as this run's input, so that MLflow shows where it comes from."""
        self.uploader.put({"kind": "base", "model_uri": model_uri})

    def wait_for_model(self) -> str:
        """Wait for what has been logged to arrive; return the model's URI, or `runs:/ID/model` while it is pending."""
        self.late = not self.uploader.flush(ARRIVAL_LIMIT_SECONDS)
        for line in self.sender.messages:
            echo(line)
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
