"""Find a free port on the loopback interface, and wait until a server responds on it."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from typing import Any

START_SECONDS = 150


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_it_answers(process: subprocess.Popen[Any], address: str, log: Callable[[], str] = str) -> None:
    """Wait until a server process responds; fail with its log if it exits or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log()
            time.sleep(0.3)
