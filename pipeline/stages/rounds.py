"""Runs a plan in rounds: first its seeds, then the seeds that open questions or the cells of a surface still need.

`seeds=sequential` starts every arm with the first look. After each round, the arms of open questions get the seeds of
their next look, until everything is settled or the budget is used. Surfaces get one more round, in which the chosen
cells and training from scratch run on fresh seeds.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

from pipeline.console import echo
from pipeline.execution.runner import Execution, Models, run_plan
from pipeline.plan.outcome import Outcome
from pipeline.plan.records import Plan, Step, walk
from pipeline.report.questions.comparisons import Compared, judge_question
from pipeline.report.questions.surface import arms_to_confirm
from pipeline.report.records import PlanRunFacts
from pipeline.statistics.looks import LOOKS, next_look
from pipeline.statistics.planning import verdict_cost
from pipeline.statistics.stopping import ArmsOfQuestion, next_seed_counts, round_seconds
from pipeline.statistics.surfaces import FRESH_SEEDS
from pipeline.tracking import names

Counts = dict[str, int]  # seeds by arm
ReadFacts = Callable[[list[Outcome]], PlanRunFacts]


@dataclass(frozen=True)
class Budget:
    """When `seeds=sequential` stops although questions are open."""

    max_seeds: int  # per arm
    max_seconds: float = math.inf  # of the whole plan run; a round that would exceed it is not started


@dataclass
class Rounds:
    """The steps of a plan run so far."""

    plan: Plan
    execution: Execution
    read_facts: ReadFacts  # reads the runs of outcomes from the tracking store
    outcomes: list[Outcome] = field(default_factory=list)
    models: Models = field(default_factory=dict)

    def run(self, counts: Mapping[str, int]) -> bool:
        """Run the steps that some numbers of seeds per arm still lack; return whether there were any."""
        done = {(outcome.arm, outcome.seed) for outcome in self.outcomes}
        steps = [step for step in steps_for(self.plan, counts) if step.place not in done]
        if steps:
            self.outcomes += run_plan(steps, self.execution, self.models)
        return bool(steps)

    def run_all(self, budget: Budget | None) -> list[Outcome]:
        """Run the plan, sequentially if there is a budget, else with the seeds it states; then confirm surfaces."""
        began = time.perf_counter()
        caps = {arm.name: arm.seeds for arm in self.plan.arms.values()}
        counts = {name: min(cap, LOOKS[0]) for name, cap in caps.items()} if budget else caps
        self.run(counts)
        while budget and (counts := self.next_counts(caps, budget, time.perf_counter() - began)):
            self.run(counts)
        if any(question.kind == "surface" for question in self.plan.questions):
            wanted = arms_to_confirm(self.read_facts(self.outcomes))
            self.run(with_bases(self.plan, dict.fromkeys(wanted, FRESH_SEEDS[-1] + 1)))
        return self.outcomes

    def next_counts(self, caps: Counts, budget: Budget, elapsed: float) -> Counts:
        """Return the seeds per arm of the next round; empty when the plan stops, which is printed."""
        facts = self.read_facts(self.outcomes)
        questions, verdicts = {}, {}
        for number, one in enumerate(all_comparisons(facts)):
            arms = tuple(with_bases(self.plan, dict.fromkeys((one.arm.name, one.planned.reference.name), 0)))
            look = next_look(one.verdict.look)
            if look is not None and look <= min(caps[arm] for arm in arms):
                questions[str(number)], verdicts[str(number)] = arms, one.verdict
        targets = next_seed_counts(
            [ArmsOfQuestion(key, arms) for key, arms in questions.items()], verdicts, max_seeds=budget.max_seeds
        )
        present = {arm.name: len(arm.members) + len(arm.failures) for arm in facts.arms.values()}
        targets = {arm: count for arm, count in targets.items() if count > present.get(arm, 0)}
        seconds = round_seconds(targets, present, mean_seconds(facts))
        if not targets:
            echo("sequential: no question can be settled by more seeds")
        elif elapsed + seconds > budget.max_seconds:
            echo(f"sequential: stopped by max_minutes; the next round would take about {seconds / 60:.1f} min")
            return {}
        else:
            echo(
                f"sequential: {len(targets)} arms get up to {max(targets.values())} seeds, about {seconds / 60:.1f} min"
            )
        return targets


def steps_for(plan: Plan, counts: Mapping[str, int]) -> list[Step]:
    """Return the steps of a plan with other numbers of seeds; arms without a number have none."""
    arms = {name: replace(arm, seeds=counts.get(name, 0)) for name, arm in plan.arms.items()}
    return walk(replace(plan, arms=arms))


def with_bases(plan: Plan, counts: Mapping[str, int]) -> Counts:
    """Return numbers of seeds that include the bases of arms, and their bases."""
    complete = dict(counts)
    for name, arm in reversed(plan.arms.items()):  # a base comes before the arms that build on it
        if name in complete and arm.base:
            complete[arm.base] = max(complete.get(arm.base, 0), complete[name])
    return complete


def all_comparisons(facts: PlanRunFacts) -> list[Compared]:
    """Return the primary comparisons of all questions."""
    return [one for question in facts.questions for one in judge_question(facts, question)]


def mean_seconds(facts: PlanRunFacts) -> dict[str, float]:
    """Return the mean seconds per run of each arm; 0 for an arm without runs."""
    seconds: dict[str, float] = defaultdict(float)
    for arm in facts.finished_arms:
        seconds[arm.name] = fmean(member.run.metrics.get(names.TOTAL_SECONDS, 0.0) for member in arm.members)
    return seconds


def verdict_costs(plan: Plan, pilot: PlanRunFacts, max_seeds: int) -> Iterable[str]:
    """Yield one line per open comparison of an earlier plan run: seeds and minutes needed, detectable difference.

    Args:
        plan: The plan.
        pilot: The earlier plan run.
        max_seeds: Largest number of seeds per arm.
    """
    seconds = mean_seconds(pilot)
    for one in all_comparisons(pilot):
        verdict, margin = one.verdict, one.planned.comparison.test_margin
        if not one.seeds_needed or verdict.estimate is None or margin is None:
            continue
        arms = with_bases(plan, {name: 0 for name in (one.arm.name, one.planned.reference.name) if name in plan.arms})
        cost = verdict_cost(
            verdict.estimate.deviation, verdict.count, margin,
            minutes_per_seed=sum(seconds[arm] for arm in arms) / 60, max_seeds=max_seeds, questions=one.family,
        )  # fmt: skip
        detectable = cost.detectable if verdict.scale == "difference" else 100 * math.expm1(cost.detectable)
        unit = one.planned.quantity.difference_unit or "%"
        yield (
            f"{one.planned.question.key} {one.title}: {cost.seeds.text()}, "
            f"{cost.minutes_low:.1f} to {cost.minutes_high:.1f} min more; "
            f"{max_seeds} seeds detect a difference of {detectable:.2g} {unit} with 80 % power"
        )
