"""Stages and what they track, read back from a real sqlite store."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import mlflow
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.errors import NonFiniteLossError, UserInputError
from pipeline.networks.build import architecture_from_json, build_network, weights_digest
from pipeline.networks.layered import Classifier
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages import fitting, training_result
from pipeline.stages.train_base import train_base
from pipeline.statistics.sources import precision_scores
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import (
    JOURNAL,
    Entry,
    Journal,
    is_uploaded,
    read_part,
    send_pending,
    uploaded_bytes,
)
from pipeline.tracking.outbox.model_upload import register_model
from pipeline.tracking.outbox.uploader import Uploader
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.queries import read_test_predictions
from pipeline.tracking.stage_run import StageResult

QUICK = {"dataset": "digits", "epochs": 4, "hidden_layers": 2, "width": 16, "batch_size": 32, "checkpoint_every": 2}


@pytest.fixture
def trained(store: MlflowClient) -> tuple[StageResult, Run]:
    """A finished `train_base` run."""
    result = train_base(TrainBaseParams(**QUICK))
    return result, store.get_run(result.run_id)


def files_of(store: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    return {item.path for item in store.list_artifacts(run_id, folder)}


def test_run_logs_everything_in_the_contract(trained: tuple[StageResult, Run], store: MlflowClient) -> None:
    result, run = trained
    assert run.info.status == "FINISHED"
    resolved = {"device": "cpu", "dtype": "float32", "threads": "1", "classes": "0-4", "image_size": "28"}
    resolved |= {"channels": "1", "resize": "fit", "mean": "none", "std": "none", "augment": "none"}
    assert run.data.params == {**TrainBaseParams(**QUICK).logged(), **resolved}
    tags = run.data.tags
    for name in (names.STAGE, names.DATASET, names.CACHE_KEY, names.CODE_DIGEST, names.WEIGHTS_DIGEST, "host", "process",
                 names.NOTE, "mlflow.user", "mlflow.source.name", "mlflow.runName"):  # fmt: skip
        assert tags.get(name), name
    assert tags[names.CONVERGED] == "no: stopped by the epoch cap"
    assert tags[names.STAGE] == "train_base" and tags[names.DATASET] == "digits" and tags[names.CLASSES] == "0-4"
    for name in ("test/loss", "test/accuracy", "test/precision", "test/recall", "test/f1", "train/final_accuracy",
                 "val/final_accuracy", "best_epoch", "epochs_run", "time/fit_seconds", "time/total_seconds",
                 "time/data_seconds", "test/balanced_accuracy",
                 "test/recall_0", "test/recall_4"):  # fmt: skip
        history = store.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [0], name
        assert history[0].value == result.metrics[name]
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "time/epoch_seconds"):
        assert [point.step for point in store.get_metric_history(run.info.run_id, name)] == [1, 2, 3, 4], name


def test_run_stopped_by_patience_is_converged(store: MlflowClient, no_figures: None) -> None:
    result = train_base(TrainBaseParams(**{**QUICK, "learning_rate": 0.3, "epochs": 200, "patience": 2}))
    assert store.get_run(result.run_id).data.tags[names.CONVERGED] == "yes"


def test_datasets_are_logged_with_digests(trained: tuple[StageResult, Run]) -> None:
    inputs = trained[1].inputs.dataset_inputs
    contexts = {tag.value: item.dataset for item in inputs for tag in item.tags}
    assert set(contexts) == {"training", "validation", "testing"}
    assert len({dataset.digest for dataset in contexts.values()}) == 3
    assert json.loads(contexts["training"].profile)["num_examples"] > 500


def test_predictions_give_the_accuracy_and_the_confusion(trained: tuple[StageResult, Run], store: MlflowClient) -> None:
    predictions = read_test_predictions(store, trained[0].run_id)
    assert predictions is not None
    metrics = trained[1].data.metrics
    assert len(set(predictions.identities)) == metrics[names.TEST_IMAGES]
    assert (predictions.classes == predictions.predicted).mean() == pytest.approx(metrics[names.TEST_ACCURACY])
    recall = (predictions.predicted[predictions.classes == 0] == 0).mean()
    assert recall == pytest.approx(metrics[names.CLASS_RECALL + "0"])
    scores = precision_scores(predictions.classes, predictions.predicted)
    assert scores.mean() == pytest.approx(metrics["test/precision"])


def test_artifact_names_are_fixed(trained: tuple[StageResult, Run], store: MlflowClient) -> None:
    run_id = trained[0].run_id
    assert files_of(store, run_id) == {
        "checkpoints",
        "figures",
        "history.csv",
        "classes.csv",
        "test_predictions.csv",
    }
    assert files_of(store, run_id, "checkpoints") == {
        f"checkpoints/{name}.safetensors" for name in ("last", "previous", "best")
    }
    assert files_of(store, run_id, "figures") == {
        f"figures/{name}.png" for name in ("learning_curves", "confusion_matrix", "mistakes")
    }


def test_many_classes_are_in_a_table_only(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_result, "MAX_CLASSES_DRAWN", 4)
    monkeypatch.setattr(names, "MAX_RECALL_METRICS", 4)
    result = train_base(TrainBaseParams(**QUICK))
    assert files_of(store, result.run_id, "figures") == {"figures/learning_curves.png", "figures/mistakes.png"}
    assert not any(name.startswith(names.CLASS_RECALL) for name in result.metrics)
    table = Path(store.download_artifacts(result.run_id, names.CLASS_TABLE)).read_text()
    assert len(table.splitlines()) == 6 and names.BALANCED_ACCURACY in result.metrics


def test_model_can_be_rebuilt_without_unpickling(trained: tuple[StageResult, Run], store: MlflowClient) -> None:
    result, run = trained
    model = store.get_logged_model(result.model_uri.removeprefix("models:/"))
    assert str(model.status) == "READY" and model.source_run_id == result.run_id
    assert {metric.key: metric.value for metric in model.metrics}["test/accuracy"] == result.metrics["test/accuracy"]
    folder = Path(mlflow.artifacts.download_artifacts(result.model_uri))
    extra = folder / names.EXTRA_FILES
    network = build_network(architecture_from_json((extra / names.ARCHITECTURE_FILE).read_text()), generator(9, "x"))
    network.load_state_dict(safetensors.torch.load_file(extra / names.WEIGHTS_FILE))
    assert weights_digest(network.state_dict()) == run.data.tags[names.WEIGHTS_DIGEST]
    draw = safetensors.torch.load_file(extra / names.IDENTITIES_FILE)
    assert not set(draw["train"].tolist()) & set(draw["validation"].tolist())


def test_exported_model_reproduces_evaluated_probabilities(trained: tuple[StageResult, Run]) -> None:
    model = mlflow.pyfunc.load_model(trained[0].model_uri)
    extra = Path(mlflow.artifacts.download_artifacts(trained[0].model_uri)) / names.EXTRA_FILES
    network = build_network(architecture_from_json((extra / names.ARCHITECTURE_FILE).read_text()), generator(9, "x"))
    network.load_state_dict(safetensors.torch.load_file(extra / names.WEIGHTS_FILE))
    classifier = Classifier(network).eval()
    assert model.metadata.metadata["class_names"] == ["0", "1", "2", "3", "4"]
    pixels = torch.randint(0, 256, (7, 1, 28, 28), generator=generator(0, "pixels")).float().numpy()
    for count in (1, 3, 7):
        probabilities = model.predict(pixels[:count])
        assert probabilities.shape == (count, 5)
        with torch.no_grad():
            assert torch.allclose(
                torch.from_numpy(probabilities), classifier(torch.from_numpy(pixels[:count])), atol=1e-6
            )


def test_local_state_is_removed_after_upload(trained: tuple[StageResult, Run], tmp_path: Path) -> None:
    assert list((tmp_path / ".pipeline" / "runs").iterdir()) == []


def test_same_seed_gives_same_model_and_cache_key(store: MlflowClient) -> None:
    tags = [store.get_run(train_base(TrainBaseParams(**QUICK)).run_id).data.tags for _ in range(2)]
    other = store.get_run(train_base(TrainBaseParams(**{**QUICK, "seed": 1})).run_id).data.tags
    assert tags[0][names.WEIGHTS_DIGEST] == tags[1][names.WEIGHTS_DIGEST] != other[names.WEIGHTS_DIGEST]
    assert tags[0][names.CACHE_KEY] == tags[1][names.CACHE_KEY] != other[names.CACHE_KEY]


def test_run_created_by_mlflow_is_adopted(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.create_run("0", tags={"mlflow.source.name": "a project"})
    store.log_param(made.info.run_id, "learning_rate", "1e-3")  # as `mlflow run -P learning_rate=1e-3` does
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    result = train_base(TrainBaseParams(**QUICK))
    run = store.get_run(result.run_id)
    assert result.run_id == made.info.run_id and run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "1e-3" and run.data.params["seed"] == "0"
    assert json.loads(run.data.tags[names.PARAMETERS])["learning_rate"] == "0.001"
    assert run.data.tags["mlflow.source.name"] == "a project"
    assert train_base(TrainBaseParams(**QUICK)).run_id != made.info.run_id


def test_nested_run_has_parent_tag(store: MlflowClient) -> None:
    parent = store.create_run("0")
    result = train_base(TrainBaseParams(**QUICK), plan_context=PlanContext(parent.info.run_id))
    assert store.get_run(result.run_id).data.tags[names.PARENT_RUN_ID] == parent.info.run_id


def test_exception_marks_run_failed_with_a_note(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise NonFiniteLossError("the loss became nan in epoch 2")

    monkeypatch.setattr("pipeline.stages.training_run.fit_and_evaluate", diverge)
    with pytest.raises(NonFiniteLossError):
        train_base(TrainBaseParams(**QUICK))
    (run,) = store.search_runs(["0"])
    assert run.info.status == "FAILED" and "the loss became nan in epoch 2" in run.data.tags[names.NOTE]
    assert list((tmp_path / ".pipeline" / "runs").iterdir()) == []


def test_interrupt_marks_run_killed_and_keeps_checkpoint(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(records, epochs):  # type: ignore[no-untyped-def]
        for record in records:
            yield record
            if record.epoch == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_base(TrainBaseParams(**QUICK))
    (run,) = store.search_runs(["0"])
    assert run.info.status == "KILLED"
    assert "checkpoints/last.safetensors" in files_of(store, run.info.run_id, "checkpoints")
    assert list((tmp_path / ".pipeline" / "runs").iterdir()) == []  # resume takes what was uploaded


def test_dry_run_trains_nothing(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_base(TrainBaseParams(**QUICK, dry_run=True)).run_id == ""
    assert store.search_runs(["0"]) == []
    assert '"width": "16"' in capsys.readouterr().out


def test_invalid_dataset_creates_no_run(store: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(UserInputError):
        train_base(TrainBaseParams(dataset=f"folder:{tmp_path}/none"))
    assert store.search_runs(["0"]) == []


def test_best_alias_follows_validation_accuracy(store: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    for epochs, best in ((1, 1), (8, 2), (1, 2)):
        train_base(TrainBaseParams(**{**QUICK, "epochs": epochs}, register_as="digits-base"))
        assert int(store.get_model_version_by_alias("digits-base", "best").version) == best
    assert "alias best stays on version 2" in capsys.readouterr().out


def test_concurrent_writers_leave_alias_on_better_model(
    store: MlflowClient, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse, better = (train_base(TrainBaseParams(**{**QUICK, "epochs": epochs})) for epochs in (1, 8))

    def register(client: MlflowClient, result: StageResult) -> None:
        val_accuracy = result.metrics[names.VAL_FINAL_ACCURACY]
        register_model(client, result.run_id, result.model_uri, name="shared", val_accuracy=val_accuracy)

    def overtaken(*alias: str) -> None:
        register(store, better)
        set_alias(*alias)

    late = MlflowClient()
    set_alias = late.set_registered_model_alias
    monkeypatch.setattr(late, "set_registered_model_alias", overtaken)
    register(late, worse)
    assert store.get_model_version_by_alias("shared", "best").run_id == better.run_id


def test_run_uses_experiment_from_environment(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    result = train_base(TrainBaseParams(**QUICK))
    experiment = store.get_experiment_by_name("mine")
    assert experiment is not None and store.get_run(result.run_id).info.experiment_id == experiment.experiment_id


def test_stage_runs_outside_main_thread(store: MlflowClient) -> None:
    results: list[StageResult] = []
    thread = threading.Thread(target=lambda: results.append(train_base(TrainBaseParams(**QUICK))))
    thread.start()
    thread.join()
    assert results and store.get_run(results[0].run_id).info.status == "FINISHED"


def test_store_uses_write_ahead_logging(trained: tuple[StageResult, Run], tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_unusable_store_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri("http://someone:hunter2@127.0.0.1:9")
        with pytest.raises(UserInputError, match="cannot be used as a tracking store") as caught:
            train_base(TrainBaseParams(**QUICK))
        assert "hunter2" not in str(caught.value)
    finally:
        mlflow.set_tracking_uri(before)


def no_damage(where: str) -> None:
    raise AssertionError(where)


def test_failed_uploads_are_retried(tmp_path: Path) -> None:
    sent: list[int] = []
    failures = iter([True, True, False])

    def send(entries: list[Entry]) -> None:
        if next(failures, False):
            raise ConnectionError("down")
        sent.extend(entry["number"] for entry in entries)

    uploader = Uploader(Journal(tmp_path), send, no_damage, pause_seconds=0.01)
    for number in range(5):
        uploader.put({"kind": "numbers", "number": number})
    while not uploader.flush(5):
        pass
    ends: list[str] = []
    assert uploader.close(5, lambda: ends.append("here"))
    assert sent == [0, 1, 2, 3, 4] and ends == ["here"] and is_uploaded(tmp_path)
    assert [entry["number"] for entry in read_part(tmp_path / JOURNAL).entries] == sent


def test_upload_counts_as_done_after_state_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The uploader thread may clean up before the waiting thread checks again."""
    folder = tmp_path / "run"
    uploader = Uploader(Journal(folder), lambda entries: None, no_damage, pause_seconds=0.01)

    def once_removed(run_state: Path) -> int:
        if threading.current_thread() is threading.main_thread():
            deadline = time.monotonic() + 10
            while folder.exists() and time.monotonic() < deadline:
                uploader._changed.wait(0.01)  # releases the lock to the other thread
        return uploaded_bytes(run_state)

    monkeypatch.setattr("pipeline.tracking.outbox.uploader.uploaded_bytes", once_removed)
    uploader.put({"kind": "last"})
    assert uploader.close(2, lambda: shutil.rmtree(folder))


