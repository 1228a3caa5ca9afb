"""Progress of running plans, for `python -m pipeline status` in another terminal: one file per command."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Self

from pipeline.console import echo
from pipeline.execution.display import PlanDisplay, StepLabel
from pipeline.runtime import process_identity, process_lives
from pipeline.state_dir import state_folder

SAVE_SECONDS = 1.0  # at most one file is written per second


class StatusFile:
    """Saves the progress of this process's plan periodically."""

    def __init__(self, display: PlanDisplay):
        self._display, self._identity = display, process_identity()
        self._path = state_folder() / "plans" / f"{os.getpid()}.json"
        self._saved = 0.0

    def save(self) -> None:
        """Write the file, at most once per second."""
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return
        self._saved = time.monotonic()
        display = self._display
        content = {
            **self._identity,
            "steps": [asdict(step) for step in display.steps],
            "workers": display.workers,
            "elapsed": display.elapsed_seconds(),
            "notes": list(display.notes.items()),
            "seconds": list(display.seconds.items()),
            "running": list(display.running.items()),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(self._path)

    def __enter__(self) -> Self:
        """Return this file, which is written by the first `save`."""
        return self

    def __exit__(self, *error: object) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def running_plans(folder: Path | None = None) -> Iterator[tuple[str, PlanDisplay]]:
    """Yield the process and the progress of each plan that is running with a state folder (default: this one's)."""
    for path in sorted(((folder or state_folder()) / "plans").glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # its plan has just ended
            content = json.loads(path.read_text(encoding="utf-8"))
            if process_lives(content["process"], content["host"]) is not False:
                yield f"process {content['process'].split()[0]} on {content['host']}", _display(content)


def print_status() -> None:
    """Print the progress of each running plan."""
    from rich.console import Console

    console, count = Console(), 0
    for process, display in running_plans():
        console.print(f"plan of {process}:", display.table())
        count += 1
    if not count:
        echo(f"no plan is running with the state folder {state_folder()}")


def _display(content: dict[str, object]) -> PlanDisplay:
    """Return the progress that a file describes."""
    steps, workers, elapsed = content["steps"], content["workers"], content["elapsed"]
    assert isinstance(steps, list) and isinstance(workers, int) and isinstance(elapsed, float)
    display = PlanDisplay([StepLabel(**step) for step in steps], elapsed=elapsed)
    display.workers = workers
    notes, seconds, running = (content[name] for name in ("notes", "seconds", "running"))
    assert isinstance(notes, list) and isinstance(seconds, list) and isinstance(running, list)
    durations = dict(seconds)
    for number, note in notes:
        display.record(number, note, durations.get(number))
    display.running.update(running)
    return display
