"""Untrusted models, features, checkpoints and data: no code execution, no path traversal, bounded sizes."""

from __future__ import annotations

import ast
import json
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mlflow.entities import FileInfo
from PIL import Image

from pipeline.data.decode import MAX_IMAGE_PIXELS, read_image
from pipeline.data.sources.registry import load_dataset
from pipeline.errors import CheckpointError, DataFileError, UserInputError
from pipeline.networks.build import architecture_from_json
from pipeline.networks.tensor_file import MAX_HEADER_BYTES, MAX_TENSORS, read_tensor_file
from pipeline.params import ENTRY_POINTS, TrainBaseParams, TransferParams, parse_params
from pipeline.redaction import shown_variable, without_password
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.feature_artifacts import load_features, read_features
from pipeline.training.checkpoint import CheckpointFolder, load_checkpoint
from tests.conftest import ROOT, clean_environment
from tests.faults.conftest import SMALL, Bases, Damage
from tests.test_data import write_idx

Damager = Callable[[Path, Damage], None]
QUICK = {"dataset": "digits", "epochs": 1, "per_class": 10, "val_per_class": 5, "threads": 1}

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops", "jsonpickle"}
FORBIDDEN_CALLS = {
    "torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle", "eval", "exec", "os.system",
    "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "mlflow.pytorch.load_model",
    "mlflow.pyfunc.load_model", "torch.package.PackageImporter", "torch.jit.load",
}  # fmt: skip
SAFE_WITH = {"torch.load": {"weights_only": "True"}, "np.load": {"allow_pickle": "False"}}


def unsafe_constructs(source: str) -> list[str]:
    """Return a module's imports and calls that can execute the data they read."""
    unsafe = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            unsafe += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            unsafe.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {str(word.arg): ast.unparse(word.value) for word in node.keywords}
            is_safe = name in SAFE_WITH and SAFE_WITH[name].items() <= words.items()
            unsafe += [name] if name in FORBIDDEN_CALLS and not is_safe else []
            unsafe += [f"{name}(shell=True)" for word in node.keywords if word.arg == "shell"]
    return unsafe


def test_no_module_unpickles_or_starts_a_shell() -> None:
    looked_at = 0
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        assert unsafe_constructs(path.read_text()) == [], path
        looked_at += 1
    assert looked_at >= 60


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from cloudpickle import loads", "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "eval(x)",
     "subprocess.run(x, shell=True)", "yaml.load(x, Loader=yaml.Loader)"],
)  # fmt: skip
def test_unsafe_line_is_detected(line: str) -> None:
    assert len(unsafe_constructs(f"def f():\n    {line}\n")) == 1


class Malicious:
    """Creates the file `mark` when unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.mark)!r}, 'w').close()",))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A path that the malicious pickle creates if it is loaded; checks first that loading it works."""
    trial = tmp_path / "trial"
    pickle.loads(pickle.dumps(Malicious(trial)))
    assert trial.exists()
    return tmp_path / "executed"


