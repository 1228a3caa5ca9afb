"""One epoch of the base MLP on one thread, against DataLoader, Lightning, skorch and Keras.

    .venv-bench/bin/python -m benchmarks.libraries [--rounds 7]

The project runs with its defaults: manual backward pass, EMA, running accuracy.
"""  # fmt: skip

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from benchmarks.alone import run_alone
from benchmarks.epoch import BYTES, PRODUCTS, pair
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.harness import alternate, endless, load_task, project_arm
from benchmarks.peers import PEERS
from benchmarks.rows import Options, Row

PROJECT = "as shipped"
TARGET = 1.0


def measure(options: Options) -> list[Row]:
    """Return one row per library and batch size."""
    torch.set_num_threads(1)
    task = load_task(options)
    rows = []
    for batch_size in (20, 128):
        arms = {PROJECT: project_arm(task.network, endless(batch_size), train=task.train, test=task.test)}
        arms.update({name: make(task, batch_size) for name, make in PEERS.items()})
        timed = {name: arm.epoch for name, arm in arms.items()}
        timed[PRODUCTS] = products_floor(task.network, len(task.train.labels), batch_size)
        timed[BYTES] = bytes_floor(task.network, task.train.values, batch_size)
        with threadpool_limits(1):
            timings = alternate(timed, options.few)
            accuracies = {name: arm.score() for name, arm in arms.items()}
        what = f"MLP epoch, batch {batch_size}, {PROJECT}"
        rows += [pair(what, timings, (PROJECT, peer), accuracies=accuracies, target=TARGET) for peer in PEERS]
    return rows


if __name__ == "__main__":
    run_alone(measure)
