"""`make bench`: every part, one after the other, each in a process of its own; then the table and the picture.

    .venv/bin/python -m benchmarks [--only PART] [--rounds 7]
    .venv/bin/python -m benchmarks --short          what a change must pass; no peers needed

The parts that need peers run in `.venv-bench`. A part that is measured again replaces its earlier result, and every
part says at which commit and under what load it was measured.
"""  # fmt: skip

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks.commands import ROOT, peer_python
from benchmarks.rows import LOWER, SLACK, Options, PartResult, read_results, write_results

PARTS = (
    "epoch", "libraries", "cnn_epoch", "feature_cache", "folds", "tracking", "outage", "startup", "stage", "tune",
    "busy",
)  # fmt: skip
WITH_PEERS = ("libraries",)
SHORT = ("epoch", "cnn_epoch", "tracking", "startup")  # what other work on the machine disturbs least: one thread


def measure_here(name: str, options: Options) -> PartResult:
    """Measure one part in this process."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = importlib.import_module(f"benchmarks.{name}").measure(options)
    from benchmarks.machine import commit, machine

    seconds = time.perf_counter() - began
    return PartResult(name, commit(ROOT), when, machine(), round(load, 2), round(seconds, 1), rows)


def measure_apart(name: str, options: Options, folder: Path) -> PartResult:
    """Measure one part in a fresh process, so that no part's libraries or threads disturb another's."""
    python = peer_python() if name in WITH_PEERS else sys.executable
    record = folder / f"{name}.part.json"
    words = [python, "-m", "benchmarks", "--only", name, "--here", "--rounds", str(options.rounds),
             "--dataset", options.dataset, "--results", str(record)]  # fmt: skip
    try:
        subprocess.run([*words, *(["--short"] if options.short else [])], cwd=ROOT, check=True)
        return read_results(record)[name]
    finally:
        record.unlink(missing_ok=True)


def faults(part: PartResult, slack: float) -> list[str]:
    """Return the rows that miss their target by more than the slack, or are not as accurate as their peer."""
    missed = [f"misses its target: {row}" for row in part.rows if row.misses(slack)]
    return missed + [f"is not as accurate as its peer: {row}" for row in part.rows if row.accuracy_verdict == LOWER]


def check(names: tuple[str, ...], options: Options, folder: Path) -> None:
    """Measure the short versions; exit with 1 where a ratio misses its target twice."""
    wrong = []
    for name in names:
        found = faults(measure_apart(name, options, folder), SLACK)
        if found:  # other work on the machine may have come in between: once more, then it counts
            print(f"{name}: {len(found)} of its rows fail; measuring it once more", flush=True)
            again = measure_apart(name, options, folder)
            wrong += faults(again, SLACK)
    for fault in wrong:
        print(f"FAILED: {fault}", flush=True)
    if wrong:
        sys.exit(1)
    print(f"every ratio is within {SLACK:g} of its target")


@click.command()
@click.option("--short", is_flag=True, help="fails where a ratio is far above its target; writes nothing")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="these parts alone")
@click.option("--rounds", default=Options.rounds, show_default=True, help="how often each arm of a pair is timed")
@click.option("--dataset", default=Options.dataset, show_default=True, help="digits is small, to try it out")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results.json")
@click.option("--here", is_flag=True, hidden=True, help="in this process")
def main(short: bool, only: tuple[str, ...], rounds: int, dataset: str, results: Path, here: bool) -> None:
    """Measure, and write RESULTS.md, results.json and results.png beside each other."""
    options = Options(rounds, short, dataset)
    if here:
        (name,) = only
        part = measure_here(name, options)
        for row in part.rows:
            print(row, flush=True)
        write_results(results, {name: part})
        return
    if short:
        check(only or SHORT, options, results.parent)
        return
    found = read_results(results)
    for name in only or PARTS:
        print(f"-- {name}", flush=True)
        found[name] = measure_apart(name, options, results.parent)
        write_results(results, found)
        print(f"   {found[name].seconds:.0f} s", flush=True)
    from benchmarks.render import write_page

    write_page({name: found[name] for name in PARTS if name in found}, results.parent)


if __name__ == "__main__":
    main()
