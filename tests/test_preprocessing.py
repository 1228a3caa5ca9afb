"""The preprocessing record: resolved from parameters, applied inside the graph, and the networks chosen for images."""

from __future__ import annotations

import pytest
import torch

from pipeline.data.examples import Examples
from pipeline.data.identity import content_ids
from pipeline.data.normalization import conflicts, measure, resolve_preprocessing, with_preprocessing
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Images
from pipeline.errors import UserInputError
from pipeline.networks.build import architecture_from_json, build_network
from pipeline.networks.from_params import CONVOLUTION_FIELDS, architecture_from_params, with_convolutions
from pipeline.networks.layered import LayeredNetwork
from pipeline.params import DataParams, TrainBaseParams
from pipeline.runtime import generator
from tests.conftest import preprocessing


def examples(channels: int = 3, size: int = 64) -> Examples:
    rng = generator(0, "pixels")
    pixels = torch.randint(0, 256, (40, channels, size, size), dtype=torch.uint8, generator=rng)
    pixels[:, 0] //= 2
    images = Images(pixels, torch.arange(40) % 2, content_ids(pixels))
    return Examples(images, torch.arange(5, 40), torch.arange(5, 40) % 2)


def resolved(geometry: Geometry, **params: str):  # type: ignore[no-untyped-def]
    return resolve_preprocessing(DataParams(**params), geometry, examples(geometry.channels, geometry.size[0]))


def test_measured_statistics_are_those_of_the_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.normalization.CHUNK_BYTES", 100_000)  # several chunks
    chosen = examples()
    values = chosen.pixels.double() / 255
    mean, std = measure(chosen)
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_small_gray_images_are_not_normalized_by_default() -> None:
    small, photo = Geometry(size=(28, 28), channels=1), Geometry(size=(32, 32), channels=3)
    assert (resolved(small).mean, resolved(small).std) == (None, None)
    assert len(resolved(photo).mean) == 3 and resolved(Geometry(size=(40, 40), channels=1)).std is not None
    assert resolved(photo, mean="none", std="none") == preprocessing(3, 32, 32)
    assert resolved(photo, mean="0.5", std="0.25,0.24,0.26").mean == (0.5, 0.5, 0.5)


def test_wrong_number_of_values_is_rejected() -> None:
    with pytest.raises(UserInputError, match="mean=0.1,0.2,0.3: has 3 values, and the images have 1 channels"):
        resolved(Geometry(size=(28, 28), channels=1), mean="0.1,0.2,0.3")


def test_resolved_parameters_give_the_same_record_again() -> None:
    geometry = Geometry(size=(24, 36), channels=3, resize="pad")
    record = resolve_preprocessing(DataParams(), geometry, examples())
    params = with_preprocessing(DataParams(), record)
    assert (params.image_size, params.channels, params.resize) == ("24x36", "3", "pad")
    again = DataParams(**{name: getattr(params, name) for name in ("image_size", "channels", "resize", "mean", "std")})
    assert resolve_preprocessing(again, geometry, examples()) == record and conflicts(again, record) == []


def test_parameters_that_contradict_a_base_are_faults() -> None:
    record = preprocessing(3, 32, 32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert conflicts(DataParams(mean="0.5", std="0.2,0.2,0.2", image_size="32"), record) == []
    faults = conflicts(DataParams(image_size="64", channels="1", resize="pad", mean="none", std="0.3"), record)
    assert [fault.name for fault in faults] == ["image_size", "channels", "resize", "mean", "std"]


def network(**changes: object) -> LayeredNetwork:
    architecture = architecture_from_params(TrainBaseParams(), preprocessing(3, 8, 8, **changes), ("a", "b"))
    return build_network(architecture, generator(0, "weights"))


def test_network_normalizes_pixels_of_any_dtype() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=generator(1, "pixels"))
    expected = (pixels.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    net = network(mean=mean, std=std)
    for values in (pixels, pixels.float()):
        before = values.clone()
        assert torch.allclose(net.scale(values).double(), expected, atol=1e-6) and torch.equal(values, before)
    scaled = network(std=std).scale(pixels)
    assert torch.allclose(scaled, pixels / 255 / torch.tensor(std).view(-1, 1, 1))


def test_normalization_is_in_the_architecture_and_not_among_the_weights() -> None:
    plain, normalized = network(), network(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    assert plain.state_dict().keys() == normalized.state_dict().keys()
    again = build_network(architecture_from_json(normalized.architecture.model_dump_json()), generator(0, "weights"))
    pixels = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    assert torch.equal(again(pixels), normalized(pixels)) and not torch.equal(again(pixels), plain(pixels))
    assert normalized.to("meta").factor.device.type == "meta"  # type: ignore[union-attr]


def test_mnist_keeps_its_network() -> None:
    params = with_convolutions(TrainBaseParams(model="cnn"), (1, 28, 28))
    assert (params.conv_channels, params.kernels, params.strides) == ("16,32", "5,3", "2,1")
    assert (params.padding, params.pool) == ("valid", "last")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sides", [(8, 8), (11, 19), (28, 28), (32, 32), (33, 90), (64, 64), (224, 224), (8, 500)])
def test_default_cnn_fits_images_of_any_size(channels: int, sides: tuple[int, int]) -> None:
    params = TrainBaseParams(model="cnn")
    architecture = architecture_from_params(params, preprocessing(channels, *sides), ("a", "b"))
    net = build_network(architecture, generator(0, "weights")).eval()
    assert net(torch.zeros(2, channels, *sides)).shape == (2, 2)
    features = net.run_blocks(torch.zeros(1, channels, *sides), 0, architecture.depth - 1)
    assert architecture.feature_shape == features.shape[1:]
    explicit = with_convolutions(params, (channels, *sides))
    assert not {explicit.logged()[name] for name in CONVOLUTION_FIELDS} & {"auto"}
    assert architecture_from_params(explicit, preprocessing(channels, *sides), ("a", "b")) == architecture


def test_other_number_of_kernels_than_convolutions_is_rejected() -> None:
    params = TrainBaseParams(model="cnn", kernels="3,3,3")
    with pytest.raises(ValueError, match=r"kernels: expected 1 or 2 values \(conv_channels=16,32\)"):
        architecture_from_params(params, preprocessing(), ("a", "b"))
    assert architecture_from_params(params, preprocessing(3, 16, 16), ("a", "b")).depth == 4


def test_default_cnn_for_photos_is_as_documented() -> None:
    params = with_convolutions(TrainBaseParams(model="cnn"), (3, 32, 32))
    values = (params.conv_channels, params.kernels, params.strides, params.padding, params.pool)
    assert values == ("32,64,128,128", "3", "1,1,1,1", "same", "each")
    assert with_convolutions(TrainBaseParams(model="cnn"), (3, 224, 224)).strides == "2,2,1,1"
    chosen = with_convolutions(TrainBaseParams(model="cnn", conv_channels="8,8", strides="2"), (3, 64, 64))
    assert (chosen.conv_channels, chosen.strides, chosen.kernels) == ("8,8", "2", "3")
