"""How good are these arms, and which is better? Kinds `score` and `compare`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.report.charts import Row, draw_bars, draw_curves, draw_points
from pipeline.report.elements import (
    NOTHING,
    Answer,
    Picture,
    Table,
    count_text,
    p_text,
    percent_text,
    seconds_text,
)
from pipeline.report.questions.context import Subject, verdict_line
from pipeline.report.questions.paired_values import Values, mean_of, metric
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import Estimate
from pipeline.tracking import names

FEW = 3  # arms whose numbers a sentence can hold
accuracy_on_test = partial(metric, name=names.TEST_ACCURACY)
precision_on_test = partial(metric, name=names.TEST_PRECISION)
fit_seconds = partial(metric, name=names.FIT_SECONDS)


def score(subject: Subject) -> Answer:
    """Say how good the arms are on the test images."""
    scored = [arm for arm in subject.arms if accuracy_on_test(arm)]
    if not scored:
        return Answer(subject.question, "Not answered: its runs hold no test accuracy.")
    asked = asks_for_precision(subject)
    headline = "; ".join(_scored(arm, asked) for arm in scored) if len(scored) <= FEW else _range(scored, asked)
    sentences = [searched for arm in scored if (searched := _searched(arm))]
    if len(scored) <= FEW:
        sentences += [_trained(arm) for arm in scored]
    return Answer(
        subject.question, f"{headline}.", tuple(sentences), (), accuracy_table(subject, scored), score_pictures(subject)
    )


def compare(subject: Subject) -> Answer:
    """Say which arms are better than the reference on the test images, paired by seed."""
    line = verdict_line(subject, accuracy_on_test, better="ahead", worse="behind", unit="points")
    headline = f"Test accuracy: {line}." if line else "Not compared: no seed is shared with the reference."
    sentences = [numbers_line(subject, accuracy_on_test)]
    if line and asks_for_precision(subject):
        by_precision = verdict_line(subject, precision_on_test, better="ahead", worse="behind", unit="points")
        headline += f" Macro precision: {by_precision}."
        sentences.append(numbers_line(subject, precision_on_test, "In macro precision, "))
    if asks_for_time(subject):
        headline += "".join(f" {lasts}" for arm in subject.others if (lasts := _lasts(arm)))
    sentences += [found for arm in subject.others if (found := _searched(arm))]
    return Answer(
        subject.question,
        headline,
        tuple(filter(None, sentences)),
        (),
        accuracy_table(subject, list(subject.arms)),
        score_pictures(subject),
    )


def asks_for_precision(subject: Subject) -> bool:
    """Whether a question is about precision too."""
    return any(word in subject.question.text.lower() for word in ("precision", "precise"))


def asks_for_time(subject: Subject) -> bool:
    """Whether a question of accuracy is about training time too."""
    return "how long" in subject.question.text.lower()


def numbers_line(subject: Subject, of: Callable[[ReportedArm], Values], begin: str = "") -> str:
    """Return the paired differences of some fractions with interval and p value, of few arms."""
    if subject.reference is None or len(subject.others) > FEW:
        return ""
    parts = []
    for arm in subject.others:
        found = subject.pair(arm, subject.reference, of)
        if found is not None and len(found.seeds) > 1:
            there = [
                percent_text(mean_of(dict(zip(found.seeds, side, strict=True))))
                for side in (found.values, found.reference)
            ]
            parts.append(
                f"{arm.label} {there[0]} %, {subject.reference.label} {there[1]} %: a paired difference of "
                f"{found.difference.percent()} points (p {_equals(p_text(found.p_value))}, n = {len(found.seeds)})"
            )
    return f"{begin}{'; '.join(parts)}." if parts else ""


def _equals(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _scored(arm: ReportedArm, precision: bool) -> str:
    found, beside = mean_of(accuracy_on_test(arm)), mean_of(precision_on_test(arm))
    also = f", macro precision {percent_text(beside, ' %')}" if precision and beside else ""
    return f"{arm.label}: test accuracy {percent_text(found, ' %')}{also}{_seeds(found)}"


def _lasts(arm: ReportedArm) -> str:
    found = mean_of(fit_seconds(arm))
    return f"Training time: {arm.label} {seconds_text(found, ' s')}{_seeds(found)}." if found else ""


def _seeds(found: Estimate | None) -> str:
    return f" (n = {found.count})" if found and found.count > 1 else ""


def _range(arms: list[ReportedArm], precision: bool) -> str:
    of, what = (precision_on_test, "macro precision") if precision else (accuracy_on_test, "test accuracy")
    means = sorted((found.mean, arm.label) for arm in arms if (found := mean_of(of(arm))))
    (low, worst), (high, best) = means[0], means[-1]
    return f"Mean {what} of {len(means)} arms goes from {100 * low:.2f} % ({worst}) to {100 * high:.2f} % ({best})"


def _searched(arm: ReportedArm) -> str:
    folds, trials = mean_of(metric(arm, "cv/accuracy")), mean_of(metric(arm, "study/complete"))
    if folds is None:
        return ""
    precision, seconds = mean_of(metric(arm, "cv/precision")), mean_of(metric(arm, "time/study_seconds"))
    counted = f" of {trials.mean:.0f} complete trials" if trials else ""
    return (
        f"{arm.label}: the best setting{counted} has a mean fold accuracy of {percent_text(folds, ' %')} and a macro "
        f"precision of {percent_text(precision, ' %')} in cross-validation; the search took "
        f"{seconds_text(seconds, ' s')}."
    )


def _trained(arm: ReportedArm) -> str:
    train, seconds = mean_of(metric(arm, names.TRAIN_FINAL_ACCURACY)), mean_of(fit_seconds(arm))
    epochs = mean_of(metric(arm, names.EPOCHS_RUN))
    return (
        f"{arm.label}: training accuracy {percent_text(train, ' %')}; training took {seconds_text(seconds, ' s')} and "
        f"{count_text(epochs, ' epochs')}."
    )


def accuracy_table(subject: Subject, arms: list[ReportedArm]) -> Table:
    """Return training, test accuracy and precision, training seconds, and where there is one, the difference."""
    compared = subject.reference is not None and subject.question.kind != "score"
    columns = ["arm", "seeds", *([] if compared else ["training acc. %"]), "test acc. %", "test precision %"]
    columns += [f"minus {subject.reference.label}, points", "p"] if compared and subject.reference else []
    rows = []
    for arm in arms:
        texts = [percent_text(mean_of(of(arm))) for of in (accuracy_on_test, precision_on_test)]
        if not compared:
            texts.insert(0, percent_text(mean_of(metric(arm, names.TRAIN_FINAL_ACCURACY))))
        texts += difference_texts(subject, arm) if compared else []
        texts.append(seconds_text(mean_of(fit_seconds(arm))))
        rows.append((*subject.first_cells(arm), *(subject.number(arm, text) for text in texts)))
    return Table((*columns, "training s"), tuple(rows))


def difference_texts(subject: Subject, arm: ReportedArm) -> list[str]:
    """Return an arm's paired difference of test accuracy to the reference, and its p value."""
    assert subject.reference is not None
    found = None if arm is subject.reference else subject.pair(arm, subject.reference, accuracy_on_test)
    return [found.difference.percent(), p_text(found.p_value)] if found else [NOTHING, NOTHING]


