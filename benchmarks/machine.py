"""Machine, library versions and commit of a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

LIBRARIES = ("torch", "mlflow", "optuna", "scikit-learn", "lightning", "skorch", "keras")


def machine() -> str:
    """Return machine and versions as one line."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version}" for name in LIBRARIES if (version := installed(name)))
    return f"{os.cpu_count()} cores of {processor()}, {gib:.0f} GiB, Python {platform.python_version()}, {versions}"


def processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def installed(name: str) -> str:
    """Return a library's version, or an empty string."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def commit(root: Path) -> str:
    """Return the commit, with a plus sign if code of the project or the benchmarks has uncommitted changes."""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    code = ["pipeline", "benchmarks/*.py", "requirements.txt"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, text=True).stdout
    return head.stdout.strip() + ("+" if changed.strip() else "")
