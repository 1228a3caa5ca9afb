"""`make bench-scale`: growth of time and memory with images, stored images, width, logged epochs, trials and runs.

    python -m benchmarks.scale [--only KIND] [--points 3]

Each point runs in its own process with its own store. The exponent is the log-log slope over the larger half of the
sizes: 1 is linear, 0 is constant. Writes SCALE.md, scale.json and scale.png.
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
    "stored": (60_000, 1_000_000),
    "width": (25, 50, 100, 200, 400, 800, 1_600),
    "epochs": (10, 30, 100, 300, 1_000, 3_000, 10_000),
    "trials": (10, 30, 100, 300, 1_000, 3_000, 10_000),
    "runs": (10, 30, 100, 300, 1_000, 3_000, 5_000),
}
LABELS = {
    "images": "training images (5x100 MLP, batch 128, one thread)",
    "stored": "stored 32x32 RGB images (default CNN, crop_flip, one epoch and its evaluation, one thread)",
    "width": "neurons per layer (5,000 images, batch 128, one thread)",
    "epochs": "epochs in one run (sqlite)",
    "trials": "trials in a study (sqlite, TPE)",
    "runs": "runs in the store (sqlite)",
}
LINEAR = 1.15  # exponents above count as superlinear
WHY = {
    "width": "A layer's weights and MACs grow with the square of its width.",
    "trials": "TPE sorts all earlier trials.",
}
Points = dict[int, dict[str, float]]


def measure(kind: str, sizes: tuple[int, ...]) -> Points:
    """Return the measurements of each size."""
    points: Points = {}
    for size in sizes:
        with workplace() as place:
            result = place.python("-m", "benchmarks.scale_points", kind, str(size))
        points[size] = json.loads(result.output.splitlines()[-1])
        print(f"{kind} {size}: {points[size]}", flush=True)
    return points


def exponent(points: Mapping[int, Mapping[str, float]], name: str) -> float:
    """Return the log-log slope, fitted to the larger half of the sizes (at least two)."""
    sizes = sorted(points)[-max(2, (len(points) + 1) // 2) :]
    values = [max(points[size][name], 1e-9) for size in sizes]
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def table(results: Mapping[str, Points]) -> str:
    """Return the values at the smallest and largest size with their exponents, and list superlinear growth."""
    lines = ["| size | measured | smallest | largest | exponent |", "|---|---|---|---|---|"]
    superlinear = []
    for kind, points in results.items():
        sizes = sorted(points)
        for name in points[sizes[0]]:
            slope = exponent(points, name)
            ends = [f"{amount(points[size][name])} at {size:,}" for size in (sizes[0], sizes[-1])]
            lines.append(f"| {LABELS[kind]} | {name} | {ends[0]} | {ends[1]} | {slope:.2f} |")
            if slope > LINEAR:
                reason = WHY.get(kind, "")
                superlinear.append(f"- {name} grows superlinearly with {kind} (exponent {slope:.2f}). {reason}")
    return "\n".join([*lines, "", *(superlinear or ["Nothing grows superlinearly."])])


def draw(results: Mapping[str, Points]) -> Figure:
    """Return one column per size: seconds above, memory below, on log-log axes."""
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
@click.option(
    "--only", type=click.Choice(list(SIZES)), multiple=True, help="Measure only these; keep the other results."
)
@click.option(
    "--points",
    type=click.IntRange(2),
    default=7,
    show_default=True,
    help="Number of sizes, starting with the smallest.",
)
@click.option("--folder", type=click.Path(path_type=Path, exists=True), default=ROOT / "benchmarks")
def main(only: tuple[str, ...], points: int, folder: Path) -> None:
    """Measure, and write the table and the figure."""
    record = folder / "scale.json"
    stored = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    results = {kind: {int(size): value for size, value in points.items()} for kind, points in stored.items()}
    for kind in only or SIZES:
        results[kind] = measure(kind, SIZES[kind][:points])
        record.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ordered = {kind: results[kind] for kind in SIZES if kind in results}
    head = (
        "# Scaling\n\nGenerated by `make bench-scale`. Each point runs in its own process with its own store.\n"
        "The exponent is the log-log slope over the larger half of the sizes: 1 is linear.\n\n"
        f"Machine: {machine()}. Commit {commit(ROOT)}.\n\n![Seconds and memory against size](scale.png)\n"
    )
    (folder / "SCALE.md").write_text(f"{head}\n{table(ordered)}\n", encoding="utf-8")
    draw(ordered).savefig(folder / "scale.png", dpi=110)


if __name__ == "__main__":
    main()
