"""Servable graphs: which models get one, and adding one on demand (`python -m pipeline export`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import UserInputError
from pipeline.execution.attempt import attempt
from pipeline.execution.records import Task
from pipeline.networks.layered import Classifier
from pipeline.params import TrainBaseParams
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.graph_export import add_graph, black_images, is_servable
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult
from pipeline.trained_model import export

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = {"dataset": "digits", "epochs": 1, "width": 16, "hidden_layers": 1, "threads": 1}


def plan_step(store: MlflowClient, **params: object) -> StageResult:
    """The result of a base that is trained as a step of a plan."""
    context = PlanContext(store.create_run("0").info.run_id)
    return train_base(TrainBaseParams(**{**SMALL, **params}), plan_context=context)


def has_graph(store: MlflowClient, result: StageResult) -> bool:
    return is_servable(store, store.get_logged_model(result.model_uri.removeprefix("models:/")))


def files_of(result: StageResult, folder: Path) -> dict[str, bytes]:
    copy = Path(mlflow.artifacts.download_artifacts(result.model_uri, dst_path=str(folder)))
    return {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_plan_step_logs_weights_and_records_only(store: MlflowClient, tmp_path: Path) -> None:
    step = plan_step(store)
    kept = {f"{names.EXTRA_FILES}/{name}" for name in ("weights.safetensors", "architecture.json", "draw.safetensors")}
    card = f"{names.EXTRA_FILES}/{names.MODEL_CARD}"
    assert files_of(step, tmp_path / "copy").keys() - {"registered_model_meta"} == {*kept, card, "MLmodel"}
    assert not has_graph(store, step)
    info = mlflow.models.get_model_info(step.model_uri)
    assert info.metadata is not None and info.metadata["class_names"] == ["0", "1", "2", "3", "4"]
    with pytest.raises(MlflowException, match='does not have the "python_function" flavor'):
        mlflow.pyfunc.load_model(step.model_uri)


def test_export_makes_a_plan_step_servable_under_its_uri(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = plan_step(store)
    before = files_of(step, tmp_path / "before")
    export(step.run_id)
    assert f"{step.model_uri}: graph exported\nserve it with: mlflow models serve -m {step.model_uri}" in (
        capsys.readouterr().out
    )
    after = files_of(step, tmp_path / "after")
    assert all(after[name] == before[name] for name in before if name.startswith(names.EXTRA_FILES))
    base = load_base(store, step.model_uri)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28)).astype(np.float32)
    served = mlflow.pyfunc.load_model(step.model_uri).predict(pixels)
    expected = Classifier(base.network)(torch.from_numpy(pixels))
    assert np.allclose(served, expected.detach().numpy(), atol=1e-6)


def test_exporting_again_changes_nothing(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = plan_step(store)
    export(step.model_uri)
    before = files_of(step, tmp_path / "before")
    export(step.model_uri)
    assert f"{step.model_uri}: already has its graph" in capsys.readouterr().out
    assert files_of(step, tmp_path / "after") == before


def test_export_on_demand_equals_export_at_training(store: MlflowClient) -> None:
    late, early = plan_step(store), plan_step(store, export=True, seed=1)
    export(late.model_uri)
    infos = [mlflow.models.get_model_info(result.model_uri) for result in (late, early)]
    assert infos[0].flavors == infos[1].flavors and infos[0].signature == infos[1].signature
    assert all(info.metadata is not None for info in infos)
    assert infos[0].metadata.keys() == infos[1].metadata.keys()


def test_single_stage_exports_unless_told_not_to(store: MlflowClient) -> None:
    assert has_graph(store, train_base(TrainBaseParams(**SMALL)))
    assert not has_graph(store, train_base(TrainBaseParams(**SMALL, export=False)))


def test_plan_step_exports_if_requested_or_registered(store: MlflowClient) -> None:
    assert has_graph(store, plan_step(store, export=True))
    assert has_graph(store, plan_step(store, seed=1, register_as="digits"))


def test_cached_step_gets_a_graph_when_registered(store: MlflowClient) -> None:
    first = plan_step(store)
    assert not has_graph(store, first)
    cached = plan_step(store, register_as="digits")
    assert cached.reused and cached.run_id == first.run_id and has_graph(store, first)


def test_cached_step_gets_a_graph_with_export_true(store: MlflowClient) -> None:
    first = plan_step(store)
    params = {**SMALL, "export": "true"}
    report = attempt(Task(0, "train_base", params, "", False, False, {}), PlanContext(None))
    assert (report.failure, report.reused, report.run_id) == ("", True, first.run_id)
    assert has_graph(store, first)


def test_interrupted_export_leaves_a_base_and_is_repeated(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    step = plan_step(store)
    base = load_base(store, step.model_uri)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifact", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            add_graph(store, base)
    assert not has_graph(store, step) and load_base(store, step.model_uri).digest == base.digest
    assert add_graph(store, base) and has_graph(store, step)
    assert mlflow.pyfunc.load_model(step.model_uri).predict(black_images(base.network).float().numpy()).shape == (2, 5)


def test_model_that_is_not_uploaded_is_rejected(store: MlflowClient) -> None:
    base = load_base(store, plan_step(store).model_uri)
    base = replace(base, model_uri=f"runs:/{base.run_id}/model")
    with pytest.raises(UserInputError, match=r"not uploaded yet. Run python -m pipeline sync first"):
        add_graph(store, base)


def test_unknown_model_is_rejected_by_export(store: MlflowClient) -> None:
    with pytest.raises(UserInputError, match="model=models:/m-0+: not found.*Each stage prints its model URI"):
        export("models:/m-" + 32 * "0")
