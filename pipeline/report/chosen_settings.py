"""Settings that validation chose per run: from the grid of `tune_on_validation`, or the L2 penalty of a solved head."""

from __future__ import annotations

from collections import Counter

from pipeline.report.elements import NO_VALUE, Table, text_table
from pipeline.report.questions.quantities import TRAINING_TIME, TRIES_TIME, metric
from pipeline.report.records import Member, PlanRunFacts, ReportedArm
from pipeline.tracking import names

HEADINGS = ("arm", "tries", "chosen settings (runs)", "at the grid's edge", "training (s)", "all tries (s)")
CHOICES = {
    f"{names.TUNED}learning_rate": "learning rate",
    f"{names.TUNED}weight_decay": "weight decay",
    names.HEAD_L2: "L2",
}


def chosen_settings(facts: PlanRunFacts) -> Table:
    """Return one row per arm whose settings validation chose."""
    rows = [_row(arm) for arm in facts.finished_arms if any(map(_chosen, arm.members))]
    return text_table(HEADINGS, rows)


def _row(arm: ReportedArm) -> tuple[str, ...]:
    counts = Counter(filter(None, map(_chosen, arm.members)))
    edges = [*metric(arm, names.TUNED_AT_EDGE).values(), *metric(arm, names.HEAD_L2_AT_EDGE).values()]
    tries = sorted(set(metric(arm, names.TRIES).values()))
    return (
        arm.label,
        ", ".join(f"{count:.0f}" for count in tries) or "solved",
        "; ".join(f"{setting} ({count})" for setting, count in counts.most_common()),
        f"{sum(edges):.0f} of {len(edges)} runs",
        TRAINING_TIME.text(arm),
        TRIES_TIME.text(arm) if tries else NO_VALUE,
    )


def _chosen(member: Member) -> str:
    """Return the chosen setting of a run; empty if nothing was chosen."""
    metrics = member.run.metrics
    return ", ".join(f"{text} {metrics[name]:.2g}" for name, text in CHOICES.items() if name in metrics)
