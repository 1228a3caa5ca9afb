"""How many layers to reuse and to unfreeze, by number of labels? Kind `surface`.

Per number of labels one cell is chosen by validation accuracy on seeds 0-2. Only that cell is compared with training
from scratch, on other seeds; the numbers of labels form a family. Everything else is descriptive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.plan.records import Question
from pipeline.report.chart_frame import style_of
from pipeline.report.elements import Answer, Chart, Table, joined, seed_cell, text_cell, text_table
from pipeline.report.questions.comparisons import COLUMNS, Compared, Planned, judge_family
from pipeline.report.questions.context import QuestionContext
from pipeline.report.questions.label_curves import ALL, label_count, labels_text
from pipeline.report.questions.quantities import TEST_ACCURACY, TRAINING_TIME, VAL_ACCURACY, Quantity
from pipeline.report.records import PlanRunFacts, ReportedArm
from pipeline.report.surface_charts import Point, front_chart, heat_map
from pipeline.statistics.estimates import estimate_pairs, pair
from pipeline.statistics.surfaces import CHOICE_SEEDS, FRESH_SEEDS, choose_cell, fresh


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


@dataclass(frozen=True)
class Choice:
    """The cell chosen for one number of labels."""

    points: tuple[SurfacePoint, ...]  # all arms with that number of labels
    chosen: SurfacePoint  # best mean validation accuracy among the cells that reuse layers
    seeds: tuple[int, ...]  # that it was chosen on

    @property
    def labels(self) -> str:
        """Number of labels in words."""
        return labels_text(self.chosen.labels)

    @property
    def scratch(self) -> SurfacePoint | None:
        """The arm that is trained from scratch."""
        return next((point for point in self.points if point.reuse == 0), None)


@dataclass(frozen=True)
class Surface:
    """The choices of a question, fewest labels first, and the verdicts on those that can be confirmed."""

    choices: list[Choice]
    verdicts: dict[str, Compared] = field(default_factory=dict)  # by number of labels


def surface(context: QuestionContext) -> Answer:
    """Choose settings for each number of labels and confirm them; show accuracy over the settings and over time."""
    choices = choose(context.arms)
    if not choices:
        return Answer(context.question, "Not answered: no finished arm has reuse_layers, unfreeze and its scores.")
    judged = confirm(context.question, choices)
    seeds = joined([str(seed) for seed in choices[0].seeds])
    context.note(
        f"Chosen by mean validation accuracy of seeds {seeds}; only the chosen cells are compared with training from "
        f"scratch, on seeds {FRESH_SEEDS[0]} to {FRESH_SEEDS[-1]}, as one family. Heat maps and fronts are "
        "descriptive: the best of many cells is partly the luckiest."
    )
    fronts = [_front(context, one) for one in choices] if context.times_comparable() else []
    return Answer(
        context.question,
        "; ".join(_verdict(one, judged) for one in choices) + ".",
        tuple(map(_explanation, choices)),
        _table(context, choices),
        (*_heat_maps(context, choices), *fronts),
        text_table(COLUMNS, [one.row() for one in judged.verdicts.values() if one.verdict.count]),
        " ".join(one.conclusion for one in judged.verdicts.values()),
    )


def surface_points(arms: Sequence[ReportedArm]) -> list[SurfacePoint]:
    """Return the arms that have reuse_layers, unfreeze and all scores."""
    points = []
    for arm in arms:
        reuse, unfreeze = (arm.parameter(name) for name in ("reuse_layers", "unfreeze"))
        scored = all(quantity.values(arm) for quantity in (TEST_ACCURACY, VAL_ACCURACY, TRAINING_TIME))
        if reuse.isdigit() and unfreeze.isdigit() and scored:
            points.append(SurfacePoint(arm, int(reuse), int(unfreeze), arm.parameter("per_class") or ALL))
    return points


def choose(arms: Sequence[ReportedArm]) -> list[Choice]:
    """Choose a cell per number of labels, fewest first, on the seeds 0-2 that all of its cells have."""
    points = surface_points(arms)
    choices = []
    for labels in sorted({point.labels for point in points}, key=label_count):
        group = tuple(point for point in points if point.labels == labels)
        cells = {point.arm.name: VAL_ACCURACY.values(point.arm) for point in group if point.reuse}
        common = set(CHOICE_SEEDS).intersection(*cells.values())
        if cells and common:
            seeds = tuple(sorted(common))
            name = choose_cell(cells, seeds=seeds)
            choices.append(Choice(group, next(point for point in group if point.arm.name == name), seeds))
    return choices


def confirm(question: Question, choices: Sequence[Choice]) -> Surface:
    """Compare the chosen cells with training from scratch on fresh seeds."""
    pairs = [(one, one.scratch) for one in choices if one.scratch is not None]
    planned = [
        Planned(question, one.chosen.arm, scratch.arm, TEST_ACCURACY, pair(
            *(fresh(TEST_ACCURACY.values(point.arm)) for point in (one.chosen, scratch))
        ))
        for one, scratch in pairs
    ]  # fmt: skip
    compared = judge_family(planned, primary=True)
    return Surface(list(choices), {one.chosen.labels: it for (one, _), it in zip(pairs, compared, strict=True)})


def arms_to_confirm(facts: PlanRunFacts) -> set[str]:
    """Return the arms that need fresh seeds: chosen cells, once seeds 0-2 are complete, and training from scratch."""
    wanted: set[str] = set()
    for question in facts.questions:
        if question.kind == "surface":
            arms = [facts.arms[name] for name in question.arms if name in facts.arms]
            for one in choose(arms):
                if one.seeds == CHOICE_SEEDS and one.scratch is not None:
                    wanted |= {one.chosen.arm.name, one.scratch.arm.name}
    return wanted


def _verdict(one: Choice, judged: Surface) -> str:
    compared = judged.verdicts.get(one.chosen.labels)
    if compared is None or not compared.verdict.count:
        return f"{one.labels}: {one.chosen.setting} (chosen on validation, not confirmed)"
    return f"{one.labels}: {one.chosen.setting}, vs. scratch on fresh seeds {compared.text()}"


def _explanation(one: Choice) -> str:
    chosen, cells = one.chosen, len([point for point in one.points if point.reuse])
    return (
        f"{one.labels}: {chosen.setting} has the best mean validation accuracy of {cells} cells. Validation "
        f"{VAL_ACCURACY.text(chosen.arm, unit=True)}, training time {TRAINING_TIME.text(chosen.arm, unit=True)}."
    )


def _table(context: QuestionContext, choices: Sequence[Choice]) -> Table:
    rows = []
    for one in choices:
        roles = {"chosen": one.chosen, "scratch": one.scratch}
        for point in (point for point in one.points if point in roles.values()):
            texts = (
                point.labels,
                ", ".join(role for role, chosen in roles.items() if point is chosen),
                VAL_ACCURACY.text(point.arm),
                TEST_ACCURACY.text(point.arm),
                TRAINING_TIME.text(point.arm),
            )
            heading = (text_cell(point.arm.marked_label), seed_cell(point.arm.members, context.links))
            rows.append((*heading, *(context.number(point.arm, text) for text in texts)))
    columns = (
        "arm", "seeds", "labels per class", "role", VAL_ACCURACY.heading, TEST_ACCURACY.heading, TRAINING_TIME.heading,
    )  # fmt: skip
    return Table(columns, tuple(rows))


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that no other point beats in both seconds and accuracy, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return tuple(front)


def _front(context: QuestionContext, one: Choice) -> Chart:
    points = [(point.mean(TRAINING_TIME), point.mean(TEST_ACCURACY), point.name) for point in one.points]
    front = pareto_front(points)
    listed = "; ".join(f"{name} {accuracy:.2f} % in {seconds:.2f} s" for seconds, accuracy, name in front)
    alt = f"Mean test accuracy by mean training time, {one.labels}. Pareto front (layers reused/unfrozen): {listed}."
    text = context.chart_text(
        f"front_{one.chosen.labels}", f"Accuracy by time: {one.labels}", alt,
        xlabel="training time (s); reused/unfrozen", ylabel="test accuracy (%)",
    )  # fmt: skip
    return front_chart(text, points, front, style=style_of(1))


def _heat_maps(context: QuestionContext, choices: Sequence[Choice]) -> list[Chart]:
    """Draw the difference from scratch over reuse_layers and unfreeze, one chart per number of labels."""
    maps = [(one, _heat_map_cells(context, one)) for one in choices]
    limit = max((abs(value) for _, cells in maps for value, _ in cells.values()), default=0.0) or 1.0
    charts = []
    for one, cells in maps:
        listed = "; ".join(
            f"{reuse} reused, {unfreeze} unfrozen {label}" for (reuse, unfreeze), (_, label) in sorted(cells.items())
        )
        alt = f"Mean test accuracy vs. scratch in pp, {one.labels}; the chosen cell in brackets: {listed}."
        text = context.chart_text(
            f"map_{one.chosen.labels}", f"\u0394 vs. scratch (pp): {one.labels}", alt,
            xlabel="reuse_layers; [chosen]", ylabel="unfreeze",
        )  # fmt: skip
        charts += [heat_map(text, cells, limit)] if cells else []
    return charts


def _heat_map_cells(context: QuestionContext, one: Choice) -> dict[tuple[int, int], tuple[float, str]]:
    """Return difference and label by (reuse_layers, unfreeze); of arms with equal settings the best on validation."""
    if one.scratch is None:
        context.note(f"No arm trained from scratch finished with {one.labels}: its heat map is missing.")
        return {}
    cells: dict[tuple[int, int], tuple[float, str]] = {}
    for point in sorted(one.points, key=lambda point: point.mean(VAL_ACCURACY)):
        pairs = TEST_ACCURACY.pair(point.arm, one.scratch.arm)
        if point is one.scratch or not pairs.seeds:
            continue
        if (point.reuse, point.unfreeze) in cells:
            context.note("Of arms with equal settings, the heat map shows the one that is best on validation.")
        mean = estimate_pairs(pairs).mean
        label = f"{mean:+.1f}"
        cells[point.reuse, point.unfreeze] = (mean, f"[{label}]" if point is one.chosen else label)
    return cells
