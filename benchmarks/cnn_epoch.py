"""One epoch of the default base CNN against a plain float32 loop, with the same and with a classic network.

    python -m benchmarks.cnn_epoch [--rounds 7]

Batch 128, then batch 20 on 500 images. Threads: the project's default (one in a short run), PyTorch's default for the
plain loops. The classic network is conv 32 3x3, conv 32 3x3, max-pool, dense 128.
"""  # fmt: skip

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.alone import run_alone
from benchmarks.epoch import BYTES, PRODUCTS, pair
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.harness import Task, alternate, load_task, plain_arm, project_arm
from benchmarks.rows import Options, Row
from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages.fit_settings import fit_settings, requested_architecture, resolve_training_runtime

CLASSIC: dict[str, Any] = {
    "conv_channels": "32,32",
    "kernels": "3",
    "strides": "1",
    "batch_norm": False,
    "dense_dropout": 0.5,
}
PROJECT, SAME, CLASSIC_NAME = "as shipped", "same network, plain float32 loop", "classic network, plain float32 loop"
SAME_TARGET, CLASSIC_TARGET = 0.8, 0.25


def few_images(task: Task, count: int) -> Task:
    """Return the task with at most `count` training images."""
    few = task.split.train.take(torch.arange(min(count, len(task.split.train))))
    train = type(task.train)(task.network.scale(few.pixels), few.labels)
    return Task(task.params, task.split, task.network, train, task.test)


def measure_task(
    task: Task, rounds: int, *, classic: bool, clock: Callable[[], float] = time.perf_counter
) -> list[Row]:
    """Return the rows of one batch size and number of images."""
    params, count = task.params, len(task.train.labels)
    runtime = resolve_training_runtime(params, task.network, params.batch_size)
    arms = {
        PROJECT: project_arm(task.network, fit_settings(params, runtime), train=task.train, test=task.test),
        SAME: plain_arm(task.network, params.batch_size, train=task.train, test=task.test),
    }
    if classic:
        changed = TrainBaseParams(model="cnn", dataset=params.dataset, **CLASSIC)
        network = build_network(requested_architecture(changed, task.split), generator(0, "weights"))
        arms[CLASSIC_NAME] = plain_arm(network, params.batch_size, train=task.train, test=task.test)
    timed = {name: arm.epoch for name, arm in arms.items()}
    timed[PROJECT] = runtime.in_effect()(arms[PROJECT].epoch)
    timed[PRODUCTS] = products_floor(task.network, count, params.batch_size, dtype=runtime.train_dtype)
    timed[BYTES] = bytes_floor(task.network, task.train.values, params.batch_size)
    timings = alternate(timed, rounds, clock=clock)
    accuracies = {name: arm.score() for name, arm in arms.items()}
    what = f"CNN epoch, batch {params.batch_size}, {count} images, {str(runtime.train_dtype).removeprefix('torch.')}"
    targets = {SAME: SAME_TARGET, CLASSIC_NAME: CLASSIC_TARGET}
    return [
        pair(what, timings, (PROJECT, peer), accuracies=accuracies, target=targets[peer])
        for peer in arms
        if peer in targets
    ]


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    if options.short:
        return measure_task(load_task(options, model="cnn", threads=1), 2, classic=False, clock=time.process_time)
    rows = measure_task(load_task(options, model="cnn"), options.few, classic=True)
    few = few_images(load_task(options, model="cnn", batch_size=20), 500)
    return rows + measure_task(few, options.rounds * 3, classic=False)


if __name__ == "__main__":
    run_alone(measure)
