"""The notebook in docs/ runs from top to bottom and shows what it says."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from mlflow import MlflowClient
from nbclient import NotebookClient

from pipeline.tracking import names
from tests.conftest import ROOT, clean_environment, command_in, copy_store

TYPO = ("transfer", "--reuse_layer", "4", "--batch_size", "0")


@pytest.mark.slow
def test_notebook_trains_plots_and_explains_a_typo(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(empty_store, tmp_path)
    monkeypatch.setattr("os.environ", clean_environment(IPYTHONDIR=str(tmp_path / "ipython")))
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    *_, plot, typo = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert any("image/png" in output.get("data", {}) for output in plot)
    (message,) = (output.text for output in typo)
    rejected = command_in(tmp_path)(*TYPO)
    assert sorted(message.splitlines()) == sorted(rejected.stderr.replace("error: ", "").splitlines())
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["0"])
    assert sorted(run.data.tags[names.STAGE] for run in runs) == ["train_base", "transfer", "transfer"]
