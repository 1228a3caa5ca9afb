"""Fuzz every parser of untrusted input: only the project's own exceptions, bounded time and memory.

A hundred inputs per parser by default, PIPELINE_EXAMPLES=20000 for more. In CI the inputs are always the same.
"""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.decode import read_image
from pipeline.data.idx import idx_fault
from pipeline.data.sources.registry import load_dataset
from pipeline.errors import CheckpointError, DataFileError, UserInputError
from pipeline.networks.build import architecture_from_json
from pipeline.params import ENTRY_POINTS, StageParams, parse_classes, parse_params
from pipeline.tracking.feature_artifacts import DamagedFeaturesError, read_features
from pipeline.tracking.outbox.journal import Journal, read_part
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.training.features import Features
from pipeline.tuning.search_space import SEARCHABLE, load_space
from tests.test_data import write_idx

EXAMPLES = int(os.environ.get("PIPELINE_EXAMPLES", "100"))
MEMORY_LIMIT_KB = 300_000  # above the process's memory at a parser's first input

tried: dict[str, int] = {}
held_before: dict[str, int] = {}


def many(function: Callable[..., None]) -> Callable[..., None]:
    """Run a test on many inputs, each with a deadline of ten seconds (generous, for busy machines)."""
    return settings(
        max_examples=EXAMPLES,
        deadline=10_000,
        derandomize=os.environ.get("CI") == "true" or EXAMPLES == 100,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(function)


def count(what: str) -> None:
    """Count an input, and check that memory has not grown beyond its limit."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried[what] = tried.get(what, 0) + 1
    grown = most - held_before.setdefault(what, most)
    assert grown < MEMORY_LIMIT_KB, f"{what}: {grown} kB more than at the start"


words = st.text(max_size=40)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)
numbers = st.integers(-10, 10**12).map(str) | st.floats().map(str)
likely = st.sampled_from(
    ["auto", "all", "none", "true", "0-4", "5,7,9", "folder:", "folder:\0", "mnist", "cnn", "cuda:0", "cuda:" + "9" * 30, "cpu",
     "1e400", "0x10", "1_000", "\u0661", "models:/a@b", "runs:/" + "a" * 32 + "/model", "16,32", "-0", "1e-300", "://a@"]
)  # fmt: skip


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_parameters_are_parsed_or_rejected(name: str) -> None:
    kind: type[StageParams] = ENTRY_POINTS[name]
    names = st.sampled_from(list(kind.model_fields)) | words

    @many
    @given(st.dictionaries(names, likely | numbers | words | values, max_size=6))
    def read(raw: dict[str, Any]) -> None:
        count("parameters")
        try:
            found = parse_params(kind, raw)
        except UserInputError as error:
            assert str(error)
        else:
            assert all(isinstance(value, str) for value in found.logged().values())
            assert parse_params(kind, found.logged()).logged() == found.logged()  # logged values parse again

    read()


@many
@given(
    st.text(max_size=60)
    | st.lists(st.integers(-3, 20_000).map(str), max_size=9).map("-".join)
    | st.from_regex(r"(\d{1,6}(-\d{1,6})?,?){1,8}")
)
def test_classes_are_parsed_or_rejected(text: str) -> None:
    count("classes")
    try:
        found = parse_classes(text)
    except ValueError as error:
        assert str(error) and len(str(error)) < 300
    else:
        assert 2 <= len(found) == len(set(found)) <= 10_000 and list(found) == sorted(found)


def idx(type_code: int, sizes: list[int], body: bytes) -> bytes:
    return bytes([0, 0, type_code, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes) + body


def sized(sizes: list[int], type_code: int) -> bytes:
    """A file whose length matches its header, up to 5000 bytes."""
    length = 1
    for size in sizes:
        length *= size
    return idx(type_code, sizes, bytes(min(length, 5000)))


idx_files = (
    st.binary(max_size=300)
    | st.builds(idx, st.integers(0, 255), st.lists(st.integers(0, 2**32 - 1), max_size=6), st.binary(max_size=50))
    | st.builds(sized, st.lists(st.integers(0, 30), min_size=1, max_size=4), st.sampled_from([8, 9, 11, 12, 13, 14]))
)


@many
@given(idx_files)
def test_any_bytes_are_valid_idx_or_report_a_fault(content: bytes) -> None:
    count("idx structure")
    fault = idx_fault(content)
    assert isinstance(fault, str) and (fault or content[:2] == b"\0\0")


def altered(good: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with bytes changed, truncated or appended; or random bytes."""
    places = st.lists(st.tuples(st.integers(0, len(good) - 1) | st.integers(0, 40), st.integers(0, 255)), max_size=6)

    def change(changes: list[tuple[int, int]], end: int, more: bytes) -> bytes:
        content = bytearray(good)
        for place, value in changes:
            content[place % len(content)] = value
        return bytes(content[:end]) + more

    ends = st.just(len(good)) | st.integers(0, len(good))
    return st.builds(change, places, ends, st.just(b"") | st.binary(max_size=20)) | st.binary(max_size=200)


def test_datasets_are_loaded_or_rejected(tmp_path: Path) -> None:
    raw = tmp_path / "KMNIST" / "raw"
    good: dict[str, bytes] = {}
    for part, size in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((size, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(size) % 10)
    for path in raw.iterdir():
        good[path.name] = path.read_bytes()

    @many
    @given(st.sampled_from(sorted(good)), st.data())
    def load(name: str, data: st.DataObject) -> None:
        count("datasets")
        (raw / name).write_bytes(data.draw(altered(good[name]) | idx_files))
        try:
            found = load_dataset("kmnist", str(tmp_path))
        except DataFileError as error:
            assert "KMNIST" in str(error) or str(tmp_path) in str(error)
        else:
            assert found.train.pixels.shape[1:] == (1, 28, 28) and len(found.test.labels) > 0
        finally:
            (raw / name).write_bytes(good[name])

    load()


def test_images_are_decoded_or_rejected(tmp_path: Path) -> None:
    picture = Image.effect_noise((31, 17), 60)
    formats = {"PNG": {}, "JPEG": {}, "BMP": {}, "PPM": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "GIF": {}}
    good = {}
    for name, options in formats.items():
        picture.save(tmp_path / f"x.{name.lower()}", name, **options)
        good[name] = (tmp_path / f"x.{name.lower()}").read_bytes()
    path = tmp_path / "x.png"

    @many
    @given(st.sampled_from(sorted(good)), st.data())
    def read(name: str, data: st.DataObject) -> None:
        count("images")
        path.write_bytes(data.draw(altered(good[name])))
        try:
            assert read_image(path).shape[2] in (1, 3)
        except DataFileError as error:
            assert "x.png" in str(error)

    read()


descriptions = st.fixed_dictionaries(
    {},
    optional={
        "family": st.sampled_from(["mlp", "cnn"]) | values,
        "version": st.integers(1, 3) | values,
        "preprocessing": st.fixed_dictionaries(
            {"size": st.lists(st.integers(-1, 20_000), max_size=3), "channels": st.integers(0, 4)},
            optional={"mean": st.lists(st.floats(), max_size=3), "std": st.lists(st.floats(), max_size=3)},
        )
        | values,
        "classes": st.lists(st.text(max_size=3), max_size=12) | values,
        "hidden_layers": st.integers(-1, 10**10) | values,
        "width": st.integers(-1, 10**10) | values,
        "dropout": st.floats() | values,
        "batch_norm": values,
        "convolutions": st.lists(
            st.fixed_dictionaries(
                {"channels": st.integers(-1, 2000), "kernel": st.integers(-1, 20)},
                optional={"stride": st.integers(-1, 10), "pool": st.booleans()},
            ),
            max_size=30,
        ),
        "dense_width": st.integers(-1, 20_000),
    },
)


@many
@given(st.text(max_size=200) | values.map(json.dumps) | descriptions.map(json.dumps))
def test_architectures_are_parsed_or_rejected(text: str) -> None:
    count("descriptions")
    try:
        found = architecture_from_json(text)
    except ValueError as error:
        assert str(error)
    else:
        assert architecture_from_json(found.model_dump_json()) == found


yaml_texts = (
    st.text(max_size=120)
    | values.map(lambda value: yaml.safe_dump(value, allow_unicode=True))
    | st.dictionaries(st.sampled_from(SEARCHABLE) | words, values, max_size=4).map(yaml.safe_dump)
    | st.dictionaries(
        st.sampled_from(SEARCHABLE),
        st.fixed_dictionaries({"low": scalars, "high": scalars}, optional={"log": scalars, "step": scalars})
        | st.lists(scalars, max_size=4),
        min_size=1,
        max_size=3,
    ).map(yaml.safe_dump)
    | st.lists(st.sampled_from(["width: ", "&a ", "*a", "[", "]", "{", "}", "!!int ", "!!python/name:os ", "? ", "- ", "\n", "<<: ", "1", ", ", "low: ", "|", "%YAML 1.1\n"]), max_size=30).map("".join)
)  # fmt: skip


def test_search_spaces_are_parsed_or_rejected(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"

    @many
    @example("!!int", "mlp")
    @given(yaml_texts | st.binary(max_size=100), st.sampled_from(["mlp", "cnn"]))
    def load(content: str | bytes, family: Any) -> None:
        count("search spaces")
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        try:
            assert set(load_space(str(path), family)) <= set(SEARCHABLE)
        except UserInputError as error:
            assert str(path) in str(error)

    load()


def tensor_files(good: bytes) -> st.SearchStrategy[bytes]:
    """Altered safetensors files, and files with arbitrary headers."""
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "I64", "BOOL", "F8_E4M3", "F4", "BF16", "U64", "C64", "nonsense"]),
            "shape": st.lists(st.integers(0, 4) | st.integers(0, 2**64), max_size=4),
            "data_offsets": st.lists(st.integers(0, 32) | st.integers(0, 2**64), min_size=2, max_size=2),
        }
    )
    headers = st.dictionaries(words, entry | values, max_size=3) | st.dictionaries(
        st.just("__metadata__"), st.dictionaries(words, words | values, max_size=3)
    )

    def build(header: dict[str, object], body: bytes, claimed: int | None) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body

    return altered(good) | st.builds(build, headers, st.binary(max_size=40), st.none() | st.integers(0, 2**64 - 1))


