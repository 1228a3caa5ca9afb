"""`python -m pipeline doctor`: check in a few seconds that stages would run in this environment; changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.metadata import requires, version
from pathlib import Path

import torch

from pipeline.checks import CheckResult, nearest_existing
from pipeline.console import echo
from pipeline.data.idx import read_idx_files
from pipeline.data.sources.mnist_family import FAMILY
from pipeline.data.torchvision_import import operators_load, torchvision_datasets
from pipeline.disk_space import REMEDY as FREE_SOME_SPACE
from pipeline.errors import DataFileError
from pipeline.redaction import shown_variable
from pipeline.runtime import has_bfloat16
from pipeline.state_dir import state_folder
from pipeline.tracking.store_checks import examine_server_clock, examine_store, store_folder
from pipeline.tuning.storage_checks import examine_storage

MIN_PYTHON = (3, 11)
MIN_TIME = 1_704_067_200  # 2024-01-01 in seconds since the epoch; a clock before that was never set
LOW_DISK_BYTES, FULL_DISK_BYTES = 1 << 30, 100 << 20
VARIABLES = (
    "MLFLOW_", "PIPELINE_", "PG", "OMP_", "MKL_", "KMP_", "CUDA_", "CUBLAS_", "TORCH_", "PYTORCH_", "OPTUNA_",
    "HTTP_PROXY", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
MEANINGS = {
    "MLFLOW_RUN_ID": "the next stage logs to this run; unset it unless `mlflow run` set it",
    "MLFLOW_TRACKING_URI": "tracking store",
    "MLFLOW_EXPERIMENT_NAME": "experiment that runs are logged to and base=auto searches",
    "MLFLOW_EXPERIMENT_ID": "experiment that runs are logged to and base=auto searches",
    "PIPELINE_STORAGE": "Optuna storage",
    "PIPELINE_DATA_DIR": "folder of the datasets",
    "PIPELINE_STATE_DIR": "local state: journals and checkpoints until they are uploaded",
    "OMP_WAIT_POLICY": "how idle threads wait; ACTIVE is many times slower on a busy machine",
    "CUDA_VISIBLE_DEVICES": "visible GPUs",
}


def examine(environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """Run all checks; `environment` holds the environment variables at the start of the process."""
    checks: list[Callable[[], Iterator[CheckResult]]] = [
        examine_python,
        examine_import_name,
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
        except Exception as error:  # an unforeseen error is a result too; the other checks still run
            yield CheckResult("FAIL", "check", f"failed with {type(error).__name__}: {error}", "See docs/doctor.md.")


def run_checks(environment: Mapping[str, str]) -> int:
    """Print one line per check and a summary; return the number of failures."""
    states = []
    for result in examine(environment):
        echo(str(result))
        states.append(result.state)
    failures = states.count("FAIL")
    echo(f"{len(states)} checks, {failures} failed")
    return failures


def examine_python() -> Iterator[CheckResult]:
    """Check the Python version."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    supported = sys.version_info >= MIN_PYTHON
    fix = "" if supported else "Python 3.11 or later is needed: make PYTHON=python3.11 setup"
    yield CheckResult("ok" if supported else "FAIL", "python", text, fix)


def examine_import_name() -> Iterator[CheckResult]:
    """Look for other packages named `pipeline` on Python's path: which one is imported depends on its order."""
    specs = (PathFinder.find_spec("pipeline", [entry or str(Path.cwd())]) for entry in dict.fromkeys(sys.path))
    places = dict.fromkeys(Path(spec.origin).resolve() for spec in specs if spec is not None and spec.origin)
    others = [str(place) for place in places if place.parent != Path(__file__).resolve().parent]
    if others:
        text = f"also the name of {', '.join(others)}, which may hide this project"
        fix = "Uninstall it, or use another environment. transfer-pipeline refuses to start if it comes first."
        yield CheckResult("note", "pipeline", text, fix)
    else:
        yield CheckResult("ok", "pipeline", f"{Path(__file__).parent}, the only package of this name")


