"""The journal of a run: every entry that it logs, appended to a file of JSON lines before anything is uploaded.

A second file holds the number of journal bytes that have been uploaded; `send_pending` sends the rest. Sending an entry
twice has no effect (see `sender`), so a number that lags behind costs time only.
"""

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
BATCH_BYTES = 1 << 20


class Journal:
    """The journal in a run's folder, open for appending; continues the file of an earlier process.

    A full disk does not stop training: entries that cannot be written stay in memory, are sent from there, and are
    written once there is space again.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / JOURNAL
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self.size = read_part(self.path).end  # on disk, in bytes
        os.ftruncate(self._file, self.size)  # a line truncated by a crash was never logged
        self._unwritten: list[bytes] = []
        self._needs_fsync = False
        uploaded = uploaded_bytes(folder)
        _record_uploaded(folder, uploaded if uploaded <= self.size else 0)  # it may count a previous journal's bytes

    def append(self, entry: Entry) -> None:
        """Write an entry with a timestamp in ms; returns immediately."""
        line = (json.dumps({"time": int(time.time() * 1000), **entry}) + "\n").encode()
        with self._lock:
            self._unwritten.append(line)
            self._write()

    def sync(self) -> None:
        """Flush appended entries to disk (fsync), so that they survive a power loss."""
        with self._lock:
            self._write()
            needs_fsync, self._needs_fsync = self._needs_fsync, False
        if needs_fsync:
            os.fsync(self._file)

    def in_memory(self) -> list[bytes]:
        """Return the lines that did not fit on the disk."""
        with self._lock:
            return list(self._unwritten)

    def drop(self, lines: list[bytes]) -> None:
        """Drop uploaded lines from memory."""
        with self._lock:
            self._unwritten = [line for line in self._unwritten if line not in lines]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self) -> None:
        while self._unwritten:
            line = self._unwritten[0]
            try:
                written = os.write(self._file, line)
                if written < len(line):
                    raise OSError(f"{written} of {len(line)} bytes were written")
            except OSError:
                os.ftruncate(self._file, self.size)  # a partial line would corrupt the next one
                return
            self.size += len(line)
            self._needs_fsync = True
            del self._unwritten[0]


@dataclass(frozen=True)
class Part:
    """Consecutive lines of a journal."""

    entries: list[Entry]
    damaged: list[str]  # one message per invalid line
    end: int  # byte offset after the last line


def read_part(path: Path, begin: int = 0, size: int = -1) -> Part:
    """Read complete lines of a journal: about `size` bytes (-1: all) from offset `begin`."""
    with path.open("rb") as file:
        file.seek(begin)
        content = file.read(size)
        content += b"" if content.endswith(b"\n") else file.readline()
    content = content[: content.rfind(b"\n") + 1]  # without an incomplete last line
    entries, damaged, offset = [], [], begin
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
                raise ValueError("not an entry")
            entries.append(entry)
        except (ValueError, RecursionError):
            damaged.append(f"{path}: the line at byte {offset} is damaged")
        offset += len(line)
    return Part(entries, damaged, begin + len(content))


def uploaded_bytes(folder: Path) -> int:
    """Return how many bytes of a run's journal are known to be uploaded."""
    try:
        return int((folder / UPLOADED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # sending entries again is harmless


def _record_uploaded(folder: Path, end: int) -> None:
    """Overwrite the number of uploaded bytes in place, which also works on a full disk."""
    file = os.open(folder / UPLOADED, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, f"{end:020d}".encode(), 0)
    finally:
        os.close(file)


def final_status(entries: list[Entry]) -> str:
    """Return the final status set by a run's last process; empty if that process did not end its run."""
    status = ""
    for entry in entries:
        if entry["kind"] == "opened":
            status = ""
        elif entry["kind"] == "status" and entry["status"] != "RUNNING":
            status = str(entry["status"])
    return status


def logged_entries(folder: Path) -> list[Entry]:
    """Return all entries of a run's journal, or an empty list if there is no journal."""
    path = folder / JOURNAL
    return read_part(path).entries if path.exists() else []


def is_uploaded(folder: Path) -> bool:
    """Return whether a run's journal is uploaded completely, or does not exist."""
    path = folder / JOURNAL
    return not path.exists() or read_part(path, uploaded_bytes(folder)).end <= uploaded_bytes(folder)


def send_pending(folder: Path, send: Callable[[list[Entry]], None], on_damaged: Callable[[str], None]) -> None:
    """Send the entries of a run's journal that are not uploaded yet, in order; may be called any number of times.

    If `send` raises, the next call sends the same entries again. `on_damaged` gets a message for each unreadable line.
    """
    while True:
        begin = uploaded_bytes(folder)
        part = read_part(folder / JOURNAL, begin, BATCH_BYTES)
        if part.end <= begin:
            return
        if part.entries:
            send(part.entries)
        for message in part.damaged:
            on_damaged(message)
        _record_uploaded(folder, part.end)
