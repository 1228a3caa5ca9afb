"""Training time (`time/fit_seconds`) of each default arm on a fully loaded machine against the idle machine.

    python -m benchmarks.busy [--rounds 7]

The load is one endless loop per core. Some arms train for fewer epochs than by default.
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
    """Run one endless Python loop per core, each in its own process."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def fit_seconds(place: Workplace, arm: str, options: dict[str, object]) -> float:
    """Run a stage and return its training seconds."""
    return place.fit_seconds(place.python("-m", "pipeline", *arm.split(), *stage_options(options)))


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    rows = []
    with workplace() as place:
        for arm, (changes, target) in ARMS.items():
            values = {"dataset": options.dataset, "patience": changes["epochs"], **changes}
            busy, idle = [], []
            for _ in range(options.few):
                idle.append(fit_seconds(place, arm, values))
                with busy_cores():
                    busy.append(fit_seconds(place, arm, values))
            what = f"{arm}, {changes['epochs']} epochs, all cores busy"
            rows.append(Row(what, "same, idle machine", busy, idle, target=target))
    return rows


if __name__ == "__main__":
    run_alone(measure)
