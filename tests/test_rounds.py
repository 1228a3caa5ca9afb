"""Plans in rounds: sequential seeds, fresh seeds of surfaces, and the cost of verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.errors import UserInputError
from pipeline.execution.runner import Execution
from pipeline.params import MainParams, parse_params
from pipeline.plan.arms import PlanOverrides
from pipeline.plan.loader import load_plan
from pipeline.plan.outcome import Outcome, record_of
from pipeline.plan.records import Plan, Step
from pipeline.report.records import Links, PlanRunFacts
from pipeline.stages import rounds as rounds_module
from pipeline.stages.main import main
from pipeline.stages.rounds import Budget, Rounds, verdict_costs
from pipeline.tracking import names
from tests.synthetic_plan_run import arm_of, member

PLAN = """
profiles: {quick: {seeds: 3}}
arms:
  base: {run: train_base}
  reference: {run: transfer, base: base, params: {reuse_layers: 0, per_class: 100}}
  clear: {run: transfer, base: base, params: {reuse_layers: 1, per_class: 100}}
  close: {run: transfer, base: base, params: {reuse_layers: 2, per_class: 100}}
  capped: {run: transfer, base: base, seeds: 3, params: {reuse_layers: 3, per_class: 100}}
questions:
  - {key: "1", kind: compare, arms: [clear], reference: reference, text: "Clear?"}
  - {key: "2", kind: compare, arms: [close], reference: reference, text: "Close?"}
  - {key: "3", kind: compare, arms: [capped], reference: reference, text: "Capped?"}
"""
SURFACE = """
profiles: {quick: {seeds: 3}}
arms:
  base: {run: train_base}
  reuse: {run: transfer, base: base, grid: {reuse_layers: [1, 2], unfreeze: [1], per_class: [10]}}
  scratch: {run: transfer, base: base, params: {reuse_layers: 0, per_class: 10}}
questions:
  - {key: "1", kind: surface, arms: [reuse, scratch], text: "Which?"}
"""
MEANS = {"clear": 0.95, "reuse[reuse_layers=2, unfreeze=1, per_class=10]": 0.95}


def synthetic_facts(plan: Plan, outcomes: Sequence[Outcome]) -> PlanRunFacts:
    """Return the facts of steps whose accuracies are noise around a mean per arm, 6 s each."""
    arms = {}
    for number, arm in enumerate(plan.arms.values()):
        noise = np.random.default_rng(number).normal(0, 0.01, 100)
        params = {name: str(value) for name, value in {"unfreeze": 0, **arm.setting}.items()}
        metrics = {names.TOTAL_SECONDS: 6.0}
        arms[arm.name] = arm_of(arm.name, [
            member(arm.name, one.seed, MEANS.get(arm.name, 0.9) + noise[one.seed], params=params, metrics=metrics)
            for one in outcomes if one.arm == arm.name
        ])  # fmt: skip
    return PlanRunFacts(record_of(plan, list(outcomes), total_seconds=0.0, command=""), arms, Links("", ""))


def run_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, budget: Budget | None
) -> tuple[dict[str, int], list[list[str]]]:
    """Return the seeds per arm at the end, and the arms of each round."""
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    plan = load_plan(str(path), PlanOverrides("quick", max_seeds=budget.max_seeds if budget else None))
    rounds: list[list[str]] = []

    def run_plan(steps: list[Step], *args: object, **more: object) -> list[Outcome]:
        places = [step.place for step in steps]
        assert len(set(places)) == len(places)
        rounds.append(list(dict.fromkeys(step.arm.name for step in steps)))
        return [Outcome(step.arm.name, step.seed, f"{step.place}", False, 6.0) for step in steps]

    monkeypatch.setattr(rounds_module, "run_plan", run_plan)
    read: Callable[[list[Outcome]], PlanRunFacts] = lambda outcomes: synthetic_facts(plan, outcomes)  # noqa: E731
    outcomes = Rounds(plan, Execution(lambda: ""), read).run_all(budget)
    assert len({(one.arm, one.seed) for one in outcomes}) == len(outcomes)
    return {name: sum(one.arm == name for one in outcomes) for name in plan.arms}, rounds


def test_settled_question_gets_no_more_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, rounds = run_rounds(tmp_path, monkeypatch, PLAN, Budget(12))
    assert counts == {"base": 12, "reference": 12, "clear": 5, "close": 12, "capped": 3}
    assert rounds[1:] == [["base", "reference", "close"]] * 2


def test_sequential_plan_stops_before_exceeding_its_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the round from 5 to 8 seeds takes 3 seeds x 3 arms x 6 s = 54 s, the next one 72 s
    assert run_rounds(tmp_path, monkeypatch, PLAN, Budget(20, 60.0))[0]["close"] == 8
    assert run_rounds(tmp_path, monkeypatch, PLAN, Budget(20, 50.0))[0]["close"] == 5


def test_plan_without_budget_runs_its_own_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, rounds = run_rounds(tmp_path, monkeypatch, PLAN, None)
    assert set(counts.values()) == {3} and len(rounds) == 1


def test_only_chosen_cell_and_scratch_get_fresh_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, rounds = run_rounds(tmp_path, monkeypatch, SURFACE, None)
    assert list(counts.values()) == [11, 3, 11, 11]
    assert len(rounds) == 2


def test_cost_of_a_verdict_includes_the_base(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    plan = load_plan(str(path), PlanOverrides("quick", seeds=3))
    outcomes = [Outcome(name, seed, "r", False, 6.0) for name in plan.arms for seed in range(3)]
    lines = list(verdict_costs(plan, synthetic_facts(plan, outcomes), 12))
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert "12 seeds detect a difference of" in lines[1] and "min more" in lines[1]


def test_max_minutes_needs_sequential_seeds() -> None:
    assert parse_params(MainParams, {"seeds": "sequential", "max_minutes": "5"}).max_minutes == 5
    with pytest.raises(UserInputError, match="Needs seeds=sequential"):
        parse_params(MainParams, {"max_minutes": "5"})


@pytest.mark.slow
def test_sequential_plan_runs_and_reports(
    store: MlflowClient, tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        PLAN.replace("{run: train_base}", "{run: train_base, params: {epochs: 2, hidden_layers: 3, width: 8}}")
        .replace("per_class: 100", "per_class: 10, val_per_class: 5, epochs: 2")
    )  # fmt: skip
    params = {"plan": str(path), "dataset": "digits", "seeds": "sequential", "max_seeds": 5, "folder": str(tmp_path)}
    run_id = main(parse_params(MainParams, params)).run_id
    assert store.get_run(run_id).data.metrics["study/run"] == 4 * 5 + 3
    text = (tmp_path / "plan" / "study.md").read_text()
    assert ", n = 5" in text and "preliminary (n = 3)" in text
    capsys.readouterr()
    main(parse_params(MainParams, {**params, "dry_run": True}))
    assert (
        f"cost of a verdict, from plan run {run_id}: 3 test accuracy: capped vs. reference: " in capsys.readouterr().out
    )
