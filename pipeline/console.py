"""Terminal output: results on stdout, log records on stderr, progress of a fit and of a plan."""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

SECONDS_BETWEEN_LINES = 5.0
MINUTES_FROM_SECONDS = 120


class Epoch(Protocol):
    """An epoch record; its `str` is displayed."""

    @property
    def epoch(self) -> int: ...  # noqa: D102


E = TypeVar("E", bound=Epoch)


class _Output:
    """Where output goes: to the terminal, or to the plan display while a step runs."""

    display: PlanDisplay | None = None


def echo(line: str) -> None:
    """Print a result line, flushed; while a plan step runs, show it as the step's status instead."""
    if _Output.display is not None:
        _Output.display.set_status(line)
    else:
        print(line, flush=True)


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: text in the second column is left-aligned, everything else right-aligned; never shortened."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 1 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print(table)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log records to stderr. Only the command line calls this."""
    logger = logging.getLogger("pipeline")
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(_ConsoleHandler())


class _ConsoleHandler(logging.Handler):
    """Writes records to stderr, warnings with their level; a running plan step's information goes to its status."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno > logging.INFO:
            text = f"{record.levelname.lower()}: {text}"
        display = _Output.display
        if display is None:
            print(text, file=sys.stderr, flush=True)
        elif record.levelno > logging.INFO:
            display.warn(text)
        else:
            display.set_status(text)


def watch(records: Iterable[E], epochs: int) -> Iterator[E]:
    """Yield epoch records, showing a progress bar on a terminal and a line every few seconds elsewhere."""
    if sys.stdout.isatty() and _Output.display is None:
        yield from _with_bar(records, epochs)
        return
    last = -SECONDS_BETWEEN_LINES
    for record in records:
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            echo(f"epoch {record.epoch}/{epochs}: {record}")
            last = time.monotonic()
        yield record


def _with_bar(records: Iterable[E], epochs: int) -> Iterator[E]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counter, description = (TextColumn("epoch"), MofNCompleteColumn()), TextColumn("{task.description}")
    with Progress(*counter, BarColumn(), description, TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task("", total=epochs)
        for record in records:
            bar.update(task, completed=record.epoch, description=str(record))
            yield record


@contextmanager
def count_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` items are done, as a bar on a terminal and as a line every few seconds elsewhere.

    Args:
        what: Is being done, such as `decoding images`.
        total: Number of items.

    Yields:
        A function that adds to the number of items done.
    """
    if sys.stdout.isatty() and _Output.display is None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn(what), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), transient=True
        ) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            echo(f"{what}: {done}/{total}")
            last = time.monotonic()

    yield advance


@dataclass(frozen=True)
class StepLabel:
    """A plan step in the display."""

    label: str  # of its arm
    seed: int
    kind: str  # its entry point; steps of one kind take about the same time


class PlanDisplay:
    """Progress of a plan: a live table of arms on a terminal, one line per step elsewhere."""

    def __init__(self, steps: list[StepLabel]):
        self.steps = steps  # in the order in which they run
        self.notes: dict[int, str] = {}  # outcomes by step number
        self.seconds: dict[int, float] = {}  # likewise, of the steps that were not cached
        self.status = ""
        self._started = self._step_started = time.monotonic()
        self._current = 0
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

    @contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Mark a step as running, and show its output as its status; a warning is printed once per plan run."""
        self._current, self._step_started, self.status = number, time.monotonic(), ""
        _Output.display = self
        try:
            yield
        finally:
            _Output.display = None

    def set_status(self, text: str) -> None:
        """Show the last line of `text` beside the running step."""
        self.status = (text.strip().splitlines() or [self.status])[-1]

    def warn(self, text: str) -> None:
        """Print a warning, unless an earlier step has printed the same one."""
        if text not in self._warnings:
            self._warnings.add(text)
            print(text, file=sys.stderr, flush=True)

    def end(self, number: int, note: str, *, reused: bool) -> None:
        """Show the outcome of a step."""
        self.notes[number] = note
        if not reused:
            self.seconds[number] = time.monotonic() - self._step_started
        if self._live is None:
            step = self.steps[number]
            echo(f"[{number + 1}/{len(self.steps)}] {step.label}, seed {step.seed}: {note}{self.time_left()}")

    def time_left(self) -> str:
        """Return the estimated time left, from finished steps of the same arm, else of the same entry point."""
        by_label, by_kind = defaultdict(list), defaultdict(list)
        for number, seconds in self.seconds.items():
            by_label[self.steps[number].label].append(seconds)
            by_kind[self.steps[number].kind].append(seconds)
        waiting = [step for number, step in enumerate(self.steps) if number not in self.notes]
        samples = [by_label.get(step.label) or by_kind.get(step.kind) for step in waiting]
        if not waiting or not self.seconds:
            return ""
        left = sum(fmean(seconds) for seconds in samples if seconds)
        unknown = f" (steps without an estimate: {samples.count(None)})" if None in samples else ""
        text = f"{left:.0f} s" if left < MINUTES_FROM_SECONDS else f"{left / 60:.0f} min"
        return f"; about {text} left{unknown}"

    def table(self) -> Table:
        """Return one row per arm with the last outcome of its seeds."""
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
            if self._current in numbers and self._current not in self.notes:
                last = f"seed {self.steps[self._current].seed}: {self.status or 'running'}"
            table.add_row(label, f"{len(finished)}/{len(numbers)}", last)
        elapsed = time.monotonic() - self._started
        table.add_row("", "", f"{len(self.notes)} of {len(self.steps)} steps, {elapsed:.0f} s{self.time_left()}")
        return table
