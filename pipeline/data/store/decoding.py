"""Decode image files into a store in worker processes; resumes after an interruption."""

import json
import multiprocessing
import os
import shutil
import zlib
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.console import count_progress
from pipeline.data.preprocessing import Geometry
from pipeline.data.store.files import RECORD, ImageFiles, Records
from pipeline.data.store.worker import PIXELS, RECORDS, Task, TaskResult, decode_rows, start_worker
from pipeline.disk_space import disk_full_errors
from pipeline.errors import DataFileError, Fault, abbreviate

LISTING = "listing.npz"
TASK_BYTES = 2 << 20  # decoded pixels of one task: few, so that all workers finish at about the same time
MAX_TASK_ROWS = 128
TASKS_PER_WORKER = 3  # submitted at a time: few, so that an interruption does not wait for queued tasks
IN_PROCESS_BYTES = 16 << 20  # total file size below which starting workers takes longer than decoding
IN_PROCESS_FILES = 1_000


class NativeGeometryError(Exception):
    """An image differs from the size or channels that the geometry was resolved for.

    Attributes:
        records: Records of a batch of images, at least one of which differs.
    """

    def __init__(self, records: Records):
        super().__init__("an image differs from the assumed size or channels")
        self.records = records


@dataclass(frozen=True)
class Assumption:
    """What a geometry that was resolved from a sample assumes about all images.

    Attributes:
        native_size: (H, W) of every image; None assumes nothing.
        gray: Whether every image is gray; None assumes nothing.
    """

    native_size: tuple[int, int] | None = None
    gray: bool | None = None

    def check(self, records: Records) -> None:
        """Raise `NativeGeometryError` if an image differs."""
        differs = np.zeros(len(records), bool)
        if self.native_size is not None:
            differs |= (records["height"] != self.native_size[0]) | (records["width"] != self.native_size[1])
        if self.gray:
            differs |= records["gray"] == 0
        if differs.any():
            raise NativeGeometryError(records)


@dataclass
class Decoded:
    """A partial store in which every readable file is decoded.

    Attributes:
        folder: Folder of the store.
        records: One record per file.
        unreadable: Reasons why files could not be decoded, by row.
    """

    folder: Path
    records: Records
    unreadable: dict[int, str] = field(default_factory=dict)


def decode_files(files: ImageFiles, geometry: Geometry, folder: Path, *, assumption: Assumption) -> Decoded:
    """Decode files into a partial store; resume if it already has some of these files.

    Raises:
        DataFileError: Files changed while they were read.
        DiskFullError: The decoded images do not fit on the disk.
        NativeGeometryError: An image contradicts the assumption.
    """
    with disk_full_errors(folder.parent):
        records = _open_partial(files, geometry, folder)
        done = records["done"] == 1
        assumption.check(records[done])
        decoded = Decoded(folder, records)
        changed: list[str] = []
        tasks = _make_tasks(files, geometry, folder, rows=np.flatnonzero(~done))
        in_process = len(files) <= IN_PROCESS_FILES and int(files.sizes[~done].sum()) <= IN_PROCESS_BYTES
        results = _in_process(tasks) if in_process else _in_workers(tasks)
        with (
            count_progress("decoding images", len(files)) as advance,
            closing(results),
        ):  # closing() stops the workers on an error
            advance(int(done.sum()))
            for result in results:
                assumption.check(result.records)
                decoded.unreadable.update(result.unreadable)
                changed += result.changed
                advance(len(result.records) + len(result.unreadable) + len(result.changed))
    if changed:
        what = f"these files changed while they were read: {abbreviate(sorted(changed), 10)}."
        raise DataFileError(Fault("dataset", files.source, what, "Run again when they are complete."))
    decoded.records = np.fromfile(folder / RECORDS, RECORD)
    return decoded


