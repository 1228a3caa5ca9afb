"""The questions of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import suggest
from pipeline.plan.records import KINDS, PlannedArm, Question
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping

QUESTION_KEYS = ("key", "study", "text", "kind", "arms", "reference", "labelled")


@dataclass(frozen=True)
class QuestionReader:
    """Reads the questions of one plan."""

    root: LinedMapping  # the whole file
    errors: PlanErrors  # collects what is wrong
    arms: Mapping[str, PlannedArm]  # of the plan, by name

    def read(self) -> Iterator[Question]:
        """Yield the questions in file order."""
        items = self.root.get("questions", [])
        if not isinstance(items, list):
            self.errors.add(self.root, "questions", "must be a list.")
            return
        keys: set[tuple[str, str]] = set()
        for item in items:
            if not isinstance(item, LinedMapping) or not item:
                self.errors.add(self.root, "questions", "must be a list of mappings.")
                continue
            self.errors.known_keys(item, QUESTION_KEYS, "question")
            for key in ("key", "text", "kind"):
                if not item.get(key):
                    self.errors.add(item, next(iter(item)), f"this question lacks {key}.")
            question = self._question(item)
            if (question.study, question.key) in keys:
                self.errors.add(item, "key", f"duplicate: {question.key}.")
            keys.add((question.study, question.key))
            yield question

    def _question(self, item: LinedMapping) -> Question:
        kind, reference = str(item.get("kind", "")), str(item.get("reference") or "")
        if kind not in KINDS:
            allowed = f"{kind} must be one of {', '.join(KINDS)}."
            self.errors.add(item, "kind", allowed, suggest(kind, KINDS))
        arms, pairs = self._arms(item), self._pairs(item)
        if not item.get("arms") and not pairs:
            self.errors.add(item, "arms" if "arms" in item else "key", "names no arms.")
        if reference:
            self._check_known(item, "reference", reference)
        return Question(
            key=str(item.get("key", "")),
            study=str(item.get("study", "")),
            text=" ".join(str(item.get("text", "")).split()),
            kind=kind,
            arms=arms,
            reference=reference,
            labelled=pairs,
        )

    def _arms(self, item: LinedMapping) -> tuple[str, ...]:
        """Return the arms of a question; the name of a grid stands for all of its arms."""
        entries = item.get("arms", [])
        if not isinstance(entries, list):
            self.errors.add(item, "arms", "must be a list of names.")
            return ()
        names: dict[str, None] = {}
        for name in map(str, entries):
            members = [arm.name for arm in self.arms.values() if name in (arm.name, arm.grid)]
            if not members:
                self._check_known(item, "arms", name)
            names |= dict.fromkeys(members)
        return tuple(names)

    def _pairs(self, item: LinedMapping) -> tuple[tuple[str, str], ...]:
        pairs = item.get("labelled", [])
        if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
            self.errors.add(item, "labelled", "must be a list of pairs of arms.")
            return ()
        for pair in pairs:
            for name in pair:
                self._check_known(item, "labelled", str(name))
        return tuple((str(first), str(second)) for first, second in pairs)

    def _check_known(self, item: LinedMapping, key: str, name: str) -> None:
        if name not in self.arms:
            known = (*self.arms, *(arm.grid for arm in self.arms.values()))
            self.errors.add(item, key, f"{name} is not an arm of this plan.", suggest(name, known))
