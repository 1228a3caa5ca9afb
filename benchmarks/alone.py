"""Running one part by itself."""

from __future__ import annotations

from collections.abc import Callable

import click

from benchmarks.rows import Options, Row


def run_alone(measure: Callable[[Options], list[Row]]) -> None:
    """Be the command of one part: take its options, print its rows."""

    @click.command()
    @click.option("--rounds", default=Options.rounds, show_default=True, help="how often each arm is timed")
    @click.option("--dataset", default=Options.dataset, show_default=True, help="digits is small")
    @click.option("--short", is_flag=True, help="only what needs no peers")
    def command(rounds: int, dataset: str, short: bool) -> None:
        """Print one line a pair."""
        for row in measure(Options(rounds, short, dataset)):
            print(row, flush=True)

    command()
