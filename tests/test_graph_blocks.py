"""Blocks of any network: found in its graph, composed to the original, rebuilt from a record."""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.cli import cli
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserInputError
from pipeline.networks.build import architecture_from_json, build_network
from pipeline.networks.convolutions import bfloat16_is_faster
from pipeline.networks.graph.assemble import segment_module
from pipeline.networks.graph.naming import resolve_block, resolve_blocks
from pipeline.networks.graph.network import Origin, build_from_module, describe, divide
from pipeline.networks.graph.pooling import build_pooling
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.graph.trace import UntraceableError
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.macs import forward_macs
from pipeline.networks.origins.load import LoadedModel, ModelRequest, load_model, model_source
from pipeline.networks.origins.source import MAX_GRAPH_PARAMETERS, build_on_meta
from pipeline.networks.reuse import Reuse, reuse_network, target_architecture
from pipeline.runtime import generator
from pipeline.tracking import names
from pipeline.tracking.model_import import rebuild
from tests.networks import SmallResNet, randomize

TOLERANCE = 1e-5  # of the largest logit
LIBRARY_NETWORKS = [  # model, side of the images, blocks
    ("torchvision:resnet18", 64, 9),
    ("torchvision:mobilenet_v3_small", 64, 27),
    ("torchvision:efficientnet_b0", 64, 38),
    ("torchvision:convnext_tiny", 64, 22),
    ("torchvision:swin_t", 64, 28),
    ("torchvision:densenet121", 64, 8),
    ("torchvision:squeezenet1_1", 64, 17),
    ("torchvision:googlenet", 64, 12),
    ("timm:resnet10t", 64, 7),
    ("timm:vit_tiny_patch16_224", 224, 25),
    ("timm:convnext_atto", 64, 16),
    pytest.param("torchvision:vit_b_16", 224, 25, marks=pytest.mark.slow),
    pytest.param("torchvision:maxvit_t", 224, 58, marks=pytest.mark.slow),
    pytest.param("torchvision:inception_v3", 160, 16, marks=pytest.mark.slow),
    pytest.param("torchvision:regnet_y_400mf", 64, 17, marks=pytest.mark.slow),
    pytest.param("torchvision:shufflenet_v2_x0_5", 64, 18, marks=pytest.mark.slow),
    pytest.param("timm:swin_tiny_patch4_window7_224", 224, 16, marks=pytest.mark.slow),
    pytest.param("timm:beit_base_patch16_224", 224, 25, marks=pytest.mark.slow),
]  # fmt: skip


def images(side: int, count: int = 5, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )


def compose(module: nn.Module, side: int = 8, channels: int = 3) -> tuple[nn.ModuleList, list[tuple[str, ...]]]:
    """Return the blocks and the head of a network, and the names of their parameters."""
    divided = divide(module, (channels, side, side))
    parts = [segment_module(divided.traced, part) for part in divided.parts]
    return nn.ModuleList(parts), [*(block.parameters for block in divided.blocks), divided.head_parameters]


def run(parts: nn.ModuleList, values: Tensor) -> Tensor:
    for part in parts:
        values = part(values)
    return values


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize(("model", "side", "count"), LIBRARY_NETWORKS)
def test_library_network_composes_to_the_original(model: str, side: int, count: int) -> None:
    source = model_source(model)
    module = source.build(10)
    pixels = images(side)
    loaded = load_model(
        ModelRequest(model, classes=tuple("0123456789"), image_size=(side, side)), generator(0, "weights")
    )
    network, record = loaded.network, loaded.network.architecture
    randomize(module, network.scale(pixels))
    load_original_weights(network, module)
    network.eval()
    assert len(network.blocks) == count
    with torch.no_grad():
        for batch in (pixels, pixels[:1]):
            expected = module(network.scale(batch))
            assert_close(network(batch), expected)
        assert 0.5 < float(module(network.scale(pixels)).std()) < 2
    used = [name for block in record.blocks for name in block.parameters] + list(record.head_parameters)
    assert sorted(used) == sorted(name for name, _ in module.named_parameters())


