"""The model card: a description of a trained model in Markdown, stored beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.splits import Split
from pipeline.networks.layered import LayeredNetwork
from pipeline.stages.class_table import class_rows
from pipeline.training.evaluate import Evaluation

MAX_LISTED_CLASSES = 100
QUANTILE = 1.959963984540054  # of the normal distribution, at 0.975


def model_card(
    network: LayeredNetwork, split: Split, test: Evaluation, *, stage: str, converged: str, lineage: Mapping[str, str]
) -> str:
    """Return the card of a model.

    Args:
        network: The trained network.
        split: What it was trained, validated and tested on.
        test: Its evaluation on the test images.
        stage: The entry point that trained it.
        converged: `yes`, or `no: ` and the reason.
        lineage: Run, base and the like, by name; empty values are left out.
    """
    architecture = network.architecture
    rows = class_rows(split)
    table = [f"| {number} | {name} | {train} | {val} | {tests} |" for number, name, train, val, tests in rows]
    listed = table[:MAX_LISTED_CLASSES] + ([f"({len(table)} classes)"] if len(table) > MAX_LISTED_CLASSES else [])
    return "\n".join(
        [
            f"# {architecture.family} for {split.dataset}, {len(rows)} classes",
            "",
            f"Trained by `{stage}`. Test accuracy {describe_accuracy(test)}.",
            "",
            "| output | class | training | validation | test images |",
            "|---|---|---|---|---|",
            *listed,
            "",
            "## Input",
            "",
            describe_input(architecture.preprocessing),
            "",
            "A step of a plan logs its model without a servable graph; "
            f"`python -m pipeline export --model {lineage['run']}` adds it.",
            "",
            "## Output",
            "",
            "Softmax probabilities in the order of the table. They are not calibrated.",
            "",
            "## Limits",
            "",
            *(f"- {line}" for line in limits(split, converged)),
            "",
            "## Lineage",
            "",
            *(f"- {name}: {value}" for name, value in lineage.items() if value),
            "",
        ]
    )


def describe_accuracy(test: Evaluation) -> str:
    """Return the accuracy with the 95 % interval over test images (Wilson score interval).

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference. `scipy.stats` has it, but
    its import takes as long as a quarter of those of torch.
    """
    count, correct = int(test.confusion_KK.sum()), int(test.confusion_KK.diagonal().sum())
    share, spread = correct / count, QUANTILE**2 / count
    center = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    low, high = 100 * (center - half), 100 * (center + half)
    return f"{100 * correct / count:.2f} % (95 % CI over {count} test images {low:.2f} to {high:.2f} %; one seed)"


def describe_input(preprocessing: Preprocessing) -> str:
    """Return what to send to the served model."""
    channels, height, width = preprocessing.image_shape
    color = "gray" if channels == 1 else "RGB"
    how = f"`resize={preprocessing.resize}`, crop ratio {preprocessing.crop_ratio:g}, {preprocessing.interpolation}"
    return (
        f"float32 (N, {channels}, {height}, {width}): {color} pixels in [0, 255], not normalized: the "
        f"graph normalizes. Images of other sizes are resized first ({how}); `python -m pipeline predict` does so."
    )


def limits(split: Split, converged: str) -> list[str]:
    """Return what a user of the model should know."""
    lines = [
        f"It has no other classes than these {len(split.classes)}: any other image gets one of them, often with "
        "a high probability.",
        "Its accuracy holds for images like those of the test split only.",
    ]
    if converged != "yes":
        lines.append(f"Training did not converge ({converged.removeprefix('no: ')}).")
    if split.excluded:
        lines.append(f"{split.excluded} test images were left out, because the base was trained on them.")
    return lines
