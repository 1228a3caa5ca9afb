"""`make bench`: run all parts, each in its own process, and write the tables and the figure.

    .venv/bin/python -m benchmarks [--only PART] [--rounds 7]
    .venv/bin/python -m benchmarks --short          what CI runs; needs no other tools

Parts that need other tools run in `.venv-bench`. New results of a part replace its old ones; each part records its
commit and the load of the machine.
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
    "epoch", "libraries", "cnn_epoch", "stored_images", "feature_cache", "folds", "tracking", "outage", "startup",
    "stage", "tune", "busy", "decoding", "backbone",
)  # fmt: skip
WITH_PEERS = ("libraries",)
SHORT = ("epoch", "cnn_epoch", "tracking", "startup")  # single-threaded: least sensitive to other load


def measure_here(name: str, options: Options) -> PartResult:
    """Run one part in this process."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = importlib.import_module(f"benchmarks.{name}").measure(options)
    from benchmarks.machine import commit, machine

    seconds = time.perf_counter() - began
    return PartResult(name, commit(ROOT), when, machine(), round(load, 2), round(seconds, 1), rows)


def measure_in_subprocess(name: str, options: Options, folder: Path) -> PartResult:
    """Run one part in a new process, so that parts do not share libraries or threads."""
    python = peer_python() if name in WITH_PEERS else sys.executable
    record = folder / f"{name}.part.json"
    command = [python, "-m", "benchmarks", "--only", name, "--here", "--rounds", str(options.rounds),
             "--dataset", options.dataset, "--results", str(record)]  # fmt: skip
    try:
        subprocess.run([*command, *(["--short"] if options.short else [])], cwd=ROOT, check=True)
        return read_results(record)[name]
    finally:
        record.unlink(missing_ok=True)


def failed_rows(part: PartResult, slack: float) -> list[str]:
    """Return the rows whose ratio is above target * slack, or whose accuracy is below the peer's."""
    missed = [f"above target: {row}" for row in part.rows if row.misses(slack)]
    return missed + [f"accuracy below the peer's: {row}" for row in part.rows if row.accuracy_verdict == LOWER]


def check(names: tuple[str, ...], options: Options, folder: Path) -> None:
    """Run the short parts; exit with 1 if a part fails twice in a row."""
    failures = []
    for name in names:
        failed = failed_rows(measure_in_subprocess(name, options, folder), SLACK)
        if failed:  # maybe other load on the machine
            print(f"{name}: {len(failed)} rows failed; retrying", flush=True)
            failures += failed_rows(measure_in_subprocess(name, options, folder), SLACK)
    for failure in failures:
        print(f"FAILED: {failure}", flush=True)
    if failures:
        sys.exit(1)
    print(f"all ratios are at most {SLACK:g} times their target")


@click.command()
@click.option("--short", is_flag=True, help="Fail if a ratio is far above its target; write nothing.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Run only these parts.")
@click.option("--rounds", default=Options.rounds, show_default=True, help="Timed rounds per pair.")
@click.option("--dataset", default=Options.dataset, show_default=True, help="digits is small: for a quick try.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results.json")
@click.option("--here", is_flag=True, hidden=True, help="Run in this process.")
def main(short: bool, only: tuple[str, ...], rounds: int, *, dataset: str, results: Path, here: bool) -> None:
    """Run benchmarks, and write RESULTS.md, results.json and results.png."""
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
    parts = read_results(results)
    for name in only or PARTS:
        print(f"-- {name}", flush=True)
        parts[name] = measure_in_subprocess(name, options, results.parent)
        write_results(results, parts)
        print(f"   {parts[name].seconds:.0f} s", flush=True)
    from benchmarks.render import write_page

    write_page({name: parts[name] for name in PARTS if name in parts}, results.parent)


if __name__ == "__main__":
    main()
