"""Download a dataset with torchvision: probe the servers first, lock against other processes, time out on stalls."""

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipeline.data.reachability import any_reachable
from pipeline.errors import DataFileError, Fault

logger = logging.getLogger(__name__)

PROBE_SECONDS = 5.0  # time limit for the check whether any server answers
DOWNLOAD_STALL_SECONDS = 30.0  # a download fails after this long without a byte
REMEDY = "Put the extracted files there, or set PIPELINE_DATA_DIR to their folder; dataset=digits needs no download."


@dataclass(frozen=True)
class Download:
    """A dataset to download.

    Attributes:
        name: Name of the dataset.
        data_dir: Folder of all datasets.
        folder: Destination of the files.
        missing: What is missing, such as `lacks train.bin`.
        urls: Addresses of the servers that are probed.
        fetch: Downloads and verifies the files.
    """

    name: str
    data_dir: str
    folder: Path
    missing: str
    urls: list[str]
    fetch: Callable[[], object]

    def run(self) -> None:
        """Download the files.

        Raises:
            DataFileError: The download is impossible or fails; the message says what to do.
        """
        if obstacle := download_blocker(self.data_dir, self.urls):
            what = f"{self.name} is not available ({self.folder} {self.missing}) and {obstacle}."
            raise DataFileError(Fault("data_dir", self.data_dir, what, REMEDY))
        logger.info("downloading %s to %s", self.name, self.folder)
        default_timeout = socket.getdefaulttimeout()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):  # concurrent first runs must not extract into the same files
                socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)
                self.fetch()
        except (OSError, RuntimeError, EOFError) as error:
            why = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            remedy = "Try again, or use dataset=digits, which needs no download."
            raise DataFileError(Fault("dataset", self.name, f"could not be downloaded: {why}.", remedy)) from error
        finally:
            socket.setdefaulttimeout(default_timeout)


def download_blocker(data_dir: str, urls: list[str]) -> str:
    """Return why a download cannot succeed, or an empty string; takes at most `PROBE_SECONDS`."""
    parent = Path(data_dir).absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} is not a writable folder"
    return "" if any_reachable(urls, PROBE_SECONDS) else "its servers cannot be reached"
