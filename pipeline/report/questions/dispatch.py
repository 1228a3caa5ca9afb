"""Answers a question by its kind, and adds the notes that all kinds share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.plan.records import KINDS, Question
from pipeline.report.elements import CACHED_MARK, Answer, capitalized
from pipeline.report.questions.accuracy import compare, score
from pipeline.report.questions.arm_differences import base_arms, differing_params
from pipeline.report.questions.context import QuestionContext, context_of
from pipeline.report.questions.cost import caching, time
from pipeline.report.questions.label_curves import labels
from pipeline.report.questions.learning import convergence, overfitting
from pipeline.report.questions.surface import surface
from pipeline.report.records import UNCONVERGED_MARK, PlanRunFacts

Answerer = Callable[[QuestionContext], Answer]
FUNCTIONS: tuple[Answerer, ...] = (score, compare, convergence, overfitting, caching, time, labels, surface)
ANSWERERS = {function.__name__: function for function in FUNCTIONS}
assert tuple(ANSWERERS) == KINDS, "every kind of question has a function that answers it"
REFERENCE_OPTIONAL = ("score", "overfitting", "labels", "surface")


def answer(facts: PlanRunFacts, question: Question) -> Answer:
    """Answer a question from the arms of a plan run; without finished runs, the answer says so.

    Raises:
        ValueError: The question's kind is not in `KINDS`.
    """
    if question.kind not in ANSWERERS:
        raise ValueError(f"question {question.key}: kind must be one of {', '.join(KINDS)}, got {question.kind!r}")
    context = context_of(facts, question)
    if not context.arms:
        return Answer(question, "Not answered: none of its arms finished.", notes=tuple(context.notes))
    complete = context.reference and context.others
    answered = ANSWERERS[question.kind] if complete or question.kind in REFERENCE_OPTIONAL else _scores_only
    return _annotated(context, answered(context))


def _scores_only(context: QuestionContext) -> Answer:
    """Answer a comparison whose reference or other arms are missing: report what is there."""
    reason = "its reference did not finish" if context.reference is None else "only its reference finished"
    if not context.question.reference:
        reason = "it has no reference"
    scores = score(context)
    return replace(scores, headline=f"Not compared: {reason}. {scores.headline}")


def _annotated(context: QuestionContext, answered: Answer) -> Answer:
    """Add notes on cached runs, arms trained on top of each other, and parameters that differ."""
    for one in context.primary:
        if one.seeds_needed:
            context.note(f"{one.title}: open; {one.seeds_needed} are needed for a verdict with 80 % power.")
    if any(member.reused for arm in context.arms for member in arm.members):
        context.note(f"{CACHED_MARK} Cached: not run again; its times are those of the original run.")
    unconverged = [
        f"{arm.label} ({count} of {len(arm.members)} runs {reason})"
        for arm in context.arms
        for reason, count in arm.unconverged.items()
    ]
    if unconverged:
        consequence = "Trained to convergence, their accuracy and training time may change."
        context.note(f"{UNCONVERGED_MARK} Not converged: {', '.join(unconverged)}. {consequence}")
    for arm, base in base_arms(context.arms):
        context.note(f"{arm.label} starts from {base.label}; its time does not include {base.label}'s.")
    if context.question.kind not in ("labels", "surface"):
        stages = dict.fromkeys(arm.entry_point for arm in context.arms)
        stage = [f"stage ({', '.join(stages)})"] if len(stages) > 1 else []
        if differing := [*differing_params(context.arms), *stage]:
            context.note(f"The arms differ in {', '.join(differing)}.")
    return replace(
        answered,
        headline=capitalized(answered.headline),
        sentences=tuple(capitalized(sentence) for sentence in answered.sentences if sentence),
        conclusion=" ".join(filter(None, (*(one.conclusion for one in context.primary), answered.conclusion))),
        verdicts=answered.verdicts or context.verdicts,
        notes=tuple(map(capitalized, context.notes)),
    )
