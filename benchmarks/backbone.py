"""Networks from a library: frozen on photos, fine-tuned, and a study of frozen arms.

    python -m benchmarks.backbone [--rounds 7]

Images are noise with a faint pattern per class, and ResNet-18 has random weights, which does not change the times.
PyTorch's default number of threads.

- Frozen ResNet-18 on 400 photos of 224 pixels, 25 epochs of head training: features once, then the head, against the
  usual tutorial loop, which runs the whole network in every epoch (two epochs are timed and extrapolated).
- ResNet-18 fine-tuned at 64 pixels, per epoch, against a plain PyTorch loop with channels-last, fused Adam and the same
  precision.
- 9 cuts x 3 numbers of labels x 3 seeds of solved heads on pooled features of the published CIFAR ResNet-20 in the
  folder $PIPELINE_PRETRAINED_DIR: the pass, and the mean time of an arm. Left out without it.
"""  # fmt: skip

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.alone import run_alone
from benchmarks.harness import alternate, project_arm
from benchmarks.rows import Options, Row
from pipeline.data.examples import Examples
from pipeline.data.identity import content_ids
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.records import Images
from pipeline.networks.convolutions import bfloat16_is_faster
from pipeline.networks.graph.network import GraphNetwork
from pipeline.networks.origins.load import ModelRequest, load_model
from pipeline.networks.origins.own_code import own_source
from pipeline.networks.reuse import Reuse, reuse_network, target_architecture
from pipeline.runtime import generator, has_bfloat16
from pipeline.training.cut_features import compute_cut_features
from pipeline.training.head_fit import fit_head
from pipeline.training.inputs import model_inputs
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled

CLASSES = tuple("0123")
PRETRAINED = "PIPELINE_PRETRAINED_DIR"
EPOCHS, TUTORIAL_EPOCHS, BATCH = 25, 2, 32
LABELS, SEEDS, ARM_GOAL = (10, 50, 250), 3, 0.5
FROZEN_TARGET, TUNED_TARGET = 1 / 15, 1.05


