"""Which arm converges faster, and which overfits? Kinds `convergence` and `overfitting`."""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.report.charts import Series, draw_curves, draw_points
from pipeline.report.elements import NOTHING, Answer, Picture, Table, count_text, p_text, percent_text, seconds_text
from pipeline.report.questions.accuracy import accuracy_on_test, loss_picture, rows_text
from pipeline.report.questions.context import Subject, verdict_line
from pipeline.report.questions.paired_values import Values, gap, mean_of, metric
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import verdict
from pipeline.tracking import names

THRESHOLD = 0.98
LOWEST_THRESHOLD = min(names.VAL_THRESHOLDS)


def convergence(subject: Subject) -> Answer:
    """Say which arms reach a validation accuracy sooner than the reference, in epochs and in seconds."""
    threshold = chosen_threshold(subject.arms)
    epochs = partial(metric, name=f"epochs/to_val_{threshold}")
    seconds = partial(metric, name=f"time/to_val_{threshold}")
    shown = f"{100 * threshold:.0f} % of validation accuracy"
    for arm in subject.arms:
        if reached_by := len(arm.members) - len(epochs(arm)):
            subject.note(f"{arm.label}: {reached_by} of {len(arm.members)} runs never reached {shown}.")
    line = verdict_line(subject, epochs, better="later", worse="sooner", unit="epochs", scale=1, digits=1)
    sentences = []
    if subject.times_compare():
        by_time = verdict_line(subject, seconds, better="later", worse="sooner", unit="s", scale=1)
        sentences.append(f"In seconds of training, {by_time}." if by_time else "")
    better = verdict_line(subject, accuracy_on_test, better="ahead", worse="behind", unit="points")
    sentences.append(f"Is the model better? Test accuracy: {better}." if better else "")
    return Answer(
        subject.question,
        f"Epochs to {shown}: {line}." if line else f"Not compared: {shown} was not reached on a shared seed.",
        tuple(filter(None, sentences)),
        (),
        _convergence_table(subject, threshold),
        _convergence_pictures(subject, threshold),
    )


def chosen_threshold(arms: tuple[ReportedArm, ...]) -> float:
    """Return 0.98, or 0.95 where only that was reached by every run."""

    def reached(threshold: float) -> bool:
        return all(len(metric(arm, f"epochs/to_val_{threshold}")) == len(arm.members) for arm in arms)

    return LOWEST_THRESHOLD if reached(LOWEST_THRESHOLD) and not reached(THRESHOLD) else THRESHOLD


def _convergence_table(subject: Subject, threshold: float) -> Table:
    assert subject.reference is not None
    columns = ["arm", "seeds", *(f"epochs to {100 * level:.0f} %" for level in names.VAL_THRESHOLDS)]
    rows = []
    for arm in subject.arms:
        reached = [metric(arm, f"epochs/to_val_{level}") for level in names.VAL_THRESHOLDS]
        texts = [_reached_text(arm, values) for values in reached]
        texts.append(seconds_text(mean_of(metric(arm, f"time/to_val_{threshold}"))))
        texts.append(percent_text(mean_of(accuracy_on_test(arm))))
        rows.append((*subject.first_cells(arm), *(subject.number(arm, text) for text in texts)))
    return Table((*columns, f"seconds to {100 * threshold:.0f} %", "test acc. %"), tuple(rows))


def _reached_text(arm: ReportedArm, values: Values) -> str:
    if not values:
        return "never"
    some = "" if len(values) == len(arm.members) else f" ({len(values)} of {len(arm.members)} runs)"
    return f"{count_text(mean_of(values))}{some}"


def _convergence_pictures(subject: Subject, threshold: float) -> tuple[Picture, ...]:
    series = subject.series(names.VAL_ACCURACY, scale=100)
    if not series:
        return ()
    reached = "; ".join(
        f"{arm.label} {count_text(mean_of(metric(arm, f'epochs/to_val_{threshold}')))}" for arm in subject.arms
    )
    alt = (
        "Validation accuracy in percent over {}, mean over seeds with their range as a band; a line marks "
        f"{100 * threshold:.0f} %. Epochs to reach it: {reached}."
    )
    pictures = [
        draw_curves(
            subject.picture_name("by_epoch"), series, title="Validation accuracy by epoch", ylabel="%", top=100,
            level=100 * threshold, alt=alt.format("epochs"),
        ),
    ]  # fmt: skip
    if subject.times_compare():
        pictures.append(
            draw_curves(
                subject.picture_name("by_second"), _by_time(subject), title="Validation accuracy by time",
                ylabel="%", xlabel="training time (s)", top=100, level=100 * threshold,
                alt=alt.format("seconds of training"),
            )
        )  # fmt: skip
    loss = loss_picture(subject)
    return (*pictures, *([loss] if loss else []))


