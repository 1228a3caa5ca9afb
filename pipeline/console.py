"""Terminal output: results on stdout, log records on stderr, progress of a fit."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

SECONDS_BETWEEN_LINES = 5.0
MINUTES_FROM_SECONDS = 120


class Epoch(Protocol):
    """An epoch record; its `str` is displayed."""

    @property
    def epoch(self) -> int: ...  # noqa: D102


E = TypeVar("E", bound=Epoch)


class StepOutput(Protocol):
    """Takes what a plan step prints while it runs."""

    def set_status(self, text: str) -> None:
        """Show a result line or a log record as the step's status."""

    def warn(self, text: str) -> None:
        """Show a warning."""


class _Output:
    """Where output goes: to the terminal, or to a plan step's output while the step runs."""

    step: StepOutput | None = None


def echo(line: str) -> None:
    """Print a result line, flushed; while a plan step runs, show it as the step's status instead."""
    if _Output.step is not None:
        _Output.step.set_status(line)
    else:
        print(line, flush=True)


@contextmanager
def step_output(step: StepOutput) -> Iterator[None]:
    """Send everything that is printed or logged during the block to a plan step's output."""
    _Output.step = step
    try:
        yield
    finally:
        _Output.step = None


def duration_text(seconds: float) -> str:
    """Return a duration such as `87 s` or `12 min`."""
    return f"{seconds:.0f} s" if seconds < MINUTES_FROM_SECONDS else f"{seconds / 60:.0f} min"


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
        step = _Output.step
        if step is None:
            print(text, file=sys.stderr, flush=True)
        elif record.levelno > logging.INFO:
            step.warn(text)
        else:
            step.set_status(text)


def watch(records: Iterable[E], epochs: int) -> Iterator[E]:
    """Yield epoch records, showing a progress bar on a terminal and a line every few seconds elsewhere."""
    if sys.stdout.isatty() and _Output.step is None:
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
        what: What is being done, such as `decoding images`.
        total: Number of items.

    Yields:
        A function that adds to the number of items done.
    """
    if sys.stdout.isatty() and _Output.step is None:
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
