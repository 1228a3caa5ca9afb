"""Seconds per epoch by number of threads and batch size: the basis of `threads=auto`.

    python -m benchmarks.threads [--rounds 7] [--busy]

Prints a Markdown table; thread counts are interleaved. `--busy` runs an endless loop per core meanwhile.
"""  # fmt: skip

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import click
import torch

from benchmarks.busy import busy_cores
from benchmarks.cnn_epoch import few_images
from benchmarks.harness import alternate, endless, load_task, project_arm
from benchmarks.rows import Options, spread
from pipeline.networks.macs import training_macs
from pipeline.runtime import OPERATIONS_PER_THREAD, Runtime, resolve_runtime

CASES = (
    ("mlp", 500, 20), ("mlp", 6400, 128), ("mlp", 6400, 512), ("mlp", 6400, 2048),
    ("cnn", 500, 20), ("cnn", 6400, 64), ("cnn", 6400, 128), ("cnn", 6400, 512),
)  # fmt: skip


def thread_counts() -> list[int]:
    """Return 1, 2, 4, ... up to the number of cores."""
    cores = os.cpu_count() or 1
    return sorted({*(2**power for power in range(cores.bit_length()) if 2**power <= cores), cores})


def row(model: str, images: int, batch_size: int, *, rounds: int, dataset: str) -> str:
    """Return one table row: million MACs per step, threads with auto, seconds for each thread count."""
    task = few_images(load_task(Options(dataset=dataset), model=model), images)
    settings = replace(endless(batch_size), learning_rate=task.params.learning_rate)
    operations = batch_size * training_macs(task.network)
    timed: dict[str, Callable[[], object]] = {}
    for threads in thread_counts():
        runtime = Runtime(torch.device("cpu"), torch.float32, threads)
        timed[str(threads)] = runtime.in_effect()(
            project_arm(task.network, settings, train=task.train, test=task.test).epoch
        )
    timings = alternate(timed, rounds)
    auto = resolve_runtime("cpu", "float32", "auto", operations=operations).threads
    seconds = [spread(timings[name].seconds, "s") for name in timed]
    return f"| {' | '.join(map(str, (model, images, batch_size, f'{operations / 1e6:.0f}', auto, *seconds)))} |"


@click.command()
@click.option("--rounds", default=Options.rounds, show_default=True, help="Timed rounds.")
@click.option("--dataset", default=Options.dataset, show_default=True, help="digits is small: for a quick try.")
@click.option("--busy", is_flag=True, help="Run an endless loop per core meanwhile.")
def main(rounds: int, dataset: str, busy: bool) -> None:
    """Print the table."""
    load, policy = os.getloadavg()[0], os.environ.get("OMP_WAIT_POLICY", "")
    print(f"load {load:.2f}, OMP_WAIT_POLICY={policy}, {OPERATIONS_PER_THREAD / 1e6:.0f} million per thread\n")
    heads = [f"{count} thread{'s' if count > 1 else ''}" for count in thread_counts()]
    print(f"| {' | '.join(['network', 'images', 'batch', 'million MACs per step', 'auto', *heads])} |")
    print("|---" * (5 + len(heads)) + "|")
    with busy_cores() if busy else nullcontext():
        for case in CASES:
            print(row(*case, rounds=rounds, dataset=dataset), flush=True)


if __name__ == "__main__":
    main()
