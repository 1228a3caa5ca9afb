"""The commands that setup and the report print work on the machine that printed them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline import launching
from pipeline.launching import command_to_run, environment_manager, ways_to_run
from pipeline.params import MainParams
from pipeline.stages.main import repeat_command
from tests.conftest import ROOT


def environment_made_by(manager: str, folder: Path) -> Path:
    prefix = folder / ("venv" if manager == "local" else "mlflow-0123456789abcdef")
    prefix.mkdir()
    if manager == "conda":
        (prefix / "conda-meta").mkdir()
    else:
        (prefix / "pyvenv.cfg").write_text("home = /usr/bin\n" + ("uv = 0.9.1\n" if manager == "uv" else ""))
    return prefix


@pytest.mark.parametrize("manager", ["conda", "uv", "virtualenv", "local"])
def test_manager_of_the_environment_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str
) -> None:
    monkeypatch.setattr(sys, "prefix", str(environment_made_by(manager, tmp_path)))
    assert environment_manager() == manager


def test_report_repeats_a_plan_with_the_manager_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert repeat_command(MainParams(plan="surface")) == "mlflow run . --env-manager local -P plan=surface"


def test_command_from_another_folder_runs_in_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = command_to_run("transfer", {"dataset": "folder:photos"})
    assert command == f"{sys.executable} -m pipeline transfer --dataset folder:photos"


def test_installed_package_prints_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "PROJECT", tmp_path)
    assert command_to_run("main", {"plan": "my plan.yaml"}) == "transfer-pipeline main --plan 'my plan.yaml'"
    assert ways_to_run({}) == []


@pytest.mark.parametrize("managers", [(), ("uv",), ("conda", "uv")])
def test_setup_prints_the_managers_of_this_machine(tmp_path: Path, managers: tuple[str, ...]) -> None:
    for name in managers:
        (tmp_path / name).touch(mode=0o755)
    text = "\n".join(ways_to_run({"PATH": str(tmp_path)}))
    assert "--env-manager local -e transfer -P reuse_layers=4" in text
    assert ("--env-manager uv" in text) == ("uv" in managers)
    assert ("conda not found" in text) == ("conda" not in managers)
