"""An epoch of the base MLP, one thread: against the loop one writes by hand, scikit-learn, and its own matrix products.

    python -m benchmarks.epoch [--rounds 7]

The hand-written loop is a permutation, indexing, forward, backward, PyTorch's default Adam; it averages no weights and
counts no running accuracy, which this project does. Both of the project's paths are timed, autograd and written-out
gradients (what plain networks take), each as shipped and with `weight_averaging=0`. A short run
compares processor time, and leaves out the products at batch 20: they are known to be further away than 2.
"""  # fmt: skip

from __future__ import annotations

import time
from typing import Literal

import torch
from threadpoolctl import threadpool_limits

from benchmarks.alone import run_alone
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.harness import Arm, Task, Timing, alternate, bare_arm, endless, load_task, project_arm
from benchmarks.peers import sklearn_arm
from benchmarks.rows import Options, Row

BARE, SKLEARN, PRODUCTS, BYTES = (
    "bare loop, default Adam",
    "scikit-learn MLPClassifier",
    "matrix products alone",
    "bytes",
)
AUTOGRAD_TARGETS = {20: 0.7, 50: 0.7, 128: 0.85}
EXPLICIT_TARGETS = {20: 0.5, 50: 0.5, 128: 0.7}
SKLEARN_TARGET, PRODUCTS_TARGET = 0.7, 2.0


def project_arms(task: Task, batch_size: int, averagings: tuple[float, ...]) -> dict[str, Arm]:
    """Return both paths, each with every averaging of weights."""
    paths: dict[str, Literal["auto", "autograd"]] = {"autograd": "autograd", "written-out gradients": "auto"}
    return {
        f"{path}{', weight_averaging=0' if not averaging else ''}": project_arm(
            task.network, task.train, task.test, endless(batch_size, averaging, gradients)
        )
        for path, gradients in paths.items()
        for averaging in averagings
    }


def measure_batch(task: Task, batch_size: int, options: Options) -> list[Row]:
    """Return the rows of one batch size."""
    averagings = (0.998,) if options.short else (0.998, 0.0)
    ours = project_arms(task, batch_size, averagings)
    theirs = {
        BARE: bare_arm(task.network, task.train, task.test, batch_size),
        SKLEARN: sklearn_arm(task, batch_size),
    }
    arms = {**ours, **theirs}
    found = alternate(
        {
            **{name: arm.epoch for name, arm in arms.items()},
            PRODUCTS: products_floor(task.network, len(task.train.labels), batch_size),
            BYTES: bytes_floor(task.network, task.train.values, batch_size),
        },
        options.few if options.short else options.rounds,
        clock=time.process_time if options.short else time.perf_counter,
    )
    accuracies = {name: arm.score() for name, arm in arms.items()}

    def row(name: str, peer: str, target: float) -> Row:
        return pair(f"MLP epoch, batch {batch_size}, {name}", found, (name, peer), accuracies, target)

    rows = [
        row(name, BARE, (AUTOGRAD_TARGETS if name.startswith("autograd") else EXPLICIT_TARGETS)[batch_size])
        for name in ours
    ]
    shipped = "written-out gradients"
    rows.append(row(shipped, SKLEARN, SKLEARN_TARGET))
    if options.short and batch_size < 128:
        return rows
    return [*rows, row(shipped, PRODUCTS, PRODUCTS_TARGET)]


def pair(
    what: str, found: dict[str, Timing], names: tuple[str, str], accuracies: dict[str, float], target: float | None
) -> Row:
    """Return the row of two arms that were timed in turn with both floors."""
    name, peer = names
    return Row(
        what,
        peer,
        found[name].seconds,
        found[peer].seconds,
        target=target,
        floor=found[PRODUCTS].median + found[BYTES].median,
        accuracy=accuracies[name],
        peer_accuracy=accuracies.get(peer),
    )


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    torch.set_num_threads(1)
    task = load_task(options)
    sizes = (20, 128) if options.short else (20, 50, 128)
    with threadpool_limits(1):
        return [row for size in sizes for row in measure_batch(task, size, options)]


if __name__ == "__main__":
    run_alone(measure)