def load_original_weights(network: LayeredNetwork, module: nn.Module) -> None:
    """Copy a library network's state dict: names in blocks end with the library's names."""
    state = module.state_dict()
    architecture = network.architecture
    assert isinstance(architecture, GraphArchitecture)
    head = architecture.head_parameters[0].rpartition(".")[0]
    names = {}
    for name in network.state_dict():
        part, _, rest = name.partition(".")
        names[name] = rest.partition(".")[2] if part == "blocks" else rest if rest in state else f"{head}.{rest}"
    network.load_state_dict({name: state[original] for name, original in names.items()})


@pytest.mark.parametrize("model", ["torchvision:densenet121", "torchvision:swin_t", "timm:vit_tiny_patch16_224"])
def test_blocks_of_a_rebuilt_network_are_the_same(model: str) -> None:
    loaded = load_model(ModelRequest(model), generator(0, "weights"))
    record = architecture_from_json(loaded.network.architecture.model_dump_json())
    rebuilt = build_network(record, generator(1, "other weights"))
    rebuilt.load_state_dict(loaded.network.state_dict())
    side = loaded.network.architecture.image_shape[1]
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images(side, 1)), loaded.network(images(side, 1)))


def test_small_resnet_has_one_block_per_residual_block() -> None:
    divided = divide(SmallResNet(), (3, 16, 16))
    assert [block.name for block in divided.blocks] == [
        "conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1",
    ]  # fmt: skip
    assert [block.output_shape for block in divided.blocks][-3:] == [(8, 8, 8), (16, 4, 4), (16,)]
    assert divided.outputs == 10


def test_training_mode_behaves_like_the_original() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    original = copy.deepcopy(module)
    parts, _ = compose(module)
    values = torch.randn(6, 3, 8, 8)
    original.train()
    parts.train()
    torch.manual_seed(3)
    expected = original(values)
    torch.manual_seed(3)
    actual = run(parts, values)
    assert torch.equal(actual, expected)
    assert torch.equal(module[1].running_mean, original[1].running_mean) and bool(module[1].running_mean.any())
    parts.eval()
    original.eval()
    assert torch.equal(run(parts, values), original(values))
    assert not torch.equal(actual, run(parts, values))


class FunctionalDropout(nn.Module):
    """Depends on the mode in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        x = F.relu(self.second(F.dropout(x, 0.5, training=self.training)))
        return self.third(x)


class Wrapped(nn.Module):
    """Depends on the mode in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = FunctionalDropout(), nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.inner(x)
        return self.last(x if mask is None else x * mask)


@pytest.mark.parametrize("module", [FunctionalDropout(), Wrapped()])
def test_functional_dropout_is_active_in_training_only(module: nn.Module) -> None:
    parts, _ = compose(module, side=2)
    values = torch.randn(64, 3, 2, 2)
    module.train()
    parts.train()
    torch.manual_seed(1)
    expected = module(values)
    torch.manual_seed(1)
    assert torch.equal(run(parts, values), expected)
    module.eval()
    parts.eval()
    assert torch.equal(run(parts, values), module(values)) and not torch.equal(run(parts, values), expected)


def test_mode_dependent_submodule_is_kept_whole() -> None:
    divided = divide(Wrapped(), (3, 2, 2))
    assert [block.name for block in divided.blocks] == ["inner"]


class RandomNetwork(nn.Module):
    """Layers drawn by hypothesis: each one plain, residual, branching, or changing its input in place."""

    def __init__(self, kinds: list[str], width: int):
        super().__init__()
        self.kinds = kinds
        self.stem = nn.Linear(12, width)
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(2)) for _ in kinds)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in kinds)
        self.scale = nn.Parameter(torch.ones(width))
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for kind, (first, second), norm in zip(self.kinds, self.layers, self.norms, strict=True):
            if kind == "plain":
                x = second(F.relu(norm(first(x))))
            elif kind == "residual":
                x = x + second(self.drop(norm(first(x))))
            elif kind == "branching":
                left, right = torch.chunk(x, 2, dim=1)
                x = torch.cat([first(x) * self.scale, second(x)], 1)[:, : x.shape[1]] + torch.cat([right, left], 1)
            else:
                x = second(F.relu(x, inplace=True)) + first(x)
        return self.head(x)


