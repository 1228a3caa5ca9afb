"""`python -m pipeline compare A B`: how two runs, or two plan runs, differ in settings, data, code and results.

Arms of plan runs are compared by name, paired by seed, with one verdict each (docs/verdicts.md); all of them are one
family. Differences are B - A.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.console import echo, print_table
from pipeline.errors import invalid
from pipeline.plan.outcome import PlanRecord, record_from_json
from pipeline.statistics.estimates import pair
from pipeline.statistics.verdict import Comparison, Verdict, judge
from pipeline.tracking import names
from pipeline.tracking.queries import FinishedRun, read_plan_record, read_step, read_trained_run
from pipeline.tracking.store import Client, open_store

PERCENT = 100.0
RESULTS = (names.TEST_ACCURACY, names.TEST_PRECISION, names.FIT_SECONDS, names.EPOCHS_RUN, names.PARAMETERS_COUNT)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run, or a plan run with the runs of its steps."""

    run_id: str
    arms: Mapping[str, Mapping[int, FinishedRun]]  # by arm (one arm without a name for a run) and seed


def compare(first: str, second: str) -> list[Verdict]:
    """Print what differs between two runs or two plan runs, and return one verdict per arm that both have.

    Raises:
        UserInputError: One does not exist or is not finished, or only one is a plan run.
    """
    client = open_store()
    records = [read_plan_record(client, run_id) for run_id in (first, second)]
    if (records[0] is None) != (records[1] is None):
        plan, run = (first, second) if records[0] is not None else (second, first)
        raise invalid("runs", run, f"is not a plan run, but {plan} is.", remedy="Compare two runs, or two plan runs.")
    a, b = (_side(client, run_id, text) for run_id, text in zip((first, second), records, strict=True))
    shared = [arm for arm in a.arms if arm in b.arms]
    for title, one, other in (("only in A", a, b), ("only in B", b, a)):
        if missing := [arm for arm in one.arms if arm not in other.arms]:
            echo(f"arms {title}: {', '.join(missing)}")
    for arm in shared:
        seed = min(a.arms[arm].keys() & b.arms[arm].keys(), default=None)
        if seed is not None:
            print_differences(arm, a.arms[arm][seed], b.arms[arm][seed])
    comparisons = [Comparison(arm, pair(_accuracies(b.arms[arm]), _accuracies(a.arms[arm])), None) for arm in shared]
    verdicts = judge(comparisons)
    print_verdicts(comparisons, verdicts)
    return list(verdicts)


def regressions(verdicts: Iterable[Verdict]) -> list[str]:
    """Return the arms in which B is worse by a verdict that is not preliminary."""
    return [verdict.key for verdict in verdicts if verdict.sign == "worse" and not verdict.preliminary]


def print_differences(arm: str, a: FinishedRun, b: FinishedRun) -> None:
    """Print parameters, inputs, code and machine that differ between two runs, and their results."""
    rows = [
        (group, name, before, after)
        for group, one, other in zip(
            ("setting", "input", "code", "machine", "result"), _facts(a), _facts(b), strict=True
        )
        for name, before, after in _differing(one, other)
    ]
    title = f"{arm or a.name}: A is run {a.run_id}, B is run {b.run_id}"
    print_table(title, ("", "what", "A", "B"), rows or [("", "nothing differs", "", "")])


def print_verdicts(comparisons: Iterable[Comparison], verdicts: Iterable[Verdict]) -> None:
    """Print mean accuracies, the difference with its interval, and the verdict of each arm."""
    rows = []
    for comparison, verdict in zip(comparisons, verdicts, strict=True):
        estimate, count = verdict.estimate, len(comparison.pairs.seeds)
        means = [
            sum(v) / count if count else float("nan") for v in (comparison.pairs.reference, comparison.pairs.values)
        ]
        difference = "" if estimate is None else f"{estimate.mean:+.2f} [{estimate.lower:+.2f}, {estimate.upper:+.2f}]"
        rows.append((str(count), verdict.key, f"{means[0]:.2f}", f"{means[1]:.2f}", difference, verdict.answer()))
    headings = ("seeds", "arm", "A, %", "B, %", "B - A, pp [95 % CI]", "B is")
    print_table("test accuracy", headings, rows)


def _side(client: Client, run_id: str, record: str | None) -> Side:
    if record is None:
        run = read_trained_run(client, run_id)
        return Side(run_id, {"": {int(_parameters(run).get("seed", 0)): run}})
    return Side(run_id, _arms(client, record_from_json(record)))


def _arms(client: Client, record: PlanRecord) -> dict[str, dict[int, FinishedRun]]:
    arms: dict[str, dict[int, FinishedRun]] = {}
    for outcome in record.outcomes:
        if not outcome.failure and names.TEST_ACCURACY in (run := read_step(client, outcome.run_id)).metrics:
            arms.setdefault(outcome.arm, {})[outcome.seed] = run
    return arms


def _accuracies(runs: Mapping[int, FinishedRun]) -> dict[int, float]:
    """Return test accuracies in percent, by seed."""
    return {seed: PERCENT * run.metrics[names.TEST_ACCURACY] for seed, run in runs.items()}


def _facts(run: FinishedRun) -> tuple[Mapping[str, str], ...]:
    """Return settings, inputs, code, machine and results of a run, by name."""
    parts = _json_tag(run, names.KEY_PARTS)
    results = {name: f"{run.metrics[name]:.6g}" for name in RESULTS if name in run.metrics}
    return _parameters(run), *(parts.get(part, {}) for part in ("inputs", "code", "machine")), results


def _parameters(run: FinishedRun) -> dict[str, str]:
    return {name: str(value) for name, value in _json_tag(run, names.PARAMETERS).items()}


def _json_tag(run: FinishedRun, tag: str) -> dict[str, dict[str, str]]:
    """Return the JSON object in a tag, empty if it was truncated or altered."""
    try:
        content = json.loads(run.tags.get(tag, "{}"))
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[tuple[str, str, str]]:
    absent = "(none)"
    every = sorted(a.keys() | b.keys())
    return [(name, a.get(name, absent), b.get(name, absent)) for name in every if a.get(name) != b.get(name)]
