"""Published families through every step: import, cuts, features, one epoch, export, serving, reloading.

Weights are drawn anew so that logits have a standard deviation near 1: some libraries initialize them to exactly 0,
and comparisons of zeros always pass.
"""

from __future__ import annotations

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from pipeline.data.examples import Examples, select_examples
from pipeline.data.sources.registry import load_dataset
from pipeline.networks.layered import LayeredNetwork, normalization
from pipeline.networks.origins.load import model_source
from pipeline.networks.reuse import Reuse, reuse_network, target_architecture
from pipeline.params import ImportBaseParams, TransferParams
from pipeline.runtime import generator
from pipeline.stages.import_base import import_base
from pipeline.stages.transfer import transfer
from pipeline.tracking.base_model import load_base
from pipeline.training.features import compute_features
from tests.networks import randomize
from tests.photos import write_photos

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]

TOLERANCE = 1e-5  # of the largest logit
CLASSES = ("ants", "bees", "flies")
NETWORKS = [  # model, smallest side of the images
    ("torchvision:resnet18", 32),
    ("torchvision:mobilenet_v3_small", 32),
    ("torchvision:efficientnet_b0", 32),
    ("torchvision:convnext_tiny", 32),
    ("torchvision:vit_b_16", 224),
    ("torchvision:swin_t", 32),
    ("torchvision:densenet121", 32),
    ("torchvision:squeezenet1_1", 32),
    ("timm:resnet10t", 32),
    ("timm:vit_tiny_patch16_224", 224),
    ("timm:convnext_atto", 32),
]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def scaled(network: LayeredNetwork, pixels: Tensor) -> Tensor:
    """Return normalized pixels, computed apart from the network."""
    factor, offset = normalization(network.architecture.preprocessing)
    assert factor is not None and offset is not None
    return pixels.float() * factor + offset


def published(model: str, side: int, path: Path) -> nn.Module:
    """Return the library's network with weights that say something, which are in a file."""
    module = model_source(model).build(len(CLASSES))
    randomize(module, torch.randn(5, 3, side, side, generator=torch.Generator().manual_seed(0)))
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return module.eval()


@pytest.mark.parametrize(("model", "side"), NETWORKS)
def test_library_network_keeps_its_logits_through_every_step(
    store: MlflowClient, tmp_path: Path, model: str, side: int
) -> None:
    module = published(model, side, tmp_path / "w.safetensors")
    given = {"model": model, "weights": str(tmp_path / "w.safetensors"), "image_size": str(side)}
    imported = import_base(ImportBaseParams(**given, classes=",".join(CLASSES)))
    network = load_base(store, imported.run_id).network
    dataset = load_dataset(
        write_photos(tmp_path / "p", ("x", "y"), 12), "data", geometry=network.architecture.preprocessing.geometry
    )
    images = select_examples(dataset.train, (0, 1), dataset)
    served = mlflow.pyfunc.load_model(imported.model_uri)
    with torch.no_grad():
        for count in (1, 5):
            pixels = images.gather(torch.arange(count))
            logits = module(scaled(network, pixels))
            assert_close(network(pixels), logits)
            predicted = torch.from_numpy(np.asarray(served.predict(pixels.float().numpy())))
            assert_close(predicted, torch.softmax(logits, 1))
        assert float(logits.std()) > 0.1
    for depth in cuts(network):
        assert_cached_equals_uncached(network, depth, images)
    assert_trained_model_is_served(store, imported.model_uri, dataset.name, images)


def cuts(network: LayeredNetwork) -> list[int]:
    """Return three depths: one block, half of them, all of them."""
    depth = len(network.blocks)
    return [1, (depth + 1) // 2, depth]


def assert_cached_equals_uncached(base: LayeredNetwork, depth: int, images: Examples) -> None:
    architecture = target_architecture(base.architecture, ("x", "y"), depth)
    network, report = reuse_network(architecture, base, Reuse(depth, depth, depth), generator=generator(0, "w"))
    assert {name.partition(".")[0] for name in report.fresh} == {"head"}
    features = compute_features(network, depth, images)
    network.eval()
    with torch.no_grad():
        assert_close(network.logits(features.values, depth), network(images.pixels))
        assert_close(network.run_blocks(network.scale(images.pixels), 0, depth), features.values)


def assert_trained_model_is_served(store: MlflowClient, base: str, dataset: str, images: Examples) -> None:
    """Train the upper half for one epoch, and compare the served model with the reloaded one."""
    depth = len(load_base(store, base).network.blocks)
    reuse = {"reuse_layers": depth, "unfreeze": depth // 2}
    few = {"per_class": 6, "val_per_class": 2, "epochs": 1, "batch_size": 6}
    result = transfer(TransferParams(base=base, dataset=dataset, **reuse, **few))
    network = load_base(store, result.run_id).network
    served = mlflow.pyfunc.load_model(result.model_uri)
    with torch.no_grad():
        for count in (1, 5):
            pixels = images.gather(torch.arange(count))
            expected = torch.softmax(network(pixels), 1)
            assert_close(torch.from_numpy(np.asarray(served.predict(pixels.float().numpy()))), expected)
