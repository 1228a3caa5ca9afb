"""Weights files: formats, wrappers, reports, and what is rejected without running anything."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import UserInputError
from pipeline.networks.origins.load import LoadedModel, ModelRequest, load_model
from pipeline.networks.origins.source import ModelSource
from pipeline.networks.origins.torchvision_models import torchvision_source
from pipeline.networks.weights_file import WeightsFile, WeightsReport, load_weights, read_weights_file
from pipeline.runtime import generator
from tests.networks import SmallResNet

HEAD = ("linear.weight", "linear.bias")


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {
        name: torch.rand_like(tensor.float()).to(tensor.dtype) for name, tensor in SmallResNet().state_dict().items()
    }


def read_and_load(path: Path, network: nn.Module | None = None, *, accept_new_head: bool = False) -> WeightsReport:
    network = network or SmallResNet()
    file = read_weights_file(path, network)
    return load_weights(network, file, head_parameters=HEAD, accept_new_head=accept_new_head)


def save(tmp_path: Path, content: object, name: str = "weights.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th"])
def test_every_format_is_loaded(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    network = SmallResNet()
    report = read_and_load(path, network)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert len(report.matched) == len(state) and not report.differences and len(report.digest) == 64


@pytest.mark.parametrize(
    ("wrap", "unwrapped"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, ("state_dict",)),
        (lambda s: {"model": s, "optimizer": {"lr": 0.1}}, ("model",)),
        (lambda s: {"model": {"state_dict": s}}, ("model", "state_dict")),
        (lambda s: {f"module.{name}": t for name, t in s.items()}, ("prefix module.",)),
        (lambda s: {"state_dict": {f"module.model.{n}": t for n, t in s.items()}}, ("state_dict", "prefix module.", "prefix model.")),
    ],
)  # fmt: skip
def test_wrappers_are_removed_and_reported(
    tmp_path: Path, state: dict[str, Tensor], wrap: object, unwrapped: tuple[str, ...]
) -> None:
    assert callable(wrap)
    report = read_and_load(save(tmp_path, wrap(state)))
    assert report.unwrapped == unwrapped and len(report.matched) == len(state)
    assert f"unwrapped {', '.join(unwrapped)}" in str(report)


def test_other_entries_are_reported_as_ignored(tmp_path: Path, state: dict[str, Tensor]) -> None:
    report = read_and_load(save(tmp_path, {"state_dict": state, "best_prec1": 91.7}))
    assert report.ignored == ("best_prec1",) and "ignored best_prec1" in str(report)


def test_half_precision_is_converted_and_reported(tmp_path: Path, state: dict[str, Tensor]) -> None:
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    network = SmallResNet()
    report = read_and_load(save(tmp_path, halves), network)
    assert "conv1.weight" in report.converted
    assert torch.equal(network.conv1.weight, halves["conv1.weight"].float())


def test_old_files_without_counters_are_complete(tmp_path: Path, state: dict[str, Tensor]) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert not read_and_load(save(tmp_path, old)).differences


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_rejected_and_never_runs(tmp_path: Path, state: dict[str, Tensor], legacy: bool) -> None:
    path, proof = tmp_path / "weights.pth", tmp_path / "proof"
    torch.save({"state_dict": state, "args": Attack(proof)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"contains code \((io|_io|builtins)\.open\).*nothing in it was run"):
        read_and_load(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the attack does not work, so that the test proves nothing"


def test_pickled_module_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contains code \(tests.networks.SmallResNet\).*Save the state_dict"):
        read_and_load(save(tmp_path, SmallResNetWithoutLambda()))


class SmallResNetWithoutLambda(SmallResNet):
    def __reduce__(self) -> tuple[object, ...]:
        return (SmallResNet, ())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_archive_is_rejected(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="TorchScript archive contains code"):
        read_and_load(tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".pth", ".th", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_truncated_file_is_rejected(tmp_path: Path, state: dict[str, Tensor], suffix: str, kept: float) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(ValueError, match=str(path)):
        read_and_load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "contains a list"), ({"a": 1}, "contains no tensors"), (torch.zeros(3), "contains a Tensor"), ({1: torch.zeros(2)}, "contains a dict")],
)  # fmt: skip
def test_file_without_named_tensors_is_rejected(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_and_load(save(tmp_path, content))


@pytest.mark.parametrize(("name", "message"), [("missing.pth", "No such file"), ("weights.h5", "unknown suffix '.h5'")])
def test_wrong_path_is_rejected(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_and_load(tmp_path / name)


def test_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").mkdir()
    with pytest.raises(ValueError, match="not a regular file"):
        read_and_load(tmp_path / "weights.pth")


def test_plain_pickle_is_rejected_without_advice_to_run_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"rejected, and nothing in it was run") as caught:
        read_and_load(path)
    assert "weights_only" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_size_is_checked_after_decompression(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="bytes exceed the limit"):
        read_and_load(path)


def test_weights_of_another_architecture_are_rejected(tmp_path: Path) -> None:
    network = SmallResNet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    path = save(tmp_path, SmallResNet(widths=(4, 8, 12), blocks=1).state_dict())
    with pytest.raises(
        ValueError, match=r"does not match the network: \d+ tensors match; missing \(\d+\).*other shape \(\d+\)"
    ):
        read_and_load(path, network, accept_new_head=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_unexpected_tensors_are_rejected(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"unexpected \(1\): layer4.weight"):
        read_and_load(save(tmp_path, state | {"layer4.weight": torch.zeros(2)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_rejected(tmp_path: Path, state: dict[str, Tensor], value: float) -> None:
    state["conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="conv1.weight contains NaN or infinity"):
        read_and_load(save(tmp_path, state))


@pytest.mark.parametrize("change", ["other classes", "no head", "other head"])
def test_head_may_differ_where_that_is_accepted(tmp_path: Path, state: dict[str, Tensor], change: str) -> None:
    body = {name: tensor for name, tensor in state.items() if name not in HEAD}
    changed = {
        "other classes": body | {"linear.weight": torch.zeros(7, 16), "linear.bias": torch.zeros(7)},
        "no head": body,
        "other head": body | {"linear.scale": torch.ones(1), "linear.bias": torch.zeros(10)},
    }[change]
    path, network = save(tmp_path, changed), SmallResNet()
    with pytest.raises(ValueError, match="has a different head"):
        read_and_load(path, network)
    report = read_and_load(path, network, accept_new_head=True)
    assert report.new_head and torch.equal(network.conv1.weight, state["conv1.weight"])
    assert "head initialized randomly" in str(report)


def test_integers_do_not_become_weights(state: dict[str, Tensor]) -> None:
    state["conv1.weight"] = state["conv1.weight"].long()
    with pytest.raises(ValueError, match="conv1.weight torch.int64"):
        load_weights(SmallResNet(), WeightsFile("file", state), head_parameters=HEAD)


def load_resnet18(path: Path | str, **changes: object) -> LoadedModel:
    request = ModelRequest("torchvision:resnet18", weights=str(path), image_size=(32, 32), **changes)  # type: ignore[arg-type]
    return load_model(request, generator(0, "w"))


@pytest.fixture(scope="module")
def seven_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "seven.pth"
    torch.save(torchvision_source("resnet18").build(7).state_dict(), path)
    return path


def test_number_of_classes_is_read_from_the_file(seven_classes: Path) -> None:
    loaded = load_resnet18(seven_classes)
    assert loaded.network.architecture.classes == tuple("0123456")
    weights = torch.load(seven_classes, weights_only=True)
    assert torch.equal(loaded.network.head.weight, weights["fc.weight"])


def test_other_number_of_names_than_classes_is_rejected(seven_classes: Path) -> None:
    with pytest.raises(UserInputError, match="classes=3: the weights are for 7 classes, but 3 classes are given"):
        load_resnet18(seven_classes, classes=("0", "1", "2"))
    loaded = load_resnet18(seven_classes, classes=("0", "1", "2"), accept_new_head=True)
    assert loaded.report is not None and loaded.report.new_head and len(loaded.network.architecture.classes) == 3


def test_weights_of_another_library_network_are_rejected(seven_classes: Path) -> None:
    with pytest.raises(UserInputError, match="does not match the network.*Choose the model"):
        load_model(
            ModelRequest("torchvision:resnet34", weights=str(seven_classes), image_size=(32, 32)), generator(0, "w")
        )


def test_loading_published_weights_draws_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision_source("resnet18").build(None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published)
    loaded = load_resnet18("default")
    assert torch.equal(loaded.network.blocks[0].conv1.weight, published["conv1.weight"])
    assert loaded.report is not None and loaded.report.source.startswith("torchvision:resnet18 0.")


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserInputError, match="cannot be downloaded: OSError.*Download them elsewhere"):
        load_resnet18("default")


def test_names_in_published_densenet_files_are_translated() -> None:
    source: ModelSource = torchvision_source("densenet121")
    assert (
        source.rename("features.denseblock1.denselayer2.norm.1.weight")
        == "features.denseblock1.denselayer2.norm1.weight"
    )
    assert source.rename("features.norm0.weight") == "features.norm0.weight"
    assert torchvision_source("googlenet").rename("aux1.fc1.weight") is None


def test_pickle_without_torch_format_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="weights.pt"):
        read_and_load(tmp_path / "weights.pt")
