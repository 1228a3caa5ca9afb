"""Training time while the tracking server is down or hangs, against a server that responds.

    python -m benchmarks.outage [--rounds 7]

All three runs start on a real server. Then one client is redirected to a closed port, another to a server that accepts
connections and never responds. Timed: an epoch of the base MLP and its `log_epoch`, one thread.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import copy
import socket
from collections.abc import Callable, Iterator

import mlflow
import torch

from benchmarks.alone import run_alone
from benchmarks.commands import workplace
from benchmarks.harness import Task, alternate, endless, load_task
from benchmarks.rows import Options, Row
from pipeline.params import TrainBaseParams
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import Client
from pipeline.training.loop import Fit

UP, DOWN, HANGS = "server up", "server down", "server hangs"
BATCH_SIZE, EPOCHS = 128, 6  # per round
TARGET = 1.05


@contextlib.contextmanager
def redirected(run: StageRun, backlog: int | None) -> Iterator[None]:
    """Send a run's data to a closed port, or (with a backlog) to a server that never responds."""
    client = run.sender.client
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if backlog is not None:
            listener.listen(backlog)
        run.sender.client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            yield
        finally:
            run.sender.client = client


def epochs(task: Task, run: StageRun) -> Callable[[], None]:
    """Return a function that trains and logs the next epochs, as a stage does."""
    records = iter(Fit(copy.deepcopy(task.network), task.train, task.test, settings=endless(BATCH_SIZE, 0.998, "auto")))

    def next_epochs() -> None:
        for _ in range(EPOCHS):
            run.log_epoch(next(records))

    return next_epochs


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    torch.set_num_threads(1)
    with workplace() as place, contextlib.ExitStack() as stack:
        task = load_task(options)
        stack.enter_context(place.entered())
        mlflow.set_tracking_uri(stack.enter_context(place.server()))
        runs = {
            name: stack.enter_context(stage_run(TrainBaseParams(), name=name, note="", tags={}))
            for name in (UP, DOWN, HANGS)
        }
        with redirected(runs[DOWN], None), redirected(runs[HANGS], 64):
            timings = alternate({name: epochs(task, run) for name, run in runs.items()}, options.rounds)
    labels = {DOWN: "epoch, tracking server down", HANGS: "epoch, tracking server hangs"}
    theirs = [seconds / EPOCHS for seconds in timings[UP].seconds]
    return [
        Row(label, UP, [seconds / EPOCHS for seconds in timings[name].seconds], theirs, target=TARGET)
        for name, label in labels.items()
    ]


if __name__ == "__main__":
    run_alone(measure)
