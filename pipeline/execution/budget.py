"""The cores of this machine, shared by the steps that run on it at a time."""

from __future__ import annotations

import os
import threading
from collections import deque


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class CoreBudget:
    """Lends cores to steps, first come, first served; never more than there are."""

    def __init__(self, cores: int):
        self.cores = cores
        self._free = cores
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def take(self, count: int) -> int:
        """Wait for `count` cores (at most all of them) and return their number; 0 if the budget has been closed."""
        count, ticket = min(count, self.cores), object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._closed or (self._queue[0] is ticket and self._free >= count))
            self._queue.remove(ticket)
            count = 0 if self._closed else count
            self._free -= count
            self._changed.notify_all()
        return count

    def give_back(self, count: int) -> None:
        """Return cores."""
        with self._changed:
            self._free += count
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