@settings(max_examples=30)
@given(
    kinds=st.lists(st.sampled_from(["plain", "residual", "branching", "in place"]), min_size=1, max_size=5),
    half=st.integers(1, 4),
    training=st.booleans(),
)
def test_random_network_composes_to_the_original(kinds: list[str], half: int, training: bool) -> None:
    module = RandomNetwork(kinds, 2 * half).train(training)
    original = copy.deepcopy(module)
    parts, parameters = compose(module, side=2)
    parts.train(training)
    values = torch.randn(5, 3, 2, 2)
    torch.manual_seed(0)
    expected = original(values)
    torch.manual_seed(0)
    assert torch.equal(run(parts, values), expected)
    names = [name for block in parameters for name in block]
    used = {
        name
        for name, p in original.named_parameters()
        if torch.autograd.grad(expected.sum(), p, retain_graph=True, allow_unused=True)[0] is not None
    }
    assert len(names) == len(set(names)) and used <= set(names)


@settings(max_examples=15)
@given(
    kinds=st.lists(st.sampled_from(["plain", "residual", "in place"]), min_size=1, max_size=4),
    data=st.data(),
    seed=st.integers(0, 1000),
)
def test_exactly_the_chosen_parameters_move(kinds: list[str], data: st.DataObject, seed: int) -> None:
    torch.manual_seed(seed)
    parts, _ = compose(RandomNetwork(kinds, 4).train(), side=2)
    chosen = data.draw(st.integers(0, len(parts) - 1))
    for number, part in enumerate(parts):
        part.requires_grad_(number == chosen)
        part.train(number == chosen)
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    moving = [p for p in parts[chosen].parameters()]
    optimizer = torch.optim.SGD(moving, 0.5)
    F.cross_entropy(run(parts, torch.randn(8, 3, 2, 2)), torch.arange(8) % 3).backward()
    assume(any(bool(p.grad.any()) for p in moving if p.grad is not None))  # all ReLUs above may be dead
    optimizer.step()
    for number, part in enumerate(parts):
        changed = any(not torch.equal(tensor, before[number][name]) for name, tensor in part.state_dict().items())
        assert changed == (number == chosen)


def test_activations_at_a_cut_are_not_changed_later() -> None:
    parts, _ = compose(RandomNetwork(["residual", "in place", "residual"], 4).eval(), side=2)
    parts.eval()
    values = torch.randn(2, 3, 2, 2)
    for part in parts:
        before = values.clone()
        result = part(values)
        assert torch.equal(values, before)
        values = result


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class DictOutput(FunctionalDropout):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


class DataDependent(FunctionalDropout):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return super().forward(x)


class AuxiliaryOutput(FunctionalDropout):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits  # type: ignore[return-value]