def load_network(side: int, model: str = "torchvision:resnet18", weights: str = "none") -> GraphNetwork:
    """Return a network, by default with random weights."""
    preprocessing = Preprocessing(size=(side, side), channels=3, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    classes = CLASSES if weights == "none" else None
    request = ModelRequest(model, weights=weights, classes=classes, preprocessing=preprocessing)
    return load_model(request, generator(0, "weights")).network


def photos(count: int, side: int, seed: int = 0) -> Examples:
    """Return images of noise with a faint pattern per class, and balanced labels."""
    noise = torch.randint(0, 200, (count, 3, side, side), generator=generator(seed, "photos"))
    patterns = torch.randint(0, 40, (len(CLASSES), 3, side, side), generator=generator(0, "patterns"))
    labels = torch.arange(count) % len(CLASSES)
    pixels = (noise + patterns[labels]).to(torch.uint8)
    return Examples(Images(pixels, labels, content_ids(pixels)), torch.arange(count), labels)


def settings(epochs: int, dtype: torch.dtype = torch.float32) -> FitSettings:
    """Return Adam for a number of epochs, without EMA."""
    return FitSettings(epochs, epochs, BATCH, 1e-3, 1e-4, seed=0, train_dtype=dtype)


def head_on_features(base: GraphNetwork, examples: Examples, folder: Path) -> None:
    """Compute features once, and train a head on them."""
    cut = len(base.blocks)
    reuse = Reuse(cut, cut, cut)
    architecture = target_architecture(base.architecture, tuple("abcd"), cut)
    network, _ = reuse_network(architecture, base, reuse, generator=generator(0, "head"))
    features = compute_cut_features(base, [cut], [examples], path=folder / "cuts.safetensors").at(cut)
    inputs = model_inputs(network, examples, features)
    list(Fit(network, inputs, inputs, settings=settings(EPOCHS), start=cut))


def tutorial_loop(base: GraphNetwork, data: Labelled) -> float:
    """Train a head as tutorials do, with the frozen network in every step; return the seconds of all epochs."""
    layers = plain_layers(base, torch.contiguous_format)
    for block in list(layers)[:-1]:
        block.requires_grad_(False)
    optimizer = torch.optim.SGD(layers[-1].parameters(), lr=1e-3, momentum=0.9)
    began = time.perf_counter()
    for _ in range(TUTORIAL_EPOCHS):
        train_plainly(layers, optimizer, data)
    return (time.perf_counter() - began) * EPOCHS / TUTORIAL_EPOCHS


def plain_layers(base: GraphNetwork, memory_format: torch.memory_format) -> nn.Sequential:
    """Return a copy as a plain module."""
    layers = copy.deepcopy(nn.Sequential(*base.blocks, base.head))
    layers.to(memory_format=memory_format)  # type: ignore[call-overload]
    return layers


def train_plainly(
    layers: nn.Module, optimizer: torch.optim.Optimizer, data: Labelled, *, dtype: torch.dtype = torch.float32
) -> None:
    """Train for one epoch."""
    layers.train()
    for indices in torch.randperm(len(data.labels)).split(BATCH):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits: Tensor = layers(data.values[indices])
        cross_entropy(logits.float(), data.labels[indices]).backward()
        optimizer.step()


def measure_frozen(options: Options, folder: Path) -> Row:
    """Time a frozen network with a new head."""
    side, count = (224, 400) if not options.short else (64, 40)
    base, examples = load_network(side), photos(count, side)
    data = Labelled(base.scale(examples.pixels), examples.labels)
    arms: dict[str, Callable[[], object]] = {
        "features": lambda: head_on_features(base, examples, folder),
        "tutorial": lambda: tutorial_loop(base, data),
    }
    timings = alternate(arms, options.few, warm_up=0)
    what = f"frozen ResNet-18, {count} photos of {side} pixels, {EPOCHS} epochs of the head, features included"
    return Row(what, "tutorial loop", timings["features"].seconds, timings["tutorial"].seconds, target=FROZEN_TARGET)


def measure_fine_tuning(options: Options) -> Row:
    """Time an epoch with all blocks trained."""
    base, examples = load_network(64), photos(800 if not options.short else 64, 64)
    dtype = torch.bfloat16 if bfloat16_is_faster(base) and has_bfloat16("cpu") else torch.float32
    data = Labelled(base.scale(examples.pixels), examples.labels)
    layers = plain_layers(base, torch.channels_last)
    channels_last = Labelled(data.values.contiguous(memory_format=torch.channels_last), data.labels)
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    arms: dict[str, Callable[[], object]] = {
        "project": project_arm(base, settings(10**6, dtype), train=data, test=data).epoch,
        "plain": lambda: train_plainly(layers, optimizer, channels_last, dtype=dtype),
    }
    timings = alternate(arms, options.rounds)
    what = f"ResNet-18 fine-tuned, {len(data.labels)} images of 64 pixels, batch {BATCH}, {str(dtype)[6:]}, one epoch"
    peer = "plain loop, channels-last, fused Adam"
    return Row(what, peer, timings["project"].seconds, timings["plain"].seconds, target=TUNED_TARGET)


def measure_study(options: Options, folder: Path) -> Row:
    """Time frozen arms on shared pooled features."""
    published = Path(os.environ[PRETRAINED])
    (weights,) = published.glob("resnet20-*.th")
    base = load_network(32, f"own:{published}/resnet.py:resnet20", str(weights))
    pool = photos(1_000 if not options.short else 100, 32)
    test = photos(1_000 if not options.short else 100, 32, seed=1)
    cuts = range(2, len(base.blocks) + 1)  # nine
    features = compute_cut_features(base, cuts, [pool, test], path=folder / "study.safetensors")
    chosen = list(product(cuts, LABELS, range(SEEDS)))
    heads = {cut: _head(base, cut) for cut in cuts}

    def on_features() -> float:
        began = time.perf_counter()
        for cut, per_class, seed in chosen:
            head, part = heads[cut], _draw(pool, per_class, seed)
            inputs = model_inputs(head, part, features.at(cut))
            fit_head(head, inputs, inputs, start=cut)
            head.logits(model_inputs(head, test, features.at(cut)).values, cut)
        return (time.perf_counter() - began) / len(chosen)

    def on_pixels() -> float:
        began = time.perf_counter()
        head, part = heads[cuts[-1]], _draw(pool, LABELS[1], 0)
        inputs = model_inputs(head, part)
        fit_head(head, inputs, inputs)
        with torch.no_grad():
            head.logits(model_inputs(head, test).values)
        return time.perf_counter() - began

    timings = alternate({"features": on_features, "pixels": on_pixels}, options.few, warm_up=0)
    what = f"arm of a study of {len(chosen)} frozen arms on shared features, mean: solved head and evaluation"
    images = len(features.tensors["ids"])
    note = f"one pass over {images} images at {len(cuts)} cuts: {features.seconds:.2f} s; without logging"
    peer = "one such arm on pixels"
    return Row(what, peer, timings["features"].seconds, timings["pixels"].seconds, goal=ARM_GOAL, note=note)


def _head(base: GraphNetwork, cut: int) -> GraphNetwork:
    architecture = target_architecture(base.architecture, tuple("abcd"), cut)
    source = own_source(f"{os.environ[PRETRAINED]}/resnet.py:resnet20")
    network, _ = reuse_network(architecture, base, Reuse(cut, cut, cut), generator=generator(0, "head"), source=source)
    assert isinstance(network, GraphNetwork), "a network from a library"
    return network


def _draw(pool: Examples, per_class: int, seed: int) -> Examples:
    count = min(len(pool), per_class * len(CLASSES))
    return pool.take(torch.randperm(len(pool), generator=generator(seed, "draw"))[:count].sort().values)


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    with tempfile.TemporaryDirectory() as name:
        rows = [measure_frozen(options, Path(name)), measure_fine_tuning(options)]
        return [*rows, measure_study(options, Path(name))] if PRETRAINED in os.environ else rows


if __name__ == "__main__":
    run_alone(measure)
