"""Which arm to use: one recommendation per study, and the commands that use and repeat its best model.

Read `recommend`. `RULE` states how an arm is chosen; test accuracy enters through the verdicts only.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.launching import command_to_run
from pipeline.params import ENTRY_POINTS, DataParams, spell
from pipeline.params.data import PREPROCESSING_FIELDS
from pipeline.params.family import OWN_PREFIX
from pipeline.plan.records import Question
from pipeline.report.elements import capitalized
from pipeline.report.number_text import seeds_text
from pipeline.report.questions.comparisons import Compared, judge_question
from pipeline.report.questions.label_curves import label_count
from pipeline.report.questions.quantities import TEST_ACCURACY, TEST_PRECISION, VAL_ACCURACY
from pipeline.report.questions.surface import choose, confirm
from pipeline.report.records import Member, PlanRunFacts, ReportedArm
from pipeline.tracking import names
from pipeline.tracking.base_search import BASE_STAGES

RULE = (
    "Rule: the question that compares the most arms decides, at its largest number of labels. Of the arms with the "
    "verdict better, the one with the best mean validation accuracy is recommended; if there is none, the best one on "
    "validation of the reference and the arms that are not shown to be worse. Of its seeds, the model with the best "
    "validation accuracy is given."
)

NO_RECOMMENDATION = "no recommendation: no question compares finished arms by accuracy"


@dataclass(frozen=True)
class Recommendation:
    """The arm to use in one study."""

    study: str  # heading of its chapter
    arm: ReportedArm
    reason: str  # in sentences
    model: Member  # its run with the best validation accuracy

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Commands that use the model, as (purpose, command), each ready to copy."""
        uri = self.model.run.tags.get(names.MODEL_URI, "")
        repeat = ("train it again", repeat_command(self.model))
        if not uri:
            return [repeat]
        source = self.model.run.params.get("model", "")
        options = f"--model {uri}" + (f" --code {shlex.quote(source)}" if source.startswith(OWN_PREFIX) else "")
        return [
            ("classify images", f"python -m pipeline predict {options} --images PATH"),
            ("export its graph for a server", f"python -m pipeline export {options}"),
            ("serve it", f"mlflow models serve -m {uri} --env-manager local --port 5001"),
            repeat,
        ]

    @property
    def model_text(self) -> str:
        """The model with its seed, scores and run."""
        run, seed = self.model.run, self.model.seed
        scores = f"validation accuracy {100 * run.metrics[names.VAL_FINAL_ACCURACY]:.2f} %"
        if names.TEST_ACCURACY in run.metrics:
            scores += f", test accuracy {100 * run.metrics[names.TEST_ACCURACY]:.2f} %"
        return f"{run.tags.get(names.MODEL_URI, 'none')} (seed {seed}: {scores}; run {run.run_id})"

    @property
    def lines(self) -> list[str]:
        """The recommendation as the command prints it."""
        steps = (("model", self.model_text), *self.commands)
        return [f"recommended ({self.study}): {self.arm.label}. {self.reason}", *(f"  {k}: {v}" for k, v in steps)]


def recommend(facts: PlanRunFacts) -> list[Recommendation]:
    """Return a recommendation for each study that compares finished arms by accuracy, in the plan's order."""
    recommendations = []
    for study in dict.fromkeys(question.study for question in facts.questions):
        contests = [_contest(facts, question) for question in facts.questions if question.study == study]
        # arms that build on a base come before the bases themselves
        contest = max(contests, key=lambda one: (bool(one) and one[0].arm.entry_point not in BASE_STAGES, len(one)))
        decided = _decide(contest) if contest else None
        if decided is not None:
            arm, reason = decided
            model = max(arm.members, key=lambda member: member.run.metrics.get(names.VAL_FINAL_ACCURACY, 0.0))
            recommendations.append(Recommendation(study, arm, reason, model))
    return recommendations


def repeat_command(member: Member) -> str:
    """Return the command that trains a run's model again: every resolved parameter that is not the default."""
    fields = ENTRY_POINTS[member.run.stage].model_fields
    defaults = {name: spell(field.default) for name, field in fields.items()} | {"data_dir": DataParams().data_dir}
    logged: dict[str, str] = json.loads(member.run.tags.get(names.PARAMETERS, "{}"))
    settings = {name: value for name, value in logged.items() if name in fields and value != defaults[name]}
    if "base" in settings:  # which has the preprocessing
        settings = {name: value for name, value in settings.items() if name not in PREPROCESSING_FIELDS}
    return command_to_run(member.run.stage, settings)


def _contest(facts: PlanRunFacts, question: Question) -> list[Compared]:
    """Return the accuracy comparisons of a question's finished arms, all with one reference and number of labels."""
    if question.kind == "surface":
        arms = [facts.arms[name] for name in question.arms if name in facts.arms]
        compared = list(confirm(question, choose(arms)).verdicts.values())[-1:]
    elif question.kind in ("compare", "labels"):
        compared = judge_question(facts, question)
    else:
        return []
    finished = [one for one in compared if one.arm.members and one.planned.reference.members]
    if question.kind == "labels" and finished:
        most = max(finished, key=lambda one: label_count(one.arm.parameter("per_class")))
        finished = [one for one in finished if one.planned.reference is most.planned.reference]
    return [one for one in finished if one.planned.quantity in (TEST_ACCURACY, TEST_PRECISION)]


def _decide(contest: Sequence[Compared]) -> tuple[ReportedArm, str] | None:
    """Return the recommended arm and the reason; None if no arm has a validation accuracy."""
    reference, quantity = contest[0].planned.reference, contest[0].planned.quantity.name
    better = {one.arm.name: one for one in contest if one.verdict.sign == "better"}
    pool = [one.arm for one in better.values()]
    if not better:
        pool = [reference, *(one.arm for one in contest if one.verdict.sign != "worse")]
    means = _validation_means(pool)
    if not means:
        return None
    arm = max((one for one in pool if one.name in means), key=lambda one: means[one.name])
    score = f"mean validation accuracy {means[arm.name]:.2f} %, {seeds_text(len(arm.members))}"
    if better:
        reason = better[arm.name].conclusion
        reason += f" Of {len(better)} better arms it is the best on validation ({score})." if len(better) > 1 else ""
    elif len(pool) == 1:
        reason = f"Every other arm is worse in {quantity} ({score})."
    else:
        shown = (
            "No other arm is shown to be better" if arm is reference else f"No arm is shown to beat {reference.label}"
        )
        reason = f"{shown} in {quantity}; of the {len(pool)} arms that are not shown to be worse, this one is best on "
        reason += f"validation ({score})."
    stopped = [f"{count} of {len(arm.members)} runs {why}" for why, count in arm.unconverged.items()]
    return arm, capitalized(reason) + (f" Not converged: {', '.join(stopped)}." if stopped else "")


def _validation_means(arms: Sequence[ReportedArm]) -> dict[str, float]:
    """Return the mean validation accuracy (%) by arm, on the seeds that all have; arms without one are left out."""
    values = {arm.name: VAL_ACCURACY.values(arm) for arm in arms}
    values = {name: by_seed for name, by_seed in values.items() if by_seed}
    shared = set.intersection(*map(set, values.values())) if values else set()
    return {
        name: sum(by_seed[seed] for seed in shared or by_seed) / len(shared or by_seed)
        for name, by_seed in values.items()
    }
