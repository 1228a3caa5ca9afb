"""Sets of trained blocks, LP-FT and layer decay: exactly the chosen parameters move."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from pipeline.errors import UserInputError
from pipeline.networks.graph.network import Origin, build_from_module, describe, divide
from pipeline.networks.layered import LayeredNetwork, block_numbers
from pipeline.networks.macs import training_macs
from pipeline.networks.reuse import Reuse
from pipeline.params import FinetuneCnnParams, TrainBaseParams, TransferParams, parse_params
from pipeline.runtime import generator
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import layers_to_reuse, transfer
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.stage_run import StageResult
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled
from tests.conftest import preprocessing
from tests.test_graph_blocks import RandomNetwork
from tests.test_reuse import SETTINGS, base_network, images, labelled, reused

BASE = {"dataset": "digits", "epochs": 5, "hidden_layers": 3, "width": 16, "batch_size": 32}
QUICK = {"dataset": "digits", "epochs": 3, "per_class": 20, "val_per_class": 10, "batch_size": 32}
CNN = {"dataset": "digits", "epochs": 2, "model": "cnn", "conv_channels": "4,6", "dense_width": 12, "batch_size": 64}


def moved_parts(network: LayeredNetwork, before: dict[str, torch.Tensor]) -> set[str]:
    """Return `blocks.0`, ..., `head` for the parts of which some weight or statistic has changed."""
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    return {".".join(name.split(".")[:2]) if name.startswith("blocks") else "head" for name in changed}


@settings(max_examples=30, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["plain", "residual", "branching", "in place"]), min_size=1, max_size=4),
    data=st.data(),
    seed=st.integers(0, 1000),
)
def test_exactly_the_chosen_blocks_of_a_random_network_move(kinds: list[str], data: st.DataObject, seed: int) -> None:
    torch.manual_seed(seed)
    module = RandomNetwork(kinds, 6)
    origin = Origin("own", "nets.py:f", "", "0" * 64, preprocessing(3, 2, 2))
    network = build_from_module(module, describe(divide(module, (3, 2, 2)), origin, ("a", "b", "c")), generator(0, "w"))
    chosen = data.draw(st.sets(st.sampled_from(range(len(network.blocks)))))
    network.train_only(chosen)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = Labelled(torch.randn(30, 3, 2, 2), torch.arange(30) % 3)
    fit = Fit(network, inputs, inputs, settings=SETTINGS)
    list(fit)
    assume(fit.progress.best_epoch > 0)
    assert moved_parts(network, before) == {*(f"blocks.{index}" for index in chosen), "head"}
    frozen = [p for i, block in enumerate(network.blocks) if i not in chosen for p in block.parameters()]
    held = {id(p) for group in fit.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in frozen} and all(p.grad is None for p in frozen)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), gradients=st.sampled_from(["auto", "autograd"]), layer_decay=st.sampled_from([1.0, 0.7]))
def test_exactly_the_chosen_blocks_of_an_mlp_move(data: st.DataObject, gradients: str, layer_decay: float) -> None:
    extras = {"batch_norm": data.draw(st.booleans()), "dropout": data.draw(st.sampled_from([0.0, 0.3]))}
    chosen = data.draw(st.sets(st.integers(1, 4), min_size=1))
    params = TransferParams(train_blocks=",".join(map(str, chosen)))
    reuse = layers_to_reuse(params, block_numbers(4))
    network = reused(base_network(4, **extras), reuse)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    changed = FitSettings(**{**SETTINGS.__dict__, "gradients": gradients, "layer_decay": layer_decay})
    list(Fit(network, labelled(network, images()), labelled(network, images(30, 1)), settings=changed, copied=4))
    assert moved_parts(network, before) == {*(f"blocks.{number - 1}" for number in chosen), "head"}


def test_frozen_block_above_a_trained_one_passes_gradients() -> None:
    network = base_network(3)
    network.train_only({0})
    network.logits(network.scale(images().pixels)).sum().backward()
    assert network.frozen == 0
    assert network.blocks[0][1].weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert network.blocks[1][0].weight.grad is None


def test_frozen_block_above_a_trained_one_costs_input_gradients() -> None:
    network = base_network(2)  # MACs: 288, 64, and 24 for the head
    network.train_only({0})
    assert training_macs(network) == (288 + 64 + 24) + (288 + 24) + (64 + 24)


@pytest.mark.parametrize(
    ("values", "trained"),
    [
        ({"train_blocks": "3,4"}, {2, 3}),
        ({"train_blocks": "1"}, {0}),
        ({"train_blocks": "2,5", "reuse_layers": 4, "upper": "fresh"}, {1, 4}),
        ({"train_blocks": "stem, stage2"}, {0, 3, 4}),
    ],
)
def test_blocks_are_chosen_by_number_or_name(values: dict[str, object], trained: set[int]) -> None:
    named = ("stem", "stage1.0", "stage1.1", "stage2.0", "stage2.1")
    reuse = layers_to_reuse(parse_params(TransferParams, values), named)
    assert reuse.trained == trained and reuse.frozen == min(trained)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_blocks": "6"}, r"train_blocks=6: must be an integer in \[0, 5\]"),
        ({"train_blocks": "layer9"}, "train_blocks=layer9: the network has no block 'layer9'"),
        ({"train_blocks": "5", "reuse_layers": 3}, "train_blocks=5: block 5 is above the 3 that are used"),
        ({"train_blocks": "1", "reuse_layers": 4, "upper": "fresh"}, "block 5 is randomly initialized"),
        ({"train_blocks": "1", "unfreeze": 2}, "unfreeze=2 chooses blocks too"),
        ({"train_blocks": "1", "reuse_layers": 0}, "with reuse_layers=0 no block is copied"),
        ({"train_blocks": "1", "head_solver": "convex"}, "use head_solver=sgd"),
        ({"train_blocks": "1,,2"}, "train_blocks=1,,2"),
        ({"strategy": "lp_ft", "head_solver": "convex"}, "nothing is fine-tuned after the head"),
        ({"layer_decay": 0}, r"layer_decay=0: must be a number in \(0, 1\]"),
    ],
)  # fmt: skip
def test_bad_choice_of_blocks_is_rejected(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserInputError, match=f"(?i){message}"):
        layers_to_reuse(parse_params(TransferParams, values), block_numbers(5))


@pytest.fixture
def base(store: MlflowClient) -> StageResult:
    """A small base on digits 0-4."""
    return train_base(TrainBaseParams(**BASE))


@pytest.mark.usefixtures("no_figures")
def test_transfer_trains_the_chosen_block_only(base: StageResult, store: MlflowClient) -> None:
    result = transfer(TransferParams(**QUICK, train_blocks="2", layer_decay=0.5))
    source, trained = (load_base(store, run_id).network for run_id in (base.run_id, result.run_id))
    assert moved_parts(trained, source.state_dict()) == {"blocks.1", "head"}
    run = store.get_run(result.run_id)
    assert run.data.params["train_blocks"] == "2" and run.data.params["layer_decay"] == "0.5"
    assert "trained 2" in str(run.info.run_name)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("features", ["none", "auto"])
def test_lp_ft_starts_from_the_solved_head(base: StageResult, store: MlflowClient, features: str) -> None:
    common = {**QUICK, "unfreeze": 1}
    probed = transfer(TransferParams(**QUICK, head_solver="convex"))
    result = transfer(TransferParams(**{**common, "learning_rate": 1e-9}, strategy="lp_ft", features=features))
    assert result.metrics["test/loss"] == pytest.approx(probed.metrics["test/loss"], rel=1e-3)
    assert result.metrics[names.FIT_SECONDS] > result.metrics[names.HEAD_SECONDS] > 0
    moved = transfer(TransferParams(**common, strategy="lp_ft", features=features))
    source, trained = (load_base(store, run_id).network for run_id in (base.run_id, moved.run_id))
    assert moved_parts(trained, source.state_dict()) == {"blocks.2", "head"}


@pytest.mark.usefixtures("no_figures")
def test_lp_ft_of_a_cnn_needs_copied_blocks_only(store: MlflowClient) -> None:
    train_base(TrainBaseParams(**CNN))
    with pytest.raises(UserInputError, match="strategy=lp_ft: .* but 1 are randomly initialized"):
        finetune_cnn(FinetuneCnnParams(**QUICK, strategy="lp_ft"))
    result = finetune_cnn(FinetuneCnnParams(**QUICK, strategy="lp_ft", intermediate=2))
    assert result.metrics[names.HEAD_SECONDS] > 0
    with pytest.raises(UserInputError, match="strategy=lp_ft: nothing is fine-tuned"):
        finetune_cnn(FinetuneCnnParams(**QUICK, strategy="lp_ft", frozen=3, intermediate=0))


def test_trained_blocks_are_described() -> None:
    text = str(Reuse(3, 1, 3, train_blocks=(2,)))
    assert text == (
        "blocks: 2 frozen, 1 fine-tuned (blocks 2 trained), 0 randomly initialized; head: randomly initialized"
    )
