"""Claim cards: one page per published claim that a plan tests, with its outcome, the evidence and the cost."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan.records import Claim
from pipeline.report.elements import Answer
from pipeline.report.questions.comparisons import Compared, judge_question
from pipeline.report.records import Member, PlanRunFacts, ReportedArm
from pipeline.statistics.verdict import Verdict
from pipeline.tracking import names


@dataclass(frozen=True)
class ClaimCard:
    """A claim with its outcome."""

    number: int  # of the claim in the plan, from 1
    claim: Claim
    answer: Answer  # of the question that tests it
    compared: Compared
    outcome: str  # confirmed, refuted or open
    cost: str  # runs and their computing time


def claim_cards(facts: PlanRunFacts, answers: list[Answer]) -> list[ClaimCard]:
    """Return a card for each claim whose question has a comparison, in the plan's order."""
    cards: list[ClaimCard] = []
    for answer in answers:
        question = answer.question
        compared = judge_question(facts, question) if question.claim else []
        if question.claim and len(compared) == 1:
            (one,) = compared
            outcome = claim_outcome(question.claim.expects, one.verdict)
            cards.append(ClaimCard(len(cards) + 1, question.claim, answer, one, outcome, _cost(facts, one)))
    return cards


def claim_outcome(expects: str, verdict: Verdict) -> str:
    """Return `confirmed`, `refuted` or `open`; only verdicts at a look decide, not preliminary ones.

    - better: confirmed by "better"; refuted by "worse", or by a difference within the margin that is not "better".
    - not worse: confirmed by "better" or "within margin"; refuted by "worse" by more than the margin.
    - within margin: confirmed by "within margin"; nothing refutes it, because no test shows a difference to be large.
    """
    if not verdict.look:
        return "open"
    within = verdict.size == "within margin"
    match expects:
        case "better":
            confirmed, refuted = verdict.sign == "better", verdict.sign == "worse" or within
        case "not worse":
            confirmed, refuted = verdict.sign == "better" or within, verdict.sign == "worse"
        case _:
            confirmed, refuted = within, False
    return "confirmed" if confirmed else "refuted" if refuted else "open"


def _cost(facts: PlanRunFacts, compared: Compared) -> str:
    """Return how many runs the answer took, bases included, and their wall-clock time."""
    owner = {member.run.run_id: (arm, member) for arm, member in facts.runs}
    runs: dict[str, Member] = {}
    waiting: list[ReportedArm] = [compared.arm, compared.planned.reference]
    while waiting:
        arm = waiting.pop()
        runs |= {member.run.run_id: member for member in arm.members}
        bases = [owner[run_id] for run_id in arm.base_run_ids if run_id in owner and run_id not in runs]
        waiting += list({base.name: base for base, _ in bases}.values())
    minutes = sum(member.run.metrics.get(names.TOTAL_SECONDS, 0.0) for member in runs.values()) / 60
    return f"{len(runs)} runs, {minutes:.1f} minutes"
