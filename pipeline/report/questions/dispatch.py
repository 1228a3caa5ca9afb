"""Each kind of question with what answers it: a sentence, the numbers, a table and panels."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.plan.records import Question
from pipeline.report.elements import REUSED_MARK, Answer, Links, sentence
from pipeline.report.questions.accuracy import compare, score
from pipeline.report.questions.context import Subject, continued_from, differing_params, subject_of
from pipeline.report.questions.cost import caching, time
from pipeline.report.questions.label_curves import labels
from pipeline.report.questions.learning import convergence, overfitting
from pipeline.report.questions.surface import surface
from pipeline.report.records import CAP_MARK, KINDS, PlanRunFacts

ANSWERERS: dict[str, Callable[[Subject], Answer]] = {
    "score": score,
    "compare": compare,
    "convergence": convergence,
    "overfitting": overfitting,
    "caching": caching,
    "time": time,
    "labels": labels,
    "surface": surface,
}
assert tuple(ANSWERERS) == KINDS, "every kind of question has an answer"
WITHOUT_REFERENCE = ("score", "overfitting", "labels", "surface")  # kinds that can do without


def answer(facts: PlanRunFacts, question: Question) -> Answer:
    """Answer a question from a study's arms; where they did not finish, say so.

    Raises:
        ValueError: The question's kind is none of `KINDS`.
    """
    if question.kind not in ANSWERERS:
        raise ValueError(f"question {question.key}: its kind {question.kind!r} is none of {', '.join(KINDS)}")
    subject = subject_of(facts, question, Links(facts.server, facts.experiment_id))
    if not subject.arms:
        return Answer(question, "Not answered: none of its arms finished.", notes=tuple(subject.notes))
    found = _reduced(subject)
    return found or _annotated(subject, ANSWERERS[question.kind](subject))


def _reduced(subject: Subject) -> Answer | None:
    """Return what is left of a comparison that lacks its reference, or has nothing else; None where it is whole."""
    question = subject.question
    if question.kind in WITHOUT_REFERENCE or (subject.reference and subject.others):
        return None
    lacking = "its reference did not finish" if subject.reference is None else "only its reference finished"
    if not question.reference:
        lacking = "it names no reference"
    shown = score(subject)
    return _annotated(subject, Answer(
        question, f"Not compared: {lacking}. {shown.headline}", shown.sentences, (), shown.table, shown.pictures
    ))  # fmt: skip


def _annotated(subject: Subject, found: Answer) -> Answer:
    """Add the notes that all kinds share: reused runs, arms built on each other, parameters that differ."""
    if any(member.reused for arm in subject.arms for member in arm.members):
        subject.note(f"{REUSED_MARK} Reused: recognised as finished, not run again; its seconds are those of then.")
    if capped := [f"{arm.label} ({arm.unconverged} of {len(arm.members)})" for arm in subject.arms if arm.unconverged]:
        subject.note(
            f"{CAP_MARK} Not converged, runs stopped by the epoch cap instead of patience: {', '.join(capped)}. With "
            "more epochs, their accuracy and training time may change."
        )
    for arm, base in continued_from(subject.arms):
        subject.note(f"{arm.label} starts from {base.label}: its seconds come on top of those.")
    if subject.question.kind not in ("labels", "surface"):
        _note_differences(subject)
    return Answer(
        found.question, sentence(found.headline), tuple(map(sentence, found.sentences)),
        tuple(map(sentence, subject.notes)), found.table, found.pictures,
    )  # fmt: skip


def _note_differences(subject: Subject) -> None:
    stages = dict.fromkeys(arm.entry_point for arm in subject.arms)
    differing = list(differing_params(subject.arms))
    if len(stages) > 1:
        differing.append(f"stage ({', '.join(stages)})")
    if differing:
        subject.note(f"The arms differ in {', '.join(differing)}.")
