"""How the numbers of a report were computed: statistics, data, budgets, environment, wall-clock time, all runs."""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from pipeline import __version__
from pipeline.plan.records import Question
from pipeline.report.chosen_settings import chosen_settings
from pipeline.report.elements import CACHED_MARK, NO_VALUE, Table, text_cell, text_table
from pipeline.report.networks_table import COLUMNS as NETWORK_COLUMNS
from pipeline.report.networks_table import network_row
from pipeline.report.questions.arm_differences import differing_params, extra_params
from pipeline.report.questions.context import arm_names
from pipeline.report.questions.quantities import TEST_ACCURACY
from pipeline.report.records import PlanRunFacts, ReportedArm
from pipeline.runtime import cpu_model
from pipeline.statistics.looks import LOOKS
from pipeline.statistics.sources import sources_text
from pipeline.tracking import names

BUDGET = ("epochs", "patience", "batch_size", "learning_rate", "weight_decay")
PACKAGES = ("torch", "mlflow", "optuna", "numpy", "scipy", "matplotlib")
STATISTICS = (
    "Numbers are means over seeds +- the half width of a 95 % confidence interval (Student's t). Differences are "
    "paired by seed; ratios are geometric means, with intervals computed on their logarithms. Precision is the macro "
    "average over classes.",
    "A verdict has two answers. Sign: better, worse or open. Size: within the margin, the smallest difference that "
    "matters, or open. Open means that the data do not decide, never that the arms are equal. Pairs are tested at n = "
    f"{', '.join(map(str, LOOKS[:-1]))} and {LOOKS[-1]} (paired t test; two one-sided t tests against the margin), p = "
    f"{len(LOOKS)} x the smallest so far, then corrected by Holm's procedure: over the confirmatory questions of a "
    "study together, otherwise over the comparisons of the question. An answer is given at adjusted p <= 0.05. Three "
    "or four pairs give a preliminary verdict, corrected for the family only, which does not count as a look; fewer "
    "give none. Intervals are not adjusted, so they may exclude 0 while the sign is open. Sign-flip p, wins, worst "
    "seed and the error from sampling the test images are descriptive. Limits of the procedure: docs/verdicts.md.",
    "Test images are scored once, with the weights selected on validation. Validation labels come on top of the "
    "training labels. Bands in charts are the range over seeds, up to the last epoch that all seeds reached; ticks are "
    "single seeds.",
)
EMPTY = Table((), ())


@dataclass(frozen=True)
class Section:
    """A part of the methods."""

    heading: str
    lines: Sequence[str] = ()
    table: Table = EMPTY


def methods_sections(facts: PlanRunFacts) -> list[Section]:
    """Return the sections that have content."""
    notes = dict.fromkeys(member.run.tags.get("dataset_note", "") for _, member in facts.runs)
    sections = [
        Section("How to read the numbers", _statistics_lines(facts)),
        Section("Environment", _environment_lines(facts)),
        Section("Wall-clock time", _time_lines(facts), _time_table(facts)),
        Section("Differences between compared arms", table=_differences_table(facts)),
        Section("Data", list(filter(None, notes)), _data_table(facts)),
        Section("Digests of the data", table=_digests_table(facts)),
        Section("Networks and training", table=networks_table(facts)),
        Section("Training budget", table=_budget_table(facts)),
        Section("Settings chosen on validation", table=chosen_settings(facts)),
        Section("All runs", table=_runs_table(facts)),
    ]
    return [section for section in sections if section.lines or section.table.rows]


def _statistics_lines(facts: PlanRunFacts) -> list[str]:
    """Return how the numbers are to be read, and which sources of variation the intervals cover."""
    seeds = {name for name, values in _class_splits(facts).items() if len(values) > 1}
    bases = {tag for _, member in facts.runs if (tag := member.run.tags.get(names.BASE_RUN_ID))}
    fixed = ("base",) if len(bases) == 1 and len({member.seed for _, member in facts.runs}) > 1 else ()
    return [*STATISTICS, sources_text(random_class_split=bool(seeds), fixed=fixed)]


def _class_splits(facts: PlanRunFacts) -> dict[str, set[str]]:
    """Return the classes of each arm's runs."""
    return {arm.name: {member.run.tags.get(names.CLASSES, "") for member in arm.members} for arm in facts.finished_arms}


