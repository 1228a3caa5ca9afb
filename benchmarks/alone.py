"""The command line of a single part."""

from __future__ import annotations

from collections.abc import Callable

import click

from benchmarks.rows import Options, Row


def run_alone(measure: Callable[[Options], list[Row]]) -> None:
    """Parse the options of a part and print its rows."""

    @click.command()
    @click.option("--rounds", default=Options.rounds, show_default=True, help="Timed rounds per pair.")
    @click.option("--dataset", default=Options.dataset, show_default=True, help="digits is small: for a quick try.")
    @click.option("--short", is_flag=True, help="Only what needs no other tools.")
    def command(rounds: int, dataset: str, short: bool) -> None:
        """Print one line per pair."""
        for row in measure(Options(rounds, short, dataset)):
            print(row, flush=True)

    command()
