"""Everything a run logs is written to disk first, then delivered to MLflow by a background thread.

An entry is one line of JSON. Delivery is idempotent (the store drops exact repeats of a metric, a parameter or a
tag may be sent twice, a file is overwritten), so it does not matter how often an entry is sent, only that it is.
Training never waits for the store: `put` appends a line and returns.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, entry: Entry) -> None:
        """Write one entry, whole, in one call to the system."""
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    def sync(self) -> None:
        """Make sure that what was appended survives a loss of power."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; it stays on disk."""
        os.close(self._file)


def read_journal(path: Path) -> list[Entry]:
    """Return a journal's entries; a last line that was torn off by a crash is left out.

    Raises:
        ValueError: Another line is not JSON.
    """
    entries = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            entries.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is damaged") from None
    return entries


class Delivery:
    """Takes entries to the store, in order, in the background.

    Args:
        journal: Where each entry is kept first.
        send: Delivers some entries; whatever it raises means that they shall be sent again later.
        pause_seconds: How long entries may gather before they are sent together.
    """

    def __init__(self, journal: Journal, send: Callable[[list[Entry]], None], pause_seconds: float = 1.0):
        self.journal = journal
        self._send = send
        self._pause = pause_seconds
        self._pending: list[Entry] = []
        self._lock = threading.Condition()
        self._hurry = False
        self._closing = False
        self._closed = False
        self.last_error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="deliver to MLflow", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Keep an entry and have it delivered soon; returns at once."""
        self.journal.append(entry)
        with self._lock:
            self._pending.append(entry)

    def flush(self, limit_seconds: float) -> bool:
        """Wait until everything has arrived, or the limit is over, and say whether it has."""
        deadline = time.monotonic() + limit_seconds
        with self._lock:
            self._hurry = True
            self._lock.notify_all()
            while self._pending and (left := deadline - time.monotonic()) > 0:
                self._lock.wait(left)
            return not self._pending

    def close(self, limit_seconds: float) -> bool:
        """Flush, stop the thread, and say whether everything has arrived."""
        arrived = self.flush(limit_seconds)
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if arrived:
            self._thread.join(limit_seconds)
        if not self._closed:
            self._closed = True
            self.journal.close()
        return arrived

    def _work(self) -> None:
        wait = self._pause
        while True:
            with self._lock:
                if not self._hurry:
                    self._lock.wait(wait)
                batch = list(self._pending)
                self._hurry = False
                if self._closing:
                    return
            if not batch:
                continue
            try:
                self.journal.sync()
                self._send(batch)
            except Exception as error:  # training goes on, and the entries stay until they can be sent
                self.last_error = error
                wait = min(30.0, wait * 2)
                continue
            wait = self._pause
            with self._lock:
                del self._pending[: len(batch)]
                if self._pending:
                    self._hurry = True
                self._lock.notify_all()
