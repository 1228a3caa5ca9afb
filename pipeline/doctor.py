"""The pre-flight check: what a stage would need, looked at for real, in a few seconds; nothing is left behind."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import requires, version
from pathlib import Path

import torch

from pipeline.checks import CheckResult
from pipeline.console import echo
from pipeline.data.idx import read_idx_files
from pipeline.data.sources import FAMILY
from pipeline.data.torchvision_import import operators_load, torchvision_datasets
from pipeline.errors import DataFileError
from pipeline.redaction import shown_variable
from pipeline.runtime import has_bfloat16
from pipeline.tracking.outbox.local_state import state_folder
from pipeline.tracking.store_checks import examine_server_clock, examine_store, store_folder
from pipeline.tuning.storage_checks import examine_storage

MIN_PYTHON = (3, 11)
EARLIEST = 1_704_067_200  # 2024-01-01 in seconds: a clock before it has not been set
LITTLE_BYTES, TOO_LITTLE_BYTES = 1 << 30, 100 << 20
VARIABLES = (
    "MLFLOW_", "PIPELINE_", "PG", "OMP_", "MKL_", "KMP_", "CUDA_", "CUBLAS_", "TORCH_", "PYTORCH_", "OPTUNA_",
    "HTTP_PROXY", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
MEANINGS = {
    "MLFLOW_RUN_ID": "the next stage goes into this run; unset it unless `mlflow run` set it",
    "MLFLOW_TRACKING_URI": "where runs are kept",
    "MLFLOW_EXPERIMENT_NAME": "which experiment runs go to, and base=auto looks in",
    "MLFLOW_EXPERIMENT_ID": "which experiment runs go to, and base=auto looks in",
    "PIPELINE_STORAGE": "where studies are kept",
    "PIPELINE_DATA_DIR": "where data sets lie",
    "PIPELINE_STATE_DIR": "where stages keep journals and checkpoints until they have arrived",
    "OMP_WAIT_POLICY": "how threads wait for each other; ACTIVE is many times slower on a busy machine",
    "CUDA_VISIBLE_DEVICES": "which GPUs PyTorch sees",
}

Check = Callable[[], Iterator[CheckResult]]


def examine(environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """Look at everything in turn.

    Args:
        environment: The process's variables as they were when it started.
    """
    checks: list[Check] = [
        examine_python,
        examine_torch,
        examine_device,
        lambda: examine_data(Path(environment.get("PIPELINE_DATA_DIR") or "data")),
        examine_store,
        examine_storage,
        examine_clock,
        examine_server_clock,
        examine_disks,
        lambda: examine_variables(environment),
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # what was not foreseen is a finding too, and the other checks go on
            yield CheckResult("FAIL", "check", f"ended with {type(error).__name__}: {error}", "See docs/doctor.md.")


def run_checks(environment: Mapping[str, str]) -> int:
    """Print a line a finding, then the sum; return how many would make a stage fail."""
    failing = count = 0
    for finding in examine(environment):
        echo(str(finding))
        failing += finding.state == "FAIL"
        count += 1
    echo(f"{count} findings, {failing} of them would make a stage fail")
    return failing


def examine_python() -> Iterator[CheckResult]:
    """Look at the interpreter's version."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        yield CheckResult("FAIL", "python", text, "Python 3.11 or later is needed: make PYTHON=python3.11 setup")
    else:
        yield CheckResult("ok", "python", text)


def examine_torch() -> Iterator[CheckResult]:
    """Look at the builds of torch and torchvision, and whether torchvision's data sets can be imported."""
    own, theirs = torch.__version__.split("+")[0], version("torchvision")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    yield CheckResult("ok", "torch", f"{torch.__version__}, built {build}")
    wanted = [line.split("==")[1] for line in requires("torchvision") or [] if line.startswith("torch==")]
    if wanted and wanted[0].strip() != own:
        yield CheckResult(
            "FAIL", "torchvision", f"{theirs} was made for torch {wanted[0]}, and {own} is installed", "make setup"
        )
        return
    matching = operators_load()
    torchvision_datasets()
    if matching:
        yield CheckResult("ok", "torchvision", f"{theirs}, built for this torch")
    else:
        text = f"{theirs}, built for another build of torch {own}; data sets need nothing of it, and they import"
        yield CheckResult("note", "torchvision", text)