class SharedAcross(nn.Module):
    """One layer called at the bottom and at the top: no cut between."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.middle = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.middle(self.layer(x.flatten(1))))


class Maps(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (TwoInputs(), "must take one input, the images, but needs x, y"),
        (DictOutput(), "must return one tensor, .* but returns a dictionary"),
        (DataDependent(), r"forward cannot be traced \(test_graph_blocks.py, line \d+\).*blocks=layer1"),
        (nn.Sequential(DataDependent(), nn.Linear(4, 4)), r"module 0 \(DataDependent\) cannot be traced"),
        (AuxiliaryOutput(), "must return one tensor"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "no position between two"),
        (SharedAcross(), "no position between two"),
        (Maps(), r"must return logits \(B, K\), but returned \(2, 4, 2, 2\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(16, 4)), r"does not accept images of shape \(3, 2, 2\)"),
    ],
)  # fmt: skip
def test_unusable_network_is_rejected(module: nn.Module, message: str) -> None:
    with pytest.raises(UntraceableError, match=message):
        divide(module, (3, 2, 2))


def test_named_modules_become_the_blocks() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), DataDependent6(), nn.Linear(6, 6), nn.Linear(6, 2))
    divided = divide(module, (3, 2, 2), named=("1", "2"))
    assert [block.name for block in divided.blocks] == ["1", "2"]
    assert divided.head_parameters == ("4.weight", "4.bias")
    with pytest.raises(UntraceableError, match="no module 12"):
        divide(module, (3, 2, 2), named=("12",))


class DataDependent6(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


NAMES = ("conv1", "layer1.0", "layer1.1", "layer10.0")


@pytest.mark.parametrize(
    ("value", "number"), [("0", 0), (4, 4), ("conv1", 1), ("layer1", 3), ("layer1.0", 2), ("layer10", 4)]
)
def test_block_is_found_by_number_or_name(value: str | int, number: int) -> None:
    assert resolve_block(value, NAMES) == number


@pytest.mark.parametrize(
    ("value", "message"),
    [("layer9", "Did you mean layer1"), ("5", r"\[0, 4\]"), ("-1", r"\[0, 4\]"), ("", "Blocks: conv1")],
)
def test_unknown_block_is_rejected(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_block(value, NAMES)


def test_module_name_stands_for_all_blocks_in_it() -> None:
    assert resolve_blocks("layer1,4", NAMES) == (2, 3, 4)


def loaded_resnet(**changes: object) -> LoadedModel:
    return load_model(ModelRequest("torchvision:resnet18", image_size=(32, 32), **changes), generator(0, "w"))  # type: ignore[arg-type]


def test_target_reuses_blocks_below_a_cut() -> None:
    base = loaded_resnet().network
    architecture = target_architecture(
        base.architecture, (0, 1, 2), resolve_block("layer2", base.architecture.block_names)
    )
    network, report = reuse_network(architecture, base, Reuse(copied=5, frozen=3, depth=5), generator=generator(1, "w"))
    assert len(network.blocks) == 5 and network(images(32)).shape == (5, 3)
    assert {name.split(".")[0] for name in report.fresh} == {"head"}
    names = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert names == {f"blocks.{i}.{name}" for i in range(3) for name in base.architecture.blocks[i].parameters}
    macs = forward_macs(network)
    assert len(macs) == 6 and macs[-1] == 128 * 3


def test_published_head_is_kept_for_the_same_classes() -> None:
    base = load_model(ModelRequest("torchvision:squeezenet1_1", image_size=(64, 64)), generator(0, "w")).network
    depth = len(base.blocks)
    architecture = target_architecture(base.architecture, base.architecture.classes, depth)
    network, _ = reuse_network(
        architecture, base, Reuse(copied=depth, frozen=depth, depth=depth, keeps_head=True), generator=generator(1, "w")
    )
    with torch.no_grad():
        assert torch.equal(network.eval()(images(64)), base(images(64)))


@pytest.mark.parametrize(
    ("model", "side", "kinds"),
    [
        ("torchvision:swin_t", 64, {"mean_of_positions", "none"}),
        ("torchvision:resnet18", 64, {"mean_of_maps", "none"}),
        ("timm:vit_tiny_patch16_224", 224, {"mean_of_positions", "class_token", "none"}),
    ],
)
def test_pooling_follows_the_layout_of_activations(model: str, side: int, kinds: set[str]) -> None:
    network = load_model(ModelRequest(model, image_size=(side, side)), generator(0, "w")).network
    assert {block.pooling for block in network.architecture.blocks} == kinds
    values = network.scale(images(side, 2))
    for number, block in enumerate(network.architecture.blocks, 1):
        with torch.no_grad():
            values = network.run_blocks(values, number - 1, number)
        assert tuple(values.shape) == (2, *block.output_shape)
        assert network.pooled(values, number).shape == (2, block.pooled_width)


def test_class_token_is_used_above_the_first_attention_only() -> None:
    network = load_model(ModelRequest("timm:vit_tiny_patch16_224"), generator(0, "w")).network
    assert [block.pooling for block in network.architecture.blocks[:2]] == ["mean_of_positions", "class_token"]


def test_poolings_average_the_right_axes() -> None:
    maps = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    positions = maps.permute(0, 2, 3, 1)
    by_maps, by_positions = build_pooling("mean_of_maps"), build_pooling("mean_of_positions")
    assert by_maps is not None and by_positions is not None
    assert torch.allclose(by_maps(maps), maps.mean((2, 3))) and torch.allclose(
        by_positions(positions), maps.mean((2, 3))
    )


def test_images_are_normalized_as_recorded() -> None:
    record = Preprocessing(size=(32, 32), channels=3, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.5))
    network = loaded_resnet(preprocessing=record).network
    pixels = images(32)
    expected = (pixels / 255 - torch.tensor(record.mean).view(3, 1, 1)) / torch.tensor(record.std).view(3, 1, 1)
    assert torch.allclose(network.scale(pixels), expected, atol=1e-5)
    assert "mean" not in network.state_dict()


def test_published_preprocessing_is_taken_from_the_library() -> None:
    record = load_model(ModelRequest("torchvision:resnet18"), generator(0, "w")).network.architecture.preprocessing
    assert record.size == (224, 224) and record.crop_ratio == 224 / 256 and record.mean == (0.485, 0.456, 0.406)
    timm_record = model_source("timm:vit_tiny_patch16_224").preprocessing
    assert timm_record is not None and timm_record.interpolation == "bicubic" and timm_record.crop_ratio == 0.9


def record_text(**changes: object) -> str:
    return json.dumps(json.loads(loaded_resnet().network.architecture.model_dump_json()) | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph_digest": "0" * 32}, "does not trace as it did with torchvision"),
        ({"name": "resnet34"}, "does not trace as it did"),
        ({"name": "resnet81"}, "no classification network 'resnet81'"),
        ({"family": "timm", "name": "local-dir:x"}, "timm has no network"),
        ({"leaves": ["layer9"]}, "no module layer9"),
        ({"head_parameters": ["conv1.weight"]}, "the parameters of its blocks differ"),
        ({"family": "own", "name": "x.py:f", "source_digest": "0" * 64}, "loading a model never runs"),
    ],
)
def test_record_that_does_not_fit_is_rejected(changes: dict[str, object], message: str) -> None:
    record = architecture_from_json(record_text(**changes))
    with pytest.raises(ValueError, match=message):
        build_network(record, generator(0, "w"))


@pytest.mark.parametrize(
    "changes",
    [{"depth": 10}, {"head": "pickle"}, {"name": "a b"}, {"extra": 1}, {"blocks": []}, {"source_digest": "0" * 64},
     {"image_shape": [3, 16, 16]}, {"depth": 3}],
)  # fmt: skip
def test_invalid_record_is_rejected(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="invalid architecture"):
        architecture_from_json(record_text(**changes))


def model_files(folder: Path, network: LayeredNetwork, **changes: object) -> dict[str, Path]:
    """Write the files from which a model is rebuilt."""
    record = json.loads(network.architecture.model_dump_json()) | changes
    files = {name: folder / name for name in (names.WEIGHTS_FILE, names.ARCHITECTURE_FILE)}
    files[names.ARCHITECTURE_FILE].write_text(json.dumps(record))
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(weights, files[names.WEIGHTS_FILE])
    return files


def test_model_files_give_the_same_network(tmp_path: Path) -> None:
    base = loaded_resnet().network
    architecture = target_architecture(base.architecture, ("a", "b"), 4)
    target, _ = reuse_network(architecture, base, Reuse(copied=4, frozen=4, depth=4), generator=generator(1, "w"))
    for network in (base, target):
        rebuilt = rebuild(model_files(tmp_path, network), "models:/m-1").eval()
        with torch.no_grad():
            assert torch.equal(rebuilt(images(32)), network.eval()(images(32)))


def test_files_of_a_network_that_traces_differently_are_rejected(tmp_path: Path) -> None:
    files = model_files(tmp_path, loaded_resnet().network, graph_digest="0" * 32)
    with pytest.raises(
        UserInputError, match="base=models:/m-1: cannot be rebuilt: torchvision:resnet18 does not trace"
    ):
        rebuild(files, "models:/m-1")


@pytest.mark.parametrize("size", [1000, 80 << 20])
def test_weights_of_the_wrong_size_are_rejected_before_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    files = model_files(tmp_path, loaded_resnet().network)
    with files[names.WEIGHTS_FILE].open("r+b") as file:
        file.truncate(size)
    monkeypatch.setattr("pipeline.networks.origins.rebuild.seeded", lambda _: pytest.fail("the network was built"))
    with pytest.raises(UserInputError, match=rf"has {size} bytes; torchvision:resnet18 needs 467\d+ to"):
        rebuild(files, "models:/m-1")


def test_head_of_a_record_is_bounded() -> None:
    text = json.loads(record_text(head="linear", depth=1))
    text["blocks"][0] |= {"pooling": "none", "output_shape": [10_000_000, 10_000_000]}
    with pytest.raises(ValueError, match="exceed the limit of 50000000"):
        architecture_from_json(json.dumps(text))


def test_blocks_command_prints_the_table() -> None:
    result = CliRunner().invoke(cli, ["blocks", "--model", "torchvision:resnet18", "--image_size", "64"])
    rows = [line.split() for line in result.output.splitlines()]
    assert result.exit_code == 0 and ["1", "conv1", "64x16x16", "9,536", "9,633,792", "average", "over", "map"] in rows
    assert [row[0] for row in rows[-10:]] == [*map(str, range(1, 10)), "head"]


def test_blocks_command_rejects_unknown_networks() -> None:
    result = CliRunner().invoke(cli, ["blocks", "--model", "torchvision:resnet81"])
    assert result.exit_code == 2 and "Did you mean resnet18?" in result.output


def test_moved_boundary_is_rejected() -> None:
    text = json.loads(record_text())
    text["blocks"][3]["boundary"] = "layer1_0_conv1"
    with pytest.raises(ValueError, match="exactly one tensor crosses"):
        build_network(architecture_from_json(json.dumps(text)), generator(0, "w"))


@pytest.mark.parametrize("model", ["torchvision:regnet_y_400mf", "timm:swinv2_cr_tiny_ns_224", "torchvision:resnet18"])
def test_outline_allocates_no_memory(model: str) -> None:
    source = model_source(model)
    parameters = list(build_on_meta(source, 10).parameters())
    assert all(parameter.is_meta for parameter in parameters)
    assert [p.shape for p in parameters] == [p.shape for p in source.build(10).parameters()]


def test_size_is_checked_before_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    record = loaded_resnet().network.architecture
    monkeypatch.setattr("pipeline.networks.origins.source.MAX_GRAPH_PARAMETERS", 10_000_000)
    monkeypatch.setattr("pipeline.networks.origins.rebuild.seeded", lambda _: pytest.fail("the network was built"))
    with pytest.raises(ValueError, match="11689512 parameters"):
        build_network(record, generator(0, "w"))
    assert MAX_GRAPH_PARAMETERS > 86_000_000  # ViT-B


OWN_CODE = """
from tests.networks import SmallResNet

