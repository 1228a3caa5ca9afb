"""How accurate are the arms, and which are better than the reference? Kinds `score` and `compare`."""

from __future__ import annotations

import re

from pipeline.report.elements import Answer, Chart, capitalized
from pipeline.report.line_chart import line_chart
from pipeline.report.number_text import seeds_text
from pipeline.report.questions.comparisons import asks_for_precision, asks_only_for_precision
from pipeline.report.questions.context import QuestionContext
from pipeline.report.questions.quantities import (
    CV_ACCURACY,
    CV_PRECISION,
    EPOCHS,
    SEARCH_TIME,
    TEST_ACCURACY,
    TEST_PRECISION,
    TRAIN_ACCURACY,
    TRAINING_TIME,
    Quantity,
    metric,
)
from pipeline.report.records import ReportedArm
from pipeline.tracking import names

MAX_ARMS_IN_SENTENCE = 3


def score(context: QuestionContext) -> Answer:
    """Report the test accuracy of each arm."""
    arms = [arm for arm in context.arms if TEST_ACCURACY.mean(arm)]
    if not arms:
        return Answer(context.question, "Not answered: no run has a test accuracy.")
    precision = asks_for_precision(context.question)
    few = len(arms) <= MAX_ARMS_IN_SENTENCE
    headline = "; ".join(_accuracy(arm, precision) for arm in arms) if few else _range(arms, precision)
    sentences = (*map(_search, arms), *(map(_training, arms) if few else ()))
    columns = (TRAIN_ACCURACY.column, TEST_ACCURACY.column, TEST_PRECISION.column, TRAINING_TIME.column)
    return Answer(context.question, f"{headline}.", sentences, context.table(*columns), _accuracy_charts(context))


def compare(context: QuestionContext) -> Answer:
    """Report which arms have a higher or lower test accuracy, or precision, than the reference, paired by seed."""
    primary, other = TEST_ACCURACY, TEST_PRECISION
    if asks_only_for_precision(context.question):
        primary, other = other, primary
    headline = context.main_comparison(capitalized(primary.name))
    headline = headline or "Not compared: no seed is shared with the reference."
    sentences = []
    if asks_for_precision(context.question):
        sentences.append(context.comparison(other, capitalized(other.name)))
    if "how long" in context.question.text.lower():
        times = [f"{arm.label} {_mean(TRAINING_TIME, arm)}" for arm in context.others]
        headline += f" Training time: {', '.join(times)}."
    sentences += map(_search, context.others)
    table = context.table(TEST_ACCURACY.column, TEST_PRECISION.column, TRAINING_TIME.column)
    return Answer(context.question, headline, tuple(sentences), table, _accuracy_charts(context))


def _mean(quantity: Quantity, arm: ReportedArm) -> str:
    seeds = len(quantity.values(arm))
    return quantity.text(arm, unit=True) + (f" ({seeds_text(seeds)})" if seeds > 1 else "")


def _accuracy(arm: ReportedArm, precision: bool) -> str:
    if not precision or not TEST_PRECISION.values(arm):
        return f"{arm.label}: test accuracy {_mean(TEST_ACCURACY, arm)}"
    accuracy = TEST_ACCURACY.text(arm, unit=True)
    return f"{arm.label}: test accuracy {accuracy}, macro precision {_mean(TEST_PRECISION, arm)}"


def _range(arms: list[ReportedArm], precision: bool) -> str:
    quantity = TEST_PRECISION if precision else TEST_ACCURACY
    means = sorted((mean.mean, arm.label) for arm in arms if (mean := quantity.mean(arm)))
    (low, worst), (high, best) = means[0], means[-1]
    return f"Mean {quantity.name} of {len(means)} arms ranges from {low:.2f} % ({worst}) to {high:.2f} % ({best})"


def _search(arm: ReportedArm) -> str:
    """Return the result of an arm's hyperparameter search and its winning settings; empty without one."""
    if CV_ACCURACY.mean(arm) is None:
        return ""
    complete, pruned = metric(arm, "study/complete"), metric(arm, "study/pruned")
    trials = [count + pruned.get(seed, 0) for seed, count in complete.items()]
    counted = f" of {sum(trials) / len(trials):.0f} trials" if trials else ""
    winners = {member.seed: member.run.tags.get(names.WINNING_SETTING, "") for member in arm.members}
    listed = "; ".join(f"seed {seed}: {_rounded(setting)}" for seed, setting in winners.items() if setting)
    return (
        f"{arm.label}: the best{counted} reached {CV_ACCURACY.text(arm, unit=True)} accuracy and "
        f"{CV_PRECISION.text(arm, unit=True)} macro precision in cross-validation; the search took "
        f"{SEARCH_TIME.text(arm, unit=True)}." + (f" Winning settings: {listed}." if listed else "")
    )


def _rounded(setting: str) -> str:
    """Return a text with its decimal numbers rounded to three significant digits."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.3g}", setting)


def _training(arm: ReportedArm) -> str:
    return (
        f"{arm.label}: training accuracy {TRAIN_ACCURACY.text(arm, unit=True)}; trained for "
        f"{EPOCHS.text(arm, unit=True)} in {TRAINING_TIME.text(arm, unit=True)}."
    )


def _accuracy_charts(context: QuestionContext) -> tuple[Chart, ...]:
    """Draw loss over epochs, accuracy, and training time if it can be compared."""
    hollow, legend = None, ""
    if asks_for_precision(context.question):
        hollow, legend = TEST_PRECISION, "filled: test accuracy; hollow: macro precision"
    elif context.question.kind == "score":
        hollow, legend = TRAIN_ACCURACY, "filled: test; hollow: training"
    title = "Accuracy" if legend else "Test accuracy"
    charts = [*loss_chart(context), *context.points(TEST_ACCURACY, "accuracy", title, hollow=hollow, legend=legend)]
    if len(context.rows(TRAINING_TIME)) > 1 and context.times_comparable():
        charts += context.bars(TRAINING_TIME, "seconds", "Training time")
    return tuple(charts)


def loss_chart(context: QuestionContext, *, by_time: bool = False) -> list[Chart]:
    """Draw validation loss, and for one or two arms training loss, over epochs or training time."""
    few = len(context.arms) <= 2
    series = context.series(names.VAL_LOSS, label=", validation" if few else "", by_time=by_time)
    if not series:
        return []
    minima = "; ".join(f"{one.label}: lowest {min(map(min, one.curves)):.3f}" for one in series)
    if few:
        series += context.series(names.TRAIN_LOSS, label=", training", faint=True, by_time=by_time)
    title = "Validation and training loss" if few else "Validation loss"
    axis, name = ("training time (s)", "loss_by_time") if by_time else ("epoch", "loss")
    alt = f"{title} by {axis}, mean over seeds with their range as a band. {minima}."
    text = context.chart_text(name, title, alt, xlabel=axis, ylabel="cross-entropy (nats)")
    return [line_chart(text, series, log=True)]
