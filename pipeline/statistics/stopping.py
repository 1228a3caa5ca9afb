"""Decide which arms of a plan need more seeds (`seeds=sequential`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.statistics.looks import LOOKS, next_look
from pipeline.statistics.verdict import Verdict


@dataclass(frozen=True)
class ArmsOfQuestion:
    """The arms whose seeds a question needs."""

    key: str
    arms: tuple[str, ...]  # arm and reference, and the bases they build on


def needs_seeds(verdict: Verdict, *, both: bool = False) -> bool:
    """Return whether more seeds could settle the question.

    Args:
        verdict: The verdict so far.
        both: Continue until both sign and size are settled. By default one is enough: after `within margin`, the sign
            no longer matters, and a difference above the margin never gets a size.
    """
    if verdict.look >= LOOKS[-1]:
        return False
    if not both or verdict.margin is None:
        return not verdict.settled
    return verdict.preliminary or verdict.sign in (None, "open") or verdict.size in (None, "open")


def next_seed_counts(
    questions: Iterable[ArmsOfQuestion], verdicts: Mapping[str, Verdict], *, max_seeds: int, both: bool = False
) -> dict[str, int]:
    """Return the next number of seeds per arm; empty if the plan stops.

    Every arm of an open question gets as many seeds as the question's next look. Arms of settled questions are left
    out, as are looks beyond `max_seeds`.

    Args:
        questions: The questions of the plan with their arms.
        verdicts: The verdict of each question so far, by key.
        max_seeds: Maximum number of seeds per arm.
        both: See `needs_seeds`.
    """
    targets: dict[str, int] = {}
    for question in questions:
        verdict = verdicts[question.key]
        look = next_look(verdict.look) if needs_seeds(verdict, both=both) else None
        if look is None or look > max_seeds:
            continue
        for arm in question.arms:
            targets[arm] = max(targets.get(arm, 0), look)
    return targets


def round_seconds(
    targets: Mapping[str, int], present: Mapping[str, int], seconds_per_seed: Mapping[str, float]
) -> float:
    """Return the seconds that the missing seeds take, for `max_minutes` and `dry_run`."""
    missing = {arm: max(0, count - present.get(arm, 0)) for arm, count in targets.items()}
    return sum(count * seconds_per_seed[arm] for arm, count in missing.items())
