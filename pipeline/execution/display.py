"""Progress of a plan: a live table of arms on a terminal, one line per step elsewhere."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.console import echo

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

MINUTES_FROM_SECONDS = 120


@dataclass(frozen=True)
class StepLabel:
    """A plan step in the display."""

    label: str  # of its arm
    seed: int
    kind: str  # its entry point; steps of one kind take about the same time
    alone: bool = False  # whether nothing runs beside it


class PlanDisplay:
    """Progress of a plan: a live table of arms on a terminal, one line per step elsewhere."""

    def __init__(self, steps: list[StepLabel]):
        self.steps = steps  # by number
        self.workers = 1  # number of steps that run at a time
        self.notes: dict[int, str] = {}  # outcomes by step number
        self.seconds: dict[int, float] = {}  # likewise, of the steps that were not cached
        self.running: dict[int, str] = {}  # status by step number
        self._started = time.monotonic()
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
        self.running.pop(number, None)
        self.notes[number] = note
        if seconds is not None:
            self.seconds[number] = seconds
        if self._live is None:
            step = self.steps[number]
            echo(f"[{len(self.notes)}/{len(self.steps)}] {step.label}, seed {step.seed}: {note}{self.time_left()}")

    def time_left(self) -> str:
        """Return the estimated time left, from finished steps of the same arm, else of the same entry point."""
        by_label, by_kind = defaultdict(list), defaultdict(list)
        for number, seconds in self.seconds.items():
            by_label[self.steps[number].label].append(seconds)
            by_kind[self.steps[number].kind].append(seconds)
        waiting = [step for number, step in enumerate(self.steps) if number not in self.notes]
        samples = [(step.alone, by_label.get(step.label) or by_kind.get(step.kind)) for step in waiting]
        if not waiting or not self.seconds:
            return ""
        left = self._parallel_seconds([(alone, fmean(seconds)) for alone, seconds in samples if seconds])
        missing = sum(seconds is None for _, seconds in samples)
        unknown = f" (steps without an estimate: {missing})" if missing else ""
        text = f"{left:.0f} s" if left < MINUTES_FROM_SECONDS else f"{left / 60:.0f} min"
        return f"; about {text} left{unknown}"

    def _parallel_seconds(self, estimates: list[tuple[bool, float]]) -> float:
        """Return the time of steps that run alone one after another, and of the others in parallel."""
        shared = [seconds for alone, seconds in estimates if not alone]
        alone = sum(seconds for alone, seconds in estimates if alone)
        return alone + max(sum(shared) / self.workers, max(shared, default=0.0))

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
        elapsed = time.monotonic() - self._started
        table.add_row("", "", f"{len(self.notes)} of {len(self.steps)} steps, {elapsed:.0f} s{self.time_left()}")
        return table
