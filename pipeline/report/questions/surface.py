"""How many layers to reuse, how many to unfreeze, and for how many labels? Kind `surface`, with a recipe.

Nothing here is chosen by test accuracy: the recipe goes by validation, and test accuracy is what it is then told by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.report.charts import look_of
from pipeline.report.elements import NOTHING, Answer, Picture, Table, cell, percent_text, seconds_text, seed_cell
from pipeline.report.questions.accuracy import accuracy_on_test, fit_seconds
from pipeline.report.questions.context import Subject
from pipeline.report.questions.label_curves import label_count
from pipeline.report.questions.paired_values import Pairing, mean_of, metric, pair, parameter
from pipeline.report.questions.surface_charts import Point, draw_front, draw_heat
from pipeline.report.records import ReportedArm
from pipeline.report.statistics import verdict
from pipeline.tracking import names

MIN_SEEDS = 3  # with fewer, hardly any arm can be shown to be worse, and the cheapest would always win
val_accuracy = partial(metric, name=names.VAL_FINAL_ACCURACY)


@dataclass(frozen=True)
class Place:
    """An arm on the surface.

    Attributes:
        arm: With test and validation accuracy.
        reuse: Layers copied; 0 is from scratch.
        unfreeze: Of them, how many are trained.
        labels: A class, or `all`.
    """

    arm: ReportedArm
    reuse: int
    unfreeze: int
    labels: str

    @property
    def short(self) -> str:
        """What the figure calls it."""
        return f"{self.reuse}/{self.unfreeze}" if self.reuse else "scratch"

    @property
    def in_words(self) -> str:
        """The setting in words."""
        return f"reuse_layers={self.reuse}, unfreeze={self.unfreeze}" if self.reuse else "training from scratch"


@dataclass(frozen=True)
class Recipe:
    """What to do with some number of labels.

    Attributes:
        labels: A class, or `all`.
        best: The best mean validation accuracy.
        chosen: The cheapest that is not shown to be worse than it on validation; the best one itself where
            seeds or comparable times are lacking.
        candidates: How many arms there were.
        count: The seeds of the chosen arm.
    """

    labels: str
    best: Place
    chosen: Place
    candidates: int
    count: int


def surface(subject: Subject) -> Answer:
    """Say what to do for each number of labels, and show accuracy over the settings and against seconds."""
    places = places_of(subject)
    if not places:
        return Answer(subject.question, "Not answered: no finished arm says what it reuses and scores it.")
    comparable = subject.times_compare()
    groups = {labels: [one for one in places if one.labels == labels] for labels in _labels(places)}
    recipes = [recipe(group, comparable) for group in groups.values()]
    if any(one.count < MIN_SEEDS for one in recipes):
        subject.note(f"With fewer than {MIN_SEEDS} seeds no arm can be told to be worse: the best mean is named.")
    subject.note(
        "Recipes go by validation accuracy: the best mean, then the cheapest arm that is not shown to be worse than it "
        "(95 % interval of the paired difference). The figures show test accuracy; nothing was chosen by it."
    )
    return Answer(
        subject.question,
        "; ".join(f"{labels_in_words(one.labels)}: {one.chosen.in_words}" for one in recipes) + ".",
        tuple(_told(subject, one, groups[one.labels]) for one in recipes),
        (),
        _table(subject, groups, recipes),
        _pictures(subject, groups, comparable),
    )


def places_of(subject: Subject) -> list[Place]:
    """Return the arms that say what they reuse and have been scored."""
    found = []
    for arm in subject.arms:
        reuse, unfreeze = (parameter(arm, name) for name in ("reuse_layers", "unfreeze"))
        if reuse.isdigit() and unfreeze.isdigit() and accuracy_on_test(arm) and val_accuracy(arm) and fit_seconds(arm):
            found.append(Place(arm, int(reuse), int(unfreeze), parameter(arm, "per_class") or "all"))
    return found


def _labels(places: Sequence[Place]) -> list[str]:
    return sorted({place.labels for place in places}, key=label_count)


def labels_in_words(labels: str) -> str:
    """Return a number of labels in words."""
    return "all labels" if labels == "all" else f"{labels} labels a class"


def recipe(places: Sequence[Place], comparable: bool) -> Recipe:
    """Choose among arms with one number of labels, by validation accuracy and then by seconds.

    Args:
        places: At least one.
        comparable: Whether their seconds may be compared.
    """
    best = max(places, key=lambda place: _mean(val_accuracy(place.arm)))
    chosen = best
    if comparable and len(val_accuracy(best.arm)) >= MIN_SEEDS:
        able = [place for place in places if place is best or _not_worse(place, best)]
        chosen = min(able, key=lambda place: _mean(fit_seconds(place.arm)))
    return Recipe(best.labels, best, chosen, len(places), len(val_accuracy(chosen.arm)))


def _not_worse(place: Place, best: Place) -> bool:
    found = pair(val_accuracy(place.arm), val_accuracy(best.arm))
    if found is None or len(found.seeds) < MIN_SEEDS:
        return False  # what has not been compared is not recommended
    return not (found.difference.excludes_zero and found.difference.mean < 0)


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)


def scratch_of(places: Sequence[Place]) -> Place | None:
    """Return the arm from scratch among arms with one number of labels."""
    return next((place for place in places if place.reuse == 0), None)


def _against_scratch(place: Place, scratch: Place | None) -> Pairing | None:
    if scratch is None or place is scratch:
        return None
    return pair(accuracy_on_test(place.arm), accuracy_on_test(scratch.arm))


def _told(subject: Subject, one: Recipe, places: Sequence[Place]) -> str:
    chosen, best = one.chosen, one.best
    how = "the best mean validation accuracy"
    if chosen is not best:
        how = (
            f"the cheapest of those not shown to be worse on validation than the best ({best.in_words}, "
            f"{percent_text(mean_of(val_accuracy(best.arm)), ' %')})"
        )
    on_test = percent_text(mean_of(accuracy_on_test(chosen.arm)), " %")
    text = (
        f"{labels_in_words(one.labels).capitalize()}: {chosen.in_words} is {how} among {one.candidates} arms: validation "
        f"{percent_text(mean_of(val_accuracy(chosen.arm)), ' %')}, test {on_test}, "
        f"{seconds_text(mean_of(fit_seconds(chosen.arm)), ' s')} of training (n = {one.count})"
    )
    found = _against_scratch(chosen, scratch_of(places))
    if found is None:
        return f"{text}."
    return f"{text}; on test, against scratch: {verdict(found.difference, 'ahead', 'behind')}."


def _table(subject: Subject, groups: dict[str, list[Place]], recipes: Sequence[Recipe]) -> Table:
    rows = []
    for one in recipes:
        scratch = scratch_of(groups[one.labels])
        for place in (place for place in groups[one.labels] if place in (one.chosen, one.best, scratch)):
            found = _against_scratch(place, scratch)
            role = ", ".join(
                word
                for word, there in (("recipe", one.chosen), ("best validation", one.best), ("scratch", scratch))
                if place is there
            )
            texts = (
                one.labels,
                role,
                percent_text(mean_of(val_accuracy(place.arm))),
                percent_text(mean_of(accuracy_on_test(place.arm))),
                found.difference.percent() if found else NOTHING,
                seconds_text(mean_of(fit_seconds(place.arm))),
            )
            first = (cell(place.arm.marked_label), seed_cell(place.arm.members, subject.links))
            rows.append((*first, *(subject.number(place.arm, text) for text in texts)))
    columns = (
        "arm", "seeds", "labels a class", "role", "validation acc. %", "test acc. %", "minus scratch, points",
        "training s",
    )  # fmt: skip
    return Table(columns, tuple(rows))


def front_of(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points (seconds, accuracy, name) that no other one beats in both, fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one[0], -one[1])):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return tuple(found)


def _pictures(subject: Subject, groups: dict[str, list[Place]], comparable: bool) -> tuple[Picture, ...]:
    fronts = [_front(subject, labels, places) for labels, places in groups.items()] if comparable else []
    return (*_maps(subject, groups), *fronts)


def _front(subject: Subject, labels: str, places: Sequence[Place]) -> Picture:
    points = [
        (_mean(fit_seconds(place.arm)), 100 * _mean(accuracy_on_test(place.arm)), place.short) for place in places
    ]
    front = front_of(points)
    said = "; ".join(f"{name} {value:.2f} % in {seconds:.2f} s" for seconds, value, name in front)
    return draw_front(
        subject.picture_name(f"front_{labels}"), points, front, look=look_of(1),
        title=f"Accuracy against time: {labels_in_words(labels)}", xlabel="training time (s); reused/unfrozen",
        ylabel="test accuracy (%)",
        alt=f"Mean test accuracy against mean training seconds, {labels_in_words(labels)}; steps join the arms (layers "
        f"reused/unfrozen) that none beats in both: {said}.",
    )  # fmt: skip


def _maps(subject: Subject, groups: dict[str, list[Place]]) -> list[Picture]:
    """Draw the difference to scratch over what is reused and unfrozen, one panel a number of labels."""
    found = {labels: _cells(subject, places) for labels, places in groups.items()}
    limit = max((abs(value) for cells in found.values() for value, _ in cells.values()), default=0.0) or 1.0
    return [
        draw_heat(
            subject.picture_name(f"map_{labels}"), cells, limit=limit,
            title=f"Minus scratch, points: {labels_in_words(labels)}", xlabel="reuse_layers", ylabel="unfreeze",
            alt=f"Mean test accuracy minus that from scratch, in points, {labels_in_words(labels)}; in brackets where no "
            "difference is shown: " + "; ".join(f"{reuse} reused, {free} unfrozen {text}"
                                                for (reuse, free), (_, text) in sorted(cells.items())) + ".",
        )
        for labels, cells in found.items()
        if cells
    ]  # fmt: skip


def _cells(subject: Subject, places: Sequence[Place]) -> dict[tuple[int, int], tuple[float, str]]:
    scratch = scratch_of(places)
    cells: dict[tuple[int, int], tuple[float, str]] = {}
    if scratch is None:
        subject.note(f"No arm from scratch finished with {labels_in_words(places[0].labels)}: there is no map for it.")
    for place in sorted(places, key=lambda one: _mean(val_accuracy(one.arm))):
        found = _against_scratch(place, scratch)
        if found is None:
            continue
        if (place.reuse, place.unfreeze) in cells:
            subject.note("Where several arms share a place on a map, the one with the best validation is shown.")
        text = f"{100 * found.difference.mean:+.1f}"
        shown = text if found.difference.excludes_zero else f"({text})"
        cells[place.reuse, place.unfreeze] = (100 * found.difference.mean, shown)
    return cells
