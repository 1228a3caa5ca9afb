"""Decode some rows of a store: read, decode, resize, and write pixels and records. Runs in worker processes.

Workers write to the files directly: no pixels are sent between processes. A record is written after its pixels, so that
a row with a record is complete even if the process is killed.
"""

import multiprocessing
import os
import signal
import threading
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.data.decode import (
    FileChangedError,
    FileState,
    Pixels,
    UnreadableImageError,
    as_pixels,
    byte_digest,
    decode_image,
    read_bytes,
    resize_image,
)
from pipeline.data.identity import content_id
from pipeline.data.preprocessing import Geometry
from pipeline.data.store.files import RECORD, Records

PIXELS, RECORDS = "pixels.bin", "records.bin"


@dataclass(frozen=True)
class Task:
    """Rows to decode.

    Attributes:
        folder: Folder of the store.
        geometry: Geometry of the stored images.
        root: Folder of the files.
        rows: Row of each file in the store, ascending.
        names: Paths of the files, relative to `root`.
        sizes: Sizes in bytes, when they were listed.
        mtimes: Modification times in nanoseconds, when they were listed.
    """

    folder: Path
    geometry: Geometry
    root: str
    rows: list[int]
    names: list[str]
    sizes: list[int]
    mtimes: list[int]


@dataclass(frozen=True)
class TaskResult:
    """Outcome of a task.

    Attributes:
        records: Records of the decoded rows.
        unreadable: Reasons why files could not be decoded, by row.
        changed: Names of files that changed since they were listed.
    """

    records: Records
    unreadable: dict[int, str]
    changed: list[str]


def start_worker() -> None:
    """Initialize a worker process: leave Ctrl-C to the parent, and exit when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def exit_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def decode_rows(task: Task) -> TaskResult:
    """Decode the files of a task into its store.

    Raises:
        OSError: The store cannot be written.
    """
    unreadable: dict[int, str] = {}
    changed: list[str] = []
    rows: list[int] = []
    records = np.zeros(len(task.rows), RECORD)
    pixels = np.empty((len(task.rows), *task.geometry.image_shape), np.uint8)
    for row, name, *state in zip(task.rows, task.names, task.sizes, task.mtimes, strict=True):
        try:
            path = os.path.join(task.root, name)
            records[len(rows)] = _decode_file(path, FileState(*state), task.geometry, target=pixels[len(rows)])
        except FileChangedError:
            changed.append(name)
        except UnreadableImageError as error:
            unreadable[row] = str(error)
        except OSError as error:
            unreadable[row] = error.strerror or str(error)
        else:
            rows.append(row)
    _write(task.folder / PIXELS, rows, pixels)
    _write(task.folder / RECORDS, rows, records)
    return TaskResult(records[: len(rows)], unreadable, changed)


def _decode_file(path: str, state: FileState, geometry: Geometry, *, target: Pixels) -> tuple[object, ...]:
    """Write the image to `target` uint8 (C, H, W), and return its record."""
    content = read_bytes(path, state)
    image = decode_image(content)
    target[...] = resize_image(image, geometry)
    gray, identity = image.mode == "L", content_id(as_pixels(image))
    return True, gray, image.height, image.width, zlib.crc32(target.data), identity, byte_digest(content)


def _write(path: Path, rows: list[int], items: Pixels | Records) -> None:
    """Write items to their rows in a file; consecutive rows in one call."""
    if not rows:
        return
    size = items[0].nbytes
    breaks = [0, *(i for i in range(1, len(rows)) if rows[i] != rows[i - 1] + 1), len(rows)]
    with open(path, "r+b") as file:
        for first, end in pairwise(breaks):
            file.seek(rows[first] * size)
            file.write(items[first:end].data)
