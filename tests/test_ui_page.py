"""The link to the experiment's runs in MLflow's UI."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.tracking.ui_page import KIND_TAG, VIEW_TAG, runs_page


def test_link_names_the_view_that_is_stored_as_a_tag(store: MlflowClient) -> None:
    assert runs_page(store, "0") == "/#/experiments/0/runs?workflowType=machine_learning&viewStateShareKey=pipeline"
    tags = store.get_experiment("0").tags
    assert tags[KIND_TAG] == "custom_model_development"
    assert json.loads(tags[VIEW_TAG])["selectedColumns"][:2] == ["metrics.`test/accuracy`", "tags.`arm`"]


def test_link_without_write_access_has_no_view(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise MlflowException("Permission denied")

    monkeypatch.setattr(store, "set_experiment_tag", deny)
    assert runs_page(store, "0") == "/#/experiments/0/runs?workflowType=machine_learning"
