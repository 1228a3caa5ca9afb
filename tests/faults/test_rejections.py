"""Runs that cannot be resumed are rejected with a suggestion; changes since the run started are logged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.errors import UserInputError
from pipeline.params import CacheFeaturesParams, ResumeParams, TrainBaseParams, TransferParams, parse_params
from pipeline.stages import fitting
from pipeline.stages.cache_features import cache_features
from pipeline.stages.resume import resume
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking import names
from pipeline.tracking.outbox.local_state import lock_run_state, run_folder

pytestmark = pytest.mark.usefixtures("no_figures")
QUICK = {"dataset": "digits", "epochs": 6, "hidden_layers": 2, "width": 16, "batch_size": 32, "checkpoint_every": 2}


@pytest.fixture
def interrupted(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Interrupt a stage in its fourth epoch, like Ctrl-C, and return the run id."""

    def run(stage: Callable[..., object] = train_base, params: object = None) -> str:
        def watched(records, epochs):  # type: ignore[no-untyped-def]
            for record in records:
                yield record
                if record.epoch == 4:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(fitting, "watch", watched)
            with pytest.raises(KeyboardInterrupt):
                stage(params or TrainBaseParams(**QUICK))
        runs = store.search_runs(["0"], "attributes.status = 'KILLED'", order_by=["attributes.start_time DESC"])
        return str(runs[0].info.run_id)

    return run


def refused(run_id: str, why: str) -> None:
    with pytest.raises(UserInputError, match=why):
        resume(ResumeParams(run_id=run_id))


def test_resumed_run_finishes_and_cannot_be_resumed_again(store: MlflowClient, interrupted: Callable[..., str]) -> None:
    run_id = interrupted()
    result = resume(ResumeParams(run_id=run_id))
    run = store.get_run(run_id)
    assert result.run_id == run_id and run.info.status == "FINISHED" and len(store.search_runs(["0"])) == 1
    assert "Interrupted" not in run.data.tags[names.NOTE]
    assert {k: run.data.metrics[k] for k in result.metrics} == result.metrics
    refused(run_id, f"already FINISHED, with model {result.model_uri}. Use that")


def test_unknown_run_is_rejected(store: MlflowClient) -> None:
    refused("0" * 32, "not in this tracking store. Check MLFLOW_TRACKING_URI")
    with pytest.raises(
        UserInputError, match=r"run_id=x: must be a run id \(32 hexadecimal digits\). The interrupted stage printed it"
    ):
        parse_params(ResumeParams, {"run_id": "x"})
    with pytest.raises(UserInputError, match="run_id: must be a run id"):
        parse_params(ResumeParams, {})


def test_run_without_local_state_is_rejected(store: MlflowClient, interrupted: Callable[..., str]) -> None:
    run_id = interrupted()
    artifacts = Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    shutil.rmtree(artifacts / "checkpoints")
    refused(
        run_id, r"no local state in .*PIPELINE_STATE_DIR, or run it again: python -m pipeline train_base .*--width 16"
    )


def test_run_in_progress_is_rejected(
    store: MlflowClient, interrupted: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    run_id = interrupted()
    store.update_run(run_id, status="RUNNING")
    refused(run_id, "still in progress: process [0-9]+ is alive. Wait, or stop it")  # this process
    store.set_tag(run_id, "process", "1 0.00")
    lock = lock_run_state(run_folder(run_id))
    assert lock is not None
    refused(run_id, "still in progress: another process is working on it")
    lock.release()
    store.set_tag(run_id, "host", "elsewhere")
    shutil.rmtree(run_folder(run_id))
    refused(run_id, "RUNNING on elsewhere, last metric logged at .* UTC. Resume it there .* --force true")
    resume(ResumeParams(run_id=run_id, force=True))
    assert "the process on elsewhere is not visible from here: assumed to be gone" in caplog.text
    assert store.get_run(run_id).info.status == "FINISHED"


def test_self_resuming_stage_error_prints_the_command_to_rerun(store: MlflowClient) -> None:
    train_base(TrainBaseParams(**QUICK))
    result = cache_features(CacheFeaturesParams(dataset="digits", depth=1))
    store.set_terminated(result.run_id, "KILLED")
    refused(result.run_id, "Run it again to continue: python -m pipeline cache_features --dataset digits .*--depth 1")


def test_run_with_changed_data_is_rejected(
    store: MlflowClient, interrupted: Callable[..., str], tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(40):
            pixels = draw.integers(0, 255, (10, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    params = TrainBaseParams(**{**QUICK, "dataset": f"folder:{tmp_path}/pets", "classes": "0,1"})
    run_id = interrupted(train_base, params)
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / "pets" / "cat" / "3.png")
    refused(run_id, "its input has changed: data had digest .*Restore the original")
    assert store.get_run(run_id).info.status == "KILLED"
    lock = lock_run_state(run_folder(run_id))
    assert lock is not None, "a refusal must not keep the run's state in its hold"
    lock.release()


def test_run_with_altered_base_is_rejected(store: MlflowClient, interrupted: Callable[..., str]) -> None:
    base = train_base(TrainBaseParams(**QUICK))
    run_id = interrupted(transfer, TransferParams(dataset="digits", per_class=20, val_per_class=10, epochs=9))
    model = store.get_logged_model(base.model_uri.removeprefix("models:/"))
    path = Path(model.artifact_location.removeprefix("file://")) / names.EXTRA_FILES / names.WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    refused(run_id, "altered: its files have digest")
    content[-3] ^= 1
    path.write_bytes(content)
    assert resume(ResumeParams(run_id=run_id)).run_id == run_id


def test_changed_code_is_logged_and_clears_cache_key(
    store: MlflowClient, interrupted: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    run_id = interrupted()
    store.set_tag(run_id, names.CODE_DIGEST, "another")
    resume(ResumeParams(run_id=run_id))
    assert "code has changed since the run started (was another, now" in caplog.text
    tags = store.get_run(run_id).data.tags
    assert tags[names.CACHE_KEY] == "" and '"code"' in tags[names.RESUMED_WITH]


def test_dry_run_prints_configuration_and_leaves_run_alone(
    store: MlflowClient, interrupted: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = interrupted()
    resume(ResumeParams(run_id=run_id, dry_run=True))
    assert '"width": "16"' in capsys.readouterr().out
    assert store.get_run(run_id).info.status == "KILLED"


def test_retrained_epochs_are_logged_once(store: MlflowClient, interrupted: Callable[..., str]) -> None:
    """Interrupted in epoch 4 with a checkpoint only of epoch 2: epochs 3 and 4 are trained twice."""
    run_id = interrupted()
    checkpoints = Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://")) / names.CHECKPOINTS
    (checkpoints / "previous.safetensors").replace(checkpoints / "last.safetensors")
    before = {p.step: (p.value, p.timestamp) for p in store.get_metric_history(run_id, names.VAL_LOSS)}
    resume(ResumeParams(run_id=run_id))
    history = store.get_metric_history(run_id, names.VAL_LOSS)
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]
    assert {p.step: (p.value, p.timestamp) for p in history if p.step in before} == before
    assert store.get_run(run_id).data.metrics[names.LOST_SECONDS] >= 0
