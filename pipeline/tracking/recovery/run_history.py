"""What earlier processes have logged of a run, whether it has arrived or not; and what their work came to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import names
from pipeline.tracking.outbox.journal import Entry, ended_as, logged_entries

Points = dict[tuple[str, int], tuple[float, int]]  # (metric, step) -> value, timestamp in ms


@dataclass
class Attempt:
    """The work of one process on a run, as far as it left traces; times in ms.

    Attributes:
        opened: When it opened the run.
        last: When it last logged something.
        epochs: When it had finished which epoch.
    """

    opened: int
    last: int
    epochs: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunHistory:
    """What is known of a run before this process works on it.

    Attributes:
        tags: As they are, or will be once the journal has arrived.
        params: Names of those logged.
        points: The metrics logged, each once.
        status: The one that its last process gave it; empty where that did not come to its end.
        stretches: Work since the last time that the run was resumed.
    """

    tags: dict[str, str]
    params: frozenset[str]
    points: Points
    status: str
    attempts: tuple[Attempt, ...]

    def spent_seconds(self, epoch: int) -> tuple[float, float]:
        """Return wall-clock that went into what is kept when work goes on after an epoch, and into what is not."""
        kept = lost = 0
        for number, stretch in enumerate(self.attempts):
            until = stretch.epochs.get(epoch, stretch.opened) if number == 0 else stretch.opened
            kept += until - stretch.opened
            lost += stretch.last - until
        return kept / 1000, lost / 1000


def read_run_history(client: MlflowClient, run: Run, folder: Path) -> RunHistory:
    """Return what has been logged of a run: what its journal says, and what the store says where that is gone."""
    entries = logged_entries(folder)
    tags, params = dict(run.data.tags), set(run.data.params)
    for entry in entries:
        tags |= entry.get("tags", {}) if entry["kind"] == "tags" else {}
        params |= set(entry.get("params", {}))
    points: Points = {}
    for name, value, at, step in _journal_points(entries):
        points.setdefault((name, step), (value, at))
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            points.setdefault((name, int(point.step)), (float(point.value), int(point.timestamp)))
    attempts = _attempts(entries) or _attempt_from_store(tags, points, int(run.info.start_time))
    return RunHistory(tags, frozenset(params), points, ended_as(entries), tuple(attempts))


def _journal_points(entries: list[Entry]) -> Iterable[tuple[str, float, int, int]]:
    for entry in entries:
        if entry["kind"] == "metrics":
            for name, value, at, step in entry["metrics"]:
                yield str(name), float(value), int(at), int(step)


def _attempts(entries: list[Entry]) -> list[Attempt]:
    found: list[Attempt] = []
    for entry in entries:
        at = int(entry["time"])
        if entry["kind"] == "opened":
            found.append(Attempt(at, at))
        elif not found:
            return []
        elif entry["kind"] == "restored":
            found = found[-1:]  # what came before has been accounted for
        found[-1].last = at
        for name, _, _, step in _journal_points([entry]):
            if name == names.VAL_LOSS:
                found[-1].epochs[step] = at
        if entry["kind"] == "again":
            found[-1].epochs[int(entry["step"])] = at
    return found


def _attempt_from_store(tags: dict[str, str], points: Points, started: int) -> list[Attempt]:
    opened = int(tags.get(names.OPENED, started))
    epochs = {step: at for (name, step), (_, at) in points.items() if name == names.VAL_LOSS and at >= opened}
    return [Attempt(opened, max([opened, *epochs.values()]), epochs)]
