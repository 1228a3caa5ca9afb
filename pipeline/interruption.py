"""Ctrl-C and SIGTERM: once, and then not again while work is being saved. Imports nothing heavy."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted

_active: list[bool] = []  # not empty while `interruptible` has its handlers installed


@contextmanager
def interruptible(*, to_the_end: bool = False) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into `Interrupted`, and ignore the next ones while work is being saved.

    Ctrl-C under `mlflow run` reaches a process as SIGINT and then SIGTERM: the second must not disturb what
    the first one started. Outside the main thread, where Python takes no handlers, and inside another
    `interruptible`, nothing changes.

    Args:
        to_the_end: Once interrupted, go on ignoring: the process is about to end, and takes its time.
    """
    if threading.current_thread() is not threading.main_thread() or _active:
        yield
        return
    _active.append(True)
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise Interrupted(signal.Signals(number).name)

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if not (asked and to_the_end):
            for number, handler in before.items():
                signal.signal(number, handler)
        _active.clear()
