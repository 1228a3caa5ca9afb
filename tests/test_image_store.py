"""Decoded image stores: parallel, resumable decoding; damage, full disks, changed files, and two processes at once."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from pipeline.data.decode import read_image, resize
from pipeline.data.identity import content_id
from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, Images
from pipeline.data.sources.registry import load_dataset
from pipeline.data.store import decoding, image_store, loading
from pipeline.data.store.files import RECORD
from pipeline.data.store.image_store import list_image_stores
from pipeline.data.store.worker import PIXELS, RECORDS
from pipeline.errors import DataFileError, DiskFullError
from tests.conftest import ROOT, clean_environment
from tests.faults.test_files import needs_mount, small_disk

SMALL = Geometry(size=(16, 16), channels=3)


def write_images(root: Path, count: int, *, size: tuple[int, int] = (24, 18), mode: str = "RGB") -> Path:
    """Write `count` different images for each of two classes."""
    generator = np.random.default_rng(count)
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            values = generator.integers(0, 256, (*size[::-1], 3), np.uint8)
            Image.fromarray(values).convert(mode).save(root / name / f"{number:05}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path, state: Path) -> Path:
    return write_images(tmp_path / "pets", 10)


def load(folder: Path, geometry: Geometry | GeometryRequest = SMALL, **options: bool) -> Dataset:
    return load_dataset(f"folder:{folder}", "data", geometry=geometry, **options)


def pixels_of(images: Images) -> torch.Tensor:
    """Return the pixels of each image, uint8 (N, C, H, W)."""
    assert images.pixel_rows is not None
    return images.pixels[images.pixel_rows]


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "decode_files", lambda *_: pytest.fail("images were decoded again"))


def store_of(state: Path) -> Path:
    (store,) = [path.parent for path in state.glob(f"images/*/{PIXELS}")]
    return store


def test_store_holds_every_image_resized_with_its_identity(folder: Path) -> None:
    dataset = load(folder)
    expected = {}
    for path in folder.rglob("*.png"):
        pixels = read_image(path)
        expected[content_id(pixels)] = (resize(pixels, SMALL).tobytes(), path.parent.name)
    stored = {}
    for images in (dataset.train, dataset.test):
        for pixels, label, identity in zip(pixels_of(images), images.labels.tolist(), images.ids.tolist(), strict=True):
            stored[identity] = (pixels.numpy().tobytes(), dataset.class_names[label])
    assert stored == expected and len(stored) == 20
    assert dataset.geometry == SMALL


def test_second_start_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder)
    forbid_decoding(monkeypatch)
    second = load(folder)
    assert torch.equal(pixels_of(first.train), pixels_of(second.train)) and torch.equal(first.test.ids, second.test.ids)


def test_relative_path_uses_the_same_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder)
    forbid_decoding(monkeypatch)
    monkeypatch.chdir(folder.parent)
    assert load(Path("pets")).source == str(folder)


def test_changed_image_is_decoded_again(folder: Path) -> None:
    load(folder)
    replaced = folder / "cats" / "00003.png"
    Image.new("RGB", (24, 18), (1, 2, 3)).save(replaced)
    dataset = load(folder)
    assert content_id(read_image(replaced)) in {*dataset.train.ids.tolist(), *dataset.test.ids.tolist()}


def test_verify_finds_a_change_that_kept_size_and_time(folder: Path) -> None:
    path = folder / "cats" / "00003.png"
    Image.new("RGB", (24, 18), (9, 9, 9)).save(path, compress_level=0)
    before, times = path.stat().st_size, path.stat()
    load(folder)
    Image.new("RGB", (24, 18), (7, 7, 7)).save(path, compress_level=0)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    identity = content_id(read_image(path))
    assert path.stat().st_size == before
    assert identity not in load(folder).train.ids.tolist() + load(folder).test.ids.tolist()
    verified = load(folder, verify=True)
    assert identity in verified.train.ids.tolist() + verified.test.ids.tolist()


def test_each_geometry_has_its_own_store(folder: Path, state: Path) -> None:
    load(folder)
    assert load(folder, Geometry(size=(8, 8), channels=1)).train.pixels.shape[1:] == (1, 8, 8)
    assert len(list(state.glob(f"images/*/{PIXELS}"))) == 2


def test_auto_geometry_is_that_of_all_images(tmp_path: Path, state: Path) -> None:
    folder = write_images(tmp_path / "gray", 5, mode="L")
    assert load(folder, GeometryRequest()).geometry == Geometry(size=(18, 24), channels=1)


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (Image.new("L", (40, 40)), Geometry(size=(64, 64), channels=1)),
        (Image.new("RGB", (24, 18)), Geometry(size=(18, 24), channels=3)),
        (Image.new("RGB", (40, 40)), Geometry(size=(64, 64), channels=3)),
    ],
    ids=["size", "channels", "both"],
)
def test_one_odd_image_outside_the_sample_decides_the_geometry(
    tmp_path: Path, state: Path, odd: Image.Image, expected: Geometry
) -> None:
    folder = write_images(tmp_path / "gray", 60, mode="L")
    odd.save(folder / "dogs" / "00000x.png")  # a sample of 32 of 121 files, spread evenly, has not the 62nd
    assert load(folder, GeometryRequest()).geometry == expected
    assert not list(state.glob("images/partial-*"))


def test_large_store_is_mapped_from_a_file_with_a_path(
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = load(folder)
    monkeypatch.setattr(image_store, "MEMORY_BYTES", 0)
    mapped = load(folder)
    assert in_memory.train.pixels.untyped_storage().filename is None
    assert mapped.test.pixels.untyped_storage().filename == str(store_of(state) / PIXELS)
    for ours, theirs in ((in_memory.train, mapped.train), (in_memory.test, mapped.test)):
        assert torch.equal(pixels_of(ours), pixels_of(theirs))


def truncate(store: Path) -> None:
    os.truncate(store / PIXELS, 5_000)


def flip(store: Path) -> None:
    content = bytearray((store / PIXELS).read_bytes())
    content[4_321] ^= 1
    (store / PIXELS).write_bytes(content)


def lose_records(store: Path) -> None:
    (store / RECORDS).unlink()


@pytest.mark.parametrize("damage", [truncate, flip, lose_records])
@pytest.mark.parametrize("memory", [1 << 20, 0], ids=["in memory", "mapped"])
def test_damaged_store_is_detected_and_rebuilt(  # type: ignore[no-untyped-def]
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage, memory: int
) -> None:
    good = pixels_of(load(folder).train)
    monkeypatch.setattr(image_store, "MEMORY_BYTES", memory)
    damage(store_of(state))
    assert torch.equal(pixels_of(load(folder, verify=True).train), good)
    assert "are damaged" in caplog.text and "decoding again" in caplog.text


def test_damaged_manifest_is_rebuilt(folder: Path, state: Path) -> None:
    good = pixels_of(load(folder).train)
    (manifest,) = state.glob("images/manifests/*")
    manifest.write_bytes(manifest.read_bytes()[:300])
    assert torch.equal(pixels_of(load(folder).train), good)


def test_damaged_store_without_a_manifest_is_rebuilt(folder: Path, state: Path) -> None:
    good = pixels_of(load(folder).train)
    (manifest,) = state.glob("images/manifests/*")
    manifest.unlink()
    flip(store_of(state))
    assert torch.equal(pixels_of(load(folder).train), good)


def test_splits_share_one_store_without_a_copy(folder: Path) -> None:
    dataset = load(folder)
    assert dataset.train.pixels.data_ptr() == dataset.test.pixels.data_ptr()
    rows = torch.cat((dataset.train.pixel_rows, dataset.test.pixel_rows))
    assert sorted(rows.tolist()) == list(range(20))


def test_unreadable_images_are_an_error_that_names_them(folder: Path) -> None:
    for number in range(12):
        (folder / "cats" / f"bad{number:02}.png").write_bytes(b"nothing")
    with pytest.raises(
        DataFileError, match=r"bad00\.png: cannot be read as an image: .*skip_unreadable=true"
    ) as raised:
        load(folder)
    assert len(raised.value.faults) == 11 and "2 more files" in str(raised.value.faults[-1])


def test_skipped_unreadable_images_are_listed_in_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cats" / "bad.png").write_bytes(b"nothing")
    (folder / "cats" / "x.heic").write_bytes(b"nothing")
    for _ in range(2):
        caplog.clear()
        dataset = load(folder, skip_unreadable=True)
        (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.endswith(
            "ignored 1 files of unsupported types (cats/x.heic); 1 unreadable images (cats/bad.png)"
        )
        assert len(dataset.train) + len(dataset.test) == 20
    with pytest.raises(DataFileError, match=r"bad\.png"):
        load(folder)


def test_repaired_image_is_no_longer_skipped(folder: Path) -> None:
    path = folder / "cats" / "bad.png"
    Image.new("RGB", (5, 5), (4, 5, 6)).save(path, compress_level=0)
    good, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(good)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    load(folder, skip_unreadable=True)
    path.write_bytes(good)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if its permissions had been corrected
    assert len(load(folder).train) + len(load(folder).test) == 21


def test_file_that_changes_while_decoding_is_rejected_by_name(
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, tasks = folder / "dogs" / "00004.png", decoding._make_tasks

    def change_first(*arguments: object, **options: object) -> object:
        os.utime(changing, ns=(1, 1))
        return tasks(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "_make_tasks", change_first)
    with pytest.raises(DataFileError, match=r"changed while they were read: .*dogs/00004\.png"):
        load(folder)
    assert all(path.parent.name.startswith("partial-") for path in state.glob(f"images/*/{PIXELS}"))


def test_full_disk_is_reported_before_decoding(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decoding.os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match=r"MiB free.*PIPELINE_STATE_DIR"):
        load(folder)
    assert not list(state.glob("images/partial-*")) and not list(state.glob(f"images/*/{PIXELS}"))


@needs_mount
def test_store_on_a_small_disk_leaves_nothing_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "pets", 10)
    with small_disk(tmp_path / "disk", "1m") as disk:
        monkeypatch.setenv("PIPELINE_STATE_DIR", str(disk))
        with pytest.raises(DiskFullError, match="MiB free"):
            load(folder, Geometry(size=(200, 200), channels=3))
        assert not list(disk.glob(f"images/*/{PIXELS}"))
        assert len(load(folder, SMALL).test) > 0


def test_full_disk_while_flushing_keeps_the_decoded_images(
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(image_store.os, "fsync", full)
        with pytest.raises(DiskFullError):
            load(folder)
    assert [path.parent.name[:8] for path in state.glob(f"images/*/{PIXELS}")] == ["partial-"]
    rows = decoded_rows(monkeypatch)
    load(folder)
    assert rows == []


def decoded_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every row that is decoded from now on is added."""
    rows: list[int] = []
    tasks = decoding._make_tasks

    def counted(*arguments: object, **options: object) -> Iterator[decoding.Task]:
        for task in tasks(*arguments, **options):  # type: ignore[arg-type]
            rows.extend(task.rows)
            yield task

    monkeypatch.setattr(decoding, "_make_tasks", counted)
    return rows


