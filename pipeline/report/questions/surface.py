"""How many layers to reuse and to unfreeze, by number of labels? Kind `surface`, with a recommendation.

Recommendations are made on validation accuracy alone; test accuracy is only reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.charts import Point, front_chart, heat_map, style_of
from pipeline.report.elements import NO_VALUE, Answer, Chart, Table, seed_cell, text_cell
from pipeline.report.questions.context import QuestionContext
from pipeline.report.questions.label_curves import ALL, label_count, labels_text
from pipeline.report.questions.quantities import TEST_ACCURACY, TRAINING_TIME, VAL_ACCURACY, Pairing, Quantity
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import seeds_text

MIN_SEEDS = 3  # with fewer, hardly any arm is significantly worse, and the cheapest would always win


@dataclass(frozen=True)
class SurfacePoint:
    """An arm on the surface."""

    arm: ReportedArm  # with test and validation accuracy
    reuse: int  # number of layers copied; 0 is training from scratch
    unfreeze: int  # how many of them are trained
    labels: str  # per class, or `all`

    @property
    def name(self) -> str:
        """Its label in charts."""
        return f"{self.reuse}/{self.unfreeze}" if self.reuse else "scratch"

    @property
    def setting(self) -> str:
        """Its parameters in words."""
        return f"reuse_layers={self.reuse}, unfreeze={self.unfreeze}" if self.reuse else "training from scratch"

    def mean(self, quantity: Quantity) -> float:
        """Return the mean of a quantity that every point has."""
        mean = quantity.mean(self.arm)
        assert mean is not None, "surface_points leaves out arms without scores"
        return mean.mean

    def difference_from(self, other: SurfacePoint | None) -> Pairing | None:
        """Pair test accuracies with another point's; None without one, with itself, or without shared seeds."""
        return TEST_ACCURACY.pair(self.arm, other.arm) if other is not None and other is not self else None


@dataclass(frozen=True)
class Recommendation:
    """The settings to use with some number of labels: those of the cheapest arm that is as good as the best."""

    points: tuple[SurfacePoint, ...]  # all arms with that number of labels
    best: SurfacePoint  # highest mean validation accuracy
    cheapest: SurfacePoint  # not significantly worse than `best`; `best` itself without enough seeds or times

    @property
    def labels(self) -> str:
        """Number of labels in words."""
        return labels_text(self.best.labels)

    @property
    def scratch(self) -> SurfacePoint | None:
        """The arm that is trained from scratch."""
        return next((point for point in self.points if point.reuse == 0), None)


def surface(context: QuestionContext) -> Answer:
    """Recommend settings for each number of labels; show accuracy over the settings and over training time."""
    points = surface_points(context)
    if not points:
        return Answer(context.question, "Not answered: no finished arm has reuse_layers, unfreeze and its scores.")
    comparable = context.times_comparable()
    groups = sorted({point.labels for point in points}, key=label_count)
    recommended = [recommend([point for point in points if point.labels == labels], comparable) for labels in groups]
    if any(len(VAL_ACCURACY.values(one.cheapest.arm)) < MIN_SEEDS for one in recommended):
        context.note(f"With fewer than {MIN_SEEDS} seeds the arm with the best mean is recommended.")
    context.note(
        "Recommendations are based on validation accuracy: the cheapest arm that is not significantly worse than the "
        "best mean (95 % CI of the paired difference). Charts show test accuracy, which is not used for selection."
    )
    fronts = [_front(context, one) for one in recommended] if comparable else []
    return Answer(
        context.question,
        "; ".join(f"{one.labels}: {one.cheapest.setting}" for one in recommended) + ".",
        tuple(map(_explanation, recommended)),
        _table(context, recommended),
        (*_heat_maps(context, recommended), *fronts),
    )


def surface_points(context: QuestionContext) -> list[SurfacePoint]:
    """Return the arms that have reuse_layers, unfreeze and all scores."""
    points = []
    for arm in context.arms:
        reuse, unfreeze = (arm.parameter(name) for name in ("reuse_layers", "unfreeze"))
        scored = all(quantity.values(arm) for quantity in (TEST_ACCURACY, VAL_ACCURACY, TRAINING_TIME))
        if reuse.isdigit() and unfreeze.isdigit() and scored:
            points.append(SurfacePoint(arm, int(reuse), int(unfreeze), arm.parameter("per_class") or ALL))
    return points


def recommend(points: Sequence[SurfacePoint], times_comparable: bool) -> Recommendation:
    """Recommend one of at least one arm with the same number of labels, by validation accuracy, then training time."""
    best = cheapest = max(points, key=lambda point: point.mean(VAL_ACCURACY))
    if times_comparable and len(VAL_ACCURACY.values(best.arm)) >= MIN_SEEDS:
        as_good = [point for point in points if point is best or _as_good(point, best)]
        cheapest = min(as_good, key=lambda point: point.mean(TRAINING_TIME))
    return Recommendation(tuple(points), best, cheapest)


