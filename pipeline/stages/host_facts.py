"""What has to be equal on all hosts of a cluster, so that a step has the same cache key and weights on each of them."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version

from pipeline.data.records import Dataset, Images
from pipeline.errors import UserInputError
from pipeline.params import DataParams, parse_params, spell
from pipeline.params.data import NO_DATASET
from pipeline.plan.arms import STEP_ENTRY_POINTS
from pipeline.plan.records import Plan
from pipeline.runtime import tensor_bytes
from pipeline.stages.data_loading import load_data
from pipeline.tracking.cache_key import code_digest
from pipeline.tracking.result_cache import store_scope
from pipeline.tracking.store import active_experiment_id, open_store

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "optuna", "mlflow", "timm")


def data_settings(plan: Plan) -> list[dict[str, str]]:
    """Return the parameters of each dataset that a plan uses."""
    found = []
    for arm in plan.arms.values():
        setting = {name: spell(arm.setting[name]) for name in DataParams.model_fields if name in arm.setting}
        if setting not in found and setting.get("dataset") != NO_DATASET:
            found.append(setting)
    return found


def host_facts(data: list[dict[str, str]]) -> dict[str, str]:
    """Return versions, digests of code and data, and the identity of the experiment, by a name for messages."""
    facts = {package: _version(package) for package in PACKAGES}
    code = "".join(code_digest(stage) for stage in STEP_ENTRY_POINTS)
    facts["code of the pipeline"] = hashlib.sha256(code.encode()).hexdigest()[:12]
    try:
        facts["tracking store"] = store_scope(open_store(), active_experiment_id())
    except UserInputError as error:
        facts["tracking store"] = str(error)
    return facts | {_data_name(setting): _data_digest(setting) for setting in data}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _data_name(setting: dict[str, str]) -> str:
    return f"data {setting.get('dataset', 'auto')}"


def _data_digest(setting: dict[str, str]) -> str:
    """Return a digest over all images and labels, or why they cannot be loaded."""
    try:
        dataset = load_data(parse_params(DataParams, setting))
    except UserInputError as error:
        return str(error)
    return dataset_digest(dataset)


def dataset_digest(dataset: Dataset) -> str:
    """Return a digest over the names of the classes, and the identities and labels of all images of each split."""
    digest = hashlib.sha256(repr(dataset.class_names).encode())
    splits: tuple[Images | None, ...] = (dataset.train, dataset.validation, dataset.test)
    for images in splits:
        digest.update(b"split")
        if images is not None:
            digest.update(tensor_bytes(images.ids))
            digest.update(tensor_bytes(images.labels))
    return digest.hexdigest()[:12]
