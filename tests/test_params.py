"""Parameters: defaults, ranges, error messages, and consistency with MLproject."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserInputError
from pipeline.params import ENTRY_POINTS, TrainBaseParams, format_classes, parse_classes, parse_params, spell
from tests.conftest import ROOT
from tools.parameters_page import page

REJECTED = [
    ({"classes": "9-5"}, "classes=9-5: .*is reversed; write 5-9"),
    ({"classes": "0-12", "dataset": "mnist"}, "classes=0-12: .*has classes 0-9"),
    ({"classes": "3"}, "classes=3: .*at least two"),
    ({"classes": "1,1"}, "Duplicate class 1"),
    ({"classes": "a"}, "classes=a: .*at least two"),
    ({"classes": "ants,,bees"}, "classes=ants,,bees: .*Separate class names"),
    ({"classes": "ants,ants"}, "Duplicate class ants"),
    ({"channels": "16,32"}, "channels=16,32: must be auto, 1 or 3. For the output channels .* conv_channels=16,32"),
    ({"channels": "2"}, "channels=2: must be auto, 1 or 3"),
    ({"image_size": "7"}, "image_size=7: must be auto, an integer in .8, 1024."),
    ({"image_size": "32x4000"}, "image_size=32x4000: must be"),
    ({"mean": "0.5,0.5"}, "mean=0.5,0.5: must be none, measured, or one number in .0, 1. per channel"),
    ({"std": "0"}, "std=0: must be none, measured, or one positive number"),
    ({"resize": "crop"}, "resize=crop: must be auto, fit, stretch or pad"),
    ({"learning_rate": "-1"}, "learning_rate=-1: must be auto or a number in .0, 10.. "),
    ({"learning_rate": "nan"}, "learning_rate=nan: must be"),
    ({"batch_size": "0"}, "batch_size=0: must be an integer in .1, 1000000.. The default is 128"),
    ({"dropout": "1"}, "dropout=1: must be auto or a number in .0, 1.. "),
    ({"model": "vgg"}, "model=vgg: must be mlp, cnn, torchvision:NAME"),
    ({"dataset": "mnsit"}, "dataset=mnsit: .*Did you mean mnist"),
    ({"device": "cuda:77"}, "device=cuda:77: .*CUDA devices"),
    ({"weight_deacy": "0"}, "weight_deacy=0: unknown parameter. Did you mean weight_decay"),
    ({"model": "cnn", "hidden_layers": "3"}, "hidden_layers=3: .*model=mlp"),
    ({"seed": "1.5"}, "seed=1.5: must be an integer in .0, 4294967295.. "),
    ({"threads": "0"}, "threads=0: must be auto or an integer in .1, 1024.. "),
    ({"register_as": "a/b"}, "register_as=a/b"),
    ({"batch_size": "1", "batch_norm": "true"}, "batch_size=1: .*Batch norm needs at least 2 images"),
]


@pytest.mark.parametrize(("raw", "message"), REJECTED)
def test_invalid_values_are_rejected_with_the_allowed_range(raw: dict[str, str], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        parse_params(TrainBaseParams, raw)


def test_all_errors_are_reported_together() -> None:
    raw = {"classes": "9-5", "learning_rate": "nan", "batch_size": "0", "model": "vgg", "nonsense": "1"}
    with pytest.raises(UserInputError) as caught:
        parse_params(TrainBaseParams, raw)
    assert {fault.name for fault in caught.value.faults} == set(raw)


def test_error_states_the_default() -> None:
    with pytest.raises(UserInputError) as caught:
        parse_params(TrainBaseParams, {"batch_size": "0"})
    assert "The default is 128." in str(caught.value)


def test_password_is_rejected_and_not_echoed() -> None:
    with pytest.raises(UserInputError) as caught:
        parse_params(TrainBaseParams, {"data_dir": "s3://someone:hunter2@host/data"})
    assert "password" in str(caught.value) and "hunter2" not in str(caught.value)


def test_defaults_depend_on_model_family() -> None:
    mlp, cnn = TrainBaseParams(), TrainBaseParams(model="cnn")
    assert (mlp.hidden_layers, mlp.width, mlp.dropout, mlp.conv_channels) == (5, 100, 0.0, None)
    assert (cnn.hidden_layers, cnn.width, cnn.conv_channels) == (None, None, "auto")
    assert "hidden_layers" not in cnn.logged()


def test_text_and_python_values_parse_identically() -> None:
    text = parse_params(TrainBaseParams, {"learning-rate": "1e-3", "batch_norm": "true", "classes": "4,3,2,1,0"})
    assert text == TrainBaseParams(learning_rate=0.001, batch_norm=True, classes="0-4")
    assert text.logged()["learning_rate"] == "0.001" and text.logged()["batch_norm"] == "true"


@given(st.sets(st.integers(0, 50), min_size=2))
def test_classes_round_trip(classes: set[int]) -> None:
    assert parse_classes(format_classes(tuple(classes))) == tuple(sorted(classes))


@given(st.text(max_size=30))
def test_any_classes_text_is_parsed_or_rejected(text: str) -> None:
    try:
        assert len(parse_classes(text)) >= 2
    except ValueError as error:
        assert str(error)


def test_mlproject_and_params_agree() -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    compared = 0
    for name, entry in project["entry_points"].items():
        word = re.search(r"-m pipeline (\w+)", entry["command"])
        assert word is not None
        kind = ENTRY_POINTS[word[1]]
        assert name == word[1]
        for parameter, declared in entry["parameters"].items():
            assert spell(kind.model_fields[parameter].default) == spell(declared.get("default", "")), (name, parameter)
            assert f"--{parameter} {{{parameter}}}" in entry["command"]
            compared += 1
    assert set(ENTRY_POINTS) <= set(project["entry_points"])
    assert compared >= 8


def test_every_parameter_is_documented() -> None:
    described = 0
    for kind in ENTRY_POINTS.values():
        for name, field in kind.model_fields.items():
            assert field.description and isinstance(field.json_schema_extra, dict), name
            assert field.json_schema_extra["allowed"], name
            described += 1
    assert described >= 20


def test_parameters_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "parameters.md").read_text() == page(), "run make docs"


def test_entry_points_are_stable() -> None:
    """Removing a parameter or changing its default is a breaking change: add it to the changelog."""
    assert list(ENTRY_POINTS) == [
        "main",
        "import_base",
        "train_base",
        "tune",
        "cache_features",
        "probe",
        "transfer",
        "finetune_cnn",
        "scratch_cnn",
        "report",
        "resume",
    ]
    for name in ("base", "classes", "per_class", "val_per_class", "reuse_layers", "unfreeze", "upper", "features"):
        assert name in ENTRY_POINTS["transfer"].model_fields
