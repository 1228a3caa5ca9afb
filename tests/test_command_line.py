"""The command line itself: help, spellings of commands and options, the installed command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.errors import UserInputError
from pipeline.params import ENTRY_POINTS, TransferParams
from tests.conftest import ROOT, clean_environment


def invoke(*words: str, width: int = 200) -> Result:
    return CliRunner().invoke(cli, list(words), terminal_width=width)


def test_help_lists_every_command_in_full() -> None:
    text = " ".join(invoke("--help").output.split())
    assert "..." not in text.replace("[ARGS]...", "")
    for kind in ENTRY_POINTS.values():
        assert " ".join((kind.__doc__ or "").splitlines()[0].split()) in text


def test_help_shows_required_and_empty_defaults() -> None:
    assert "a run id (32 hexadecimal digits); required]" in invoke("resume", "--help").output
    text = " ".join(invoke("train_base", "--help").output.split())
    assert "[a folder; default: $PIPELINE_DATA_DIR if set, otherwise data]" in text
    assert "or the id of a tune run (32 hexadecimal digits); default: empty]" in text


def test_command_names_accept_hyphens() -> None:
    assert (
        invoke("train-base", "--help").output.splitlines()[2:] == invoke("train_base", "--help").output.splitlines()[2:]
    )


@pytest.mark.parametrize("words", [("--dry_run",), ("--dry-run", "true"), ("dry_run=true",), ("--dry_run=true",)])
def test_dry_run_has_four_spellings(words: tuple[str, ...]) -> None:
    done = invoke("train_base", *words, "--dataset", "digits", "--seed", "3")
    assert done.exit_code == 0 and "dry run: nothing is trained" in done.output and '"seed": "3"' in done.output


def test_option_without_its_value_is_rejected() -> None:
    assert invoke("train_base", "--seed").exit_code == 2


def test_typo_in_python_gives_the_message_of_the_command_line() -> None:
    with pytest.raises(UserInputError, match="reuse_layer=3: unknown parameter. Did you mean reuse_layers?"):
        TransferParams(reuse_layer=3)  # type: ignore[call-arg]


def installed_command(*path: Path) -> subprocess.CompletedProcess[str]:
    """`transfer-pipeline --version`, with these folders first in the module search path."""
    search = ":".join(map(str, (*path, ROOT)))
    words = [sys.executable, "-c", "import transfer_pipeline; transfer_pipeline.main()", "--version"]
    return subprocess.run(words, env=clean_environment(PYTHONPATH=search), capture_output=True, text=True, cwd=path[-1])


def test_installed_command_prints_its_version(tmp_path: Path) -> None:
    assert installed_command(tmp_path).stdout.startswith("pipeline, version ")


@pytest.mark.parametrize("name", ["pipeline.py", "pipeline/__init__.py"])
def test_clash_with_another_package_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    done = installed_command(tmp_path)
    assert done.returncode == 2 and "another package with this name hides that of mlflow-transfer" in done.stderr
    assert str(tmp_path) in done.stderr


@pytest.mark.slow
def test_installed_package_runs_plans_from_any_folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
        ".",
    ]
    subprocess.run(words, cwd=project, env=clean_environment(PYTHONPATH=""), check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "transfer-pipeline"), "main", "--plan", "surface", "--dataset", "digits", "--dry_run"],
        cwd=elsewhere, env=clean_environment(PYTHONPATH=str(site)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dry run of surface" in done.stdout and not (site / "tests").exists()