def in_process(folder: Path, state: Path) -> subprocess.Popen[str]:
    """Load the folder in another process, which prints the sum of the training pixels."""
    program = (
        "import logging, sys; logging.basicConfig(level=20)\n"
        "from pipeline.data.preprocessing import Geometry\n"
        "from pipeline.data.sources.registry import load_dataset\n"
        "geometry = Geometry(size=(64, 64), channels=3)\n"
        "print(load_dataset(sys.argv[1], 'data', geometry=geometry).train.pixels.sum().item())\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, f"folder:{folder}"],
        env=clean_environment(PIPELINE_STATE_DIR=str(state)),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def done_count(state: Path) -> int:
    return sum(int(np.fromfile(path, RECORD)["done"].sum()) for path in state.glob(f"images/partial-*/{RECORDS}"))


def killed_while_decoding(folder: Path, state: Path) -> None:
    """Kill a process that decodes the folder as soon as some images are stored; its workers end, too."""
    process = in_process(folder, state)
    deadline = time.monotonic() + 60
    while done_count(state) < 100 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert workers, "the images are decoded in worker processes"
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


@pytest.mark.slow
def test_killed_decoding_continues_where_it_stopped(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images(tmp_path / "pets", 1_000, size=(80, 80))
    killed_while_decoding(folder, state)
    done = done_count(state)
    assert 100 <= done < 2_000
    rows = decoded_rows(monkeypatch)
    dataset = load(folder, Geometry(size=(64, 64), channels=3))
    assert len(rows) == 2_000 - done
    path = folder / "cats" / "00000.png"
    everything = {
        identity: pixels
        for images in (dataset.train, dataset.test)
        for identity, pixels in zip(images.ids.tolist(), pixels_of(images), strict=True)
    }
    assert len(everything) == 2_000
    assert np.array_equal(everything[content_id(read_image(path))], resize(read_image(path), dataset.geometry))


@pytest.mark.slow
def test_two_processes_decode_a_folder_once(tmp_path: Path, state: Path) -> None:
    folder = write_images(tmp_path / "pets", 300, size=(80, 80))
    processes = [in_process(folder, state) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0].splitlines()[-1] == results[1][0].splitlines()[-1]
    assert len(list(state.glob(f"images/*/{PIXELS}"))) == 1 and not list(state.glob("images/partial-*"))


def test_damaged_rows_of_an_interrupted_decoding_are_decoded_again(
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loading, "finish_store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    (partial,) = state.glob("images/partial-*")
    flip(partial)
    rows = decoded_rows(monkeypatch)
    load(folder)
    assert rows == [4_321 // (3 * 16 * 16)]


def test_workers_do_not_import_torch() -> None:
    program = "import sys, pipeline.data.store.worker as worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_clean_lists_stores_and_removes_those_not_in_use(folder: Path, state: Path) -> None:
    load(folder)
    in_use = {leftover.path: leftover for leftover in list_image_stores()}[store_of(state)]
    assert not in_use.removable and in_use.why == "a process is using it" and not in_use.remove()
    other = in_process(folder, state)
    other.communicate(timeout=120)
    free = [leftover for leftover in list_image_stores() if leftover.removable and leftover.kind == "decoded images"]
    assert [leftover.remove() for leftover in free] == [True] and not free[0].path.exists()
    assert str(folder) in free[0].why and store_of(state) == in_use.path


def test_clean_lists_interrupted_decoding(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "finish_store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    (partial,) = [leftover for leftover in list_image_stores() if leftover.path.name.startswith("partial-")]
    assert partial.removable and "incomplete" in partial.why and partial.remove() and not partial.path.exists()
