"""What do cached features save, and why does one arm train longer? Kinds `caching` and `time`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.report.charts import Series, draw_bars, draw_curves
from pipeline.report.elements import (
    NOTHING,
    Answer,
    Picture,
    Table,
    count_text,
    percent_text,
    seconds_text,
)
from pipeline.report.questions.accuracy import accuracy_on_test, fit_seconds, rows_text
from pipeline.report.questions.context import Subject
from pipeline.report.questions.paired_values import (
    Pairing,
    Values,
    mean_of,
    metric,
    pair,
    seconds_an_epoch,
    shared_epochs,
    total,
)
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import ratio_verdict
from pipeline.tracking import names

epochs_run = partial(metric, name=names.EPOCHS_RUN)
features_seconds = partial(metric, name=names.FEATURES_SECONDS)
operations = partial(metric, name=names.EPOCH_OPERATIONS)
FACTORS: tuple[tuple[str, Callable[[ReportedArm], Values]], ...] = (
    ("epochs", epochs_run),
    ("seconds an epoch", seconds_an_epoch),
    ("multiply-adds an epoch", operations),
)


def ratio_pair(subject: Subject, arm: ReportedArm, of: Callable[[ReportedArm], Values]) -> Pairing | None:
    """Pair an arm with the reference in values that are above zero, for a ratio."""
    assert subject.reference is not None
    return pair(above_zero(of(arm)), above_zero(of(subject.reference)))


def above_zero(values: Values) -> Values:
    """Return the values of which ratios can be taken."""
    return {seed: value for seed, value in values.items() if value > 0}


def caching(subject: Subject) -> Answer:
    """Say how much faster an epoch, and all of training, is on cached features, and when they have paid."""
    assert subject.reference is not None
    comparable = subject.times_compare()
    said: list[str] = []
    sentences: list[str] = []
    for arm in subject.others:
        if comparable and (faster := epoch_speedup(subject, arm)):
            said.append(f"{arm.label} against {subject.reference.label}: {faster}")
            sentences += _in_all(subject, arm)
        sentences += [_break_even(arm), _same_accuracy(subject, arm)]
    headline = f"{'; '.join(said)}." if said else "Speed is not compared."
    return Answer(
        subject.question, headline, tuple(filter(None, sentences)), (), _caching_table(subject),
        _caching_pictures(subject) if comparable else (),
    )  # fmt: skip


def epoch_speedup(subject: Subject, arm: ReportedArm) -> str:
    """Say how much faster an epoch of an arm is than one of the reference, over equal numbers of epochs.

    Returns:
        A phrase; empty where no seed is shared.
    """
    assert subject.reference is not None
    epochs = {seed: count for seed, count in shared_epochs(arm, subject.reference).items() if count}
    theirs, mine = (above_zero(seconds_an_epoch(one, epochs)) for one in (subject.reference, arm))
    found = pair(theirs, mine) if epochs else None
    if found is None:
        return ""
    said = ratio_verdict(found.ratio, "times as fast", "times as fast")
    counted = sorted({epochs[seed] for seed in found.seeds})
    span = f"{counted[0]}" if len(counted) == 1 else f"{counted[0]} to {counted[-1]}"
    begin = "an epoch is " if said[0].isdigit() else "speed of an epoch: "
    return f"{begin}{said}, over the first {span} epochs of both"


def _in_all(subject: Subject, arm: ReportedArm) -> list[str]:
    """Compare whole trainings, as they ran, without and with the computing of features."""
    assert subject.reference is not None
    with_features = total(fit_seconds(arm), features_seconds(arm))
    theirs = above_zero(fit_seconds(subject.reference))
    lines = []
    for what, mine in (("training alone", fit_seconds(arm)), ("with the computing of its features", with_features)):
        found = pair(theirs, above_zero(mine))
        if found is not None:
            both = f"{seconds_text(mean_of(mine), ' s')} against {seconds_text(mean_of(theirs), ' s')}"
            lines.append(f"{what} {both}, a ratio of {found.ratio.text()}")
    return [f"In all, {arm.label} takes, {'; '.join(lines)}."] if lines else []


def _break_even(arm: ReportedArm) -> str:
    even, trained = mean_of(metric(arm, names.BREAK_EVEN_EPOCHS)), mean_of(epochs_run(arm))
    computing, saved = mean_of(features_seconds(arm)), mean_of(metric(arm, names.FEATURES_SAVED_SECONDS))
    if even is None or trained is None:
        return ""
    paid = "have paid" if trained.mean >= even.mean else "have not paid"
    return (
        f"{arm.label}: computing the features took {seconds_text(computing, ' s')} and spares "
        f"{seconds_text(saved, ' s')} an epoch, so that they pay after {count_text(even, ' epochs')}; at "
        f"{count_text(trained, ' epochs')} they {paid} within one run."
    )


def _same_accuracy(subject: Subject, arm: ReportedArm) -> str:
    assert subject.reference is not None
    found = subject.pair(arm, subject.reference, accuracy_on_test)
    if found is None:
        return ""
    largest = 100 * max(abs(found.difference.low), abs(found.difference.high))
    if largest == 0:
        return f"{arm.label} has the same test accuracy as {subject.reference.label} in every seed."
    both = f"{arm.label} and {subject.reference.label}"
    return f"Test accuracies of {both} differ by at most {largest:.2f} points in a seed."


def _caching_table(subject: Subject) -> Table:
    columns = (
        "arm", "seeds", "ms an epoch", "epochs", "training s", "features s", "break-even epochs", "test acc. %",
    )  # fmt: skip
    rows = []
    for arm in subject.arms:
        texts = (
            milliseconds_text(seconds_an_epoch(arm)),
            count_text(mean_of(epochs_run(arm))),
            seconds_text(mean_of(fit_seconds(arm))),
            seconds_text(mean_of(features_seconds(arm))),
            count_text(mean_of(metric(arm, names.BREAK_EVEN_EPOCHS))),
            percent_text(mean_of(accuracy_on_test(arm))),
        )
        rows.append((*subject.first_cells(arm), *(subject.number(arm, text) for text in texts)))
    return Table(columns, tuple(rows))


def _caching_pictures(subject: Subject) -> tuple[Picture, ...]:
    rows = [row for arm in subject.arms if (row := subject.row(arm, seconds_an_epoch(arm), scale=1000))]
    pictures = []
    if rows:
        pictures.append(
            draw_bars(
                subject.picture_name("epoch_seconds"), rows, title="Time of an epoch", xlabel="ms",
                alt=f"Milliseconds of an epoch, mean with 95 % interval: {rows_text(rows)}.",
            )
        )  # fmt: skip
    if series := _elapsed(subject):
        last = "; ".join(f"{one.label} ends at {np.mean([curve[-1] for curve in one.curves]):.2f} s" for one in series)
        pictures.append(
            draw_curves(
                subject.picture_name("elapsed"), series, title="Time spent by epoch", ylabel="s",
                alt=f"Seconds spent by each epoch, those of computing features before the first one: {last}.",
            )
        )  # fmt: skip
    return tuple(pictures)


def _elapsed(subject: Subject) -> list[Series]:
    found = []
    for arm in subject.arms:
        before = features_seconds(arm)
        curves = []
        for member in arm.members:
            spent = np.cumsum([before.get(member.seed, 0.0), *member.run.curves.get(names.EPOCH_SECONDS, [])])
            curves.append(spent.tolist())
        found.append(Series(arm.marked_label, subject.looks[arm.name], tuple(curves), start=0))
    return found


def milliseconds_text(seconds: Values) -> str:
    """Return the mean of some durations in milliseconds, with its interval."""
    return seconds_text(mean_of({seed: 1000 * value for seed, value in seconds.items()}))


def millions_text(count: float) -> str:
    """Return a count in millions, with three digits that count or all before the point."""
    millions = count / 1e6
    return f"{millions:.0f}" if millions >= 100 else f"{millions:.3g}"


def time(subject: Subject) -> Answer:
    """Say why an arm trains longer or shorter than the reference: epochs, seconds an epoch, what is computed."""
    assert subject.reference is not None
    comparable = subject.times_compare()
    said, sentences = [], []
    for arm in subject.others:
        found = ratio_pair(subject, arm, fit_seconds)
        if comparable and found is not None:
            longer = ratio_verdict(found.ratio, "times as long", "times as long")
            said.append(f"training time, {arm.label} against {subject.reference.label}: {longer}")
        sentences += _explained(subject, arm, comparable)
    headline = f"{'; '.join(said)}." if said else "Times are not compared."
    return Answer(
        subject.question, headline, tuple(filter(None, sentences)), (), _time_table(subject),
        _time_pictures(subject) if comparable else (),
    )  # fmt: skip


def _explained(subject: Subject, arm: ReportedArm, comparable: bool) -> list[str]:
    """Say which factors a ratio of times consists of, and which of them is the larger one."""
    assert subject.reference is not None
    factors = {}
    for what, of in FACTORS:
        found = ratio_pair(subject, arm, of)
        if found is not None and (comparable or what != "seconds an epoch"):
            factors[what] = found.ratio
    if not factors:
        return []
    shown = "; ".join(f"{what} {ratio.text()}" for what, ratio in factors.items())
    lines = [f"{arm.label} to {subject.reference.label}, ratios: {shown}."]
    if {"epochs", "seconds an epoch"} <= factors.keys():
        by_epochs, by_cost = (abs(math.log(factors[what].mean)) for what in ("epochs", "seconds an epoch"))
        larger = "the number of epochs" if by_epochs > by_cost else "the time of an epoch"
        lines.append(f"On average {larger} differs more.")
    shares = [mean_of(metric(one, names.TRAINABLE_SHARE)) for one in (arm, subject.reference)]
    if shares[0] and shares[1]:
        lines.append(
            f"{arm.label} trains {100 * shares[0].mean:.1f} % of its parameters, {subject.reference.label} "
            f"{100 * shares[1].mean:.1f} %."
        )
    return lines


def _time_table(subject: Subject) -> Table:
    columns = ("arm", "seeds", "training s", "epochs", "ms an epoch", "million mult.-adds an epoch", "trained share %")
    rows = []
    for arm in subject.arms:
        cost, share = mean_of(operations(arm)), mean_of(metric(arm, names.TRAINABLE_SHARE))
        texts = (
            seconds_text(mean_of(fit_seconds(arm))),
            count_text(mean_of(epochs_run(arm))),
            milliseconds_text(seconds_an_epoch(arm)),
            millions_text(cost.mean) if cost else NOTHING,
            f"{100 * share.mean:.1f}" if share else NOTHING,
        )
        rows.append((*subject.first_cells(arm), *(subject.number(arm, text) for text in texts)))
    return Table(columns, tuple(rows))


def _time_pictures(subject: Subject) -> tuple[Picture, ...]:
    drawn = []
    for name, title, unit, of, scale in (
        ("seconds", "Training time", "s", fit_seconds, 1.0),
        ("epochs", "Epochs trained", "epochs", epochs_run, 1.0),
        ("epoch_seconds", "Time of an epoch", "ms", seconds_an_epoch, 1000.0),
    ):
        rows = [row for arm in subject.arms if (row := subject.row(arm, of(arm), scale=scale))]
        if rows:
            alt = f"{title} in {unit}, mean with 95 % interval: {rows_text(rows)}."
            drawn.append(draw_bars(subject.picture_name(name), rows, title=title, xlabel=unit, alt=alt))
    return tuple(drawn)
