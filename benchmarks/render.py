"""The page and the picture of all results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rows import PartResult, Row, amount, spread

TITLES = {
    "epoch": "An epoch of the base MLP, one thread",
    "libraries": "The same epoch in training libraries, one thread",
    "cnn_epoch": "An epoch of the base CNN",
    "feature_cache": "Cached features, one thread",
    "folds": "Cross-validation in a study's worker pool",
    "tracking": "Tracking an epoch",
    "outage": "An epoch while the tracking server is gone",
    "startup": "What a stage costs besides training",
    "stage": "A whole stage against a plain script",
    "tune": "Tuning",
    "busy": "Training beside one endless loop per core",
}
COLUMNS = ("what", "ours", "against", "theirs", "ratio", "target", "floor", "times the floor", "test accuracy, both %")
HEADER = """# The project beside what people use

Made by `make bench`; [README.md](README.md) says what a row means. Less is better everywhere. Medians (ranges) over
rounds in which all arms of a pair took turns; a ratio is the median over rounds of ours / theirs in the same round.
Seconds are this machine's and are stated, never tested; ratios are compared with their targets. On a GPU: not measured.

![Every ratio against its target](results.png)
"""
MET, MISSED, NONE = "#2a7f62", "#c1452b", "#7a7a7a"
LEFT, RIGHT = 0.005, 30.0  # of the picture; shorter and longer bars are cut, their figures stand beside them


def write_page(parts: Mapping[str, PartResult], folder: Path) -> None:
    """Write RESULTS.md and results.png.

    Args:
        parts: By name, in order.
        folder: Where to.
    """
    sections = [HEADER, summary(parts), *(section(part) for part in parts.values())]
    (folder / "RESULTS.md").write_text("\n".join(sections), encoding="utf-8")
    draw(parts).savefig(folder / "results.png", dpi=110)


def summary(parts: Mapping[str, PartResult]) -> str:
    """Return how many targets are met, and which are not."""
    rows = [row for part in parts.values() for row in part.rows if row.target is not None]
    missed = [row for row in rows if row.misses()]
    lines = [f"**{len(rows) - len(missed)} of {len(rows)} targets are met.** Machine: {one(parts, 'machine')}."]
    if missed:
        lines.append("\nMissed:\n")
        lines += [f"- {row.what}, against {row.peer}: {row.ratio:.2f}, wanted {row.target:g}" for row in missed]
    return "\n".join(lines) + "\n"


def one(parts: Mapping[str, PartResult], name: str) -> str:
    """Return what all parts say, the longest where they differ (the peers' environment has more libraries)."""
    return max((str(getattr(part, name)) for part in parts.values()), key=len)


def section(part: PartResult) -> str:
    """Return the table of one part."""
    lines = [
        f"## {TITLES[part.name]}\n",
        f"Commit {part.commit}, {part.when}, load average before it {part.load}, {part.seconds:.0f} s.\n",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *(line(row) for row in part.rows),
    ]
    notes = [f"- {row.what}: {row.note}" for row in part.rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def line(row: Row) -> str:
    """Return one row of a table."""
    accuracy = ""
    if row.accuracy is not None and row.peer_accuracy is not None:
        accuracy = f"{100 * row.accuracy:.2f} / {100 * row.peer_accuracy:.2f} ({row.accuracy_verdict})"
    target = "" if row.target is None else f"{row.target:g} {'missed' if row.misses() else 'met'}"
    ours = spread(row.ours, row.unit)
    if row.goal is not None:
        verdict = "within" if statistics.median(row.ours) <= row.goal else "above"
        ours += f"; {verdict} {row.goal:g} {row.unit}"
    floor = "" if row.floor is None else f"{amount(row.floor)} {row.unit}"
    distance = "" if row.distance is None else amount(row.distance)
    cells = (row.what, ours, row.peer, spread(row.theirs, row.unit), f"{row.ratio:.2f}", target, floor, distance)
    return "| " + " | ".join((*cells, accuracy)) + " |"


def draw(parts: Mapping[str, PartResult]) -> Figure:
    """Return one bar a row: its ratio on a logarithmic axis, its target as a mark."""
    counts = [len(part.rows) for part in parts.values()]
    figure = Figure(figsize=(13, 1.5 + 0.27 * sum(counts) + 0.55 * len(counts)), layout="constrained")
    figure.suptitle("Ours / theirs, in the same rounds; a black mark is the target", fontsize=12)
    axes = figure.subplots(len(counts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": counts})
    for axis, part in zip(axes[:, 0], parts.values(), strict=True):
        draw_part(axis, part)
    axes[-1, 0].set_xlabel("ratio; left of 1 the project needs less")
    return figure


def draw_part(axis: Axes, part: PartResult) -> None:
    """Draw the bars of one part."""
    places = range(len(part.rows))
    ratios = [min(max(row.ratio, LEFT), RIGHT / 2) for row in part.rows]
    colors = [NONE if row.target is None else MISSED if row.misses() else MET for row in part.rows]
    axis.barh(places, ratios, color=colors, height=0.62)
    for place, row in zip(places, part.rows, strict=True):
        axis.text(RIGHT, place, f"{row.ratio:.2f}", ha="right", va="center", fontsize=8)
        if row.target is not None:
            axis.plot([row.target] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2)
    axis.set_yticks(places, [f"{row.what}  |  {row.peer}" for row in part.rows], fontsize=7.5)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(LEFT, RIGHT)
    axis.set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    axis.axvline(1, color="black", linewidth=0.6, linestyle=":")
    axis.set_title(TITLES[part.name], loc="left", fontsize=9, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
