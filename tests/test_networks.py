"""Networks: layers, initialization, freezing, architecture JSON."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.networks.build import architecture_from_json, build_network, weights_digest
from pipeline.networks.layered import (
    Classifier,
    CNNArchitecture,
    ConvolutionLayer,
    LayeredNetwork,
    MLPArchitecture,
)
from pipeline.runtime import generator
from tests.conftest import preprocessing

IMAGE = (1, 28, 28)


def mlp(**changes: object) -> LayeredNetwork:
    values = {"preprocessing": preprocessing(), "classes": ("a", "b", "c"), "hidden_layers": 3, "width": 8, **changes}
    return build_network(MLPArchitecture.model_validate(values), generator(0, "weights"))


def cnn(**changes: object) -> LayeredNetwork:
    layers = (ConvolutionLayer(channels=4, kernel=5, stride=2), ConvolutionLayer(channels=6, kernel=3, pool=True))
    values = {
        "preprocessing": preprocessing(),
        "classes": ("a", "b", "c"),
        "convolutions": layers,
        "dense_width": 8,
        **changes,
    }
    return build_network(CNNArchitecture.model_validate(values), generator(0, "weights"))


def written(size: list[int] | None = None, **changes: object) -> str:
    """An architecture file."""
    record = {"size": size or [28, 28], "channels": 1}
    values = {"version": 2, "family": "mlp", "preprocessing": record, "classes": ["a", "b"], **changes}
    return json.dumps(values)


def test_mlp_has_requested_layers() -> None:
    shapes = [tuple(parameter.shape) for parameter in mlp().parameters()]
    assert shapes == [(8, 784), (8,), (8, 8), (8,), (8, 8), (8,), (3, 8), (3,)]


def test_xavier_initialization_has_published_range() -> None:
    """Source: Glorot and Bengio 2010: uniform in +-sqrt(6 / (in + out))."""
    weight = mlp(width=100).blocks[0][1].weight.detach()
    limit = (6 / 884) ** 0.5
    assert 0.98 * limit < float(weight.abs().max()) <= limit


def test_every_block_has_batch_norm_and_dropout() -> None:
    kinds = [[type(part).__name__ for part in block] for block in mlp(batch_norm=True, dropout=0.5).blocks]
    assert kinds[0] == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert kinds[1] == kinds[2] == kinds[0][1:]


@pytest.mark.parametrize("network", [mlp(batch_norm=True, dropout=0.3), cnn()])
def test_architecture_json_round_trip(network: LayeredNetwork) -> None:
    assert architecture_from_json(network.architecture.model_dump_json()) == network.architecture


@given(
    hidden_layers=st.integers(1, 100), width=st.integers(1, 200), batch_norm=st.booleans(), dropout=st.floats(0, 0.99)
)
def test_any_mlp_architecture_json_round_trip(hidden_layers: int, width: int, batch_norm: bool, dropout: float) -> None:
    architecture = MLPArchitecture(
        preprocessing=preprocessing(), classes=("3", "7"), hidden_layers=hidden_layers, width=width, batch_norm=batch_norm,
        dropout=dropout,
    )  # fmt: skip
    assert architecture_from_json(architecture.model_dump_json()) == architecture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid JSON"),
        ('{"family": "transformer"}', "does not match any of the expected tags"),
        (written(width=1000000000), "width"),
        (written(size=[16384, 16384], width=16384), "exceed the limit"),
        (written(code="x"), "Extra inputs"),
        (written(family="cnn", size=[3, 3], convolutions=[{"channels": 1, "kernel": 5}]), "too small"),
        (written(version=1), "version"),
        (written(classes=["a", "a"]), "duplicate class"),
        (written(classes=["a", "b\n"]), "unprintable"),
        (written(classes=["a", "b" * 256]), "classes.1"),
        (written().replace('"version": 2, ', ""), "version: Field required"),
    ],
)
def test_invalid_architecture_is_rejected_before_allocation(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architecture_from_json(text)


@given(st.text(max_size=80))
def test_random_text_is_rejected_as_architecture(text: str) -> None:
    with pytest.raises(ValueError, match="invalid architecture"):
        architecture_from_json(text)


@pytest.mark.parametrize("network", [mlp(), cnn()])
def test_split_forward_pass_equals_full_forward_pass(network: LayeredNetwork) -> None:
    network.eval()
    pixels = torch.randint(0, 256, (5, *IMAGE), generator=generator(0, "pixels")).to(torch.uint8)
    whole = network(pixels)
    for cut in range(len(network.blocks) + 1):
        values = network.run_blocks(network.scale(pixels), 0, cut)
        assert torch.allclose(network.logits(values, cut), whole, atol=1e-6)


def test_frozen_blocks_stay_in_eval_mode_without_gradients() -> None:
    network = mlp(batch_norm=True, dropout=0.5)
    network.freeze(2)
    network.train()
    assert [block.training for block in network.blocks] == [False, False, True]
    assert all(not p.requires_grad for block in network.blocks[:2] for p in block.parameters())
    network.freeze(0)
    assert all(block.training for block in network.blocks) and all(p.requires_grad for p in network.parameters())


def test_served_model_maps_raw_pixels_to_probabilities() -> None:
    network = mlp().eval()
    pixels = torch.full((2, *IMAGE), 255.0)
    expected = torch.softmax(network.logits(torch.ones(2, *IMAGE)), 1)
    assert torch.allclose(Classifier(network)(pixels), expected)


def test_weights_digest_depends_on_names_dtypes_and_bits() -> None:
    weights = mlp().state_dict()
    digests = {weights_digest(weights)}
    digests.add(weights_digest({f"x{name}": value for name, value in weights.items()}))
    digests.add(weights_digest({name: value.double() for name, value in weights.items()}))
    changed = {name: value.clone() for name, value in weights.items()}
    changed["head.bias"][0] = torch.nextafter(changed["head.bias"][0], torch.tensor(1.0))
    digests.add(weights_digest(changed))
    assert len(digests) == 4
    assert weights_digest(mlp().state_dict()) == weights_digest(weights)
