"""How the numbers came about: data, budgets, versions, hardware, where compared arms differ, where the time went."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import psutil

from pipeline.plan.records import Question
from pipeline.report.elements import NOTHING, REUSED_MARK, Cell, Link, Links, Table, cell, percent_text
from pipeline.report.questions import paired_values
from pipeline.report.questions.context import differing_params, own_params, subject_of
from pipeline.report.questions.paired_values import mean_of, metric
from pipeline.report.records import Member, PlanRunFacts, ReportedArm
from pipeline.tracking import names

BUDGET = ("epochs", "patience", "batch_size", "learning_rate", "weight_decay")
PACKAGES = ("torch", "mlflow", "optuna", "numpy", "scipy", "matplotlib")
MACHINE = ("device", "dtype", "threads")


def data_table(facts: PlanRunFacts) -> Table:
    """Return stage, data, classes, labels, seeds and arithmetic of the arms, those alike in one row."""
    settings = {}
    for arm in _finished(facts):
        tags = [_tag(arm, name) for name in (names.DATASET, names.CLASSES)]
        labels = [paired_values.parameter(arm, name) or NOTHING for name in ("per_class", "val_per_class")]
        machine = "/".join(paired_values.parameter(arm, name) or NOTHING for name in MACHINE)
        seeds = ", ".join(str(member.seed) for member in arm.members)
        settings[arm.label] = (arm.entry_point, *tags, *labels, seeds, machine)
    columns = ("stage", "data", "classes", "labels a class", "for validation", "seeds", "device/type/ threads", "arms")
    return _grouped(columns, settings)


def budget_table(facts: PlanRunFacts) -> Table:
    """Return epochs, patience, batch, learning rate and weight decay, as resolved, arms alike in one row."""
    settings = {
        arm.label: tuple(paired_values.parameter(arm, name) or NOTHING for name in BUDGET)
        for arm in _finished(facts)
        if any(paired_values.parameter(arm, name) for name in BUDGET)
    }
    return _grouped(("epochs at most", "patience", "batch", "learning rate", "weight decay", "arms"), settings)


def _finished(facts: PlanRunFacts) -> list[ReportedArm]:
    return [arm for arm in facts.arms.values() if arm.members]


def _grouped(columns: tuple[str, ...], settings: dict[str, tuple[str, ...]]) -> Table:
    """Return one row for each different setting, with all arms that have it."""
    arms: dict[tuple[str, ...], list[str]] = {}
    for label, setting in settings.items():
        arms.setdefault(setting, []).append(label)
    rows = tuple((*map(cell, setting), cell("; ".join(labels))) for setting, labels in arms.items())
    return Table(columns, rows)


def differences_table(facts: PlanRunFacts) -> Table:
    """Return one row for each parameter in which the arms of a question differ, with each arm's value."""
    links = Links(facts.server, facts.experiment_id)
    rows = []
    for question in facts.questions:
        for shown, arms in _compared(facts, question, links):
            for name, values in {**differing_params(arms), **_differing_bases(facts, arms)}.items():
                said = "; ".join(f"{arm.label}: {value}" for arm, value in zip(arms, values, strict=True))
                rows.append((cell(shown), cell(name), cell(said)))
            for label, texts in own_params(arms).items():
                rows.append((cell(shown), cell(f"only {label}"), cell("; ".join(texts))))
    return Table(("question", "parameter", "values"), tuple(rows))


def _differing_bases(facts: PlanRunFacts, arms: Sequence[ReportedArm]) -> dict[str, list[str]]:
    """Return which arms the compared ones build on, where that differs."""
    owner = {member.run.run_id: arm.label for arm in facts.arms.values() for member in arm.members}
    bases = []
    for arm in arms:
        found = dict.fromkeys(member.run.tags.get(names.BASE_RUN_ID, "") for member in arm.members)
        labels = dict.fromkeys(owner.get(run_id, run_id or NOTHING) for run_id in found)
        bases.append(", ".join(labels))
    return {"base": bases} if len(set(bases)) > 1 else {}


def _compared(facts: PlanRunFacts, question: Question, links: Links) -> list[tuple[str, list[ReportedArm]]]:
    """Return what a question compares: its arms, or each pair of one of labels; of a surface nothing, it varies all."""
    if question.kind == "surface":
        return []
    if question.labelled:
        pairs = [[facts.arms[name] for name in pair if name in facts.arms] for pair in question.labelled]
        return [(question.key, pair) for pair in pairs if len(pair) == 2 and all(arm.members for arm in pair)]
    arms = list(subject_of(facts, question, links).arms)
    return [(question.key, arms)] if len(arms) > 1 else []


def runs_table(facts: PlanRunFacts) -> Table:
    """Return every run's test accuracy, or where it has none its seconds, leading to the run."""
    links = Links(facts.server, facts.experiment_id)
    rows = []
    for arm in _finished(facts):
        runs = Cell(tuple(_run_link(member, links) for member in arm.members))
        rows.append((cell(arm.marked_label), cell(percent_text(mean_of(metric(arm, names.TEST_ACCURACY)))), runs))
    return Table(("arm", "test acc. %", "seed: test acc. %"), tuple(rows))