@pytest.mark.parametrize("allowed", ["", "true", "false"])
def test_pickles_in_model_folder_are_never_loaded(
    bases: Bases, mark: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", allowed)
    if not allowed:
        monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
    planted = [
        bases.model_folder(bases.older) / name
        for name in ("model.pth", "data/model.pth", "model.pkl", "python_model.pkl", "extra_files/weights.pkl")
    ]
    for path in planted:
        path.write_bytes(pickle.dumps(Malicious(mark)))
    result = transfer(TransferParams(**QUICK, base=bases.older.model_uri))
    for path in planted:
        path.unlink()
    assert result.model_uri and not mark.exists()


def test_train_base_works_without_pickle(bases: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert train_base(TrainBaseParams(**SMALL, seed=3)).metrics["test/accuracy"] > 0.3


@pytest.mark.parametrize("file", [names.WEIGHTS_FILE, names.ARCHITECTURE_FILE, names.IDENTITIES_FILE])
@pytest.mark.parametrize("saved_with", ["pickle", "torch"])
def test_pickled_model_file_is_rejected(bases: Bases, damaged: Damager, mark: Path, file: str, saved_with: str) -> None:
    damaged(bases.extra(bases.newer) / file, lambda _: bomb(mark, saved_with))
    with pytest.raises(UserInputError, match=f"damaged file {file}"):
        load_base(bases.client, bases.newer.model_uri)
    assert not mark.exists()


def bomb(mark: Path, saved_with: str) -> bytes:
    if saved_with == "pickle":
        return pickle.dumps(Malicious(mark))
    path = mark.with_name("bomb.pt")
    torch.save(Malicious(mark), path)
    return path.read_bytes()


@pytest.mark.parametrize("saved_with", ["pickle", "torch"])
def test_pickled_features_are_rejected(bases: Bases, damaged: Damager, mark: Path, saved_with: str) -> None:
    damaged(bases.features_path, lambda _: bomb(mark, saved_with))
    with pytest.raises(UserInputError, match=r"damaged file features\.safetensors"):
        load_features(bases.client, bases.features.run_id, {})
    assert not mark.exists()


@pytest.mark.parametrize("saved_with", ["pickle", "torch"])
def test_pickled_checkpoint_is_rejected(tmp_path: Path, mark: Path, saved_with: str) -> None:
    folder = CheckpointFolder(tmp_path)
    for name in ("last.safetensors", "last.pt", "last.pkl"):
        (tmp_path / name).write_bytes(bomb(mark, saved_with))
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        folder.newest()
    assert not mark.exists()


def test_processed_torchvision_files_are_ignored(tmp_path: Path, mark: Path) -> None:
    """torchvision would load `processed/*.pt` instead of the verified files."""
    raw, processed = tmp_path / "FashionMNIST" / "raw", tmp_path / "FashionMNIST" / "processed"
    processed.mkdir(parents=True)
    for part, count, cached in (("train", 60, "training.pt"), ("t10k", 30, "test.pt")):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.full((count, 28, 28), 7))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
        torch.save((torch.full((count, 28, 28), 99, dtype=torch.uint8), torch.zeros(count)), processed / cached)
    assert load_dataset("fashion_mnist", str(tmp_path)).train.pixels.unique().tolist() == [7]
    for cached in ("training.pt", "test.pt"):
        (processed / cached).write_bytes(bomb(mark, "torch"))
    assert load_dataset("fashion_mnist", str(tmp_path)).test.pixels.unique().tolist() == [7]
    assert not mark.exists()


@pytest.mark.parametrize("file", [names.WEIGHTS_FILE, names.ARCHITECTURE_FILE, names.IDENTITIES_FILE])
def test_symlinked_model_file_is_rejected(bases: Bases, tmp_path: Path, file: str) -> None:
    """Even if the link's target is the original file."""
    path = bases.extra(bases.newer) / file
    outside = Path(shutil.copy(path, tmp_path / file))
    original = path.read_bytes()
    path.unlink()
    path.symlink_to(outside)
    try:
        with pytest.raises(UserInputError, match=f"base={bases.newer.model_uri}: cannot be read"):
            load_base(bases.client, bases.newer.model_uri)
    finally:
        path.unlink()
        path.write_bytes(original)
    load_base(bases.client, bases.newer.model_uri)


def test_symlinked_features_are_rejected(bases: Bases, tmp_path: Path) -> None:
    path = bases.features_path
    wanted = read_features(path).fingerprint
    outside, original = Path(shutil.copy(path, tmp_path / "theirs.safetensors")), path.read_bytes()
    path.unlink()
    path.symlink_to(outside)
    try:
        with pytest.raises(UserInputError, match=f"features={bases.features.run_id}: cannot be read"):
            load_features(bases.client, bases.features.run_id, wanted)
    finally:
        path.unlink()
        path.write_bytes(original)
    load_features(bases.client, bases.features.run_id, wanted)


@pytest.mark.parametrize(
    "listed",
    ["../../../../etc", "/etc", "extra_files/../../..", "C:\\windows"],
)
def test_listed_artifact_names_are_ignored(
    bases: Bases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: str
) -> None:
    """Whatever the server lists, only the three fixed names are downloaded."""
    found = [FileInfo(f"{listed}/{name}", False, 10) for name in ("passwd", "weights.safetensors.exe")]
    monkeypatch.setattr(bases.client, "list_logged_model_artifacts", lambda *_: found)
    with pytest.raises(UserInputError, match="incomplete: no weights.safetensors, architecture.json"):
        load_base(bases.client, bases.newer.model_uri)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base", "runs:/../../etc/passwd"),
        ("base", "models:/../m-1"),
        ("base", "/etc/passwd"),
        ("base", "file:///etc"),
        ("base", "https://somewhere/model"),
        ("features", "runs:/" + "a" * 32 + "/../../x"),
        ("features", "../features"),
    ],
)
def test_path_references_are_rejected(name: str, value: str) -> None:
    with pytest.raises(UserInputError, match=f"{name}="):
        parse_params(TransferParams, {name: value})


