"""One epoch of the base MLP on one thread, against a plain PyTorch loop, scikit-learn and its matrix products.

    python -m benchmarks.epoch [--rounds 7]

The plain loop is a permutation, indexing, forward, backward and PyTorch's default Adam; unlike the project, it keeps
no EMA of the weights and no running accuracy. The project is timed with autograd and with its manual backward pass
(the default for plain networks), with and without EMA. A short run compares CPU time, and skips the matrix products
at batch 20, whose target is known to be missed.
"""  # fmt: skip

from __future__ import annotations

import time
from typing import Literal

import torch
from threadpoolctl import threadpool_limits

from benchmarks.alone import run_alone
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.harness import Arm, Task, Timing, alternate, endless, load_task, plain_arm, project_arm
from benchmarks.peers import sklearn_arm
from benchmarks.rows import Options, Row

PLAIN, SKLEARN, PRODUCTS, BYTES = (
    "plain PyTorch loop, default Adam",
    "scikit-learn MLPClassifier",
    "matrix products only",
    "bytes",
)
MANUAL = "manual backward pass"
AUTOGRAD_TARGETS = {20: 0.7, 50: 0.7, 128: 0.85}
MANUAL_TARGETS = {20: 0.5, 50: 0.5, 128: 0.7}
SKLEARN_TARGET, PRODUCTS_TARGET = 0.7, 2.0


def project_arms(task: Task, batch_size: int, decays: tuple[float, ...]) -> dict[str, Arm]:
    """Return an arm per backward pass and EMA decay."""
    paths: dict[str, Literal["auto", "autograd"]] = {"autograd": "autograd", MANUAL: "auto"}
    return {
        f"{path}{', weight_averaging=0' if not decay else ''}": project_arm(
            task.network, endless(batch_size, decay, gradients), train=task.train, test=task.test
        )
        for path, gradients in paths.items()
        for decay in decays
    }


def measure_batch(task: Task, batch_size: int, options: Options) -> list[Row]:
    """Return the rows of one batch size."""
    decays = (0.998,) if options.short else (0.998, 0.0)
    ours = project_arms(task, batch_size, decays)
    theirs = {
        PLAIN: plain_arm(task.network, batch_size, train=task.train, test=task.test),
        SKLEARN: sklearn_arm(task, batch_size),
    }
    arms = {**ours, **theirs}
    timings = alternate(
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
        return pair(
            f"MLP epoch, batch {batch_size}, {name}", timings, (name, peer), accuracies=accuracies, target=target
        )

    rows = [
        row(name, PLAIN, (AUTOGRAD_TARGETS if name.startswith("autograd") else MANUAL_TARGETS)[batch_size])
        for name in ours
    ]
    rows.append(row(MANUAL, SKLEARN, SKLEARN_TARGET))
    if options.short and batch_size < 128:
        return rows
    return [*rows, row(MANUAL, PRODUCTS, PRODUCTS_TARGET)]


def pair(
    what: str,
    timings: dict[str, Timing],
    names: tuple[str, str],
    *,
    accuracies: dict[str, float],
    target: float | None,
) -> Row:
    """Return the row of two arms, timed together with both floors."""
    name, peer = names
    return Row(
        what,
        peer,
        timings[name].seconds,
        timings[peer].seconds,
        target=target,
        floor=timings[PRODUCTS].median + timings[BYTES].median,
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
