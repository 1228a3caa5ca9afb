"""The cores of a host, shared by the steps that run on it at a time, whichever command or cluster worker runs them.

A core is a file in the host's local state folder, and whoever holds the file's lock has the core. The system releases
the locks of a killed process.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.state_dir import state_folder

POLL_SECONDS = 0.02


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_budget() -> CoreBudget:
    """Return the cores of this host."""
    return CoreBudget(available_cores(), state_folder() / "cores" / socket.gethostname())


class CoreBudget:
    """Lends cores to steps; never more than there are. May be used by several threads."""

    def __init__(self, cores: int, folder: Path):
        self.cores = cores
        self._folder = folder.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._held: list[FileLock] = []
        self._mutex = threading.Lock()
        self._closed = threading.Event()

    def take(self, count: int) -> int:
        """Wait for `count` cores (at most all of them) and return their number; 0 if the budget has been closed.

        One step at a time collects cores, so that one that needs many is not overtaken by others that need few.
        """
        count, turn, taken = min(count, self.cores), self._lock("turn"), list[FileLock]()
        while len(taken) < count and not self._closed.is_set():
            if turn.is_locked or _acquired(turn):
                free = (lock for number in range(self.cores) if _acquired(lock := self._lock(f"core {number}")))
                taken += itertools.islice(free, count - len(taken))
            if len(taken) < count:
                time.sleep(POLL_SECONDS)
        turn.release()
        with self._mutex:
            self._held += taken
        if self._closed.is_set():
            self.give_back(len(taken))
            return 0
        return count

    def give_back(self, count: int) -> None:
        """Return cores."""
        with self._mutex:
            returned, self._held = self._held[:count], self._held[count:]
        for lock in returned:
            lock.release()

    def close(self) -> None:
        """End all waiting."""
        self._closed.set()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self._folder / name, thread_local=False)  # any thread may release it


def _acquired(lock: FileLock) -> bool:
    """Whether a lock was free; this process holds it now."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
