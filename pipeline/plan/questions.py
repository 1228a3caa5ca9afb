"""The questions of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import suggest
from pipeline.plan.records import EXPECTATIONS, KINDS, RATIO_KINDS, Claim, PlannedArm, Question
from pipeline.plan.validation import PlanErrors
from pipeline.yaml_lines import LinedMapping

QUESTION_KEYS = ("key", "study", "text", "kind", "arms", "reference", "labelled", "margin", "confirmatory", "claim")
CLAIM_KEYS = ("statement", "expects", "source")
MAX_MARGIN = 100.0  # points or percent
MAX_CONFIRMATORY = 3  # comparisons of a study


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
        confirmatory: dict[str, int] = {}  # number of comparisons by study
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
            if question.claim and question.comparisons != 1:
                self.errors.add(item, "claim", f"needs a question with one comparison, got {question.comparisons}.")
            if question.confirmatory:
                confirmatory[question.study] = confirmatory.get(question.study, 0) + question.comparisons
                self._check_family(item, question, confirmatory[question.study])
            yield question

    def _check_family(self, item: LinedMapping, question: Question, comparisons: int) -> None:
        if not question.comparisons:
            self.errors.add(item, "confirmatory", "needs a question that compares arms with a reference.")
        elif comparisons > MAX_CONFIRMATORY:
            self.errors.add(
                item, "confirmatory",
                f"the study would have {comparisons} confirmatory comparisons; at most {MAX_CONFIRMATORY} are allowed.",
                remedy="Mark the less important questions confirmatory: false.",
            )  # fmt: skip

    def _question(self, item: LinedMapping) -> Question:
        kind, reference = str(item.get("kind", "")), str(item.get("reference") or "")
        if kind not in KINDS:
            allowed = f"{kind} must be one of {', '.join(KINDS)}."
            self.errors.add(item, "kind", allowed, remedy=suggest(kind, KINDS))
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
            margin=self._margin(item, kind),
            confirmatory=self._flag(item, "confirmatory"),
            claim=self._claim(item),
        )

    def _margin(self, item: LinedMapping, kind: str) -> float | None:
        """Return the margin of a question; None if it has none, or (an error) an invalid one."""
        if "margin" not in item:
            return None
        margin, unit = item["margin"], "percent" if kind in RATIO_KINDS else "percentage points"
        is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
        if kind == "score":
            self.errors.add(item, "margin", "is not allowed: a question of kind score compares nothing.")
        elif not is_number or not 0 < margin < MAX_MARGIN:
            self.errors.add(item, "margin", f"must be a number of {unit} in (0, {MAX_MARGIN:g}), got {margin}.")
        else:
            return float(margin)
        return None

    def _flag(self, item: LinedMapping, key: str) -> bool:
        value = item.get(key, False)
        if not isinstance(value, bool):
            self.errors.add(item, key, f"must be true or false, got {value}.")
        return value is True

    def _claim(self, item: LinedMapping) -> Claim | None:
        """Return the claim that a question tests; None without one."""
        claim = self.errors.mapping(item, "claim")
        if not claim:
            return None
        self.errors.known_keys(claim, CLAIM_KEYS, "claim")
        texts = [" ".join(str(claim.get(key, "")).split()) for key in CLAIM_KEYS]
        if missing := [key for key, text in zip(CLAIM_KEYS, texts, strict=True) if not text]:
            self.errors.add(item, "claim", f"lacks {', '.join(missing)}.")
        elif texts[1] not in EXPECTATIONS:
            allowed = f"must be one of {', '.join(EXPECTATIONS)}, got {texts[1]}."
            self.errors.add(claim, "expects", allowed, remedy=suggest(texts[1], EXPECTATIONS))
        return Claim(*texts)

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
        expanded: list[tuple[str, str]] = []
        for first, second in pairs:
            by_labels = [self._by_labels(item, str(name)) for name in (first, second)]
            if by_labels[0].keys() != by_labels[1].keys():
                self.errors.add(item, "labelled", f"{first} and {second} need the same numbers of labels per class.")
            expanded += [(by_labels[0][count], by_labels[1][count]) for count in by_labels[0] if count in by_labels[1]]
        return tuple(expanded)

    def _by_labels(self, item: LinedMapping, name: str) -> dict[str, str]:
        """Return an arm's name, or those of a grid by number of labels per class; empty if (an error) unknown."""
        if name in self.arms:
            return {"": name}
        members = [arm for arm in self.arms.values() if arm.grid == name]
        if not members:
            self._check_known(item, "labelled", name)
        by_labels = {str(arm.setting.get("per_class", "all")): arm.name for arm in members}
        if len(by_labels) < len(members):
            self.errors.add(item, "labelled", f"{name} is a grid over more than per_class: name single arms.")
        return by_labels

    def _check_known(self, item: LinedMapping, key: str, name: str) -> None:
        if name not in self.arms:
            known = (*self.arms, *(arm.grid for arm in self.arms.values()))
            self.errors.add(item, key, f"{name} is not an arm of this plan.", remedy=suggest(name, known))