def small(num_classes=10):
    return SmallResNet(num_classes=num_classes)

def ten():
    return SmallResNet()

def number():
    return 7

def broken():
    raise RuntimeError("no such file")
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_nets.py"
    path.write_text(OWN_CODE)
    return path


def own_request(path: Path, function: str = "small", **changes: object) -> ModelRequest:
    return ModelRequest(f"own:{path}:{function}", image_size=(16, 16), **changes)  # type: ignore[arg-type]


def test_own_network_takes_the_number_of_classes(own_file: Path) -> None:
    loaded = load_model(own_request(own_file, classes=("0", "1", "2")), generator(0, "w"))
    assert loaded.network(images(16)).shape == (5, 3)
    assert loaded.source.source_text == OWN_CODE and loaded.network.architecture.name == "my_nets.py:small"


def test_own_network_is_rebuilt_from_the_same_source_only(own_file: Path) -> None:
    loaded = load_model(own_request(own_file), generator(0, "w"))
    record = architecture_from_json(loaded.network.architecture.model_dump_json())
    rebuilt = build_network(record, generator(1, "w"), model_source(f"own:{own_file}:small"))
    rebuilt.load_state_dict(loaded.network.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images(16)), loaded.network(images(16)))
    with pytest.raises(ValueError, match="is not the function that defined the base"):
        build_network(record, generator(1, "w"), model_source(f"own:{own_file}:ten"))
    own_file.write_text(OWN_CODE + "\n")
    with pytest.raises(ValueError, match="its digest differs"):
        build_network(record, generator(1, "w"), model_source(f"own:{own_file}:small"))


