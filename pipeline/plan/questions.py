"""The questions of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.errors import suggest
from pipeline.plan.records import PlannedArm, Question
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping

QUESTION_KEYS = ("key", "study", "text", "kind", "arms", "reference", "labelled")


class QuestionReader:
    """Reads the questions of one plan.

    Args:
        root: The whole file.
        faults: Where to note what is wrong.
        kinds: The kinds of questions that there are.
        arms: Those that may be named.
    """

    def __init__(self, root: LinedMapping, faults: PlanErrors, kinds: tuple[str, ...], arms: Mapping[str, PlannedArm]):
        self.root, self.faults, self.kinds, self.arms = root, faults, kinds, arms

    def read(self) -> Iterator[Question]:
        """Yield the questions in order."""
        listed = self.root.get("questions", [])
        if not isinstance(listed, list):
            self.faults.add(self.root, "questions", "must be a list.")
            return
        keys: set[tuple[str, str]] = set()
        for item in listed:
            if not isinstance(item, LinedMapping) or not item:
                self.faults.add(self.root, "questions", "must be a list of mappings.")
                continue
            self.faults.known_keys(item, QUESTION_KEYS, "question")
            for key in ("key", "text", "kind"):
                if not item.get(key):
                    self.faults.add(item, next(iter(item)), f"this question lacks {key}.")
            question = self._one(item)
            if (question.study, question.key) in keys:
                self.faults.add(item, "key", f"{question.key} is there twice.")
            keys.add((question.study, question.key))
            yield question

    def _one(self, item: LinedMapping) -> Question:
        kind, reference = str(item.get("kind", "")), str(item.get("reference") or "")
        if kind not in self.kinds:
            self.faults.add(item, "kind", f"{kind} is none of {', '.join(self.kinds)}.", suggest(kind, self.kinds))
        chosen, pairs = self._members(item), self._pairs(item)
        if not item.get("arms") and not pairs:
            self.faults.add(item, "arms" if "arms" in item else "key", "names no arms.")
        if reference:
            self._known(item, "reference", reference)
        return Question(
            key=str(item.get("key", "")),
            study=str(item.get("study", "")),
            text=" ".join(str(item.get("text", "")).split()),
            kind=kind,
            arms=chosen,
            reference=reference,
            labelled=pairs,
        )

    def _members(self, item: LinedMapping) -> tuple[str, ...]:
        """Return the arms that a question names; the name of a grid stands for all of its arms."""
        named = item.get("arms", [])
        if not isinstance(named, list):
            self.faults.add(item, "arms", "must be a list of names.")
            return ()
        found: dict[str, None] = {}
        for name in map(str, named):
            members = [arm.name for arm in self.arms.values() if name in (arm.name, arm.grid)]
            if not members:
                self._known(item, "arms", name)
            found |= dict.fromkeys(members)
        return tuple(found)

    def _pairs(self, item: LinedMapping) -> tuple[tuple[str, str], ...]:
        pairs = item.get("labelled", [])
        if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
            self.faults.add(item, "labelled", "must be a list of pairs of arms.")
            return ()
        for pair in pairs:
            for name in pair:
                self._known(item, "labelled", str(name))
        return tuple((str(first), str(second)) for first, second in pairs)

    def _known(self, item: LinedMapping, key: str, name: str) -> None:
        if name not in self.arms:
            known = (*self.arms, *(arm.grid for arm in self.arms.values()))
            self.faults.add(item, key, f"{name} is not an arm of this plan.", suggest(name, known))