def score_pictures(subject: Subject) -> tuple[Picture, ...]:
    """Draw loss over epochs for training and validation, the accuracies, and the seconds."""
    return tuple(filter(None, (loss_picture(subject), accuracy_picture(subject), seconds_picture(subject))))


def loss_picture(subject: Subject) -> Picture | None:
    """Draw the arms' loss over epochs: validation, and for few arms training too."""
    series = subject.series(names.VAL_LOSS, label=", validation" if len(subject.arms) <= 2 else "")
    if not series:
        return None
    ends = "; ".join(f"{one.label}: lowest mean {min(map(min, one.curves)):.3f}" for one in series)
    if len(subject.arms) <= 2:
        series += subject.series(names.TRAIN_LOSS, label=", training", faint=True)
    what = "Validation and training loss" if len(subject.arms) <= 2 else "Validation loss"
    return draw_curves(
        subject.picture_name("loss"), series, title=what, ylabel="cross-entropy (nats)", logarithmic=True,
        alt=f"{what} over epochs, mean over seeds with their range as a band. {ends}.",
    )  # fmt: skip


def accuracy_picture(subject: Subject) -> Picture | None:
    """Draw the arms' test accuracy, with precision beside it where asked for, or in a score training accuracy."""
    beside, hint = "", ""
    if asks_for_precision(subject):
        beside, hint = names.TEST_PRECISION, "filled: test accuracy; hollow: macro precision"
    elif subject.question.kind == "score":
        beside, hint = names.TRAIN_FINAL_ACCURACY, "filled: test; hollow: training"
    rows = [
        row
        for arm in subject.arms
        if (row := subject.row(arm, accuracy_on_test(arm), scale=100, second=metric(arm, beside)))
    ]
    if not rows:
        return None
    return draw_points(
        subject.picture_name("accuracy"), rows, title="Accuracy" if hint else "Test accuracy",
        xlabel="%", ceiling=100, hint=hint,
        alt=f"Test accuracy in percent, mean with 95 % interval, seeds as ticks"
        f"{f' ({hint})' if hint else ''}: {rows_text(rows)}.",
    )  # fmt: skip


def seconds_picture(subject: Subject) -> Picture | None:
    """Draw the arms' training seconds, where they may be compared."""
    rows = [row for arm in subject.arms if (row := subject.row(arm, fit_seconds(arm)))]
    if len(rows) < 2 or not subject.times_compare():
        return None
    return draw_bars(
        subject.picture_name("seconds"), rows, title="Training time", xlabel="s",
        alt=f"Training time in seconds, mean with 95 % interval. {rows_text(rows)}.",
    )  # fmt: skip


def rows_text(rows: list[Row]) -> str:
    """Return a panel's numbers in words, for its text alternative."""
    return "; ".join(
        f"{row.label} {row.found.text(1, 2)}" + (f" (hollow: {row.second.mean:.2f})" if row.second else "")
        for row in rows
    )
