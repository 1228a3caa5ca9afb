"""Feeds simulated plan runs through the report, counts wrong answers: `python -m tools.report_simulation [FAMILIES]`.

A family is a plan run with three confirmatory questions that share their reference. Two arms do not differ from it, the
third is worse by exactly the margin. An answer is wrong if it gives a sign to one of the first two, or calls the third
within the margin. Then single questions run sequentially, as `seeds=sequential` does, and the shares of their answers
are compared with what `pipeline.statistics.planning.chances` promises. Verdicts are read from the table that the page
prints; only the charts are left out. 2,000 families take about 15 minutes; standard error 0.5 points at 5 %.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.plan.outcome import PlanRecord
from pipeline.plan.records import Question
from pipeline.report.questions.context import context_of
from pipeline.report.records import Links, Member, PlanRunFacts, ReportedArm
from pipeline.statistics.looks import LOOKS
from pipeline.statistics.planning import chances
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun

Floats = NDArray[np.float64]

MARGIN, DEVIATION = 0.5, 0.73  # percentage points; the deviation is that of the differences
MEANS = (0.0, 0.0, -MARGIN)  # true differences of a family
SEED_DEVIATION = 2.0  # of what a seed does to all arms


def simulated_arm(name: str, accuracies: Floats) -> ReportedArm:
    """Return an arm with one finished run per test accuracy, in percent."""
    runs = [
        FinishedRun(f"{name}-{seed}", name, "transfer", {}, {}, {names.TEST_ACCURACY: float(value) / 100}, {})
        for seed, value in enumerate(accuracies)
    ]
    return ReportedArm(name, name, "transfer", tuple(Member(seed, run, False) for seed, run in enumerate(runs)))


def simulated_plan(generator: np.random.Generator, means: Sequence[float], seeds: int) -> PlanRunFacts:
    """Return a plan run with one confirmatory question per true difference, all with the same reference."""
    level = generator.normal(90.0, SEED_DEVIATION, seeds)
    spread = DEVIATION / math.sqrt(2)  # of each side of a difference
    arms = {"reference": simulated_arm("reference", level + generator.normal(0.0, spread, seeds))}
    for number, mean in enumerate(means):
        arms[f"arm {number}"] = simulated_arm(f"arm {number}", level + mean + generator.normal(0.0, spread, seeds))
    questions = tuple(
        Question(str(number), "Simulated", "Better?", "compare", (f"arm {number}",), "reference", margin=MARGIN,
                 confirmatory=True)
        for number in range(len(means))
    )  # fmt: skip
    record = PlanRecord("simulated", "", "", "", seeds, (), questions, (), 0.0, "")
    return PlanRunFacts(record, arms, Links("", ""))


def first_seeds(facts: PlanRunFacts, count: int) -> PlanRunFacts:
    """Return a plan run as it was when every arm had only its first seeds."""
    arms = {
        name: ReportedArm(arm.name, arm.label, arm.entry_point, arm.members[:count]) for name, arm in facts.arms.items()
    }
    return PlanRunFacts(facts.record, arms, facts.links)


def answers(facts: PlanRunFacts) -> list[tuple[str, str]]:
    """Return sign and size of each question as the report prints them."""
    rows = [context_of(facts, question).verdicts.rows[0] for question in facts.questions]
    return [(row[3].parts[0].text, row[4].parts[0].text) for row in rows]


def is_wrong(facts: PlanRunFacts, means: Sequence[float]) -> bool:
    """Return whether the report gives a wrong answer to any question."""
    return any(
        (mean == 0 and sign != "open") or (abs(mean) >= MARGIN and size.startswith("within"))
        for mean, (sign, size) in zip(means, answers(facts), strict=True)
    )


def sequential_answer(facts: PlanRunFacts) -> str:
    """Return the answer of a single question at the first look that gives one."""
    for look in LOOKS:
        ((sign, size),) = answers(first_seeds(facts, look))
        if sign != "open":
            return sign
        if size.startswith("within"):
            return "within"
    return "open"


def wrong_share(families: int, *, seed: int = 2026) -> float:
    """Return the share of families with a wrong answer by the last look."""
    generator = np.random.default_rng(seed)
    return sum(is_wrong(simulated_plan(generator, MEANS, LOOKS[-1]), MEANS) for _ in range(families)) / families


def answer_shares(difference: float, runs: int, *, seed: int = 2027) -> dict[str, float]:
    """Return how often a single sequential question has each answer, for a true difference in points."""
    generator = np.random.default_rng(seed)
    counts = Counter(sequential_answer(simulated_plan(generator, (difference,), LOOKS[-1])) for _ in range(runs))
    return {answer: counts[answer] / runs for answer in ("better", "worse", "within", "open")}


def main(families: int) -> None:
    """Print both tables."""
    rate = wrong_share(families)
    print(f"families with a wrong answer: {100 * rate:.1f} % of {families}")
    for difference in (0.0, 0.25, 0.5, 1.0):
        shares, promised = answer_shares(difference, families), chances(difference, DEVIATION, MARGIN)
        listed = ", ".join(
            f"{answer} {100 * share:.1f} % (promised {100 * getattr(promised, answer):.1f})"
            for answer, share in shares.items()
        )
        print(f"true difference {difference}: {listed}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
