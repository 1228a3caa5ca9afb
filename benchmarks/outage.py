"""What a tracking server that is gone costs training: epochs logged to one that answers, and to ones that do not.

    python -m benchmarks.outage [--rounds 7]

All three runs are opened on a real server. Then the client of one is led to a port where nobody listens, and that of
another to one where somebody listens and never answers. An epoch is the base MLP's with its `log_epoch`, one thread.
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

ANSWERS, REFUSES, HANGS = "a server that answers", "nobody listens", "a server that never answers"
BATCH_SIZE, EPOCHS = 128, 6  # a round
TARGET = 1.05


@contextlib.contextmanager
def led_astray(run: StageRun, backlog: int | None) -> Iterator[None]:
    """Have a run's deliveries go to a port where nobody listens, or where somebody does and never answers."""
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
    """Return a function that trains some epochs more and logs each, as a stage does."""
    records = iter(Fit(copy.deepcopy(task.network), task.train, task.test, endless(BATCH_SIZE, 0.998, "auto")))

    def some() -> None:
        for _ in range(EPOCHS):
            run.log_epoch(next(records))

    return some


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    torch.set_num_threads(1)
    with workplace() as place, contextlib.ExitStack() as opened:
        task = load_task(options)
        opened.enter_context(place.entered())
        mlflow.set_tracking_uri(opened.enter_context(place.server()))
        runs = {
            name: opened.enter_context(stage_run(TrainBaseParams(), name=name, note="", tags={}))
            for name in (ANSWERS, REFUSES, HANGS)
        }
        with led_astray(runs[REFUSES], None), led_astray(runs[HANGS], 64):
            found = alternate({name: epochs(task, run) for name, run in runs.items()}, options.rounds)
    what = {REFUSES: "an epoch while nobody listens", HANGS: "an epoch while the server never answers"}
    theirs = [seconds / EPOCHS for seconds in found[ANSWERS].seconds]
    return [
        Row(text, ANSWERS, [seconds / EPOCHS for seconds in found[name].seconds], theirs, target=TARGET)
        for name, text in what.items()
    ]


if __name__ == "__main__":
    run_alone(measure)
