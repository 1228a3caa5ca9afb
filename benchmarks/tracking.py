"""Cost of logging an epoch: this project's journal and background thread against five `mlflow.log_metric` calls.

    python -m benchmarks.tracking [--rounds 7]

Ours is the wall-clock time of `log_epoch` plus the CPU time of all other threads; the baseline is the wall-clock time
of the five calls, which block training. The floor is the CPU time of a sqlite transaction with five rows, plus one
request if there is a server.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import time
import urllib.request
from pathlib import Path

import mlflow

from benchmarks.alone import run_alone
from benchmarks.commands import workplace
from benchmarks.rows import Options, Row
from pipeline.params import TrainBaseParams
from pipeline.tracking.lifecycle import stage_run
from pipeline.tracking.stage_run import StageRun
from pipeline.training.records import EpochRecord

EPOCHS = 8  # per round
EPOCH_SECONDS = 0.25  # duration of an epoch, in which the background thread works
PEER = "five mlflow.log_metric calls"


def project_milliseconds(run: StageRun, first: int) -> float:
    """Log `EPOCHS` epochs through a run; return milliseconds per epoch."""
    training_seconds = 0.0
    before = time.process_time() - time.thread_time()
    for epoch in range(first, first + EPOCHS):
        began = time.perf_counter()
        run.log_epoch(EpochRecord(epoch, 0.1 / epoch, 0.9, 0.1 / epoch, 0.9, EPOCH_SECONDS, True))
        training_seconds += time.perf_counter() - began
        time.sleep(EPOCH_SECONDS)
    run.uploader.flush(60)
    other_threads = time.process_time() - time.thread_time() - before
    return 1000 * (training_seconds + other_threads) / EPOCHS


def peer_milliseconds(first: int) -> float:
    """Log `EPOCHS` epochs with MLflow's calls; return milliseconds per epoch."""
    began = time.perf_counter()
    for epoch in range(first, first + EPOCHS):
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "time/epoch_seconds"):
            mlflow.log_metric(name, 0.1 / epoch, step=epoch)
    return 1000 * (time.perf_counter() - began) / EPOCHS


def transaction_milliseconds(path: Path) -> float:
    """Return the CPU time of a transaction with five rows in a new sqlite file with write-ahead logging."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS points (name TEXT, value REAL, step INTEGER)")
        seconds = []
        for step in range(50):
            began = time.thread_time()
            with connection:
                connection.executemany("INSERT INTO points VALUES (?, ?, ?)", [("loss", 0.5, step)] * 5)
            seconds.append(time.thread_time() - began)
    return 1000 * statistics.median(seconds)


def request_milliseconds(address: str) -> float:
    """Return the CPU time of one request to a server."""
    seconds = []
    for _ in range(20):
        began = time.thread_time()
        urllib.request.urlopen(f"{address}/health", timeout=10).read()
        seconds.append(time.thread_time() - began)
    return 1000 * statistics.median(seconds)


def compare(what: str, rounds: int, *, target: float, goal: float, floor: float) -> Row:
    """Return the row of the active tracking store."""
    ours, theirs = [], []
    params = TrainBaseParams()
    with stage_run(params, name="benchmark", note="", tags={}) as run, mlflow.start_run():
        for number in range(1 + rounds):
            mine, yours = project_milliseconds(run, 1 + number * EPOCHS), peer_milliseconds(1 + number * EPOCHS)
            if number:
                ours.append(mine)
                theirs.append(yours)
    return Row(what, PEER, ours, theirs, unit="ms", target=target, goal=goal, floor=floor)


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    rounds = 2 if options.short else options.few
    with workplace() as place, place.entered():
        mlflow.set_tracking_uri(place.environment["MLFLOW_TRACKING_URI"])
        transaction = transaction_milliseconds(place.folder / "floor.db")
        rows = [compare("logging an epoch, sqlite", rounds, target=0.45, goal=10, floor=transaction)]
        if options.short:
            return rows
        with place.server() as address:
            mlflow.set_tracking_uri(address)
            floor = transaction + request_milliseconds(address)
            return [*rows, compare("logging an epoch, local server", rounds, target=0.5, goal=30, floor=floor)]


if __name__ == "__main__":
    run_alone(measure)
