"""Ctrl-C and SIGTERM: once, and then not again while work is being saved. Imports nothing heavy."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.errors import Interrupted

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """Whether handlers are installed, and whether a signal has come since."""

    active = False
    asked = ""


@contextmanager
def interruptible(*, to_the_end: bool = False) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into `Interrupted`, and ignore the next ones while work is being saved.

    Ctrl-C under `mlflow run` reaches a process as SIGINT and then SIGTERM: the second must not disturb what
    the first one started. Outside the main thread, where Python takes no handlers, and inside another
    `interruptible`, nothing changes.

    Args:
        to_the_end: Once interrupted, go on ignoring: the process is about to end, and takes its time.
    """
    if threading.current_thread() is not threading.main_thread() or _State.active:
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if not _State.asked:
            _State.asked = signal.Signals(number).name
            raise Interrupted(_State.asked)

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in SIGNALS}
    _State.active, _State.asked = True, ""
    try:
        yield
    finally:
        # ignoring outlives the interpreter's own shutdown, a handler of ours would not
        ignore = to_the_end and _State.asked
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)
        _State.active = False


def raise_if_interrupted() -> None:
    """Raise `Interrupted` where a signal has come and its exception was swallowed (by a library's import, say)."""
    if _State.active and _State.asked:
        raise Interrupted(_State.asked)