def test_record_alone_never_imports_own_code(own_file: Path) -> None:
    record = load_model(own_request(own_file), generator(0, "w")).network.architecture
    sys.modules.pop("own_network_my_nets")
    with pytest.raises(ValueError, match="model=own:PATH.py"):
        build_network(record, generator(1, "w"))
    assert "own_network_my_nets" not in sys.modules


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ModelRequest("torchvision:resnet81"), "Did you mean resnet18"),
        (ModelRequest("timm:resnet1"), "Did you mean resnet18"),
        (ModelRequest("tochvision:resnet18"), "Did you mean torchvision"),
        (ModelRequest("torchvision:vit_b_16", image_size=(64, 64)), r"shape \(3, 64, 64\) .*: Wrong image height! Expected 224 but got another value\. "),
        (ModelRequest("torchvision:resnet18", image_size=(32, 32), blocks=("layer9",)), "Did you mean layer"),
        (ModelRequest("own:missing.py:f", image_size=(16, 16)), "missing.py does not exist"),
        (ModelRequest("own:tests.networks", image_size=(16, 16)), "does not name a function"),
        (ModelRequest("own:tests.networks:SmalResNet", image_size=(16, 16)), "Did you mean SmallResNet"),
        (ModelRequest("own:tests.networks:SmallResNet"), "Give image_size"),
    ],
)  # fmt: skip
def test_bad_request_is_rejected(request_: ModelRequest, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        load_model(request_, generator(0, "w"))


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        ("number", {}, "must return a torch.nn.Module, got int"),
        ("broken", {}, "RuntimeError: no such file"),
        ("smal", {}, "Did you mean small"),
        ("ten", {"classes": (0, 1)}, "has 10 outputs, but 2 classes are given"),
    ],
)
def test_bad_own_function_is_rejected(own_file: Path, function: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        load_model(own_request(own_file, function, **changes), generator(0, "w"))


def test_missing_extra_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserInputError, match=r"mlflow-transfer-pipeline\[timm\]"):
        model_source("timm:resnet18")


