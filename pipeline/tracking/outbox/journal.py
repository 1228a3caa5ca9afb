"""Everything a run logs is written to disk first: one line of JSON an entry, appended, never changed.

Beside the journal lies a number: how many of its bytes are known to have arrived at the store. `send_pending` sends what
comes after. Sending is idempotent (`deliver.py`), so a number that is behind costs time and nothing else.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

JOURNAL, UPLOADED = "journal.jsonl", "arrived"
BATCH_BYTES = 1 << 20  # what is sent between two looks at what has arrived


class Journal:
    """The journal of one run, open for writing; it goes on where an earlier process stopped.

    A disk without room does not stop training: what cannot be written stays in memory, is sent from there, and is
    written as soon as there is room again.

    Args:
        folder: The run's local state.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / JOURNAL
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._size = _whole_lines(self._file)
        os.ftruncate(self._file, self._size)  # a line that a crash has torn off was never logged
        self._waiting: list[bytes] = []
        self._unsafe = False
        arrived = uploaded_bytes(folder)
        _note_arrived(folder, arrived if arrived <= self._size else 0)  # the number may be that of a journal now gone

    def append(self, entry: Entry) -> None:
        """Keep one entry, with the moment in ms at which it was first logged; returns at once."""
        line = (json.dumps({"time": int(time.time() * 1000), **entry}) + "\n").encode()
        with self._lock:
            self._waiting.append(line)
            self._write()

    def sync(self) -> None:
        """Make sure that what was appended survives a loss of power."""
        with self._lock:
            self._write()
            unsafe, self._unsafe = self._unsafe, False
        if unsafe:
            os.fsync(self._file)

    def in_memory(self) -> list[bytes]:
        """Return the lines that the disk had no room for."""
        with self._lock:
            return list(self._waiting)

    def forget(self, lines: list[bytes]) -> None:
        """Drop lines that have arrived from memory."""
        with self._lock:
            self._waiting = [line for line in self._waiting if line not in lines]

    def size(self) -> int:
        """Return the bytes on disk."""
        return self._size

    def close(self) -> None:
        """Close the file; it stays on disk."""
        os.close(self._file)

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            try:
                written = os.write(self._file, line)
                if written < len(line):
                    raise OSError(f"{written} of {len(line)} bytes were written")
            except OSError:
                os.ftruncate(self._file, self._size)  # half a line would spoil the next one
                return
            self._size += len(line)
            self._unsafe = True
            del self._waiting[0]


def _whole_lines(file: int) -> int:
    """Return how many bytes of a file are lines with their end."""
    size = os.fstat(file).st_size
    at = size
    while at > 0:
        begin = max(0, at - BATCH_BYTES)
        found = os.pread(file, at - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        at = begin
    return 0


@dataclass(frozen=True)
class Part:
    """Some lines of a journal.

    Attributes:
        entries: Those that could be read.
        damaged: The places, in words, of those that could not.
        end: The byte after the last of them.
    """

    entries: list[Entry]
    damaged: list[str]
    end: int


def read_part(path: Path, begin: int = 0, size: int = -1) -> Part:
    """Return the whole lines of a journal from a byte on; a last line without its end is left out.

    Args:
        path: Of the journal.
        begin: Where a line begins, in bytes.
        size: About how much to read, in bytes; -1 reads everything.
    """
    with path.open("rb") as file:
        file.seek(begin)
        content = file.read(size) if size >= 0 else file.read()
        if size >= 0 and not content.endswith(b"\n"):
            content += file.readline()
    content = content[: content.rfind(b"\n") + 1]
    entries, damaged, at = [], [], begin
    for line in content.splitlines(keepends=True) if content else []:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
                raise ValueError("not an entry")
            entries.append(entry)
        except (ValueError, RecursionError):
            damaged.append(f"{path}: the line at byte {at} is damaged")
        at += len(line)
    return Part(entries, damaged, begin + len(content))


def uploaded_bytes(folder: Path) -> int:
    """Return how much of a run's journal is known to have arrived, in bytes."""
    try:
        return int((folder / UPLOADED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # sending again does no harm


def ended_as(entries: list[Entry]) -> str:
    """Return the status that a run's last process gave it; empty where that process did not come to its end."""
    status = ""
    for entry in entries:
        if entry["kind"] == "opened":
            status = ""
        elif entry["kind"] == "status" and entry["status"] != "RUNNING":
            status = str(entry["status"])
    return status


def logged_entries(folder: Path) -> list[Entry]:
    """Return what a run's journal holds; nothing where there is none."""
    path = folder / JOURNAL
    return read_part(path).entries if path.exists() else []


def is_uploaded(folder: Path) -> bool:
    """Whether everything in a run's journal has arrived; also where there is no journal."""
    path = folder / JOURNAL
    return not path.exists() or read_part(path, uploaded_bytes(folder)).end <= uploaded_bytes(folder)


def send_pending(folder: Path, send: Callable[[list[Entry]], None], damaged: Callable[[str], None]) -> None:
    """Send what a run's journal holds beyond what has arrived, in order; can be called again at any time.

    Args:
        folder: The run's local state.
        send: Delivers some entries; whatever it raises means that they shall be sent again later.
        damaged: Told of each line that cannot be read; the others are sent.
    """
    while True:
        begin = uploaded_bytes(folder)
        part = read_part(folder / JOURNAL, begin, BATCH_BYTES)
        if part.end <= begin:
            return
        if part.entries:
            send(part.entries)
        for line in part.damaged:
            damaged(line)
        _note_arrived(folder, part.end)


def _note_arrived(folder: Path, end: int) -> None:
    """Write over the number in place: that needs no room on the disk."""
    file = os.open(folder / UPLOADED, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, f"{end:020d}".encode(), 0)
    finally:
        os.close(file)