def examine_torch() -> Iterator[CheckResult]:
    """Check that torch and torchvision match and that torchvision's datasets can be imported."""
    torch_version, torchvision_version = torch.__version__.split("+")[0], version("torchvision")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    yield CheckResult("ok", "torch", f"{torch.__version__}, built {build}")
    required = [line.split("==")[1] for line in requires("torchvision") or [] if line.startswith("torch==")]
    if required and required[0].strip() != torch_version:
        text = f"{torchvision_version} needs torch {required[0]}, got {torch_version}"
        yield CheckResult("FAIL", "torchvision", text, "make setup")
        return
    matching = operators_load()
    torchvision_datasets()
    if matching:
        yield CheckResult("ok", "torchvision", f"{torchvision_version}, built for this torch")
    else:
        text = f"{torchvision_version}, compiled for another build of torch {torch_version}; its datasets work"
        yield CheckResult("note", "torchvision", text)


def examine_device() -> Iterator[CheckResult]:
    """Report the device that device=auto selects."""
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield CheckResult("ok", "device", f"auto: cuda ({names})")
    elif torch.backends.mps.is_available():
        yield CheckResult("ok", "device", "auto: mps")
    else:
        text = f"auto: cpu, {os.cpu_count()} cores, {'with' if has_bfloat16('cpu') else 'without'} bfloat16"
        unused = Path("/proc/driver/nvidia/version").exists()
        why = "; this torch cannot use the installed NVIDIA driver" if unused else ""
        yield CheckResult("note" if unused else "ok", "device", text + why)


def examine_data(data_dir: Path) -> Iterator[CheckResult]:
    """Validate every dataset of the MNIST family on disk."""
    count = 0
    for name, member in FAMILY.items():
        folder, missing = member.raw_folder(str(data_dir)), member.missing(str(data_dir))
        if len(missing) == len(member.files):
            continue
        count += 1
        if missing:
            text = f"{name} in {folder} lacks {', '.join(missing)}"
            yield CheckResult("note", "data", text, "A stage downloads them.")
            continue
        try:
            sizes = [len(numbers) for numbers in read_idx_files(name, folder, member.files).values()]
        except DataFileError as error:
            for fault in error.faults:
                yield CheckResult("FAIL", "data", f"{fault.value}: {fault.allowed}", fault.remedy)
            continue
        proof = "SHA-256 as published" if name == "mnist" else "structure valid"
        yield CheckResult("ok", "data", f"{name} in {folder}: {sizes[0]} and {sizes[2]} images, {proof}")
    if not count:
        text = f"none in {data_dir.absolute()}; dataset=auto downloads MNIST or falls back to scikit-learn's digits"
        yield CheckResult("note", "data", text, "Set PIPELINE_DATA_DIR to their folder.")


def examine_clock() -> Iterator[CheckResult]:
    """Check that the clock is monotonic and set."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.02)
    if time.time() < wall or time.monotonic() <= steady:
        yield CheckResult("FAIL", "clock", "runs backwards", "Fix the machine's clock; metrics are sorted by time.")
    elif wall < MIN_TIME:
        text = f"reads {time.strftime('%Y-%m-%d', time.gmtime(wall))}"
        yield CheckResult("FAIL", "clock", text, "Set it: certificates and the order of runs depend on it.")
    else:
        yield CheckResult("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall)))


def examine_disks() -> Iterator[CheckResult]:
    """Check the free space on each disk that a stage writes to."""
    seen: set[int] = set()
    for folder in (state_folder(), store_folder(), Path.cwd(), Path(tempfile.gettempdir())):
        existing = nearest_existing(folder)
        if existing.stat().st_dev in seen:
            continue
        seen.add(existing.stat().st_dev)
        free = shutil.disk_usage(existing).free
        text = f"{free / 2**30:.1f} GiB free under {existing}"
        if free < LOW_DISK_BYTES:
            yield CheckResult("FAIL" if free < FULL_DISK_BYTES else "note", "disk", text, FREE_SOME_SPACE)
        else:
            yield CheckResult("ok", "disk", text)


def examine_variables(environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """List the environment variables that affect a stage, without passwords."""
    names = sorted(name for name in environment if name.upper().startswith(VARIABLES))
    for name in names:
        meaning = f"  ({MEANINGS[name]})" if name in MEANINGS else ""
        yield CheckResult("note", name, shown_variable(name, environment[name]) + meaning)
    if not names:
        yield CheckResult("ok", "environment", "no variable affects a stage")