def _by_time(subject: Subject) -> list[Series]:
    """Return curves of validation accuracy in percent, placed at the mean seconds that had passed by each epoch."""
    found = []
    for arm in subject.arms:
        curves = [member.run.curves.get(names.VAL_ACCURACY, []) for member in arm.members]
        times = [member.run.curves.get(names.EPOCH_SECONDS, []) for member in arm.members]
        length = min(map(len, [*curves, *times]))
        if length:
            places = np.array([one[:length] for one in times]).cumsum(1).mean(0)
            percent = tuple([100 * value for value in curve[:length]] for curve in curves)
            found.append(Series(arm.marked_label, subject.looks[arm.name], percent, places=places.tolist()))
    return found


def overfitting(subject: Subject) -> Answer:
    """Say how far training accuracy is ahead of test accuracy, and whether the gap is smaller than the reference's."""
    gaps = [(arm, found) for arm in subject.arms if (found := mean_of(gap(arm)))]
    if not gaps:
        return Answer(subject.question, "Not answered: its runs lack training or test accuracy.")
    said = [
        f"{arm.label}: {verdict(found, 'training is ahead of test', 'training is behind test')}" for arm, found in gaps
    ]
    sentences = []
    if subject.reference is not None and subject.others:
        by_gap = verdict_line(subject, gap, better="larger", worse="smaller", unit="points", symbol="points")
        by_test = verdict_line(subject, accuracy_on_test, better="ahead", worse="behind", unit="points")
        sentences.append(f"The gap, {by_gap}." if by_gap else "")
        sentences.append(f"Does it help? Test accuracy: {by_test}." if by_test else "")
    return Answer(
        subject.question,
        f"{'; '.join(said)}.",
        tuple(filter(None, sentences)),
        (),
        _gap_table(subject),
        _gap_pictures(subject),
    )


def _gap_table(subject: Subject) -> Table:
    rows = []
    for arm in subject.arms:
        train = metric(arm, names.TRAIN_FINAL_ACCURACY)
        texts = [percent_text(mean_of(values)) for values in (train, accuracy_on_test(arm), gap(arm))]
        for of in (gap, accuracy_on_test):
            found = None
            if subject.reference is not None and arm is not subject.reference:
                found = subject.pair(arm, subject.reference, of)
            texts += [found.difference.percent(), p_text(found.p_value)] if found else [NOTHING, NOTHING]
        rows.append((*subject.first_cells(arm), *(subject.number(arm, text) for text in texts)))
    columns = (
        "arm", "seeds", "training acc. %", "test acc. %", "gap, points", "difference of gaps", "p",
        "difference of test acc.", "p",
    )  # fmt: skip
    shown = len(columns) if subject.reference is not None and subject.others else 5
    return Table(columns[:shown], tuple(row[:shown] for row in rows))


def _gap_pictures(subject: Subject) -> tuple[Picture, ...]:
    rows = [
        row
        for arm in subject.arms
        if (row := subject.row(arm, accuracy_on_test(arm), scale=100, second=metric(arm, names.TRAIN_FINAL_ACCURACY)))
    ]
    gaps = [row for arm in subject.arms if (row := subject.row(arm, gap(arm), scale=100))]
    drawn = [loss_picture(subject)]
    if rows:
        drawn.append(
            draw_points(
                subject.picture_name("train_and_test"), rows, title="Training and test accuracy", xlabel="%",
                ceiling=100, connected=True, hint="filled: test; hollow: training",
                alt=f"Test accuracy in percent with 95 % interval, and training accuracy (hollow): {rows_text(rows)}.",
            )
        )  # fmt: skip
    if gaps:
        drawn.append(
            draw_points(
                subject.picture_name("gap"), gaps, title="Gap: training minus test", xlabel="points", zero=True,
                alt=f"Training minus test accuracy in points, mean with 95 % interval: {rows_text(gaps)}.",
            )
        )  # fmt: skip
    return tuple(picture for picture in drawn if picture)
