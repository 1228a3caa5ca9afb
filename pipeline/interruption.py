"""Ctrl-C and SIGTERM: the first one interrupts, later ones are ignored while work is being saved.

Imported before anything heavy, so it imports nothing heavy itself.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """Whether handlers are installed, and the name of the signal received since then."""

    active = False
    received = ""


@contextmanager
def interruptible(*, until_exit: bool = False) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into `Interrupted` and ignore the following ones.

    Ctrl-C under `mlflow run` reaches a process as SIGINT and then as SIGTERM; the second must not interrupt the cleanup
    that the first one started. With `until_exit`, an interrupted process keeps ignoring signals after the block. Does
    nothing inside another `interruptible`, and outside the main thread, where Python installs no handlers.
    """
    if threading.current_thread() is not threading.main_thread() or _State.active:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not _State.received:
            _State.received = signal.Signals(number).name
            raise Interrupted(_State.received)

    previous: dict[int, Any] = {number: signal.signal(number, interrupt) for number in SIGNALS}
    _State.active, _State.received = True, ""
    try:
        yield
    finally:
        # SIG_IGN stays in effect during interpreter shutdown, a Python handler does not
        ignore = until_exit and _State.received
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)
        _State.active = False


def raise_if_interrupted() -> None:
    """Raise `Interrupted` if a signal was received but its exception was swallowed, such as by a library's import."""
    if _State.active and _State.received:
        raise Interrupted(_State.received)
