"""The arms of the two reference studies over several seeds, as runs of the current tracking store, and their table.

    python -m benchmarks.study mlp --seeds 5
    python -m benchmarks.study cnn --seeds 3

Seed s of every arm builds on seed s of its base and sees the same images as the other arms. The README's tables
were made by this.
"""  # fmt: skip

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import click

from pipeline.params import FinetuneCnnParams, ScratchCnnParams, TrainBaseParams, TransferParams
from pipeline.report.statistics import estimate, paired_difference, verdict
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking.run import StageResult

Results = dict[str, list[dict[str, float]]]  # arm -> metrics, one a seed
BASES: dict[str, dict[str, Any]] = {"plain": {}, "batch norm": {"batch_norm": True}, "dropout 0.2": {"dropout": 0.2}}


def mlp_seed(seed: int, add: Callable[[str, StageResult], StageResult]) -> None:
    """Run assignment A's exercise 2 for one seed, on three kinds of base."""
    for kind, changes in BASES.items():
        base = add(f"base, {kind}", train_base(TrainBaseParams(dataset="mnist", seed=seed, **changes)))
        common: dict[str, Any] = {"base": base.model_uri, "seed": seed}
        add(f"{kind}: five frozen", transfer(TransferParams(**common)))
        add(f"{kind}: five frozen, cached", transfer(TransferParams(**common, features="auto")))
        four = add(f"{kind}: four frozen", transfer(TransferParams(**common, reuse_layers=4)))
        continued = TransferParams(base=four.model_uri, seed=seed, unfreeze=2)
        add(f"{kind}: four, then top two unfrozen", transfer(continued))
        add(f"{kind}: all five fine-tuned", transfer(TransferParams(**common, unfreeze=5)))
        add(f"{kind}: scratch", transfer(TransferParams(**common, reuse_layers=0)))


def cnn_seed(seed: int, add: Callable[[str, StageResult], StageResult]) -> None:
    """Run assignment B for one seed, with all labels, 100 and 20 a digit."""
    base = add("base", train_base(TrainBaseParams(dataset="mnist", model="cnn", seed=seed)))
    common: dict[str, Any] = {"base": base.model_uri, "seed": seed}
    for labels in ("all", 100, 20):
        add(f"{labels} labels: fine-tuned", finetune_cnn(FinetuneCnnParams(**common, per_class=labels)))
        add(f"{labels} labels: scratch", scratch_cnn(ScratchCnnParams(**common, per_class=labels)))


def table(results: Results) -> str:
    """Return accuracy, precision, seconds and the paired difference to the scratch arm, as Markdown."""
    columns = "test accuracy %", "range", "precision %", "training s", "s an epoch", "minus scratch, points"
    lines = ["| arm | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm, runs in results.items():
        accuracy = estimate([run["test/accuracy"] for run in runs])
        precision = estimate([run["test/precision"] for run in runs])
        seconds = sorted(run["time/fit_seconds"] for run in runs)
        epoch = estimate([run["time/fit_seconds"] / run["epochs_run"] for run in runs]).mean
        scratch = results.get(f"{arm.split(':')[0]}: scratch")
        shown = ""
        if scratch and ":" in arm and scratch is not runs:
            difference = paired_difference(
                [run["test/accuracy"] for run in runs], [run["test/accuracy"] for run in scratch]
            )
            shown = f"{difference.percent()}: {verdict(difference, 'ahead', 'behind')}"
        lines.append(
            f"| {arm} | {accuracy.percent()} | {100 * accuracy.low:.2f}-{100 * accuracy.high:.2f} | "
            f"{precision.percent()} | {seconds[len(seconds) // 2]:.1f} | {epoch:.4f} | {shown} |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("study", type=click.Choice(["mlp", "cnn"]))
@click.option("--seeds", default=5, show_default=True)
def main(study: str, seeds: int) -> None:
    """Run a study and print its table."""
    results: Results = defaultdict(list)

    def add(arm: str, result: StageResult) -> StageResult:
        results[arm].append(result.metrics)
        return result

    for seed in range(seeds):
        (mlp_seed if study == "mlp" else cnn_seed)(seed, add)
    print(table(results))


if __name__ == "__main__":
    main()
