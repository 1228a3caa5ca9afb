"""Reuse: copied, frozen and randomly initialized layers; cached features match the computed activations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.examples import Examples
from pipeline.data.identity import content_ids
from pipeline.data.records import Images
from pipeline.errors import UserInputError
from pipeline.networks.build import build_network, weights_digest
from pipeline.networks.layered import CNNArchitecture, ConvolutionLayer, LayeredNetwork, MLPArchitecture, block_numbers
from pipeline.networks.macs import forward_macs, trainable_fraction, training_macs
from pipeline.networks.reuse import Reuse, check_tensors, reuse_network, target_architecture
from pipeline.params import FinetuneCnnParams, TransferParams
from pipeline.runtime import generator
from pipeline.stages.finetune_cnn import three_parts
from pipeline.stages.transfer import layers_to_reuse
from pipeline.training.features import Features, check_sample, compute_features, differing_parts, fingerprint
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled
from tests.conftest import preprocessing

SETTINGS = FitSettings(
    epochs=2, patience=9, batch_size=16, learning_rate=0.01, weight_decay=1e-3, seed=3, weight_averaging=0.9
)


def base_network(layers: int = 4, **changes: object) -> LayeredNetwork:
    values = {
        "preprocessing": preprocessing(1, 6, 6),
        "classes": ("0", "1", "2"),
        "hidden_layers": layers,
        "width": 8,
        **changes,
    }
    network = build_network(MLPArchitecture.model_validate(values), generator(7, "base"))
    for block in network.blocks:  # running statistics as after some training
        for part in block:
            if isinstance(part, torch.nn.BatchNorm1d):
                part.running_mean.uniform_(-1, 1, generator=generator(1, "mean"))  # type: ignore[union-attr]
    return network.eval()


def images(count: int = 90, seed: int = 0) -> Examples:
    draw = generator(seed, "images")
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 128, (count, 1, 6, 6), generator=draw) + 60 * labels.view(-1, 1, 1, 1)
    pixels = pixels.clamp(max=255).to(torch.uint8).repeat_interleave(2, 0)  # every other row is used
    images = Images(pixels, labels.repeat_interleave(2), content_ids(pixels))
    return Examples(images, torch.arange(count) * 2, labels)


def labelled(network: LayeredNetwork, examples: Examples) -> Labelled:
    return Labelled(network.scale(examples.pixels), examples.labels)


def reused(base: LayeredNetwork, reuse: Reuse, classes: tuple[str, ...] = ("5", "6", "7")) -> LayeredNetwork:
    return reuse_network(
        target_architecture(base.architecture, classes, reuse.depth), base, reuse, generator=generator(2, "w")
    )[0]


@settings(max_examples=60)
@given(data=st.data())
def test_only_unfrozen_parameters_change(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 4))
    copied = data.draw(st.integers(0, layers))
    unfreeze = data.draw(st.integers(0, copied))
    upper = data.draw(st.sampled_from(["drop", "fresh"] if copied else ["fresh"]))
    extras = {"batch_norm": data.draw(st.booleans()), "dropout": data.draw(st.sampled_from([0.0, 0.3]))}
    base = base_network(layers, **extras)
    params = TransferParams(reuse_layers=copied, unfreeze=unfreeze, upper=upper)
    reuse = layers_to_reuse(params, block_numbers(layers))
    assert (reuse.copied, reuse.frozen) == (copied, copied - unfreeze)
    assert reuse.depth == (copied if upper == "drop" else layers)
    network = reused(base, reuse)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in base.state_dict().items():
        if name.startswith(tuple(f"blocks.{k}." for k in range(copied))):
            assert torch.equal(before[name], value), name
    list(Fit(network, labelled(network, images()), labelled(network, images(30, 1)), settings=SETTINGS, copied=copied))
    for name, value in network.state_dict().items():
        frozen = name.startswith(tuple(f"blocks.{k}." for k in range(reuse.frozen)))
        trained = name in dict(network.named_parameters())
        if frozen:
            assert torch.equal(value, before[name]), f"{name} moved"
        elif trained:
            assert not torch.equal(value, before[name]), f"{name} did not move"


def test_load_report_lists_every_tensor_once() -> None:
    base = base_network(3)
    network, report = reuse_network(
        target_architecture(base.architecture, ("5", "6"), 3), base, Reuse(2, 1, 3), generator=generator(0, "w")
    )
    assert set(report.matched) == {
        f"blocks.{k}.{p}" for k, p in ((0, "1.weight"), (0, "1.bias"), (1, "0.weight"), (1, "0.bias"))
    }
    assert set(report.matched) | set(report.fresh) == set(network.state_dict())
    assert set(report.dropped) == {"blocks.2.0.weight", "blocks.2.0.bias", "head.weight", "head.bias"}
    assert str(report) == "loaded 4 tensors from the base; 4 initialized randomly; 4 not used"


def test_continued_base_keeps_its_head() -> None:
    base = base_network(3)
    network = reused(base, Reuse(3, 1, 3, keeps_head=True), ("0", "1", "2"))
    assert weights_digest(network.state_dict()) == weights_digest(base.state_dict())


def test_random_initialization_does_not_depend_on_copied_layers() -> None:
    base = base_network(3)
    few, many = reused(base, Reuse(1, 0, 3)), reused(base, Reuse(2, 0, 3))
    assert torch.equal(few.blocks[2][0].weight, many.blocks[2][0].weight)
    assert torch.equal(few.head.weight, many.head.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), "head.bias: missing"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "extra: unexpected"),
        (
            lambda t: t.update({"head.bias": torch.zeros(9)}),
            r"head.bias: expected torch.float32 \(3,\), got torch.float32 \(9,\)",
        ),
        (
            lambda t: t.update({"head.bias": t["head.bias"].double()}),
            "head.bias: expected torch.float32 .* got torch.float64",
        ),
    ],
)
def test_mismatched_tensors_are_rejected(change, message: str) -> None:  # type: ignore[no-untyped-def]
    wanted = base_network().state_dict()
    given_ = dict(wanted)
    change(given_)
    with pytest.raises(ValueError, match=message):
        check_tensors(given_, wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reuse_layers": 6}, "reuse_layers=6: must be between 0 and 5 .the base has 5 blocks"),
        ({"reuse_layers": "all", "unfreeze": 6}, "unfreeze=6: must be between 0 and 5 .only 5 layers are reused"),
    ],
)
def test_reusing_more_layers_than_base_has_is_rejected(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        layers_to_reuse(TransferParams(**values), block_numbers(5))


def test_three_parts_are_frozen_finetuned_and_randomly_initialized() -> None:
    assert three_parts(FinetuneCnnParams(frozen=1, intermediate=1), 3) == Reuse(2, 1, 3)
    with pytest.raises(UserInputError, match=r"frozen \+ intermediate=4: must be at most 3 .the base has 3 blocks"):
        three_parts(FinetuneCnnParams(frozen=2, intermediate=2), 3)


VARIANTS = [{}, {"batch_norm": True}, {"batch_norm": True, "dropout": 0.3}]


def fits(network_of, epochs: int, double: bool):  # type: ignore[no-untyped-def]
    """Validation losses of the same training on pixels and on cached features."""
    losses = []
    for cached in (False, True):
        network = network_of()
        if double:
            network.double()
        train, validation = images(), images(30, 1)
        parts = []
        for examples in (train, validation):
            values = network.scale(examples.pixels)
            values = values.double() if double else values
            if cached:
                with torch.no_grad():
                    values = network.eval().run_blocks(values, 0, network.frozen)
            parts.append(Labelled(values, examples.labels))
        changed = FitSettings(**{**SETTINGS.__dict__, "epochs": epochs, "patience": epochs})
        fit = Fit(network, *parts, settings=changed, start=network.frozen if cached else 0)
        losses.append([record.val_loss for record in fit])
    return losses


@pytest.mark.parametrize("changes", VARIANTS)
def test_head_training_on_cached_features_matches_uncached_losses(changes: dict[str, object]) -> None:
    base = base_network(3, **changes)
    plain, cached = fits(lambda: reused(base, Reuse(3, 3, 3)), 40, False)
    assert len(plain) == 40 and cached == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("changes", VARIANTS)
def test_cached_training_with_unfrozen_layers_matches_uncached_losses(changes: dict[str, object]) -> None:
    base = base_network(3, **changes)
    plain, cached = fits(lambda: reused(base, Reuse(3, 1, 3)), 1, False)
    assert cached == pytest.approx(plain, rel=1e-6)
    plain, cached = fits(lambda: reused(base, Reuse(3, 1, 3)), 20, True)
    assert len(plain) == 20 and cached == pytest.approx(plain, rel=1e-9)


def test_features_are_looked_up_by_identity() -> None:
    network, examples = base_network(), images()
    features = compute_features(network, 2, examples)
    some = examples.take(torch.tensor([4, 9, 50]))
    expected = network.run_blocks(network.scale(some.pixels), 0, 2)
    assert torch.allclose(features.rows(some.ids), expected, atol=1e-6)
    with pytest.raises(AssertionError, match="without features"):
        features.rows(torch.tensor([1]))


def test_fingerprint_covers_everything_features_depend_on() -> None:
    network, examples = base_network(batch_norm=True), images()
    own = fingerprint(network, 2, examples)
    assert own == fingerprint(reused(network, Reuse(4, 4, 4)), 2, examples)  # the head does not matter
    assert differing_parts(own, fingerprint(network, 1, examples)) == ["cut", "weights"]
    assert differing_parts(own, fingerprint(network, 2, images(seed=5))) == ["data"]
    network.blocks[0][2].running_mean[0] += 1e-3  # type: ignore[index, operator]
    assert differing_parts(own, fingerprint(network, 2, examples)) == ["weights"]


def test_feature_sample_is_recomputed_before_use() -> None:
    network, examples = base_network(), images()
    good = compute_features(network, 2, examples)
    check_sample(good, network, examples)
    wrong = Features(good.values * 1.01, good.ids, 2, good.fingerprint, 0.0)
    with pytest.raises(ValueError, match="differ from those of the network"):
        check_sample(wrong, network, examples)


def test_mac_counts_match_hand_computation() -> None:
    network = base_network(2)
    assert forward_macs(network) == [36 * 8, 8 * 8, 8 * 3]
    assert training_macs(network) == 3 * (288 + 64 + 24) - 288
    network.freeze(1)
    assert training_macs(network) == 288 + 3 * (64 + 24) - 64
    assert training_macs(network, start=1) == 3 * (64 + 24) - 64
    network.freeze(2)
    assert trainable_fraction(network) == pytest.approx(27 / (36 * 8 + 8 + 72 + 27))


def test_convolution_macs_match_hand_computation() -> None:
    layers = (ConvolutionLayer(channels=4, kernel=3, stride=1, pool=True),)
    network = build_network(
        CNNArchitecture(preprocessing=preprocessing(3, 8, 8), classes=("0", "1"), convolutions=layers, dense_width=5),
        generator(0, "w"),
    )
    assert forward_macs(network) == [3 * 9 * 4 * 6 * 6, 4 * 3 * 3 * 5, 5 * 2]
