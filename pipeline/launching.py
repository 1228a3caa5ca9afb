"""Commands that start an entry point on this machine: by `mlflow run` in a clone, else by the installed command."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent  # the clone, or the site-packages of an installed package
EXAMPLE = {"reuse_layers": "4"}


def command_to_run(entry_point: str, settings: Mapping[str, str]) -> str:
    """Return a command that runs an entry point with these settings in the current environment and folder.

    In a clone it is `mlflow run` with the environment manager that created this environment. Elsewhere `mlflow run`
    would change to the clone, and not find the files of relative paths.
    """
    if not is_clone():
        return direct_command("transfer-pipeline", entry_point, settings)
    if Path.cwd() != PROJECT:
        return direct_command(f"{shlex.quote(sys.executable)} -m pipeline", entry_point, settings)
    return mlflow_command(entry_point, settings, environment_manager())


def is_clone() -> bool:
    """Whether the package is that of a clone, which has the project file of MLflow."""
    return (PROJECT / "MLproject").is_file()


def direct_command(program: str, entry_point: str, settings: Mapping[str, str]) -> str:
    """Return a command that does not go through `mlflow run`."""
    options = [f"--{name} {shlex.quote(value)}" for name, value in settings.items()]
    return " ".join([program, entry_point, *options])


def mlflow_command(entry_point: str, settings: Mapping[str, str], manager: str) -> str:
    """Return a `mlflow run` command; `manager` is conda, uv, virtualenv or local."""
    folder = "." if Path.cwd() == PROJECT else shlex.quote(str(PROJECT))
    options = [] if manager == "conda" else [f"--env-manager {manager}"]  # conda is the default
    options += [] if entry_point == "main" else [f"-e {entry_point}"]
    options += [f"-P {shlex.quote(f'{name}={value}')}" for name, value in settings.items()]
    return " ".join([f"mlflow run {folder}", *options])


def environment_manager() -> str:
    """Return the tool that created this process's environment: conda, uv or virtualenv for MLflow, else local."""
    prefix = Path(sys.prefix)
    if not prefix.name.startswith("mlflow-"):  # as MLflow names the environments that it creates
        return "local"
    if (prefix / "conda-meta").is_dir():
        return "conda"
    config = prefix / "pyvenv.cfg"
    return "uv" if config.is_file() and "\nuv = " in f"\n{config.read_text(encoding='utf-8')}" else "virtualenv"


def ways_to_run(environment: Mapping[str, str]) -> list[str]:
    """Return lines that say which `mlflow run` commands work on this machine; empty outside a clone."""
    if not is_clone():
        return []
    activate = "" if environment.get("VIRTUAL_ENV") == sys.prefix else f". {_short(Path(sys.prefix))}/bin/activate && "
    lines = [
        "to run a stage with MLflow on this machine:",
        f"  {activate}{mlflow_command('transfer', EXAMPLE, 'local')}",
    ]
    managers = [name for name in ("conda", "uv") if _is_available(name, environment)]
    lines += [
        f"  {mlflow_command('transfer', EXAMPLE, name)}   (MLflow creates a {name} environment)" for name in managers
    ]
    if "conda" not in managers:
        lines.append("conda not found: mlflow run fails on this machine without --env-manager")
    return lines


def _short(path: Path) -> str:
    """Return a path relative to the working directory where it is inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else shlex.quote(str(path))


def _is_available(manager: str, environment: Mapping[str, str]) -> bool:
    """Whether MLflow would find an environment manager, in `MLFLOW_CONDA_HOME` or on the path."""
    home = environment.get("MLFLOW_CONDA_HOME") if manager == "conda" else None
    if home:
        return os.access(Path(home) / "bin" / "conda", os.X_OK)
    return shutil.which(manager, path=environment.get("PATH")) is not None
