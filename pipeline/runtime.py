"""Device, threads, precision, seeds and process identity. Independent of data, networks and MLflow."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from pipeline.errors import Fault, UserInputError

OPERATIONS_PER_THREAD = 50_000_000  # MACs of a step per thread; see docs/defaults.md
MAX_AUTO_THREADS = 2  # whatever the machine has: the number of threads changes rounding, and so weights


def missing_device(name: str) -> str:
    """Return why `cpu`, `cuda`, `cuda:N` or `mps` is not usable on this machine, or an empty string."""
    kind, _, number = name.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= int(number or 0):
            return f"PyTorch can use {count} CUDA devices on this machine; device=cpu works everywhere"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "this machine has no MPS device; device=cpu works everywhere"
    return ""


@dataclass(frozen=True)
class Runtime:
    """Device, precision and threads of a stage."""

    device: torch.device
    train_dtype: torch.dtype  # float32, or bfloat16 for training under autocast; evaluation always uses float32
    threads: int  # CPU threads of one operation

    @property
    def description(self) -> dict[str, str]:
        """The machine's part of a cache key: device, dtype, threads and versions."""
        import numpy

        return {
            "device": str(self.device),
            "dtype": str(self.train_dtype).removeprefix("torch."),
            "threads": str(self.threads),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        }

    @contextmanager
    def in_effect(self) -> Iterator[None]:
        """Set threads and deterministic kernels, disable TF32, and restore the previous settings at the end."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)


def resolve_runtime(
    device: str, dtype: str, threads: int | Literal["auto"], *, operations: int, convolutional: bool = False
) -> Runtime:
    """Resolve device, precision and threads; they take effect within `Runtime.in_effect`.

    Args:
        device: `auto` (CUDA, else MPS, else CPU) or the name of a device.
        dtype: `auto` uses bfloat16 for convolutions on processors that support it natively, else float32.
        threads: `auto` depends only on `operations`: the same step uses the same number of threads, and rounds the
            same way, in every process and on every machine.
        operations: MACs of one optimizer step, or of the forward pass of a chunk if nothing is trained.
        convolutional: Whether the network has convolutions for which bfloat16 is faster.

    Raises:
        UserInputError: bfloat16 is requested on a device without it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "bfloat16" and not has_bfloat16(device):
        allowed = f"this {'processor' if device == 'cpu' else 'device'} has no native bfloat16, and would be slower."
        raise UserInputError(Fault("dtype", dtype, allowed, "Use dtype=auto, or another machine."))
    if dtype == "auto":
        dtype = "bfloat16" if convolutional and has_bfloat16(device) else "float32"
    count = max(1, min(MAX_AUTO_THREADS, operations // OPERATIONS_PER_THREAD)) if threads == "auto" else threads
    return Runtime(torch.device(device), getattr(torch, dtype), count)


def synchronize(device: torch.device) -> None:
    """Wait for a device to finish, for timing."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def hardware(device: str) -> str:
    """Return the class of hardware that a step runs on: the processor, and the GPU if that is the device."""
    gpu = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    return f"{cpu_model()}, {os.cpu_count()} cores{gpu}"


@functools.cache
def cpu_model() -> str:
    """Return the CPU model from /proc/cpuinfo, or what Python knows on other systems."""
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text("utf-8", "replace")) if info.exists() else None
    return match[1] if match else platform.processor() or platform.machine()


def has_bfloat16(device: str) -> bool:
    """Return whether the device supports bfloat16 natively."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = torch.backends.cpu.get_cpu_capability()
    return device == "cpu" and capability.startswith("AVX512") and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def derive_seed(seed: int, *purpose: object) -> int:
    """Return a seed in [0, 2**63) for one purpose, independent of the seeds for others.

    The batch order of epoch 7 is `derive_seed(seed, "order", 7)`, so that training can resume from any epoch
    without stored generator state.
    """
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator for one purpose; see `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the content of a tensor as bytes, for digests."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data


def process_identity() -> dict[str, str]:
    """Return the tags `host` and `process`, by which another process can check whether this one is alive.

    `process` is the process id, its start time and the scope of both; without a known scope, the start is a wall-clock
    time and is only valid together with the host name.
    """
    process, scope = psutil.Process(), process_scope()
    started = f"{_start(process)} {scope}" if scope else f"{process.create_time():.2f}"
    return {"host": socket.gethostname(), "process": f"{process.pid} {started}"}


def process_lives(identity: str, host: str = "") -> bool | None:
    """Return whether the process with an `identity` (see `process_identity`) is alive, or None if that is unknown.

    It is unknown for another boot (another machine, or this one before a reboot), another container, and hidden
    processes of other users. Earlier releases wrote identities without a scope; then `host` has to match (empty for
    this host).
    """
    number, started, scope = (*identity.split(), "", "", "")[:3]
    if (scope != process_scope()) if scope else (host not in ("", socket.gethostname())):
        return None
    try:
        process = psutil.Process(int(number))
        same = _start(process) == started if scope else abs(process.create_time() - float(started)) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return None
    except psutil.NoSuchProcess:
        return None if _is_hidden(int(number)) else False
    except (ValueError, OverflowError):
        return False


@functools.cache
def process_scope() -> str:
    """Return the scope of process ids: this boot and, on Linux, this PID namespace; empty if unknown.

    A host name is no such scope: containers share them, and they change.
    """
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except (OSError, subprocess.SubprocessError):
        return ""


def _start(process: psutil.Process) -> str:
    """Return the start time of a process, in s, such that adjusting the system clock does not change it.

    Linux counts it from boot, macOS stores the wall-clock time of the start. psutil's public `create_time` is computed
    from the current boot time, which an adjustment shifts.
    """
    return f"{process._proc.create_time(monotonic=True):.2f}"  # type: ignore[attr-defined]


def _is_hidden(number: int) -> bool:
    """Whether a process exists although /proc does not list it, as with `hidepid` on shared machines."""
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False
