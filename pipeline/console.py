"""What a stage says while it works: a progress bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

SECONDS_BETWEEN_LINES = 5.0


class Epoch(Protocol):
    """What a line about an epoch shows."""

    @property
    def epoch(self) -> int: ...  # noqa: D102
    @property
    def train_loss(self) -> float: ...  # noqa: D102
    @property
    def val_loss(self) -> float: ...  # noqa: D102
    @property
    def val_accuracy(self) -> float: ...  # noqa: D102


E = TypeVar("E", bound=Epoch)


def echo(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log records to stderr; called by the command line alone."""
    logger = logging.getLogger("pipeline")
    logger.setLevel(level)
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_LevelFormatter())
        logger.addHandler(handler)


class _LevelFormatter(logging.Formatter):
    """Marks warnings and errors by their level; information is printed as it is."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def watch(records: Iterable[E], epochs: int) -> Iterator[E]:
    """Pass epoch records on, showing progress on the way."""
    if sys.stdout.isatty():
        yield from _with_bar(records, epochs)
    else:
        yield from _with_lines(records, epochs)


def _describe(record: Epoch) -> str:
    return (
        f"train loss {record.train_loss:.4f}, val loss {record.val_loss:.4f}, "
        f"val accuracy {100 * record.val_accuracy:.2f} %"
    )


def _with_lines(records: Iterable[E], epochs: int) -> Iterator[E]:
    last = -SECONDS_BETWEEN_LINES
    for record in records:
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            echo(f"epoch {record.epoch} of at most {epochs}: {_describe(record)}")
            last = time.monotonic()
        yield record


def _with_bar(records: Iterable[E], epochs: int) -> Iterator[E]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=epochs)
        for record in records:
            bar.update(task, completed=record.epoch, description=_describe(record))
            yield record


@dataclass(frozen=True)
class StepLabel:
    """A step of a study as the display names it.

    Attributes:
        label: Of its arm.
        seed: Which of its repeats.
        kind: Steps of one kind take about as long.
    """

    label: str
    seed: int
    kind: str


class PlanDisplay:
    """Arms, progress and time left: a table that is kept up to date on a terminal, one line a step elsewhere.

    Args:
        steps: In the order in which they will come.
    """

    def __init__(self, steps: list[StepLabel]):
        self.steps = steps
        self.notes: dict[int, str] = {}
        self.seconds: dict[int, float] = {}
        self.status = ""
        self._began = self._step_began = time.monotonic()
        self._now = 0
        self._live: Live | None = None

    def __enter__(self) -> PlanDisplay:
        """Show the table, where there is a terminal."""
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            own = Console(file=sys.stdout)  # what steps say is put aside, and this must not go with it
            self._live = Live(
                console=own, get_renderable=self.table, refresh_per_second=4, vertical_overflow="ellipsis",
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.__exit__(kind, error, tb)

    def begin(self, number: int) -> None:
        """Say that a step has begun."""
        self._now, self._step_began, self.status = number, time.monotonic(), ""

    def end(self, number: int, note: str, *, reused: bool) -> None:
        """Say what became of a step."""
        self.notes[number] = note
        if not reused:
            self.seconds[number] = time.monotonic() - self._step_began
        if self._live is None:
            step = self.steps[number]
            echo(f"[{number + 1}/{len(self.steps)}] {step.label}, seed {step.seed}: {note}{self.time_left()}")

    def time_left(self) -> str:
        """Return how much time is left, by what steps of the same arm and kind have taken, in words."""
        by_label, by_kind = defaultdict(list), defaultdict(list)
        for number, seconds in self.seconds.items():
            by_label[self.steps[number].label].append(seconds)
            by_kind[self.steps[number].kind].append(seconds)
        waiting = [step for number, step in enumerate(self.steps) if number not in self.notes]
        known = [by_label.get(step.label) or by_kind.get(step.kind) for step in waiting]
        left = sum(sum(seconds) / len(seconds) for seconds in known if seconds)
        if not waiting or not self.seconds:
            return ""
        more = " and what no step has shown yet" if None in known else ""
        return f"; about {left:.0f} s left{more}" if left < 120 else f"; about {left / 60:.0f} min left{more}"

    def table(self) -> Table:
        """Return the arms with what their seeds came to."""
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
            if self._now in numbers and self._now not in self.notes:
                last = f"seed {self.steps[self._now].seed}: {self.status or 'running'}"
            table.add_row(label, f"{len(finished)}/{len(numbers)}", last)
        elapsed = time.monotonic() - self._began
        table.add_row("", "", f"{len(self.notes)} of {len(self.steps)} steps, {elapsed:.0f} s{self.time_left()}")
        return table


class _Aside(io.TextIOBase):
    """Takes what a step says, and shows its last line."""

    def __init__(self, display: PlanDisplay):
        self.display = display

    def write(self, text: str) -> int:
        """Take some text."""
        if text.strip():
            self.display.status = text.strip().splitlines()[-1]
        return len(text)


@contextmanager
def capture_output(display: PlanDisplay) -> Iterator[None]:
    """Keep what a step of a study says out of the way of the study's display."""
    with redirect_stdout(_Aside(display)):
        yield