def test_checkpoints_are_loaded_or_rejected(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, Checkpoint({"weights/a": torch.arange(6.0)}, {"epoch": 1}))
    good = path.read_bytes()

    @many
    @given(tensor_files(good))
    def load(content: bytes) -> None:
        count("checkpoints")
        path.write_bytes(content)
        try:
            assert load_checkpoint(path).facts == {"epoch": 1}
        except CheckpointError as error:
            assert str(path) in str(error)

    load()


def test_checkpoints_with_valid_digest_are_loaded_or_rejected(tmp_path: Path) -> None:
    """Whoever writes a file can also compute its digest."""
    path = tmp_path / "last.safetensors"

    @many
    @given(values | st.just("[" * 5000), st.text(max_size=30))
    def load(facts: Any, name: str) -> None:
        count("checkpoints")
        save_checkpoint(path, Checkpoint({name: torch.ones(2)}, facts))
        try:
            assert isinstance(load_checkpoint(path).facts, dict)
        except CheckpointError as error:
            assert str(path) in str(error)

    load()


def test_feature_files_are_loaded_or_rejected(tmp_path: Path) -> None:
    from pipeline.networks.build import weights_digest

    path = tmp_path / "features.safetensors"
    good_tensors = {"values": torch.ones(4, 3), "ids": torch.arange(4)}
    good_header = {"fingerprint": "{}", "depth": "1", "seconds": "0.1", "content": weights_digest(good_tensors)}
    good = safetensors.torch.save(good_tensors, good_header)
    tensors = st.sampled_from(
        [torch.ones(4, 3), torch.arange(4), torch.ones(()), torch.full((4, 2), torch.nan), torch.arange(4).flip(0), torch.ones(0, 3),
         torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int32)]
    )  # fmt: skip

    def build(one: torch.Tensor, two: torch.Tensor, header: dict[str, str]) -> bytes:
        tensors = {"values": one.clone(), "ids": two.clone()}
        return safetensors.torch.save(tensors, {**good_header, "content": weights_digest(tensors), **header})

    headers = st.dictionaries(st.sampled_from(sorted(good_header)), likely | words | values.map(json.dumps))

    @many
    @given(tensor_files(good) | st.builds(build, tensors, tensors, headers))
    def read(content: bytes) -> None:
        count("features")
        path.write_bytes(content)
        try:
            found = read_features(path)
        except DamagedFeaturesError as error:
            assert "features.safetensors" in str(error)
        else:
            assert isinstance(found, Features) and len(found.rows(found.ids)) == len(found.values)

    read()


