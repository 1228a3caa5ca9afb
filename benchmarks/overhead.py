"""What a stage costs inside a study over its own fit and evaluation: reading, checks, figures, model, tracking.

    python -m benchmarks.overhead [--seeds 3]

One base and three target arms a seed, in one process and a store of their own; the first of each kind, which pays for
imports, counts like the others. Wanted: at most a second in the median.
"""  # fmt: skip

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import click
import mlflow

from benchmarks.machine import machine
from pipeline.execution.runner import run_plan
from pipeline.params import TrainBaseParams
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import load_plan
from pipeline.plan.records import walk
from pipeline.report.records import KINDS
from pipeline.tracking import names
from pipeline.tracking.result_cache import PlanContext
from pipeline.tracking.store import open_store

PLAN = """
title: Overhead
profiles: {quick: {seeds: 1}}
arms:
  base: {run: train_base, params: {classes: 0-4, epochs: 3}}
  frozen: {run: transfer, base: base, params: {classes: 5-9, epochs: 50}}
  cached: {run: transfer, base: base, params: {classes: 5-9, epochs: 50, features: auto}}
  scratch: {run: transfer, base: base, params: {classes: 5-9, epochs: 50, reuse_layers: 0}}
questions:
  - {key: "1", kind: compare, arms: [frozen], reference: scratch, text: "Which is better?"}
"""


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--dataset", default="auto", show_default=True)
def main(seeds: int, dataset: str) -> None:
    """Carry a small study out and print the seconds of each stage that are neither fit nor evaluation."""
    data_dir = os.path.abspath(TrainBaseParams().data_dir)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        Path("plan.yaml").write_text(PLAN, encoding="utf-8")
        overrides = {"data_dir": data_dir, "dataset": dataset}
        plan = load_plan("plan.yaml", PlanOverrides("quick", seeds, overrides, kinds=KINDS))
        client = open_store()
        parent = client.create_run("0").info.run_id
        outcomes = run_plan(walk(plan), PlanContext(lambda: parent))
        rest = []
        for outcome in outcomes:
            assert outcome.run_id, outcome.failure
            metrics = client.get_run(outcome.run_id).data.metrics
            own = metrics[names.FIT_SECONDS] + metrics[names.EVALUATION_SECONDS]
            rest.append(outcome.seconds - own)
            print(f"{outcome.arm} seed {outcome.seed}: {rest[-1]:.2f} s over its own {own:.2f} s")
    print(
        f"{machine()}; median {statistics.median(rest):.2f} s, range {min(rest):.2f}-{max(rest):.2f}, n = {len(rest)}"
    )


if __name__ == "__main__":
    main()