def _environment_lines(facts: PlanRunFacts) -> list[str]:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    memory = psutil.virtual_memory().total / 2**30
    lines = [
        f"Versions: Python {platform.python_version()}, {versions}.",
        f"This machine: {cpu_model()}, {os.cpu_count()} cores, {memory:.0f} GiB RAM, {platform.system()}.",
    ]
    if not facts.runs:
        return lines
    digests: dict[str, Counter[str]] = defaultdict(Counter)
    commits: Counter[str] = Counter()
    for arm, member in facts.runs:
        digests[arm.entry_point][member.run.tags.get(names.CODE_DIGEST, "")[:12] or "unknown"] += 1
        commits[member.run.tags.get(names.GIT_COMMIT, "")[:12] or "none: not run in a clone"] += 1
    mixed = [stage for stage, counts in digests.items() if len(counts) > 1]
    return [
        *lines,
        f"Runs by host: {_counts(Counter(member.host or 'unknown host' for _, member in facts.runs))}.",
        f"Runs by hardware: {_counts(Counter(member.hardware or 'unknown' for _, member in facts.runs))}.",
        f"Code: pipeline {__version__}; git commits (runs): {_counts(commits)}.",
        f"Code digests (runs): {'; '.join(f'{stage} {_counts(counts)}' for stage, counts in digests.items())}.",
        *(f"Runs of {stage} come from different versions of its code." for stage in mixed),
    ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{key} ({count})" for key, count in counter.items())


def _time_lines(facts: PlanRunFacts) -> list[str]:
    """Return the time that the plan run took, and what cached runs and cached features saved; empty if ad hoc."""
    if not facts.record.total_seconds:
        return []
    cached = sum(member.reused for _, member in facts.runs)
    saved = sum(arm.saved_seconds for arm in facts.arms.values())
    lines = [f"The plan run took {facts.record.total_seconds:.1f} s; {cached} of {len(facts.runs)} runs were cached"]
    lines[0] += f", which saved {saved:.1f} s." if cached else "."
    metrics = [m.run.metrics for _, m in facts.runs if names.FEATURES_SAVED_SECONDS in m.run.metrics]
    if metrics:
        spared = sum(one[names.FEATURES_SAVED_SECONDS] * one.get(names.EPOCHS_RUN, 0) for one in metrics)
        spent = sum({one.get(names.FEATURES_SECONDS, 0.0) for one in metrics})  # runs share a features artifact
        lines.append(
            f"Cached features saved {spared:.2f} s of forward passes through frozen layers in {len(metrics)} runs; "
            f"computing them took {spent:.2f} s."
        )
    return lines


def _time_table(facts: PlanRunFacts) -> Table:
    """Return the seconds spent and saved per arm, and their sums; empty if ad hoc."""
    total, arms = facts.record.total_seconds, facts.arms.values()
    rows = [(arm.label, len(arm.members) + len(arm.failures), arm.seconds, arm.saved_seconds) for arm in arms]
    rows.append(("startup and loading the plan", 0, total - sum(arm.seconds for arm in arms), 0.0))
    rows.append(("sum", sum(runs for _, runs, *_ in rows), total, sum(arm.saved_seconds for arm in arms)))
    texts = [(what, runs, f"{seconds:.1f}", f"{saved:.1f}") for what, runs, seconds, saved in rows]
    return text_table(("what", "runs", "spent (s)", "saved by cache (s)"), texts if total else ())


def _differences_table(facts: PlanRunFacts) -> Table:
    """Return one row per parameter in which the arms of a question differ, with each arm's value."""
    rows = []
    for question in facts.questions:
        for arms in _compared_arms(facts, question):
            for name, values in {**differing_params(arms), **_differing_bases(facts, arms)}.items():
                by_arm = "; ".join(f"{arm.label}: {value}" for arm, value in zip(arms, values, strict=True))
                rows.append((question.key, name, by_arm))
            rows += [(question.key, f"only {label}", "; ".join(texts)) for label, texts in extra_params(arms).items()]
    return text_table(("question", "parameter", "values"), rows)


def _differing_bases(facts: PlanRunFacts, arms: Sequence[ReportedArm]) -> dict[str, list[str]]:
    """Return the base arms of arms; empty if all have the same."""
    owner = {member.run.run_id: arm.label for arm, member in facts.runs}
    bases = [
        ", ".join(dict.fromkeys(owner.get(run_id, run_id or NO_VALUE) for run_id in arm.base_run_ids)) for arm in arms
    ]
    return {"base": bases} if len(set(bases)) > 1 else {}


def _compared_arms(facts: PlanRunFacts, question: Question) -> list[list[ReportedArm]]:
    """Return the groups of arms that a question compares; none for a surface, which varies everything."""
    if question.kind == "surface":
        return []
    groups = question.labelled or [arm_names(question)]
    finished = [[facts.arms[name] for name in group if name in facts.arms] for group in groups]
    present = [[arm for arm in group if arm.members] for group in finished]
    return [group for group in present if len(group) > 1]


def _data_table(facts: PlanRunFacts) -> Table:
    """Return stage, data, labels, seeds and precision; arms with equal settings share a row."""
    settings = {}
    for arm in facts.finished_arms:
        data = (_tag(arm, names.DATASET), _tag(arm, names.CLASSES), *_params(arm, ("per_class", "val_per_class")))
        seeds = ", ".join(str(member.seed) for member in arm.members)
        settings[arm.label] = (arm.entry_point, *data, seeds, "/".join(_params(arm, ("device", "dtype", "threads"))))
    columns = ("stage", "data", "classes", "labels per class", "for validation", "seeds", "device/dtype/ threads")
    return _grouped(columns, settings)


def _digests_table(facts: PlanRunFacts) -> Table:
    """Return the digests of all splits by data and number of labels, each with the seeds that have it."""
    seeds: dict[tuple[str, str, str], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for _, member in facts.runs:
        for one in member.run.data:
            key = (one.name, one.split, member.run.params.get("per_class", "all"))
            seeds[key][one.digest].add(member.seed)
    rows = []
    for key, by_digest in seeds.items():
        texts = (f"{digest} ({', '.join(map(str, sorted(numbers)))})" for digest, numbers in by_digest.items())
        rows.append((*key, "; ".join(texts)))
    return text_table(("data", "split", "labels per class", "digest (seeds)"), rows)


def _budget_table(facts: PlanRunFacts) -> Table:
    """Return the resolved training budget; arms with equal settings share a row."""
    settings = {arm.label: _params(arm, BUDGET) for arm in facts.finished_arms}
    trained = {label: setting for label, setting in settings.items() if set(setting) != {NO_VALUE}}
    return _grouped(("max epochs", *BUDGET[1:]), trained)


def networks_table(facts: PlanRunFacts) -> Table:
    """Return architecture, initialization, optimizer and regularization; arms with equal settings share a row."""
    return _grouped(NETWORK_COLUMNS, {arm.label: network_row(arm) for arm in facts.finished_arms})


def _grouped(columns: tuple[str, ...], settings: dict[str, tuple[str, ...]]) -> Table:
    """Return one row per distinct setting, with the labels of its arms in a last column."""
    arms: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for label, setting in settings.items():
        arms[setting].append(label)
    return text_table((*columns, "arms"), [(*setting, "; ".join(labels)) for setting, labels in arms.items()])


def _params(arm: ReportedArm, param_names: Sequence[str]) -> tuple[str, ...]:
    return tuple(arm.parameter(name) or NO_VALUE for name in param_names)


def _tag(arm: ReportedArm, name: str) -> str:
    return ", ".join(dict.fromkeys(member.run.tags.get(name, NO_VALUE) for member in arm.members))


def _runs_table(facts: PlanRunFacts) -> Table:
    """Return one row per run: arm, seed, test accuracy, hardware and run id, linked where a server is known."""
    rows = []
    for arm, member in facts.runs:
        accuracy, run_id = member.run.metrics.get(names.TEST_ACCURACY), member.run.run_id
        arm_cell = text_cell(arm.marked_label, facts.links.runs(arm))
        score = text_cell(NO_VALUE if accuracy is None else f"{100 * accuracy:.2f}")
        seed = text_cell(f"{member.seed}{CACHED_MARK if member.reused else ''}")
        hardware = text_cell(member.hardware or NO_VALUE)
        rows.append((arm_cell, seed, score, hardware, text_cell(run_id, facts.links.run(run_id))))
    return Table(("arm", "seed", TEST_ACCURACY.heading, "hardware", "run"), tuple(rows))
