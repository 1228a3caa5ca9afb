"""Everything that earlier processes logged for a run, uploaded or not, and the time that they spent on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import names
from pipeline.tracking.outbox.journal import Entry, final_status, logged_entries

MetricValues = dict[tuple[str, int], tuple[float, int]]  # (metric, step) -> value, timestamp in ms


@dataclass
class Attempt:
    """One process's work on a run, reconstructed from what it logged; times in ms."""

    opened: int
    last_logged: int
    epoch_ends: dict[int, int] = field(default_factory=dict)  # epoch -> time


@dataclass(frozen=True)
class RunHistory:
    """What earlier processes logged for a run, including data that is not uploaded yet."""

    experiment_id: str
    tags: dict[str, str]
    params: frozenset[str]  # names
    metrics: MetricValues
    final_status: str  # as set by the last process; empty if it did not end the run
    attempts: tuple[Attempt, ...]  # since the run was last resumed

    def spent_seconds(self, epoch: int) -> tuple[float, float]:
        """Return the wall-clock time up to the end of `epoch` (kept) and after it (lost)."""
        kept = lost = 0
        for index, attempt in enumerate(self.attempts):
            end = attempt.epoch_ends.get(epoch, attempt.opened) if index == 0 else attempt.opened
            kept += end - attempt.opened
            lost += attempt.last_logged - end
        return kept / 1000, lost / 1000


def read_run_history(client: MlflowClient, run: Run, folder: Path) -> RunHistory:
    """Read what was logged for a run from its journal in `folder` and from the store."""
    entries = logged_entries(folder)
    tags, params = dict(run.data.tags), set(run.data.params)
    for entry in entries:
        tags |= entry.get("tags", {}) if entry["kind"] == "tags" else {}
        params |= set(entry.get("params", {}))
    metrics: MetricValues = {}
    for name, value, timestamp, step in _journal_metrics(entries):
        metrics.setdefault((name, step), (value, timestamp))
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            metrics.setdefault((name, int(point.step)), (float(point.value), int(point.timestamp)))
    attempts = _attempts(entries) or [_attempt_from_store(tags, metrics, int(run.info.start_time))]
    return RunHistory(
        experiment_id=str(run.info.experiment_id),
        tags=tags,
        params=frozenset(params),
        metrics=metrics,
        final_status=final_status(entries),
        attempts=tuple(attempts),
    )


def _journal_metrics(entries: list[Entry]) -> Iterator[tuple[str, float, int, int]]:
    for entry in entries:
        if entry["kind"] == "metrics":
            for name, value, timestamp, step in entry["metrics"]:
                yield str(name), float(value), int(timestamp), int(step)


def _attempts(entries: list[Entry]) -> list[Attempt]:
    """Return the attempts since the last `restored` entry; earlier ones are included in the tags that follow it."""
    attempts: list[Attempt] = []
    for entry in entries:
        time = int(entry["time"])
        if entry["kind"] == "opened":
            attempts.append(Attempt(time, time))
        elif not attempts:
            return []
        elif entry["kind"] == "restored":
            attempts = attempts[-1:]
        attempts[-1].last_logged = time
        for name, _, _, step in _journal_metrics([entry]):
            if name == names.VAL_LOSS:
                attempts[-1].epoch_ends[step] = time
        if entry["kind"] == "again":
            attempts[-1].epoch_ends[int(entry["step"])] = time
    return attempts


def _attempt_from_store(tags: dict[str, str], metrics: MetricValues, start_time: int) -> Attempt:
    opened = int(tags.get(names.OPENED, start_time))
    epoch_ends = {
        step: time for (name, step), (_, time) in metrics.items() if name == names.VAL_LOSS and time >= opened
    }
    return Attempt(opened, max([opened, *epoch_ends.values()]), epoch_ends)
