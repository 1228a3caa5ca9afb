"""What a stage costs besides training, in time and in memory, as commands.

    python -m benchmarks.startup [--rounds 7]

Everything is warm: files in the system's cache, the store made. Compared with `python -c "import torch, mlflow"`, which
nobody who trains with the two can avoid; the floor is the import of torch alone. A short run compares processor time,
which other work on the machine changes less.
"""  # fmt: skip

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field

from benchmarks.alone import run_alone
from benchmarks.commands import Done, Workplace, stage_options, workplace
from benchmarks.rows import Options, Row

EPOCHS = 3  # everything but these is what is measured
STAGES_IN_ONE = """
import gc, json, sys, time
gc.set_threshold(100_000, 50, 100)
from pipeline.params import parse_params, TrainBaseParams
from pipeline.stages.train_base import train_base
gc.freeze()
found = []
for seed in range(int(sys.argv[1])):
    began = time.perf_counter()
    done = train_base(parse_params(TrainBaseParams, {**json.loads(sys.argv[2]), "seed": seed}))
    found.append(time.perf_counter() - began - done.metrics["time/fit_seconds"])
print(json.dumps(found))
"""
PEER = 'python -c "import torch, mlflow"'
MB = 1e6


@dataclass
class Commands:
    """What is run in turn, and what each run found."""

    words: dict[str, tuple[str, ...]]
    found: dict[str, list[Done]] = field(default_factory=dict)

    def run(self, place: Workplace, rounds: int, warm_up: int) -> None:
        """Run every command once a round; the first rounds warm up."""
        self.found = {name: [] for name in self.words}
        for number in range(warm_up + rounds):
            for name, words in self.words.items():
                done = place.python(*words)
                if number >= warm_up:
                    self.found[name].append(done)

    def seconds(self, name: str, *, processor: bool) -> list[float]:
        """Return wall-clock, or processor time."""
        return [done.processor_seconds if processor else done.seconds for done in self.found[name]]

    def megabytes(self, name: str) -> list[float]:
        """Return peak resident sets."""
        return [done.peak_bytes / MB for done in self.found[name]]


def commands(base: dict[str, object], *, project: bool) -> Commands:
    """Return the commands; `mlflow run` among them where asked for."""
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
            **({"mlflow run": through} if project else {}),
        }
    )


def command_rows(place: Workplace, commands: Commands, *, processor: bool) -> list[Row]:
    """Return the rows of the commands."""
    imports = commands.seconds("imports", processor=processor)
    floor = statistics.median(commands.seconds("torch", processor=processor))
    least = statistics.median(commands.seconds("nothing", processor=processor))
    note = "processor time" if processor else ""

    def besides_training(name: str) -> list[float]:
        whole = zip(commands.seconds(name, processor=processor), commands.found[name], strict=True)
        return [seconds - place.fit_seconds(done) for seconds, done in whole]

    rows = [
        Row("python -m pipeline --help", PEER, commands.seconds("help", processor=processor), imports, target=0.25,
            goal=0.5, floor=least, note=note),
        Row("train_base as a command, besides training", PEER, besides_training("train_base"), imports, target=2.5,
            goal=5, floor=floor, note=note),
        Row("peak memory of train_base", PEER, commands.megabytes("train_base"), commands.megabytes("imports"),
            unit="MB", target=2.5, goal=900, floor=min(commands.megabytes("imports")), note="resident set"),
    ]  # fmt: skip
    if "mlflow run" in commands.words:
        whole = besides_training("mlflow run")
        rows.append(Row("train_base through mlflow run, besides training", PEER, whole, imports, target=4, goal=8,
                        floor=floor))  # fmt: skip
    return rows


def repeated_row(place: Workplace, base: dict[str, object], rounds: int) -> Row:
    """Return the row of a stage inside a process that has already run one."""
    done = place.python("-c", STAGES_IN_ONE, str(1 + rounds), json.dumps({k: str(v) for k, v in base.items()}))
    later = json.loads(done.output.splitlines()[-1])[1:]
    imports = [place.python("-c", "import torch, mlflow").seconds for _ in later]
    what = "train_base in a process that has run one, besides training"
    return Row(what, PEER, later, imports, target=0.5, goal=1)


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    dataset = "digits" if options.short else options.dataset
    base: dict[str, object] = {"dataset": dataset, "epochs": EPOCHS}
    rounds = 1 if options.short else options.few
    with workplace() as place:
        found = commands(base, project=not options.short)
        found.run(place, rounds, warm_up=0 if options.short else 1)  # processor time needs none
        rows = command_rows(place, found, processor=options.short)
        return rows if options.short else [*rows, repeated_row(place, base, rounds + 1)]


if __name__ == "__main__":
    run_alone(measure)
