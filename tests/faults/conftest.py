"""Shared fixtures of the fault tests: a store with two trained bases per module, and ways to damage a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline.params import CacheFeaturesParams, TrainBaseParams
from pipeline.stages.cache_features import cache_features
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from pipeline.tracking.stage_run import StageResult
from tests.conftest import copy_store, use_stores

SMALL = {"dataset": "digits", "epochs": 2, "hidden_layers": 2, "width": 12, "batch_size": 64, "threads": 1}

Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "without its end": lambda content: content[:-3],
    "one bit flipped": lambda content: content[:-20] + bytes([content[-20] ^ 4]) + content[-19:],
    "zeroes in place of its start": lambda content: bytes(64) + content[64:],
    "empty": lambda content: b"",
}


@dataclass(frozen=True)
class Bases:
    """Two finished bases that both fit classes 5-9, and cached features of the older one."""

    client: MlflowClient
    folder: Path
    older: StageResult
    newer: StageResult
    features: StageResult

    def model_folder(self, base: StageResult) -> Path:
        """The folder of a base's model files."""
        location = self.client.get_logged_model(base.model_uri.removeprefix("models:/")).artifact_location
        return Path(str(location).removeprefix("file://"))

    def extra(self, base: StageResult) -> Path:
        """The folder of the files that later stages read."""
        return self.model_folder(base) / names.EXTRA_FILES

    @property
    def features_path(self) -> Path:
        """The path of the cached features."""
        root = str(self.client.get_run(self.features.run_id).info.artifact_uri).removeprefix("file://")
        return Path(root) / names.FEATURES / names.FEATURES_FILE


@pytest.fixture(scope="module")
def bases(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bases]:
    """Trained once per module; a test that damages a file must restore it (see `damaged`)."""
    folder = tmp_path_factory.mktemp("bases")
    copy_store(empty_store, folder)
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "PIPELINE_DATA_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr("pipeline.stages.training_result.log_figures", lambda *_: None)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        older = train_base(TrainBaseParams(**SMALL, seed=1))
        newer = train_base(TrainBaseParams(**SMALL, seed=2))
        features = cache_features(CacheFeaturesParams(dataset="digits", base=older.model_uri, threads=1))
        yield Bases(MlflowClient(uri), folder, older, newer, features)
    use_stores(before)


@pytest.fixture
def damaged() -> Iterator[Callable[[Path, Damage], None]]:
    """Damage files, and restore them after the test."""
    originals: dict[Path, bytes] = {}

    def damage(path: Path, how: Damage) -> None:
        originals.setdefault(path, path.read_bytes())
        changed = how(originals[path])
        assert changed != originals[path], "the damage must change the file"
        path.write_bytes(changed)

    yield damage
    for path, content in originals.items():
        path.unlink(missing_ok=True)
        path.write_bytes(content)
