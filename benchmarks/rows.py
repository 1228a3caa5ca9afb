"""What a benchmark says: one row a comparison, with its target, its floor and the accuracies; and how rows are kept.

Nothing here imports torch, so that the process that runs the parts stays small.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

SLACK = 1.25  # a short run fails where a ratio is this much above its target
LOWER = "ours LOWER"
EQUAL_ACCURACY = 0.01  # accuracies further apart than this are not called equal: single epochs jitter by half a point


@dataclass(frozen=True)
class Options:
    """How much to measure.

    Attributes:
        rounds: How often every arm of a pair is timed, in turn.
        short: Only what needs no peers and decides whether a change may go in.
        dataset: `auto`, or a small one (`digits`) to try everything out.
    """

    rounds: int = 7
    short: bool = False
    dataset: str = "auto"

    @property
    def few(self) -> int:
        """Rounds of what takes long."""
        return max(1, self.rounds // 2)


@dataclass(frozen=True)
class Row:
    """One pair, timed in alternating rounds.

    Attributes:
        what: What this project did.
        peer: What it is compared with.
        ours: One value a round, in `unit`; less is better.
        theirs: The peer's, in the same rounds.
        unit: `s`, `ms` or `MB`.
        target: The ratio ours / theirs that is wanted at most; None where none is.
        goal: Ours in `unit` that is wanted at most on the reference machine: stated, never tested.
        floor: What cannot be gone below, in `unit`, measured in the same run.
        accuracy: Ours on the test images after the last round, as a fraction.
        peer_accuracy: The peer's.
        note: What one must know to read it.
    """

    what: str
    peer: str
    ours: Sequence[float]
    theirs: Sequence[float]
    unit: str = "s"
    target: float | None = None
    goal: float | None = None
    floor: float | None = None
    accuracy: float | None = None
    peer_accuracy: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Median over rounds of ours / theirs."""
        return statistics.median(mine / yours for mine, yours in zip(self.ours, self.theirs, strict=True))

    @property
    def distance(self) -> float | None:
        """How many times the floor ours is."""
        return statistics.median(self.ours) / self.floor if self.floor else None

    @property
    def accuracy_verdict(self) -> str:
        """Whether both reached about the same accuracy, in words; empty where it was not measured."""
        if self.accuracy is None or self.peer_accuracy is None:
            return ""
        ahead = self.accuracy - self.peer_accuracy
        return "equal" if abs(ahead) <= EQUAL_ACCURACY else "ours higher" if ahead > 0 else LOWER

    def misses(self, slack: float = 1.0) -> bool:
        """Whether the ratio is above its target by more than the slack allows."""
        return self.target is not None and self.ratio > self.target * slack

    def __str__(self) -> str:
        """Return the row in one line."""
        parts = [f"{self.what}: {spread(self.ours, self.unit)}; {self.peer}: {spread(self.theirs, self.unit)}"]
        parts.append(f"ratio {self.ratio:.2f}" + (f" (target {self.target:g})" if self.target is not None else ""))
        if self.distance is not None:
            parts.append(f"{self.distance:.1f} times the floor")
        if self.accuracy is not None and self.peer_accuracy is not None:
            parts.append(f"accuracy {100 * self.accuracy:.2f} and {100 * self.peer_accuracy:.2f} %")
        return ", ".join(parts)


def amount(value: float) -> str:
    """Return three significant digits, never in exponent form."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f}"


def spread(values: Sequence[float], unit: str) -> str:
    """Return median and range."""
    median = amount(statistics.median(values))
    around = f" ({amount(min(values))}-{amount(max(values))})" if len(values) > 1 else ""
    return f"{median} {unit}{around}"


@dataclass(frozen=True)
class PartResult:
    """The rows of one part, and under what circumstances they were measured.

    Attributes:
        name: Of the part.
        commit: The commit measured, with a plus where files differed from it.
        when: Date and time, UTC.
        machine: Processor, threads, versions.
        load: The machine's load average (one minute) before it began.
        seconds: What the whole part took.
        rows: What was found.
    """

    name: str
    commit: str
    when: str
    machine: str
    load: float
    seconds: float
    rows: list[Row] = field(default_factory=list)


def read_results(path: Path) -> dict[str, PartResult]:
    """Return the parts that a file keeps, none where there is no file."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: PartResult(**{**part, "rows": [Row(**row) for row in part["rows"]]}) for name, part in found.items()}


def write_results(path: Path, results: dict[str, PartResult]) -> None:
    """Keep the parts in a file."""
    text = json.dumps({name: asdict(part) for name, part in results.items()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