def examine_device() -> Iterator[CheckResult]:
    """Say what device=auto would take."""
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield CheckResult("ok", "device", f"auto takes cuda: {names}")
        return
    if torch.backends.mps.is_available():
        yield CheckResult("ok", "device", "auto takes mps")
        return
    bfloat16 = "with" if has_bfloat16("cpu") else "without"
    text = f"auto takes cpu: {os.cpu_count()} cores, {bfloat16} bfloat16"
    if Path("/proc/driver/nvidia/version").exists():
        yield CheckResult("note", "device", f"{text}; there is an NVIDIA driver that this torch cannot use")
    else:
        yield CheckResult("ok", "device", text)


def examine_data(data_dir: Path) -> Iterator[CheckResult]:
    """Read and check every data set of the MNIST family that is on disk."""
    found = 0
    for name, member in FAMILY.items():
        folder, missing = member.raw_folder(str(data_dir)), member.missing(str(data_dir))
        if len(missing) == len(member.files):
            continue
        found += 1
        if missing:
            yield CheckResult(
                "note", "data", f"{name} in {folder} lacks {', '.join(missing)}", "A stage downloads them."
            )
            continue
        try:
            sizes = [len(numbers) for numbers in read_idx_files(name, folder, member.files).values()]
        except DataFileError as error:
            for fault in error.faults:
                yield CheckResult("FAIL", "data", f"{fault.value}: {fault.allowed}", fault.remedy)
            continue
        proof = "SHA-256 as published" if name == "mnist" else "structure whole"
        yield CheckResult("ok", "data", f"{name} in {folder}: {sizes[0]} and {sizes[2]} images, {proof}")
    if not found:
        text = f"no data set under {data_dir.absolute()}; dataset=auto downloads MNIST, or takes the bundled digits"
        yield CheckResult("note", "data", text, "Set PIPELINE_DATA_DIR to where they are.")


def examine_clock() -> Iterator[CheckResult]:
    """See that time goes forward, and that the clock has been set."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.02)
    if time.time() < wall or time.monotonic() <= steady:
        yield CheckResult("FAIL", "clock", "goes backwards", "Mend the machine's clock; metrics are sorted by time.")
    elif wall < EARLIEST:
        text = f"says {time.strftime('%Y-%m-%d', time.gmtime(wall))}"
        yield CheckResult("FAIL", "clock", text, "Set it: certificates and the order of runs depend on it.")
    else:
        yield CheckResult("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall)))


def examine_disks() -> Iterator[CheckResult]:
    """Look at the room on each disk that a stage writes to."""
    seen: set[int] = set()
    for folder in (state_folder(), store_folder(), Path.cwd(), Path(tempfile.gettempdir())):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if existing.stat().st_dev in seen:
            continue
        seen.add(existing.stat().st_dev)
        free = shutil.disk_usage(existing).free
        text = f"{free / 2**30:.1f} GiB free under {existing}"
        fix = "Free some, or have PIPELINE_STATE_DIR and the stores name another disk."
        if free < LITTLE_BYTES:
            yield CheckResult("FAIL" if free < TOO_LITTLE_BYTES else "note", "disk", text, fix)
        else:
            yield CheckResult("ok", "disk", text)


def examine_variables(environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """Name the variables that change what a stage does; passwords are not shown."""
    names = sorted(name for name in environment if name.upper().startswith(VARIABLES))
    for name in names:
        meaning = MEANINGS.get(name, "")
        yield CheckResult("note", name, shown_variable(name, environment[name]) + (f"  ({meaning})" if meaning else ""))
    if not names:
        yield CheckResult("ok", "environment", "no variable changes what a stage does")
