"""`make bench-scale`: how time and memory grow with images, width, epochs logged, trials in a study, runs in a store.

    python -m benchmarks.scale [--only KIND] [--points 3]

Every point is a process of its own with a store of its own. The exponent is the slope of the logarithms over the larger
half of the sizes: 1 is linear, 0 does not grow. Writes SCALE.md, scale.json and scale.png.
"""  # fmt: skip

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

from benchmarks.commands import ROOT, workplace
from benchmarks.machine import commit, machine
from benchmarks.rows import amount

SIZES: dict[str, tuple[int, ...]] = {
    "images": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "width": (25, 50, 100, 200, 400, 800, 1_600),
    "epochs": (10, 30, 100, 300, 1_000, 3_000, 10_000),
    "trials": (10, 30, 100, 300, 1_000, 3_000, 10_000),
    "runs": (10, 30, 100, 300, 1_000, 3_000, 5_000),
}
LABELS = {
    "images": "training images (5x100 MLP, batch 128, one thread)",
    "width": "neurons a layer (5,000 images, batch 128, one thread)",
    "epochs": "epochs logged to one run (sqlite)",
    "trials": "trials in a study (sqlite, TPE)",
    "runs": "runs in the store (sqlite)",
}
LINEAR = 1.15  # above this, growth is called worse than linear
WHY = {
    "width": "A layer's weights and products grow with the square of its width.",
    "trials": "TPE looks at every earlier trial and sorts them.",
}
Points = dict[int, dict[str, float]]


def measure(kind: str, sizes: tuple[int, ...]) -> Points:
    """Return what each size cost."""
    found: Points = {}
    for size in sizes:
        with workplace() as place:
            done = place.python("-m", "benchmarks.scale_points", kind, str(size))
        found[size] = json.loads(done.output.splitlines()[-1])
        print(f"{kind} {size}: {found[size]}", flush=True)
    return found


def exponent(points: Mapping[int, Mapping[str, float]], name: str) -> float:
    """Return the slope of log(value) over log(size), fitted to the larger half of the sizes (at least two)."""
    sizes = sorted(points)[-max(2, (len(points) + 1) // 2) :]
    values = [max(points[size][name], 1e-9) for size in sizes]
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def table(results: Mapping[str, Points]) -> str:
    """Return smallest and largest values with their exponents, and a sentence where growth is worse than linear."""
    lines = ["| against | what | smallest | largest | exponent |", "|---|---|---|---|---|"]
    worse = []
    for kind, points in results.items():
        sizes = sorted(points)
        for name in points[sizes[0]]:
            slope = exponent(points, name)
            ends = [f"{amount(points[size][name])} at {size:,}" for size in (sizes[0], sizes[-1])]
            lines.append(f"| {LABELS[kind]} | {name} | {ends[0]} | {ends[1]} | {slope:.2f} |")
            if slope > LINEAR:
                worse.append(
                    f"- {name} grows worse than linearly with {kind} (exponent {slope:.2f}). {WHY.get(kind, '')}"
                )
    return "\n".join([*lines, "", *(worse or ["Nothing grows worse than linearly."])])


def draw(results: Mapping[str, Points]) -> Figure:
    """Return one column a kind: seconds above, memory below, both axes logarithmic."""
    figure = Figure(figsize=(3.1 * len(results) + 0.6, 6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False, sharex="col")
    for column, (kind, points) in enumerate(results.items()):
        sizes = sorted(points)
        for name in points[sizes[0]]:
            axis = axes[int(name.endswith("_mb")), column]
            label = f"{name.removesuffix('_seconds')}, exponent {exponent(points, name):.2f}"
            axis.plot(sizes, [points[size][name] for size in sizes], marker="o", markersize=3, label=label)
        for axis, unit in zip(axes[:, column], ("seconds", "peak MB"), strict=True):
            axis.set(xscale="log", yscale="log", ylabel=unit if column == 0 else "")
            if unit != "seconds":
                axis.set_ylim(100, 20_000)
            axis.legend(fontsize=7, frameon=False)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(LABELS[kind].replace(" (", "\n("), fontsize=8)
    return figure


@click.command()
@click.option("--only", type=click.Choice(list(SIZES)), multiple=True, help="these alone; the others stay as they are")
@click.option("--points", type=click.IntRange(2), default=7, show_default=True, help="the smallest so many sizes")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), default=ROOT / "benchmarks")
def main(only: tuple[str, ...], points: int, folder: Path) -> None:
    """Measure every scale, and write the table and the figure."""
    record = folder / "scale.json"
    kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    results = {kind: {int(size): value for size, value in found.items()} for kind, found in kept.items()}
    for kind in only or SIZES:
        results[kind] = measure(kind, SIZES[kind][:points])
        record.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ordered = {kind: results[kind] for kind in SIZES if kind in results}
    head = (
        "# How costs grow\n\nMade by `make bench-scale`: every point is a process of its own with a store of its own.\n"
        "The exponent is the slope of the logarithms over the larger half of the sizes: 1 is linear.\n\n"
        f"Machine: {machine()}. Commit {commit(ROOT)}.\n\n![Seconds and memory against size](scale.png)\n"
    )
    (folder / "SCALE.md").write_text(f"{head}\n{table(ordered)}\n", encoding="utf-8")
    draw(ordered).savefig(folder / "scale.png", dpi=110)


if __name__ == "__main__":
    main()
