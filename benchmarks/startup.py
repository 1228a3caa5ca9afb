"""Overhead of a stage's command: time outside training, and peak memory.

    python -m benchmarks.startup [--rounds 7]

Caches are warm and the store exists. The baseline is `python -c "import torch, mlflow"`, the floor the import of
torch. A short run compares CPU time, which is less sensitive to other load.
"""  # fmt: skip

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field

from benchmarks.alone import run_alone
from benchmarks.commands import CommandResult, Workplace, stage_options, workplace
from benchmarks.rows import Options, Row

EPOCHS = 3  # their training time is subtracted
STAGES_IN_ONE = """
import gc, json, sys, time
gc.set_threshold(100_000, 50, 100)
from pipeline.params import parse_params, TrainBaseParams
from pipeline.stages.train_base import train_base
gc.freeze()
seconds = []
for seed in range(int(sys.argv[1])):
    began = time.perf_counter()
    result = train_base(parse_params(TrainBaseParams, {**json.loads(sys.argv[2]), "seed": seed}))
    seconds.append(time.perf_counter() - began - result.metrics["time/fit_seconds"])
print(json.dumps(seconds))
"""
PEER = 'python -c "import torch, mlflow"'
MB = 1e6


@dataclass
class Commands:
    """Commands that run in turns, and their results."""

    words: dict[str, tuple[str, ...]]
    results: dict[str, list[CommandResult]] = field(default_factory=dict)

    def run(self, place: Workplace, rounds: int, *, warm_up: int) -> None:
        """Run every command once per round, after the warm-up rounds."""
        self.results = {name: [] for name in self.words}
        for number in range(warm_up + rounds):
            for name, words in self.words.items():
                result = place.python(*words)
                if number >= warm_up:
                    self.results[name].append(result)

    def seconds(self, name: str, *, cpu: bool) -> list[float]:
        """Return wall-clock or CPU time."""
        return [result.cpu_seconds if cpu else result.seconds for result in self.results[name]]

    def megabytes(self, name: str) -> list[float]:
        """Return peak resident set sizes."""
        return [result.peak_bytes / MB for result in self.results[name]]


def commands(base: dict[str, object], *, mlflow_run: bool) -> Commands:
    """Return the commands, with or without `mlflow run`."""
    options = tuple(stage_options(base))
    passed = tuple(word for name, value in base.items() for word in ("-P", f"{name}={value}"))
    through = ("-m", "mlflow", "run", ".", "--env-manager", "local", "-e", "train_base", *passed)
    return Commands(
        {
            "nothing": ("-c", "pass"),
            "torch": ("-c", "import torch"),
            "imports": ("-c", "import torch, mlflow"),
            "help": ("-m", "pipeline", "--help"),
            "train_base": ("-m", "pipeline", "train_base", *options),
            **({"mlflow run": through} if mlflow_run else {}),
        }
    )


def command_rows(place: Workplace, commands: Commands, *, cpu: bool) -> list[Row]:
    """Return the rows of the commands."""
    imports = commands.seconds("imports", cpu=cpu)
    floor = statistics.median(commands.seconds("torch", cpu=cpu))
    interpreter = statistics.median(commands.seconds("nothing", cpu=cpu))
    note = "CPU time" if cpu else ""

    def without_training(name: str) -> list[float]:
        runs = zip(commands.seconds(name, cpu=cpu), commands.results[name], strict=True)
        return [seconds - place.fit_seconds(result) for seconds, result in runs]

    rows = [
        Row("python -m pipeline --help", PEER, commands.seconds("help", cpu=cpu), imports, target=0.25,
            goal=0.5, floor=interpreter, note=note),
        Row("train_base command, excluding training", PEER, without_training("train_base"), imports, target=2.5,
            goal=5, floor=floor, note=note),
        Row("peak memory of train_base", PEER, commands.megabytes("train_base"), commands.megabytes("imports"),
            unit="MB", target=2.5, goal=900, floor=min(commands.megabytes("imports")), note="resident set size"),
    ]  # fmt: skip
    if "mlflow run" in commands.words:
        seconds = without_training("mlflow run")
        rows.append(Row("train_base via mlflow run, excluding training", PEER, seconds, imports, target=4, goal=8,
                        floor=floor))  # fmt: skip
    return rows


def repeated_row(place: Workplace, base: dict[str, object], rounds: int) -> Row:
    """Return the row of a second stage in the same process."""
    result = place.python("-c", STAGES_IN_ONE, str(1 + rounds), json.dumps({k: str(v) for k, v in base.items()}))
    later = json.loads(result.output.splitlines()[-1])[1:]
    imports = [place.python("-c", "import torch, mlflow").seconds for _ in later]
    what = "train_base again in the same process, excluding training"
    return Row(what, PEER, later, imports, target=0.5, goal=1)


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    dataset = "digits" if options.short else options.dataset
    base: dict[str, object] = {"dataset": dataset, "epochs": EPOCHS}
    rounds = 1 if options.short else options.few
    with workplace() as place:
        batch = commands(base, mlflow_run=not options.short)
        batch.run(place, rounds, warm_up=0 if options.short else 1)  # not needed for CPU time
        rows = command_rows(place, batch, cpu=options.short)
        return rows if options.short else [*rows, repeated_row(place, base, rounds + 1)]


if __name__ == "__main__":
    run_alone(measure)