def test_upload_continues_where_the_last_one_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    sent: list[Entry] = []
    for number in range(3):
        journal.append({"kind": "numbers", "number": number})
        send_pending(tmp_path, sent.extend, no_damage)
    send_pending(tmp_path, sent.extend, no_damage)
    assert [entry["number"] for entry in sent] == [0, 1, 2]


def test_truncated_last_journal_line_is_dropped(tmp_path: Path) -> None:
    whole = b'{"kind": "a"}\n{"kind": "b"}\n'
    (tmp_path / JOURNAL).write_bytes(whole + b'{"kind": ')
    assert [entry["kind"] for entry in read_part(tmp_path / JOURNAL).entries] == ["a", "b"]
    journal = Journal(tmp_path)
    journal.append({"kind": "c"})
    assert [entry["kind"] for entry in read_part(tmp_path / JOURNAL).entries] == ["a", "b", "c"]


def test_damaged_journal_line_is_reported_and_rest_uploaded(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b'{"kind": "a"}\n{"kind" "b"}\n[1]\n{"kind": "c"}\n')
    sent: list[Entry] = []
    damaged: list[str] = []
    send_pending(tmp_path, sent.extend, damaged.append)
    assert [entry["kind"] for entry in sent] == ["a", "c"]
    assert [line.split(": ")[1] for line in damaged] == [
        "the line at byte 14 is damaged",
        "the line at byte 27 is damaged",
    ]
    assert is_uploaded(tmp_path)


