"""Compares rules that select the epoch with few labels: `python -m tools.selection_rules [SEEDS]` prints a table.

MNIST, digits 0-4 to 5-9: all five layers of a base MLP are copied and fine-tuned with 20 labels per class and 150
validation images. Seed s draws the labels, initializes the head, orders the batches and trains base s. Each rule is
judged on 5,000 training images that no seed trains, validates or tests on. The table in docs/defaults.md comes from
here (30 seeds, one thread, some ten minutes).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from pipeline.data.examples import Examples, training_examples
from pipeline.data.records import Dataset
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import LabelSample, Split, split_for_base, split_for_target
from pipeline.networks.build import build_network
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.reuse import Reuse, reuse_network, target_architecture
from pipeline.params import TrainBaseParams
from pipeline.params.target import TARGET_BUDGETS
from pipeline.runtime import generator
from pipeline.stages.fit_settings import requested_architecture
from pipeline.statistics.estimates import estimate, sign_flip_p
from pipeline.statistics.family import adjust_family
from pipeline.training.evaluate import evaluate
from pipeline.training.inputs import model_inputs
from pipeline.training.loop import Fit
from pipeline.training.records import EpochRecord, FitSettings

BASE_CLASSES, TARGET_CLASSES = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
JUDGED = 5000
PATIENCE = TARGET_BUDGETS["few"]["patience"]
SMOOTHED = 10  # epochs
EMA = 0.998
BUDGET = FitSettings(**TARGET_BUDGETS["few"], seed=0, weight_averaging=EMA)
BASE_BUDGET = FitSettings(
    epochs=40, patience=6, batch_size=128, learning_rate=0.001, weight_decay=1e-4, seed=0, weight_averaging=EMA
)
DECAYING = (100, 200, 400)  # epochs of a fit whose learning rate decays to 0
REFERENCE = "validation loss"

Criterion = Callable[[Sequence[EpochRecord], int], tuple[float, ...]]  # history, position -> smaller is better


@dataclass(frozen=True)
class Selected:
    """What a rule selects: its accuracy on the judged images, the epoch, and how many epochs that took."""

    accuracy: float
    epoch: int
    epochs: int


def by_loss(history: Sequence[EpochRecord], at: int) -> tuple[float, ...]:
    """Lowest validation loss."""
    return (history[at].val_loss,)


def by_accuracy(history: Sequence[EpochRecord], at: int) -> tuple[float, ...]:
    """Highest validation accuracy; of equal ones, the lowest loss."""
    return -history[at].val_accuracy, history[at].val_loss


def by_smoothed_loss(history: Sequence[EpochRecord], at: int) -> tuple[float, ...]:
    """Lowest mean validation loss of the last ten epochs."""
    window = history[max(0, at + 1 - SMOOTHED) : at + 1]
    return (sum(record.val_loss for record in window) / len(window),)


STOPPING: dict[str, Criterion] = {
    REFERENCE: by_loss,
    "validation accuracy, ties by loss": by_accuracy,
    f"validation loss, mean of {SMOOTHED} epochs": by_smoothed_loss,
}


def select(history: Sequence[EpochRecord], criterion: Criterion) -> tuple[int, int]:
    """Return the position of the selected epoch, and the number of epochs until early stopping."""
    best = 0
    for at in range(1, len(history)):
        if criterion(history, at) < criterion(history, best):
            best = at
        if at - best >= PATIENCE:
            return best, at + 1
    return best, len(history)


def samples(dataset: Dataset, seeds: int) -> tuple[list[Split], Examples]:
    """Return the label sample of each seed, and the images that rules are judged on."""
    sample = LabelSample(per_class=20, val_per_class="auto", val_fraction=0.1, seed=0)
    splits = [split_for_target(dataset, TARGET_CLASSES, replace(sample, seed=seed)) for seed in range(seeds)]
    used = torch.cat([part.ids for split in splits for part in (split.train, split.validation)]).unique()
    unused = training_examples(dataset, TARGET_CLASSES).without(used)
    chosen = torch.randperm(len(unused), generator=generator(0, "judged"))[:JUDGED].sort().values
    return splits, unused.take(chosen)


def train_base(dataset: Dataset, seed: int) -> LayeredNetwork:
    """Return a base MLP for digits 0-4."""
    split = split_for_base(dataset, BASE_CLASSES, val_fraction=0.1, seed=seed)
    network = build_network(requested_architecture(TrainBaseParams(), split), generator(seed, "weights"))
    train, validation = (model_inputs(network, part) for part in (split.train, split.validation))
    for _ in Fit(network, train, validation, settings=replace(BASE_BUDGET, seed=seed)):
        pass
    return network


def compare_rules(base: LayeredNetwork, split: Split, judged: Examples, *, seed: int) -> dict[str, Selected]:
    """Return what each rule selects with one seed."""

    def new_fit(**budget: object) -> Fit:
        architecture = target_architecture(base.architecture, split.class_names, 5)
        network, _ = reuse_network(architecture, base, Reuse(5, 0, 5), generator=generator(seed, "weights"))
        train, validation = (model_inputs(network, part) for part in (split.train, split.validation))
        return Fit(network, train, validation, settings=replace(BUDGET, seed=seed, **budget), copied=5)  # type: ignore[arg-type]

    def accuracy(network: LayeredNetwork) -> float:
        return 100 * evaluate(network, model_inputs(network, judged), probabilities=False).accuracy

    fit, curve = new_fit(patience=BUDGET.epochs), []
    for _ in fit:
        curve.append(accuracy(fit.scored))
    result = {}
    for rule, criterion in STOPPING.items():
        best, epochs = select(fit.history, criterion)
        result[rule] = Selected(curve[best], best + 1, epochs)
    result["last epoch, constant rate"] = Selected(curve[-1], len(curve), len(curve))
    for epochs in DECAYING:
        fit = new_fit(epochs=epochs, patience=epochs, schedule="cosine")
        last = 0.0
        for record in fit:
            if record.epoch == epochs:
                last = accuracy(fit.scored)
        result[f"last epoch, rate decays over {epochs}"] = Selected(last, epochs, epochs)
    return result


def table(results: Sequence[dict[str, Selected]]) -> str:
    """Return a Markdown table of accuracy, paired difference from the reference, and epochs."""
    scores = {rule: np.array([one[rule].accuracy for one in results]) for rule in results[0]}
    others = [rule for rule in scores if rule != REFERENCE]
    p_values = np.array([[stats.ttest_rel(scores[rule], scores[REFERENCE]).pvalue] for rule in others])
    adjusted = dict(zip(others, adjust_family(p_values)[:, 0], strict=True))
    lines = [
        "| rule | accuracy % | worst seed % | Δ (pp) | p (Holm) | sign-flip p | epoch | epochs trained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule, values in scores.items():
        mean, gains = estimate(values), values - scores[REFERENCE]
        gain, compared = estimate(gains), ["", "", ""]
        if rule != REFERENCE:
            size = f"{gain.mean:+.2f} ± {gain.upper - gain.mean:.2f}"
            compared = [size, *(f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (adjusted[rule], sign_flip_p(gains)))]
        epoch, epochs = (np.median([getattr(one[rule], name) for one in results]) for name in ("epoch", "epochs"))
        score = f"{mean.mean:.2f} ± {mean.upper - mean.mean:.2f}"
        lines.append(
            f"| {' | '.join([rule, score, f'{values.min():.2f}', *compared, f'{epoch:.0f}', f'{epochs:.0f}'])} |"
        )
    return "\n".join(lines)


def main(seeds: int) -> None:
    """Print the table for seeds 0 to `seeds` - 1."""
    torch.set_num_threads(1)
    dataset = load_dataset("mnist", os.environ.get("PIPELINE_DATA_DIR", str(Path("data"))))
    splits, judged = samples(dataset, seeds)
    results = []
    for seed, split in enumerate(splits):
        results.append(compare_rules(train_base(dataset, seed), split, judged, seed=seed))
        print(
            f"seed {seed}: { ({rule: round(one.accuracy, 2) for rule, one in results[-1].items()}) }", file=sys.stderr
        )
    print(table(results))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