def test_journal_lines_are_parsed_or_reported_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(tmp_path)
    for number in range(3):
        journal.append({"kind": "tags", "tags": {"n": str(number)}})
    journal.close()
    good = path.read_bytes()

    @many
    @given(altered(good) | st.lists(values.map(json.dumps), max_size=5).map("\n".join).map(str.encode))
    def read(content: bytes) -> None:
        count("journals")
        path.write_bytes(content)
        part = read_part(path)
        assert len(part.entries) + len(part.damaged) <= content.count(b"\n") + content.count(b"\r")
        assert all("journal.jsonl: the line at byte" in line for line in part.damaged)

    read()


@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
@pytest.mark.parametrize("bracket", ["[", '{"a":', "- ", "!!seq [", "&a [", "'"])
def test_deep_nesting_is_rejected(tmp_path: Path, depth: int, bracket: str) -> None:
    """Too deep for hypothesis to generate, and deep enough to overflow the stack of a recursive parser."""
    text = bracket * depth
    with pytest.raises(ValueError):
        architecture_from_json(text)
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserInputError):
        load_space(str(path), "mlp")
    checkpoint = tmp_path / "x.safetensors"
    header = {"format": "1", "facts": text, "digest": "0" * 32}
    checkpoint.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, header))
    with pytest.raises(CheckpointError):
        load_checkpoint(checkpoint)
    with pytest.raises(UserInputError):
        parse_params(ENTRY_POINTS["tune"], {"classes": text, "space": text, "seed": text, "study": text})


def test_every_parser_got_enough_inputs() -> None:
    """Runs last in this file; passes in a process that ran no other test of it."""
    if tried:
        print({what: number for what, number in sorted(tried.items())}, "inputs,", sum(tried.values()), "in all")
        assert all(number >= min(EXAMPLES, 50) for number in tried.values())