def test_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (loaded_resnet().network.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.skipif("PIPELINE_PRETRAINED_DIR" not in os.environ, reason="PIPELINE_PRETRAINED_DIR is not set")
@pytest.mark.parametrize(("function", "blocks"), [("resnet20", 10), ("resnet56", 28)])
def test_published_cifar_network_has_the_same_logits(function: str, blocks: int) -> None:
    folder = Path(os.environ["PIPELINE_PRETRAINED_DIR"])
    (weights,) = folder.glob(f"{function}-*.th")
    loaded = load_model(
        ModelRequest(f"own:{folder}/resnet.py:{function}", weights=str(weights), image_size=(32, 32)), generator(0, "w")
    )
    assert len(loaded.network.blocks) == blocks
    module = loaded.source.build(None)
    load_module = {
        name.removeprefix("module."): tensor
        for name, tensor in torch.load(weights, weights_only=True, map_location="cpu")["state_dict"].items()
    }
    module.load_state_dict(load_module)
    with torch.no_grad():
        assert_close(loaded.network(images(32)), module.eval()(loaded.network.scale(images(32))))


def test_convolutions_are_channels_last() -> None:
    network = loaded_resnet().network
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(weights) > 10 and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


class FlattensByView(nn.Module):
    """As in many tutorials: a view that channels-last activations do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return self.fc(out.view(out.size(0), -1))


def test_network_that_views_maps_stays_contiguous() -> None:
    origin = Origin("own", "nets.py:f", "", "0" * 64, Preprocessing(size=(8, 8), channels=3))
    record = describe(divide(FlattensByView(), (3, 8, 8)), origin, ("a", "b", "c"))
    network = build_from_module(FlattensByView(), record, generator(0, "w"))
    assert network(images(8)).shape == (5, 3)


@pytest.mark.parametrize(
    ("model", "frozen", "pays"),
    [("resnet18", 0, True), ("resnet18", 3, False), ("mobilenet_v3_small", 0, False), ("swin_t", 0, False)],
)
def test_bfloat16_is_used_where_it_pays(model: str, frozen: int, pays: bool) -> None:
    network = load_model(ModelRequest(f"torchvision:{model}", image_size=(64, 64)), generator(0, "w")).network
    network.freeze(frozen)
    assert bfloat16_is_faster(network) == pays
