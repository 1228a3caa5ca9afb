"""Progress of a plan: a live table of arms on a terminal, one line per step elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.console import duration_text, echo

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


@dataclass(frozen=True)
class StepLabel:
    """A plan step in the display."""

    label: str  # of its arm
    seed: int
    kind: str  # its entry point; steps of one kind take about the same time
    alone: bool = False  # whether nothing runs beside it


class PlanDisplay:
    """Progress of a plan: a live table of arms on a terminal, one line per step elsewhere."""

    def __init__(self, steps: list[StepLabel], *, elapsed: float = 0.0):
        self.steps = steps  # by number
        self.workers = 1  # number of steps that run at a time
        self.notes: dict[int, str] = {}  # outcomes by step number
        self.seconds: dict[int, float] = {}  # likewise, of the steps that were not cached
        self.running: dict[int, str] = {}  # status by step number
        self._started = time.monotonic() - elapsed
        self._waiting = Counter((step.label, step.kind, step.alone) for step in steps)  # steps that are not done
        self._totals: dict[tuple[str, str], tuple[float, int]] = {}  # seconds and number of finished steps
        self._warnings: set[str] = set()
        self._live: Live | None = None

    def __enter__(self) -> PlanDisplay:
        """Show the table on a terminal."""
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(get_renderable=self.table, refresh_per_second=4, vertical_overflow="ellipsis")
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the last state of the table on the terminal."""
        if self._live is not None:
            self._live.__exit__(kind, error, tb)

    def start(self, number: int) -> None:
        """Show a step as running."""
        self.running[number] = ""

    def set_status(self, number: int, text: str) -> None:
        """Show the last line of `text` beside a running step."""
        if number in self.running and (lines := text.strip().splitlines()):
            self.running[number] = lines[-1]

    def warn(self, text: str) -> None:
        """Print a warning, unless an earlier step has printed the same one."""
        if text not in self._warnings:
            self._warnings.add(text)
            print(text, file=sys.stderr, flush=True)

    def wait(self, number: int, text: str) -> None:
        """Show a step that was running as waiting again."""
        self.running.pop(number, None)
        self.warn(text)

    def end(self, number: int, note: str, *, seconds: float | None) -> None:
        """Show the outcome of a step; `seconds` is None if it was cached or failed before it ran."""
        self.record(number, note, seconds)
        if self._live is None:
            step = self.steps[number]
            echo(f"[{len(self.notes)}/{len(self.steps)}] {step.label}, seed {step.seed}: {note}{self.time_left()}")

    def record(self, number: int, note: str, seconds: float | None) -> None:
        """Record the outcome of a step, without showing it."""
        step = self.steps[number]
        self.running.pop(number, None)
        self.notes[number] = note
        self._waiting[step.label, step.kind, step.alone] -= 1
        if seconds is not None:
            self.seconds[number] = seconds
            for key in (("arm", step.label), ("kind", step.kind)):
                total, count = self._totals.get(key, (0.0, 0))
                self._totals[key] = total + seconds, count + 1

    def elapsed_seconds(self) -> float:
        """Return the wall-clock time since the start."""
        return time.monotonic() - self._started

    def time_left(self) -> str:
        """Return the estimated time left, from finished steps of the same arm, else of the same entry point."""
        if len(self.notes) == len(self.steps) or not self.seconds:
            return ""
        alone = shared = longest = missing = 0.0
        for (label, kind, is_alone), count in self._waiting.items():
            total, finished = self._totals.get(("arm", label)) or self._totals.get(("kind", kind), (0.0, 0))
            if not finished:
                missing += count
            elif is_alone:
                alone += count * total / finished
            elif count:
                shared, longest = shared + count * total / finished, max(longest, total / finished)
        left = alone + max(shared / self.workers, longest)
        unknown = f" (steps without an estimate: {missing:.0f})" if missing else ""
        return f"; about {duration_text(left)} left{unknown}"

    def table(self) -> Table:
        """Return one row per arm with its running seeds, or the last outcome."""
        from rich.table import Table

        table = Table(box=None, padding=(0, 1), expand=False)
        for heading in ("arm", "seeds", "last"):
            table.add_column(heading, overflow="ellipsis", no_wrap=True)
        arms: dict[str, list[int]] = defaultdict(list)
        for number, step in enumerate(self.steps):
            arms[step.label].append(number)
        for label, numbers in arms.items():
            finished = [number for number in numbers if number in self.notes]
            last = self.notes[finished[-1]] if finished else ""
            if running := [number for number in numbers if number in self.running]:
                last = "; ".join(f"seed {self.steps[n].seed}: {self.running[n] or 'running'}" for n in running)
            table.add_row(label, f"{len(finished)}/{len(numbers)}", last)
        elapsed = self.elapsed_seconds()
        counts = f"{len(self.notes)} of {len(self.steps)} steps, {len(self.running)} running"
        for word, start in (("cached", "cached"), ("failed", "FAILED")):
            if count := sum(note.startswith(start) for note in self.notes.values()):
                counts += f", {count} {word}"
        table.add_row("", "", f"{counts}, {elapsed:.0f} s{self.time_left()}")
        return table
