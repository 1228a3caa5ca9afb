"""Messages between a worker process and the process that supervises it: one JSON object per line, over pipes.

Read `worker` and `supervisor` next, the two ends.
"""

from __future__ import annotations

import json
import threading
from typing import IO, Any

Message = dict[str, Any]


class Channel:
    """One end of a pair of pipes."""

    def __init__(self, incoming: IO[str], outgoing: IO[str]):
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message; does nothing if the other process is gone, which `receive` reports."""
        with self._lock:
            try:
                self._outgoing.write(json.dumps(message) + "\n")
                self._outgoing.flush()
            except (BrokenPipeError, ValueError):  # ValueError: closed by this process
                pass

    def receive(self) -> Message | None:
        """Wait for the next message; None if the other process is gone."""
        line = self._incoming.readline()
        if not line.endswith("\n"):
            return None
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Close the outgoing pipe: the other process ends."""
        with self._lock:
            self._outgoing.close()