def header(claimed: int | None = None, content: bytes = b"{}") -> bytes:
    return struct.pack("<Q", len(content) if claimed is None else claimed) + content


BIG = json.dumps({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(MAX_TENSORS + 1)})
HEADERS = {
    "2^60 bytes of header": (header(2**60), "header alone declares 1152921504606846976"),
    "2^64 - 1 bytes of header": (header(2**64 - 1), "truncated"),
    "2^60 bytes of tensor": (
        header(content=b'{"a":{"dtype":"F32","shape":[288230376151711744],"data_offsets":[0,1152921504606846976]}}'),
        "header",
    ),
    "sizes that overflow": (
        header(content=b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}1234'),
        "header",
    ),
    "a size beyond 64 bits": (
        header(content=b'{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'),
        "verflow",
    ),
    "too many tensors": (header(content=BIG.encode()), f"contains {MAX_TENSORS + 1} tensors"),
    "nested headers": (header(content=b'{"a":' + b"[" * 100_000), "recursion limit"),
    "seven bytes": (b"1234567", "truncated"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_forged_tensor_file_header_is_rejected(tmp_path: Path, kind: str) -> None:
    content, message = HEADERS[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tensor_file(path, 1 << 20)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_checkpoint(path)


def test_oversized_tensor_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(header())
        file.truncate(1 << 40)  # takes no room on the disk, and would take a terabyte of memory
    with pytest.raises(ValueError, match="1099511627776 bytes exceeds the limit of 1048576"):
        read_tensor_file(path, 1 << 20)
    with path.open("wb") as file:
        file.write(header(MAX_HEADER_BYTES + 1, b"{"))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(ValueError, match="header size of"):
        read_tensor_file(path, 1 << 30)


def test_named_pipe_does_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_tensor_file(tmp_path / "pipe", 1 << 20)
    with pytest.raises(DataFileError, match="not a regular file"):
        read_image(tmp_path / "pipe")
    with pytest.raises(UserInputError, match="not a regular file"):
        from pipeline.tuning.search_space import load_space

        load_space(str(tmp_path / "pipe"), "mlp")


def test_oversized_architecture_is_rejected_before_parsing(bases: Bases, damaged: Damager) -> None:
    damaged(bases.extra(bases.newer) / names.ARCHITECTURE_FILE, lambda _: b"[" * (2 << 20))
    with pytest.raises(UserInputError, match="files exceed the size limit: architecture.json"):
        load_base(bases.client, bases.newer.model_uri)


def png(width: int, height: int) -> bytes:
    """A valid single-color PNG with one bit per pixel, a thousand times smaller than its decoded size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes(height * ((width + 7) // 8 + 1)), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_decompression_bomb_image_is_rejected(tmp_path: Path, state: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.new("L", (30, 30), index).save(tmp_path / name / f"{index}.png")
    bombed = tmp_path / "a" / "bomb.png"
    bombed.write_bytes(png(20_000, 20_000))
    assert bombed.stat().st_size < 100_000 and MAX_IMAGE_PIXELS < 20_000**2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataFileError, match=r"bomb\.png.*pixels"):
        load_dataset(f"folder:{tmp_path}", "data")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    bombed.write_bytes(png(64, 64))
    assert len(load_dataset(f"folder:{tmp_path}", "data").train) > 5


def test_postscript_image_is_not_executed(tmp_path: Path) -> None:
    """Pillow would pass a PostScript file to Ghostscript, whatever its file name."""
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\nshowpage\n")
    assert Image.open(path).format == "EPS"
    with pytest.raises(DataFileError, match=r"x\.png: cannot be read as an image: cannot identify"):
        read_image(path)


IMAGES = {"size": [28, 28], "channels": 1}
SHARED = {"version": 2, "preprocessing": IMAGES, "classes": ["a", "b"]}
GOOD = {**SHARED, "family": "mlp", "hidden_layers": 2, "width": 16}
CNN = {**SHARED, "family": "cnn", "convolutions": [{"channels": 4, "kernel": 3}]}
MANY = [str(number) for number in range(10_000)]
DESCRIPTIONS = {
    "a width of 10^9": json.dumps({**GOOD, "width": 10**9}),
    "a width of 10^400": json.dumps(GOOD).replace("16", "1" + "0" * 400),
    "a billion layers": json.dumps({**GOOD, "hidden_layers": 10**9}),
    "many wide layers": json.dumps({**GOOD, "hidden_layers": 100, "width": 16_384}),
    "a head wider than memory": json.dumps({**GOOD, "classes": MANY, "width": 10_000}),
    "a convolution's dense head": json.dumps({**CNN, "classes": MANY, "dense_width": 16_384}),
    "images of 10^12 pixels": json.dumps({**GOOD, "preprocessing": {**IMAGES, "size": [10**6, 10**6]}}),
    "negative sizes": json.dumps({**GOOD, "preprocessing": {**IMAGES, "size": [-28, -28]}}),
    "deep nesting": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"family":' * 20_000,
    "NaN": json.dumps({**GOOD, "dropout": float("nan")}),
    "infinity": json.dumps({**GOOD, "dropout": float("inf")}),
    "a repeated key": json.dumps(GOOD)[:-1] + ', "width": 17}',
    "a repeated class": json.dumps({**GOOD, "classes": ["a", "a"]}),
    "a number as text": json.dumps({**GOOD, "width": "16"}),
    "a fraction": json.dumps({**GOOD, "width": 16.5}),
    "true as a number": json.dumps({**GOOD, "width": True}),
    "null": json.dumps({**GOOD, "width": None}),
    "a list": json.dumps([GOOD]),
    "an unknown key": json.dumps({**GOOD, "__class__": "os.system"}),
    "an unknown family": json.dumps({**GOOD, "family": "resnet"}),
    "a key that is missing": json.dumps({k: v for k, v in GOOD.items() if k != "classes"}),
    "an earlier release": json.dumps({"family": "mlp", "image_shape": [1, 28, 28], "classes": [0, 1]}),
    "class numbers": json.dumps({**GOOD, "classes": [0, 1]}),
    "a tiny deviation": json.dumps({**GOOD, "preprocessing": {**IMAGES, "std": [-1.0]}}),
    "another number of means": json.dumps({**GOOD, "preprocessing": {**IMAGES, "mean": [0.5, 0.5]}}),
    "no JSON": "family: mlp",
    "a lone surrogate": json.dumps(GOOD) + "\ud800",
    "too long": " " * (2 << 20) + json.dumps(GOOD),
}


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_architecture_outside_schema_is_rejected(what: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="invalid architecture"):
        architecture_from_json(DESCRIPTIONS[what])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_invalid_architectures_differ_from_valid_ones() -> None:
    assert architecture_from_json(json.dumps(GOOD)).depth == 2 and architecture_from_json(json.dumps(CNN)).depth == 2
    assert len(set(DESCRIPTIONS.values())) == len(DESCRIPTIONS) == 29


def forged_model(bases: Bases, tags: dict[str, str], *, drop: str = "") -> str:
    """Upload the newest base's files as a model with other tags; return its URI."""
    mine = bases.client.get_logged_model(bases.newer.model_uri.removeprefix("models:/"))
    theirs = {name: value for name, value in {**mine.tags, **tags}.items() if name != drop and "mlflow" not in name}
    model = bases.client.create_logged_model("0", name="x", source_run_id=mine.source_run_id, tags=theirs)
    target = Path(str(model.artifact_location).removeprefix("file://")) / names.EXTRA_FILES
    shutil.copytree(bases.extra(bases.newer), target)
    bases.client.finalize_logged_model(model.model_id, "READY")
    return f"models:/{model.model_id}"


@pytest.mark.parametrize(
    ("tags", "drop", "message"),
    [
        ({names.DATASET: "folder:"}, "", "its dataset tag is invalid"),
        ({names.DATASET: "folder:\x1b[2J"}, "", "its dataset tag is invalid"),
        ({names.DATASET: "../../etc"}, "", "its dataset tag is invalid"),
        ({}, names.DATASET, "its dataset tag is invalid"),
        ({names.MODEL_DIGEST: "0" * 32}, "", "altered: its files"),
        ({}, names.MODEL_DIGEST, "no handover_digest tag"),
    ],
)
def test_forged_model_tags_are_rejected(bases: Bases, tags: dict[str, str], drop: str, message: str) -> None:
    load_base(bases.client, forged_model(bases, {}))
    with pytest.raises(UserInputError, match=message):
        load_base(bases.client, forged_model(bases, tags, drop=drop))


@pytest.mark.parametrize("parameters", ["[" * 5000, "[]", "{", '{"per_class": 5}', '{"per_class": "-1"}'])
def test_forged_run_tags_are_rejected(bases: Bases, parameters: str) -> None:
    original = bases.client.get_run(bases.newer.run_id).data.tags[names.PARAMETERS]
    bases.client.set_tag(bases.newer.run_id, names.PARAMETERS, parameters)
    try:
        with pytest.raises(
            UserInputError, match=f"base={bases.newer.run_id}: (the parameters of its run are unreadable|p)"
        ):
            load_base(bases.client, bases.newer.run_id)
    finally:
        bases.client.set_tag(bases.newer.run_id, names.PARAMETERS, original)


def test_nan_weights_are_rejected(bases: Bases, damaged: Damager) -> None:
    def poison(content: bytes) -> bytes:
        tensors = safetensors.torch.load(content)
        tensors["head.bias"][0] = float("nan")
        return safetensors.torch.save(tensors)

    damaged(bases.extra(bases.newer) / names.WEIGHTS_FILE, poison)
    with pytest.raises(UserInputError, match=f"{names.WEIGHTS_FILE}: weights contain NaN or infinity"):
        load_base(bases.client, bases.newer.model_uri)


@pytest.mark.parametrize(
    "setting", ['{"data_dir": "/etc"}', '{"register_as": "x"}', '{"dropout": 7}', "[" * 5000, "[]"]
)
def test_best_setting_with_invalid_content_is_rejected(bases: Bases, tmp_path: Path, setting: str) -> None:
    run = bases.client.create_run("0")
    path = tmp_path / names.BEST_SETTING
    path.write_text(setting)
    bases.client.log_artifact(run.info.run_id, str(path))
    before = len(bases.client.search_runs(["0"]))
    with pytest.raises(UserInputError, match="params_from|dropout"):
        train_base(TrainBaseParams(**SMALL, params_from=run.info.run_id))
    assert len(bases.client.search_runs(["0"])) == before


SECRET = "hunter2/%40pw"
URLS = [
    f"postgresql://me:{SECRET}@host/db",
    f"https://me:{SECRET}@host:5000",
    f"s3://{SECRET}@bucket",
    f"mysql+pymysql://me:p@{SECRET}@host/db",
    f"postgresql://host/db?user=me&password={SECRET}",
    f"https://host/?access_token={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_password_is_rejected_in_every_parameter_and_never_echoed(url: str) -> None:
    tried = 0
    for kind in ENTRY_POINTS.values():
        for name in [*kind.model_fields, "no_such_parameter", "storage"]:
            with pytest.raises(UserInputError) as caught:
                parse_params(kind, {name: url})
            assert SECRET not in str(caught.value) and SECRET not in repr(caught.value), (kind, name)
            tried += 1
    assert tried > 100


@pytest.mark.parametrize("url", URLS)
def test_password_in_stray_argument_is_not_echoed(url: str) -> None:
    for words in ([url], ["--dataset", url], ["--storage", url], [f"--x={url}"]):
        done = subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import cli; cli()", "report", *words],
            cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2 and SECRET not in done.stdout + done.stderr
        if url != URLS[0]:
            break  # processes take a second to start: all variants for the first URL, one for the others


def test_environment_secrets_are_redacted() -> None:
    assert shown_variable("MLFLOW_TRACKING_PASSWORD", "x") == shown_variable("AWS_SECRET_ACCESS_KEY", "x")
    assert "x" not in shown_variable("HF_TOKEN", "x").split()
    assert shown_variable("PIPELINE_STORAGE", URLS[0]) == "postgresql://***@host/db"
    assert shown_variable("OMP_NUM_THREADS", "4") == "4"
    assert without_password("models:/name@best and a@b") == "models:/name@best and a@b"


INJECTIONS = {
    "dataset": "digits; touch pwned",
    "classes": "$(touch pwned)",
    "model": "mlp`touch pwned`",
    "seed": "0 && touch pwned",
    "width": "16 | touch pwned",
    "nobody_declared_this": "1\ntouch pwned",
    "epochs": "1' ; touch pwned ; '",
}


@pytest.mark.slow
def test_mlflow_run_parameters_are_not_interpreted_by_a_shell(tmp_path: Path) -> None:
    """One real `mlflow run` with all injections: each is rejected by name, and none creates a file."""
    listed = subprocess.run(
        ["git", "ls-files", "MLproject", "pipeline", "conda.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    tools = Path(sys.executable).parent
    words = [word for name, value in INJECTIONS.items() for word in ("-P", f"{name}={value}")]
    done = subprocess.run(
        [str(tools / "mlflow"), "run", ".", "--env-manager", "local", "-e", "train_base", *words],
        cwd=tmp_path, env=clean_environment(PATH=f"{tools}:/usr/bin:/bin"), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    for name, value in INJECTIONS.items():
        assert f"error: {name}={value}: " in done.stderr, (name, done.stderr)
    assert list(tmp_path.rglob("pwned")) == [] and not (ROOT / "pwned").exists()
    assert not list((tmp_path / "mlruns").rglob("checkpoints"))


@pytest.mark.slow
def test_injections_work_in_a_real_shell(tmp_path: Path) -> None:
    worked = 0
    for value in INJECTIONS.values():
        for line in (f"echo {value}", f"echo '{value}'"):  # unquoted and single-quoted
            subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True)
        worked += (tmp_path / "pwned").exists()
        (tmp_path / "pwned").unlink(missing_ok=True)
    assert worked == len(INJECTIONS) == 7
