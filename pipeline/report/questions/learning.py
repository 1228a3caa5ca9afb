"""Which arm converges faster, and which overfits? Kinds `convergence` and `overfitting`."""

from __future__ import annotations

from pipeline.report.elements import Answer, Chart
from pipeline.report.line_chart import line_chart
from pipeline.report.questions.accuracy import loss_chart
from pipeline.report.questions.comparisons import common_threshold
from pipeline.report.questions.context import Column, QuestionContext
from pipeline.report.questions.quantities import GAP, TEST_ACCURACY, TRAIN_ACCURACY, Quantity, epochs_to, time_to
from pipeline.report.records import ReportedArm
from pipeline.tracking import names


def convergence(context: QuestionContext) -> Answer:
    """Report which arms reach a validation accuracy earlier than the reference, in epochs and in seconds."""
    threshold = common_threshold(context.arms)
    goal = f"{100 * threshold:.0f} % validation accuracy"
    epochs = epochs_to(threshold)
    for arm in context.arms:
        if missed := len(arm.members) - len(epochs.values(arm)):
            context.note(f"{arm.label}: {missed} of {len(arm.members)} runs never reached {goal}.")
    columns = [_epochs_column(epochs_to(level)) for level in names.VAL_THRESHOLDS]
    by_epochs = context.main_comparison(f"Epochs to {goal}")
    by_time = context.comparison(time_to(threshold), f"Training time to {goal}") if context.times_comparable() else ""
    return Answer(
        context.question,
        by_epochs or f"Not compared: {goal} was not reached on a shared seed.",
        (by_time, context.comparison(TEST_ACCURACY, "Test accuracy")),
        context.table(*columns, time_to(threshold).column, TEST_ACCURACY.column),
        _convergence_charts(context, threshold),
    )


def _epochs_column(quantity: Quantity) -> Column:
    def text(arm: ReportedArm) -> str:
        count, runs = len(quantity.values(arm)), len(arm.members)
        if not count:
            return "never"
        return quantity.text(arm) + (f" ({count} of {runs} runs)" if count < runs else "")

    return quantity.heading, text


def _convergence_charts(context: QuestionContext, threshold: float) -> tuple[Chart, ...]:
    epochs = "; ".join(f"{arm.label} {epochs_to(threshold).text(arm)}" for arm in context.arms)
    charts = []
    for name, xlabel, by_time in (("by_epoch", "epoch", False), ("by_second", "training time (s)", True)):
        series = context.series(names.VAL_ACCURACY, scale=100, by_time=by_time)
        if not series or (by_time and not context.times_comparable()):
            continue
        alt = (
            f"Validation accuracy in percent by {xlabel}, mean over seeds with their range as a band; a line marks "
            f"{100 * threshold:.0f} %. Epochs to reach it: {epochs}."
        )
        title = f"Validation accuracy by {'time' if by_time else 'epoch'}"
        text = context.chart_text(name, title, alt, xlabel=xlabel, ylabel="%")
        charts.append(line_chart(text, series, top=100, threshold=100 * threshold))
    return (*charts, *loss_chart(context))


def overfitting(context: QuestionContext) -> Answer:
    """Report the gap between training and test accuracy, and how it compares with the reference's."""
    gaps = [f"{arm.label} {GAP.text(arm, unit=True)}" for arm in context.arms if GAP.values(arm)]
    if not gaps:
        return Answer(context.question, "Not answered: the runs lack training or test accuracy.")
    headline = f"Training - test accuracy: {'; '.join(gaps)}."
    sentences: tuple[str, ...] = ()
    if context.primary:
        headline += f" {context.main_comparison('Gap')}"
        sentences = (context.comparison(TEST_ACCURACY, "Test accuracy"),)
    accuracies = context.points(
        TEST_ACCURACY, "train_and_test", "Training and test accuracy", hollow=TRAIN_ACCURACY,
        legend="filled: test; hollow: training", connected=True,
    )  # fmt: skip
    return Answer(
        context.question,
        headline,
        sentences,
        context.table(TRAIN_ACCURACY.column, TEST_ACCURACY.column, GAP.column),
        (*loss_chart(context), *accuracies, *context.points(GAP, "gap", "Gap: training - test accuracy")),
    )
