"""What a stage says while it works: a progress bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

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


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


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
            say(f"epoch {record.epoch} of at most {epochs}: {_describe(record)}")
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
