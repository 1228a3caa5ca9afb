"""Overhead of a stage in a plan run beyond fit and evaluation: data loading, checks, figures, model export, tracking.

    python -m benchmarks.overhead [--seeds 3]

One base and three target arms per seed, in one process with its own store; the first steps, which include imports,
count as well. Target: a median of at most one second.
"""  # fmt: skip

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import click
import mlflow

from benchmarks.machine import machine
from pipeline.execution.runner import Execution, run_plan
from pipeline.params import TrainBaseParams
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import load_plan
from pipeline.plan.records import walk
from pipeline.tracking import names
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
    """Run a small plan and print each stage's seconds outside fit and evaluation."""
    data_dir = os.path.abspath(TrainBaseParams().data_dir)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        Path("plan.yaml").write_text(PLAN, encoding="utf-8")
        overrides = {"data_dir": data_dir, "dataset": dataset}
        plan = load_plan("plan.yaml", PlanOverrides("quick", seeds, overrides))
        client = open_store()
        parent = client.create_run("0").info.run_id
        outcomes = run_plan(walk(plan), Execution(lambda: parent), {})
        overheads = []
        for outcome in outcomes:
            assert outcome.run_id, outcome.failure
            metrics = client.get_run(outcome.run_id).data.metrics
            training = metrics[names.FIT_SECONDS] + metrics[names.EVALUATION_SECONDS]
            overheads.append(outcome.seconds - training)
            print(f"{outcome.arm} seed {outcome.seed}: {overheads[-1]:.2f} s + {training:.2f} s fit and evaluation")
    median, low, high = statistics.median(overheads), min(overheads), max(overheads)
    print(f"{machine()}; median {median:.2f} s, range {low:.2f}-{high:.2f}, n = {len(overheads)}")


if __name__ == "__main__":
    main()
