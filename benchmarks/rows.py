"""Result records: a row per comparison with target, floor and accuracies; reading and writing results.json.

Does not import torch, so that the process that runs the parts stays small.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

SLACK = 1.25  # a short run fails above target * SLACK
LOWER = "ours LOWER"
EQUAL_ACCURACY = 0.01  # larger differences are not called equal; single epochs vary by 0.005


@dataclass(frozen=True)
class Options:
    """Size of a benchmark run.

    Attributes:
        rounds: Timed rounds per pair.
        short: Whether to run only what CI checks.
        dataset: `auto`, or `digits` for a quick try.
    """

    rounds: int = 7
    short: bool = False
    dataset: str = "auto"

    @property
    def few(self) -> int:
        """Rounds of slow benchmarks."""
        return max(1, self.rounds // 2)


@dataclass(frozen=True)
class Row:
    """One comparison, timed in interleaved rounds.

    Attributes:
        what: The benchmark.
        peer: The baseline.
        ours: One value per round, in `unit`; lower is better.
        theirs: The baseline's, in the same rounds.
        unit: `s`, `ms` or `MB`.
        target: Maximum ratio ours / theirs, if any.
        goal: Maximum of ours in `unit` on the reference machine; reported, not tested.
        floor: Lower bound in `unit`, measured in the same run.
        accuracy: Our test accuracy after the last round, in [0, 1].
        peer_accuracy: The baseline's.
        note: A remark below the table.
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
        """Ours divided by the floor."""
        return statistics.median(self.ours) / self.floor if self.floor else None

    @property
    def accuracy_verdict(self) -> str:
        """Comparison of the accuracies; empty if not measured."""
        if self.accuracy is None or self.peer_accuracy is None:
            return ""
        difference = self.accuracy - self.peer_accuracy
        return "equal" if abs(difference) <= EQUAL_ACCURACY else "ours higher" if difference > 0 else LOWER

    def misses(self, slack: float = 1.0) -> bool:
        """Whether the ratio is above target * slack."""
        return self.target is not None and self.ratio > self.target * slack

    def __str__(self) -> str:
        """Return the row as one line."""
        parts = [f"{self.what}: {spread(self.ours, self.unit)}; {self.peer}: {spread(self.theirs, self.unit)}"]
        parts.append(f"ratio {self.ratio:.2f}" + (f" (target {self.target:g})" if self.target is not None else ""))
        if self.distance is not None:
            parts.append(f"{self.distance:.1f} x the floor")
        if self.accuracy is not None and self.peer_accuracy is not None:
            parts.append(f"accuracy {100 * self.accuracy:.2f} and {100 * self.peer_accuracy:.2f} %")
        return ", ".join(parts)


def amount(value: float) -> str:
    """Return three significant digits without an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f}"


def spread(values: Sequence[float], unit: str) -> str:
    """Return median and range."""
    median = amount(statistics.median(values))
    around = f" ({amount(min(values))}-{amount(max(values))})" if len(values) > 1 else ""
    return f"{median} {unit}{around}"


@dataclass(frozen=True)
class PartResult:
    """The rows of one part and the circumstances of the measurement.

    Attributes:
        name: The part.
        commit: Measured commit; a plus sign means uncommitted changes.
        when: Date and time, UTC.
        machine: Processor, threads, versions.
        load: One-minute load average before the start.
        seconds: Duration of the part.
        rows: The results.
    """

    name: str
    commit: str
    when: str
    machine: str
    load: float
    seconds: float
    rows: list[Row] = field(default_factory=list)


def read_results(path: Path) -> dict[str, PartResult]:
    """Return the stored parts; none if the file does not exist."""
    if not path.exists():
        return {}
    parts = json.loads(path.read_text(encoding="utf-8"))
    return {name: PartResult(**{**part, "rows": [Row(**row) for row in part["rows"]]}) for name, part in parts.items()}


def write_results(path: Path, results: dict[str, PartResult]) -> None:
    """Write the parts as JSON."""
    text = json.dumps({name: asdict(part) for name, part in results.items()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
