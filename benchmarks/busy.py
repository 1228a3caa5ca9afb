"""Training beside one endless loop per core against the same on the idle machine.

    python -m benchmarks.busy [--rounds 7]

Each default arm as a command, with fewer epochs where that shortens it; what counts is `time/fit_seconds`.
"""  # fmt: skip

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.alone import run_alone
from benchmarks.commands import Workplace, stage_options, workplace
from benchmarks.rows import Options, Row

MLP_TARGET, CNN_TARGET = 2.5, 3.0
ARMS: dict[str, tuple[dict[str, object], float]] = {
    "train_base": ({"epochs": 10}, MLP_TARGET),
    "transfer": ({"epochs": 100}, MLP_TARGET),
    "transfer --features auto": ({"epochs": 100}, MLP_TARGET),
    "transfer --unfreeze 5": ({"epochs": 100}, MLP_TARGET),
    "transfer --reuse_layers 0": ({"epochs": 100}, MLP_TARGET),
    "train_base --model cnn": ({"epochs": 3}, CNN_TARGET),
    "finetune_cnn": ({"epochs": 3}, CNN_TARGET),
    "scratch_cnn": ({"epochs": 3}, CNN_TARGET),
}


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with an endless Python loop, each in a process of its own."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def fit_seconds(place: Workplace, arm: str, options: dict[str, object]) -> float:
    """Run a stage and return the seconds that its fit took."""
    return place.fit_seconds(place.python("-m", "pipeline", *arm.split(), *stage_options(options)))


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    rows = []
    with workplace() as place:
        for arm, (changes, target) in ARMS.items():
            asked = {"dataset": options.dataset, "patience": changes["epochs"], **changes}
            busy, idle = [], []
            for _ in range(options.few):
                idle.append(fit_seconds(place, arm, asked))
                with busy_cores():
                    busy.append(fit_seconds(place, arm, asked))
            what = f"{arm}, {changes['epochs']} epochs, one endless loop per core beside it"
            rows.append(Row(what, "the same, idle", busy, idle, target=target))
    return rows


if __name__ == "__main__":
    run_alone(measure)