def test_journal_is_flushed_to_disk_while_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within about a second, by a thread that blocks neither uploads nor training."""
    kept, release = threading.Event(), threading.Event()
    monkeypatch.setattr("pipeline.tracking.outbox.journal.os.fsync", lambda file: kept.set())
    uploader = Uploader(Journal(tmp_path), lambda entries: release.wait(20) and None, no_damage, pause_seconds=0.01)
    uploader.put({"kind": "first"})
    time.sleep(1.2)
    kept.clear()
    began = time.monotonic()
    uploader.put({"kind": "second"})
    assert time.monotonic() - began < 0.1
    assert kept.wait(3)
    release.set()
    assert uploader.close(5, lambda: None)


def test_full_disk_does_not_stop_logging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial line is removed from disk; later entries wait in memory and are uploaded in order."""
    sent: list[int] = []
    journal = Journal(tmp_path)
    journal.append({"kind": "numbers", "number": 0})
    write, full = os.write, True
    monkeypatch.setattr(
        "pipeline.tracking.outbox.journal.os.write", lambda f, data: write(f, data[:7] if full else data)
    )
    journal.append({"kind": "numbers", "number": 1})
    journal.append({"kind": "numbers", "number": 2})
    assert [entry["number"] for entry in read_part(tmp_path / JOURNAL).entries] == [0]
    uploader = Uploader(journal, lambda e: sent.extend(entry["number"] for entry in e), no_damage, pause_seconds=0.01)
    assert uploader.flush(5) and sent == [0, 1, 2]
    full = False
    uploader.put({"kind": "numbers", "number": 3})
    assert uploader.close(5, lambda: None) and sent == [0, 1, 2, 3]