def _as_good(point: SurfacePoint, best: SurfacePoint) -> bool:
    """Whether a point is not significantly worse than the best; False if too few seeds can be compared."""
    pairing = VAL_ACCURACY.pair(point.arm, best.arm)
    if pairing is None or len(pairing.seeds) < MIN_SEEDS:
        return False
    return not (pairing.difference.significant and pairing.difference.mean < 0)


def _explanation(one: Recommendation) -> str:
    chosen, best = one.cheapest, one.best
    reason = f"has the best mean validation accuracy of {len(one.points)} arms"
    if chosen is not best:
        reason = (
            f"is the cheapest of {len(one.points)} arms that is not significantly worse on validation than the best "
            f"({best.setting}, {VAL_ACCURACY.text(best.arm, unit=True)})"
        )
    pairing = chosen.difference_from(one.scratch)
    verdict = f"; test vs. scratch: {TEST_ACCURACY.verdict(pairing.difference)}" if pairing else ""
    return (
        f"{one.labels}: {chosen.setting} {reason}. Validation {VAL_ACCURACY.text(chosen.arm, unit=True)}, test "
        f"{TEST_ACCURACY.text(chosen.arm, unit=True)}, training time {TRAINING_TIME.text(chosen.arm, unit=True)} "
        f"({seeds_text(len(VAL_ACCURACY.values(chosen.arm)))}){verdict}."
    )


def _table(context: QuestionContext, recommended: Sequence[Recommendation]) -> Table:
    rows = []
    for one in recommended:
        roles = {"recommended": one.cheapest, "best validation": one.best, "scratch": one.scratch}
        for point in (point for point in one.points if point in roles.values()):
            against_scratch = point.difference_from(one.scratch)
            texts = (
                point.labels,
                ", ".join(role for role, chosen in roles.items() if point is chosen),
                VAL_ACCURACY.text(point.arm),
                TEST_ACCURACY.text(point.arm),
                TEST_ACCURACY.difference_text(against_scratch.difference) if against_scratch else NO_VALUE,
                TRAINING_TIME.text(point.arm),
            )
            heading = (text_cell(point.arm.marked_label), seed_cell(point.arm.members, context.links))
            rows.append((*heading, *(context.number(point.arm, text) for text in texts)))
    columns = (
        "arm", "seeds", "labels per class", "role", VAL_ACCURACY.heading, TEST_ACCURACY.heading,
        "\u0394 vs. scratch (pp)", TRAINING_TIME.heading,
    )  # fmt: skip
    return Table(columns, tuple(rows))


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that no other point beats in both seconds and accuracy, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return tuple(front)


def _front(context: QuestionContext, one: Recommendation) -> Chart:
    points = [(point.mean(TRAINING_TIME), point.mean(TEST_ACCURACY), point.name) for point in one.points]
    front = pareto_front(points)
    listed = "; ".join(f"{name} {accuracy:.2f} % in {seconds:.2f} s" for seconds, accuracy, name in front)
    alt = f"Mean test accuracy by mean training time, {one.labels}. Pareto front (layers reused/unfrozen): {listed}."
    text = context.chart_text(
        f"front_{one.best.labels}", f"Accuracy by time: {one.labels}", alt,
        xlabel="training time (s); reused/unfrozen", ylabel="test accuracy (%)",
    )  # fmt: skip
    return front_chart(text, points, front, style=style_of(1))


def _heat_maps(context: QuestionContext, recommended: Sequence[Recommendation]) -> list[Chart]:
    """Draw the difference from scratch over reuse_layers and unfreeze, one chart per number of labels."""
    maps = [(one, _heat_map_cells(context, one)) for one in recommended]
    limit = max((abs(value) for _, cells in maps for value, _ in cells.values()), default=0.0) or 1.0
    charts = []
    for one, cells in maps:
        listed = "; ".join(
            f"{reuse} reused, {unfreeze} unfrozen {label}" for (reuse, unfreeze), (_, label) in sorted(cells.items())
        )
        alt = f"Test accuracy vs. scratch in pp, {one.labels}; not significant in brackets: {listed}."
        text = context.chart_text(
            f"map_{one.best.labels}", f"\u0394 vs. scratch (pp): {one.labels}", alt, xlabel="reuse_layers",
            ylabel="unfreeze",
        )  # fmt: skip
        charts += [heat_map(text, cells, limit)] if cells else []
    return charts


def _heat_map_cells(context: QuestionContext, one: Recommendation) -> dict[tuple[int, int], tuple[float, str]]:
    """Return difference and label by (reuse_layers, unfreeze); of arms with equal settings the best on validation."""
    if one.scratch is None:
        context.note(f"No arm trained from scratch finished with {one.labels}: its heat map is missing.")
    cells: dict[tuple[int, int], tuple[float, str]] = {}
    for point in sorted(one.points, key=lambda point: point.mean(VAL_ACCURACY)):
        pairing = point.difference_from(one.scratch)
        if pairing is None:
            continue
        if (point.reuse, point.unfreeze) in cells:
            context.note("Of arms with equal settings, the heat map shows the one that is best on validation.")
        label = f"{pairing.difference.mean:+.1f}"
        shown = label if pairing.difference.significant else f"({label})"
        cells[point.reuse, point.unfreeze] = (pairing.difference.mean, shown)
    return cells
