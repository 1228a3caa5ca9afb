"""A tracking server that fails in many ways: training continues, and everything is uploaded exactly once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import UserInputError
from pipeline.params import MainParams, TrainBaseParams, TransferParams
from pipeline.stages import fitting
from pipeline.stages.main import main
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking.outbox.journal import JOURNAL, read_part
from pipeline.tracking.recovery.sync import sync_runs
from pipeline.training.records import EpochRecord
from tests.conftest import copy_store, use_stores
from tests.faults.killing import TINY, assert_one_ready_model, journaled_epochs, points_of, stage, wait_until
from tests.faults.proxy import Proxy, proxy_to
from tests.serving import Server
from tests.test_plan import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.usefixtures("no_figures")]
EPOCHS = 12
QUICK = {"dataset": "digits", "epochs": EPOCHS, "hidden_layers": 2, "width": 16, "batch_size": 32, "threads": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    """A real server shared by all tests, each with its own experiment."""
    folder = tmp_path_factory.mktemp("server")
    copy_store(empty_store, folder)
    server = Server(folder)
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that stages use as the tracking server, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    experiment = MlflowClient(server.url).create_experiment(tmp_path.name)
    before = mlflow.get_tracking_uri()
    with proxy_to(server.url) as proxy:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        mlflow.set_tracking_uri(proxy.url)
        mlflow.set_registry_uri(proxy.url)
        yield proxy
    use_stores(before)


@pytest.fixture
def at_epochs(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], None]]:
    """Actions to run after an epoch is trained and before it is logged."""
    actions: dict[int, Callable[[], None]] = {}

    def watched(records: Iterator[EpochRecord], epochs: int) -> Iterator[EpochRecord]:
        for record in records:
            actions.get(record.epoch, lambda: None)()
            time.sleep(0.1)
            yield record

    monkeypatch.setattr(fitting, "watch", watched)
    return actions


def assert_run_is_complete(server: Server, run_id: str, epochs: int = EPOCHS) -> None:
    """Check every point (once, in order), every file, one READY model, and no local state."""
    client = MlflowClient(server.url)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert {len(points) for points in points_of(client, run_id).values()} == {1, epochs}
    for name in ("val/loss", "time/epoch_seconds"):
        history = client.get_metric_history(run_id, name)
        assert [point.step for point in sorted(history, key=lambda p: p.timestamp)] == list(range(1, epochs + 1))
    assert len(run.inputs.dataset_inputs) == 3
    saved = {item.path for item in client.list_artifacts(run_id, "checkpoints")}
    assert {"checkpoints/last.safetensors", "checkpoints/best.safetensors"} <= saved
    assert_one_ready_model(client, run_id)
    assert not (Path(".pipeline") / "runs" / run_id).exists()


@pytest.mark.parametrize("mode", ["refuse", "hang", "500", "429", "drop", "slow", "full", "gateway"])
def test_temporary_server_failure_loses_no_data(
    proxy: Proxy, server: Server, at_epochs: dict[int, Callable[[], None]], mode: str
) -> None:
    at_epochs[3] = lambda: proxy.set(mode)
    at_epochs[8] = lambda: time.sleep(2) if mode == "refuse" else wait_until(lambda: mode in proxy.seen())
    at_epochs[9] = lambda: proxy.set("pass")
    result = train_base(TrainBaseParams(**QUICK, checkpoint_every=2))
    assert result.model_uri.startswith("models:/m-")
    assert_run_is_complete(server, result.run_id)


@pytest.mark.parametrize("mode", ["drop", "slow"])
def test_server_failing_throughout_upload_loses_no_data(
    proxy: Proxy, server: Server, at_epochs: dict[int, Callable[[], None]], mode: str
) -> None:
    """Every response is truncated, so every request is retried and executed twice; or all responses are slow."""
    at_epochs[1] = lambda: proxy.set(mode)
    result = train_base(TrainBaseParams(**QUICK, register_as="unlucky"))
    proxy.set("pass")
    wait_until(lambda: not any(Path(".pipeline/runs").iterdir()), seconds=90)
    assert_run_is_complete(server, result.run_id)
    versions = MlflowClient(server.url).search_model_versions("name = 'unlucky'")
    assert [version.run_id for version in versions].count(result.run_id) == 1


def test_server_restart_loses_no_data(proxy: Proxy, server: Server, at_epochs: dict[int, Callable[[], None]]) -> None:
    at_epochs[3] = server.kill
    at_epochs[10] = server.start
    result = train_base(TrainBaseParams(**QUICK))
    assert_run_is_complete(server, result.run_id)


@pytest.mark.parametrize("mode", ["refuse", "hang", "500"])
def test_server_down_at_startup_is_rejected_within_ten_seconds(proxy: Proxy, server: Server, mode: str) -> None:
    proxy.set(mode)
    began = time.monotonic()
    with pytest.raises(UserInputError, match="cannot be used as a tracking store"):
        train_base(TrainBaseParams(**QUICK))
    assert time.monotonic() - began < 10
    assert MlflowClient(server.url).search_runs([os.environ["MLFLOW_EXPERIMENT_ID"]]) == []


def test_sync_uploads_pending_model(
    proxy: Proxy, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Including its registration. Syncing too early changes nothing; a second sync has nothing to do."""
    environment = {"MLFLOW_TRACKING_URI": proxy.url, "MLFLOW_EXPERIMENT_ID": os.environ["MLFLOW_EXPERIMENT_ID"],
                   "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}  # fmt: skip
    words = ("train_base", *TINY, "--epochs", str(EPOCHS), "--register_as", "late")
    with stage(tmp_path, *words, **environment) as process:
        wait_until(lambda: journaled_epochs(tmp_path) >= 3, lambda: process.poll() is None)
        proxy.set("refuse")
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert "model URI pending: run python -m pipeline sync" in out and "some data is not uploaded yet" in out
    (folder,) = (tmp_path / ".pipeline" / "runs").iterdir()
    for mode, code, message in (("refuse", 1, "cannot be used"), ("pass", 0, "1 models")):
        proxy.set(mode)
        with stage(tmp_path, "sync", **environment) as syncing:
            out, _ = syncing.communicate(timeout=90)
        assert syncing.returncode == code and message in out, out
        assert folder.exists() is (code == 1)
        proxy.set("full" if code else "pass")
        assert sync_runs() is (code == 0)
        assert ("still pending" if code else "nothing to upload") in capsys.readouterr().out
        assert folder.exists() is (code == 1)
    assert_run_is_complete(server, folder.name)
    version = MlflowClient(server.url).get_model_version_by_alias("late", "best")
    assert version.run_id == folder.name


def test_crash_during_model_upload_leaves_one_model(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    """Killed after the server created the logged model, before it responded."""
    environment = {"MLFLOW_TRACKING_URI": proxy.url, "MLFLOW_EXPERIMENT_ID": os.environ["MLFLOW_EXPERIMENT_ID"]}
    with stage(tmp_path, "train_base", *TINY, "--epochs", str(EPOCHS), **environment) as process:
        proxy.once_after("/mlflow/logged-models", lambda: os.killpg(process.pid, signal.SIGKILL))
        process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL
    client = MlflowClient(server.url)
    (made,) = client.search_logged_models([os.environ["MLFLOW_EXPERIMENT_ID"]])
    assert str(made.status) == "PENDING"
    assert sync_runs()
    assert client.get_run(made.source_run_id).info.status == "KILLED"  # the stage did not finish
    with stage(tmp_path, "resume", "--run_id", made.source_run_id, **environment) as process:
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert_run_is_complete(server, made.source_run_id)
    assert client.get_run(made.source_run_id).data.tags["model_uri"] == f"models:/{made.model_id}"


def test_next_stage_uses_local_base_while_server_is_down(
    proxy: Proxy, server: Server, at_epochs: dict[int, Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    """The server goes down during the first stage and comes back after the second."""
    at_epochs[3] = lambda: proxy.set("refuse")
    base = train_base(TrainBaseParams(**QUICK))
    assert base.model_uri == f"runs:/{base.run_id}/model"
    target = transfer(TransferParams(base=base.model_uri, epochs=3, per_class=20, val_per_class=10))
    out = caplog.text
    assert "from local state, not uploaded yet" in out and "storing this run locally until it is back" in out
    proxy.set("pass")
    wait_until(
        lambda: not any(Path(".pipeline/runs").iterdir()), seconds=60
    )  # uploaded in the background, without a sync
    assert_run_is_complete(server, base.run_id)
    client = MlflowClient(server.url)
    (found,) = client.search_runs([os.environ["MLFLOW_EXPERIMENT_ID"]], "tags.stage = 'transfer'")
    run = client.get_run(found.info.run_id)
    assert run.data.tags["local_run_id"] == target.run_id
    assert_run_is_complete(server, run.info.run_id, epochs=3)
    uri = client.get_run(base.run_id).data.tags["model_uri"]
    assert run.data.tags["base_model_uri"] == uri and run.data.tags["base_run_id"] == base.run_id
    assert [f"models:/{item.model_id}" for item in run.inputs.model_inputs] == [uri]
    third = transfer(TransferParams(base=target.model_uri, epochs=2))  # the local id still resolves
    assert client.get_run(third.run_id).data.tags["base_run_id"] == run.info.run_id


def test_plan_run_continues_offline_and_completes_after_sync(
    proxy: Proxy, server: Server, tmp_path: Path, at_epochs: dict[int, Callable[[], None]]
) -> None:
    """The report needs the server: the same command creates it later, with all steps cached."""
    (tmp_path / "small.yaml").write_text(SMALL)
    study = {"plan": "small.yaml", "profile": "quick", "dataset": "digits", "seeds": 1, "threads": 1, "workers": 1}
    at_epochs[1] = lambda: proxy.set("refuse")
    with pytest.raises(MlflowException):
        main(MainParams(**study))
    at_epochs.clear()
    assert len(list(Path(".pipeline/runs").iterdir())) == 4  # three steps and the plan run
    proxy.set("pass")
    wait_until(lambda: sync_runs() and not any(Path(".pipeline/runs").iterdir()), seconds=90)
    again = main(MainParams(**study))
    assert again.metrics == {"study/run": 0, "study/reused": 3, "study/failed": 0}
    client = MlflowClient(server.url)
    runs = client.search_runs([os.environ["MLFLOW_EXPERIMENT_ID"]])
    finished = [run.data.tags["stage"] for run in runs if run.info.status == "FINISHED"]
    assert sorted(finished) == ["main", "train_base", "transfer", "transfer"] and len(runs) == 5
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert parents == {run.info.run_id for run in runs if run.info.status == "FAILED"}


def killed_while_down(proxy: Proxy, folder: Path) -> tuple[str, dict[str, str]]:
    """Kill a run while its last epochs cannot be uploaded; return its run id and environment."""
    environment = {"MLFLOW_TRACKING_URI": proxy.url, "MLFLOW_EXPERIMENT_ID": os.environ["MLFLOW_EXPERIMENT_ID"]}
    with stage(folder, "train_base", *TINY, "--epochs", "40", **environment) as process:
        wait_until(lambda: journaled_epochs(folder) >= 2, lambda: process.poll() is None)
        proxy.set("refuse")
        wait_until(lambda: journaled_epochs(folder) >= 20, lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGKILL)
    (path,) = (folder / ".pipeline" / "runs").iterdir()
    return path.name, environment


def test_killed_stage_can_be_synced_and_then_resumed(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    run_id, environment = killed_while_down(proxy, tmp_path)
    logged = journaled_epochs(tmp_path)
    proxy.set("pass")
    assert sync_runs()
    client = MlflowClient(server.url)
    assert client.get_run(run_id).info.status == "KILLED"
    assert [p.step for p in client.get_metric_history(run_id, "val/loss")] == list(range(1, logged + 1))
    with stage(tmp_path, "resume", "--run_id", run_id, **environment) as process:
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0 and "from epoch" in out, out
    assert_run_is_complete(server, run_id, epochs=40)


def test_damaged_journal_line_is_reported_and_rest_uploaded(
    proxy: Proxy, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, _ = killed_while_down(proxy, tmp_path)
    path = tmp_path / ".pipeline" / "runs" / run_id / JOURNAL
    lines = path.read_bytes().split(b"\n")
    place = max(number for number, line in enumerate(lines) if b'"val/loss"' in line and b", 18]" in line)
    lines[place] = lines[place].replace(b'"kind"', b'"ki\x00d"')
    path.write_bytes(b"\n".join(lines))
    proxy.set("pass")
    assert sync_runs()
    assert f"the line at byte {len(b' '.join(lines[:place])) + 1} is damaged" in capsys.readouterr().out
    steps = [p.step for p in MlflowClient(server.url).get_metric_history(run_id, "val/loss")]
    last = read_part(path).entries and max(steps)
    assert steps == [step for step in range(1, last + 1) if step != 18] and last >= 20


def test_deleting_run_on_server_does_not_stop_training(
    proxy: Proxy, server: Server, at_epochs: dict[int, Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    client, experiment = MlflowClient(server.url), os.environ["MLFLOW_EXPERIMENT_ID"]
    at_epochs[4] = lambda: client.delete_run(client.search_runs([experiment])[0].info.run_id)
    result = train_base(TrainBaseParams(**QUICK))
    assert "rejected by the tracking store" in caplog.text
    refused = Path(".pipeline") / "runs" / result.run_id / "refused.jsonl"
    assert '"test/accuracy"' in refused.read_text()


def test_sync_skips_stage_in_progress(
    proxy: Proxy, server: Server, at_epochs: dict[int, Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    at_epochs[3] = lambda: proxy.set("refuse")
    at_epochs[6] = lambda: proxy.set("pass")
    at_epochs[7] = lambda: assert_true(sync_runs())
    result = train_base(TrainBaseParams(**QUICK))
    assert f"run {result.run_id}: in progress" in capsys.readouterr().out
    assert_run_is_complete(server, result.run_id)


def assert_true(value: bool) -> None:
    assert value


def test_concurrent_syncs_upload_everything_once(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": proxy.url, "MLFLOW_EXPERIMENT_ID": os.environ["MLFLOW_EXPERIMENT_ID"]}
    with stage(tmp_path, "train_base", *TINY, "--epochs", str(EPOCHS), **environment) as process:
        wait_until(lambda: journaled_epochs(tmp_path) >= 2, lambda: process.poll() is None)
        proxy.set("refuse")
        process.communicate(timeout=90)
    (path,) = (tmp_path / ".pipeline" / "runs").iterdir()
    proxy.set("pass")
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(sync_runs())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 3
    assert_run_is_complete(server, path.name)


@pytest.mark.parametrize("mode", ["refuse", "hang"])
def test_interrupt_is_fast_while_server_is_down(proxy: Proxy, tmp_path: Path, mode: str) -> None:
    environment = {"MLFLOW_TRACKING_URI": proxy.url, "MLFLOW_EXPERIMENT_ID": os.environ["MLFLOW_EXPERIMENT_ID"]}
    with stage(tmp_path, "train_base", *TINY, "--epochs", "100000", **environment) as process:
        wait_until(lambda: journaled_epochs(tmp_path) >= 5, lambda: process.poll() is None)
        proxy.set(mode)
        time.sleep(2)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        took = time.monotonic() - sent
    assert process.returncode == 130 and "python -m pipeline sync" in out, out
    assert took < 4  # two seconds on an idle machine, including interpreter shutdown
    assert list(tmp_path.glob(".pipeline/runs/*/checkpoints/last.safetensors"))
