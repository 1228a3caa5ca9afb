"""A warm worker process: runs the steps that it receives over a pipe, one after another.

    python -m pipeline.execution.worker

It ends when the pipe closes, after saving a checkpoint of a running step.
"""  # fmt: skip

from __future__ import annotations

import gc

gc.set_threshold(100_000, 50, 100)  # as in `pipeline.__main__`

import ctypes  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from pipeline.console import configure_logging, step_output  # noqa: E402
from pipeline.execution.attempt import attempt, load_host_facts, load_stage  # noqa: E402
from pipeline.execution.channel import Channel, Message  # noqa: E402
from pipeline.execution.records import Task  # noqa: E402
from pipeline.execution.supervisor import LOG_VARIABLE  # noqa: E402
from pipeline.interruption import interruptible, raise_if_interrupted  # noqa: E402
from pipeline.params import ENTRY_POINTS, StageParams  # noqa: E402
from pipeline.plan.arms import STEP_ENTRY_POINTS  # noqa: E402
from pipeline.tracking.plan_context import PlanContext  # noqa: E402
from pipeline.tracking.store import note_run_of_this_process  # noqa: E402

PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h
GRACE_SECONDS = 10.0  # to save a checkpoint after the supervisor is gone


def main() -> None:
    """Run steps until the pipe closes."""
    end_with_supervisor()
    # stray output, of libraries for example, must not end up between the messages
    channel = Channel(os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    inbox = Inbox(channel)
    with interruptible(until_exit=True):
        try:
            configure_logging()
            for name in STEP_ENTRY_POINTS:
                load_stage(ENTRY_POINTS[name])
            gc.freeze()
            while (message := inbox.next()) is not None:
                with inbox.interrupting():
                    if "facts" in message:
                        channel.send({"facts": load_host_facts()(message["facts"])})
                    else:
                        run_task(Task(**message["task"]), channel, inbox)
        except KeyboardInterrupt:
            pass
        finally:
            gc.freeze()


def end_with_supervisor() -> None:
    """Interrupt this process when the one that started it exits; the closed pipe alone does so too, on any system."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Inbox:
    """Messages of the supervisor, read by a thread that notices when the supervisor is gone."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._busy = False
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Message | None:
        """Wait for the next message; None if the supervisor is gone."""
        raise_if_interrupted()
        return self._messages.get()

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Interrupt the block if the supervisor goes away meanwhile."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _read(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._messages.put(message)
        self._messages.put(None)
        if self._busy:
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(GRACE_SECONDS)
        os._exit(1)


@dataclass(frozen=True)
class WorkerOutput:
    """Sends what a step prints to the supervisor, and to this process's log."""

    channel: Channel
    number: int

    def set_status(self, text: str) -> None:
        """Send a result line or a log record."""
        self._send(text, warning=False)

    def warn(self, text: str) -> None:
        """Send a warning."""
        self._send(text, warning=True)

    def _send(self, text: str, *, warning: bool) -> None:
        print(text, file=sys.stderr, flush=True)
        self.channel.send({"output": {"number": self.number, "text": text, "warning": warning}})


def run_task(task: Task, channel: Channel, inbox: Inbox) -> None:
    """Run a step and send its report."""

    def reserve(params: StageParams) -> None:
        channel.send({"cores": None if task.exclusive else cores_needed(params)})
        if inbox.next() is None:
            raise KeyboardInterrupt

    started = os.fstat(sys.stderr.fileno()).st_size

    def save_log(path: Path) -> None:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        with open(os.environ[LOG_VARIABLE], "rb") as log:
            log.seek(started)
            path.write_bytes(log.read())

    note_run_of_this_process()
    with step_output(WorkerOutput(channel, task.number)):
        context = PlanContext(task.parent_run_id, rerun=task.rerun, tags=task.tags, save_log=save_log, reserve=reserve)
        report = attempt(task, context)
    channel.send({"report": asdict(report)})


def cores_needed(params: StageParams) -> int | None:
    """Return how many cores a step with resolved parameters keeps busy; None: all of them."""
    if params.entry_point == "tune":
        return None
    threads = getattr(params, "threads", 1)
    assert isinstance(threads, int), "parameters are resolved before a step reserves cores"
    return threads


if __name__ == "__main__":
    main()