def _run_link(member: Member, links: Links) -> Link:
    accuracy = member.run.metrics.get(names.TEST_ACCURACY)
    shown = f"{100 * accuracy:.2f}" if accuracy is not None else "finished"
    return Link(f"{member.seed}: {shown}{REUSED_MARK if member.reused else ''}", links.run(member.run.run_id))


def ledger_table(facts: PlanRunFacts) -> Table:
    """Return where the wall-clock went, and what recognised runs saved."""
    rows = [
        tuple(map(cell, (line.what, line.runs, f"{line.seconds:.1f}", f"{line.saved_seconds:.1f}")))
        for line in facts.ledger
    ]
    if not rows:
        return Table((), ())
    sums = [sum(getattr(line, name) for line in facts.ledger) for name in ("runs", "seconds", "saved_seconds")]
    rows.append(tuple(map(cell, ("sum", sums[0], f"{sums[1]:.1f}", f"{sums[2]:.1f}"))))
    return Table(("what", "runs", "seconds now", "seconds saved"), tuple(rows))


def ledger_lines(facts: PlanRunFacts) -> list[str]:
    """Say in words what the study took, and what recognition and caches saved."""
    members = [member for arm in facts.arms.values() for member in arm.members]
    reused = sum(member.reused for member in members)
    saved = sum(line.saved_seconds for line in facts.ledger)
    lines = [f"The study took {facts.total_seconds:.1f} s of wall-clock this time."]
    lines.append(
        f"{reused} of {len(members)} runs were recognised as finished, which saved {saved:.1f} s."
        if reused
        else "No run was recognised as finished: all of it was computed this time."
    )
    cached = [member for member in members if names.FEATURES_SAVED_SECONDS in member.run.metrics]
    if cached:
        spared = sum(
            member.run.metrics[names.FEATURES_SAVED_SECONDS] * member.run.metrics.get(names.EPOCHS_RUN, 0)
            for member in cached
        )
        spent = sum({member.run.metrics.get(names.FEATURES_SECONDS, 0.0) for member in cached})  # once an artifact
        lines.append(
            f"In {len(cached)} runs cached features spared {spared:.2f} s of passes through frozen layers; computing "
            f"them took {spent:.2f} s in all."
        )
    return lines


def machine_lines(facts: PlanRunFacts) -> list[str]:
    """Say which versions and which machine made this page, and on which hosts the runs were made."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    memory = psutil.virtual_memory().total / 2**30
    hosts: dict[str, int] = {}
    for arm in facts.arms.values():
        for member in arm.members:
            host = paired_values.host_of(member) or "an unknown host"
            hosts[host] = hosts.get(host, 0) + 1
    lines = [
        f"Versions: Python {platform.python_version()}, {versions}.",
        f"This machine: {processor_name()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}.",
        "Runs by host: " + ", ".join(f"{host} ({count})" for host, count in hosts.items()) + "." if hosts else "",
    ]
    return [line for line in [*lines, *code_lines(facts)] if line]


def code_lines(facts: PlanRunFacts) -> list[str]:
    """Say which code made the runs of each stage, by its digest."""
    digests: dict[str, dict[str, int]] = {}
    for arm in facts.arms.values():
        for member in arm.members:
            counts = digests.setdefault(arm.entry_point, {})
            digest = member.run.tags.get(names.CODE_DIGEST, "")[:12] or "unknown"
            counts[digest] = counts.get(digest, 0) + 1
    shown = "; ".join(
        f"{stage} {', '.join(f'{digest} ({count})' for digest, count in counts.items())}"
        for stage, counts in digests.items()
    )
    lines = [f"Code digests by stage (runs): {shown}."] if shown else []
    mixed = [stage for stage, counts in digests.items() if len(counts) > 1]
    return lines + [f"Runs of {stage} were made by different versions of its code." for stage in mixed]


def processor_name() -> str:
    """Return the processor's model, as Linux names it, else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except FileNotFoundError:
        pass
    return platform.processor() or platform.machine()


def reading_lines(facts: PlanRunFacts) -> list[str]:
    """Say how the numbers are to be read."""
    counted = sum(len(set(question.arms) - {question.reference}) for question in facts.questions if question.reference)
    chance = (
        f" ({counted} comparisons with a reference here; by chance, one in twenty would show a difference)"
        if counted
        else ""
    )
    return [
        "Numbers are means over seeds +- the half width of a 95 % interval (Student's t). Differences are taken seed "
        "by seed, and p is that of the paired t test; a seed fixes the draw of labels, the weights and the order of "
        "batches. Ratios are geometric means with the interval of their logarithms. Precision is the macro average "
        "over classes.",
        "A difference is claimed only where its interval leaves out zero; one seed gives no verdict. Intervals are not "
        f"corrected for their number{chance}.",
        "Test images are scored once, on the weights that validation chose. Labels for validation come on top of those "
        "for training. Bands in the figures are the range over seeds, drawn as far as every seed trained; small ticks "
        "are single seeds.",
    ]


def _tag(arm: ReportedArm, name: str) -> str:
    return ", ".join(dict.fromkeys(member.run.tags.get(name, NOTHING) for member in arm.members))


def data_lines(facts: PlanRunFacts) -> list[str]:
    """Say in the sources' own words which data was used."""
    notes = [member.run.tags.get("dataset_note", "") for arm in facts.arms.values() for member in arm.members]
    return [note for note in dict.fromkeys(notes) if note]