def _make_tasks(files: ImageFiles, geometry: Geometry, folder: Path, *, rows: np.ndarray) -> Iterator[Task]:
    """Yield tasks for the given rows, limited in decoded bytes."""
    size = min(MAX_TASK_ROWS, max(1, TASK_BYTES // int(np.prod(geometry.image_shape))))
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        chosen = part.tolist()
        names = [files.names[row] for row in chosen]
        states = files.sizes[part].tolist(), files.mtimes[part].tolist()
        yield Task(folder, geometry, str(files.root), chosen, names, *states)


def _in_process(tasks: Iterator[Task]) -> Generator[TaskResult, None, None]:
    for task in tasks:
        yield decode_rows(task)


def _in_workers(tasks: Iterator[Task]) -> Generator[TaskResult, None, None]:
    """Yield results as they complete, from one worker process per core."""
    if multiprocessing.current_process().daemon:  # a daemonic process cannot start workers
        yield from _in_process(tasks)
        return
    count = _cores()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=start_worker)
    try:
        yield from _run_bounded(pool, tasks, count * TASKS_PER_WORKER)
        pool.shutdown(wait=False)  # all tasks are done, and the workers exit on their own
    except BrokenProcessPool as error:
        what = "a decoding worker was killed, possibly out of memory"
        raise RuntimeError(f"{what}; run again to resume") from error
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def _run_bounded(pool: ProcessPoolExecutor, tasks: Iterator[Task], limit: int) -> Iterator[TaskResult]:
    """Run tasks with at most `limit` of them in flight."""
    pending: set[Future[TaskResult]] = {pool.submit(decode_rows, task) for task in islice(tasks, limit)}
    while pending:
        finished, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            pending.update(pool.submit(decode_rows, task) for task in islice(tasks, 1))
            yield future.result()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_partial(files: ImageFiles, geometry: Geometry, folder: Path) -> Records:
    """Return the records of a partial store; create it unless it was started for the same files."""
    records = _resumable(files, geometry, folder)
    if records is not None:
        return records
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        _allocate(folder / PIXELS, len(files) * int(np.prod(geometry.image_shape)))
    except OSError:
        shutil.rmtree(folder)
        raise
    records = np.zeros(len(files), RECORD)
    records.tofile(folder / RECORDS)
    (folder / "source.json").write_text(json.dumps({"source": ascii(files.source)}), encoding="ascii")
    np.savez(folder / LISTING, names=files.names_blob, sizes=files.sizes, mtimes=files.mtimes)
    return records


def _resumable(files: ImageFiles, geometry: Geometry, folder: Path) -> Records | None:
    """Return the records of an interrupted run over the same files, with damaged rows marked as not done."""
    try:
        with np.load(folder / LISTING, allow_pickle=False) as listing:
            same = files.same_as(listing["names"], listing["sizes"], listing["mtimes"])
        records = np.fromfile(folder / RECORDS, RECORD)
        size = (folder / PIXELS).stat().st_size
    except (OSError, ValueError, KeyError, EOFError):
        return None
    row_bytes = int(np.prod(geometry.image_shape))
    if not same or len(records) != len(files) or size != len(files) * row_bytes:
        return None
    done = np.flatnonzero(records["done"] == 1)
    records["done"][done[damaged_rows(folder / PIXELS, records, row_bytes, rows=done)]] = 0
    return records


def damaged_rows(pixels: Path, records: Records, row_bytes: int, *, rows: np.ndarray) -> np.ndarray:
    """Return whether the pixels of each row fail their checksum, bool (M,)."""
    stored = np.memmap(pixels, np.uint8, mode="r").reshape(-1, row_bytes) if len(rows) else np.empty((0, row_bytes))
    checksums = [zlib.crc32(stored[row]) for row in rows.tolist()]
    differs: np.ndarray = np.asarray(checksums, np.int64) != records["crc"][rows]
    return differs


def _allocate(path: Path, size: int) -> None:
    """Create a file and reserve its space, so that a full disk is detected before decoding starts."""
    with open(path, "wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
