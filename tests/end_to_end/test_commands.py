"""The real commands in real processes: valid and invalid input, interrupts, `mlflow run`, serving."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.networks.build import architecture_from_json, build_network
from pipeline.networks.layered import Classifier
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages.train_base import train_base
from pipeline.tracking import names
from tests.conftest import MNIST_DIR, ROOT, Command, clean_environment, copy_store
from tests.ports import free_port, until_it_answers

QUICK = ("--dataset", "digits", "--epochs", "3", "--width", "16", "--hidden_layers", "2")
SMALL = {"dataset": "digits", "epochs": 3, "width": 16, "hidden_layers": 2}
ENDLESS = ("--dataset", "digits", "--epochs", "100000", "--patience", "100000", "--width", "16")
BIN = Path(sys.executable).parent


def runs_in(folder: Path) -> list[Run]:
    """All runs of the default store in a folder."""
    if not (folder / "mlflow.db").exists():
        return []
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def mlflow_run(project: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of `mlflow run . --env-manager local` in the project's virtual environment."""
    environment = clean_environment(PATH=f"{BIN}:{os.environ['PATH']}")
    return [str(BIN / "mlflow"), "run", ".", "--env-manager", "local", *words], environment


def test_command_trains_and_prints_results(command: Command, tmp_path: Path) -> None:
    done = command("train_base", *QUICK)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    assert "digits" in done.stderr.splitlines()[0]
    assert "epoch 1/3: train loss" in done.stdout and "\r" not in done.stdout  # no terminal: lines
    assert f"run {run.info.run_id}, model models:/m-" in done.stdout and "test accuracy" in done.stdout
    assert run.info.status == "FINISHED"
    assert "Traceback" not in done.stderr and "WARNING" not in done.stderr, done.stderr


BAD = [
    (["--classes", "9-5"], "classes=9-5"),
    (["--dataset", "mnist", "--classes", "0-12"], "has classes 0-9"),
    (["--classes", "3"], "classes=3"),
    (["--learning_rate=-1"], "learning_rate=-1"),
    (["--learning-rate", "nan"], "learning_rate=nan"),
    (["--batch_size", "0"], "batch_size=0"),
    (["--dropout", "1"], "dropout=1"),
    (["--model", "vgg"], "model=vgg"),
    (["--dataset", "mnsit"], "Did you mean mnist"),
    (["--device", "cuda:99"], "device=cuda:99"),
    (["--frobnicate", "1"], "frobnicate=1: unknown parameter"),
    (["nonsense"], "is not an option"),
    (["--dataset", "mnist", "--data_dir", "mlflow.db/nowhere"], "dataset=digits needs no download"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_invalid_input_prints_two_lines_and_creates_no_run(
    command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    began = time.monotonic()
    done = command("train_base", *words)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert runs_in(tmp_path) == []
    assert time.monotonic() - began < 90


def test_all_input_errors_are_reported_together(command: Command) -> None:
    done = command("train_base", "--classes", "9-5", "--batch_size", "0", "--frobnicate", "1")
    assert done.returncode == 2 and done.stderr.count("error: ") == 3


ON_WINDOWS = "import runpy, sys; sys.platform = 'win32'; runpy.run_module('pipeline', run_name='__main__')"


@pytest.mark.parametrize(
    "words", [[sys.executable, "-c", ON_WINDOWS], ["make", "--no-print-directory", "help"]], ids=["python", "make"]
)
def test_windows_is_rejected_and_error_suggests_wsl(words: list[str]) -> None:
    done = subprocess.run(words, cwd=ROOT, env=clean_environment(OS="Windows_NT"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "only Linux and macOS are supported; on Windows, use WSL" in done.stderr and not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_lists_every_parameter(command: Command) -> None:
    text = command("train_base", "--help").stdout
    assert "--learning_rate, --learning-rate" in text and "default: 128 examples" in " ".join(text.split())


def test_mlflow_run_trains_in_its_own_run(project: Path) -> None:
    words, environment = mlflow_run(project, "-e", "train_base", "-P", "classes=0-4", "-P", "dataset=digits",
                                    "-P", "epochs=10", "-P", "learning_rate=1e-3", "-P", "width=16")  # fmt: skip
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(project)
    assert run.info.status == "FINISHED" and run.data.tags[names.STAGE] == "train_base"
    assert run.data.params["learning_rate"] == "1e-3" and run.data.params["classes"] == "0-4"
    assert run.data.params["patience"] == "20"
    assert run.data.metrics["test/accuracy"] > 0.5


@pytest.mark.slow
def test_invalid_input_under_mlflow_run_fails_the_run(project: Path) -> None:
    words, environment = mlflow_run(project, "-e", "train_base", "-P", "classes=9-5")
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    (run,) = runs_in(project)
    assert run.info.status == "FAILED" and "classes=9-5" in run.data.tags[names.NOTE]
    assert run.data.metrics == {}


@contextmanager
def training(words: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A training process that has completed its first epochs."""
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("epoch"):
                    break
            time.sleep(1)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT], marks=pytest.mark.slow),
        [signal.SIGINT, signal.SIGTERM],
    ],
)
def test_interrupted_stage_saves_checkpoint_and_exits_130(tmp_path: Path, signals: list[signal.Signals]) -> None:
    words = [sys.executable, "-m", "pipeline", "train_base", *ENDLESS]
    with training(words, tmp_path, clean_environment()) as process:
        sent = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.02)
        process.communicate(timeout=30)
        assert time.monotonic() - sent < 10
        assert process.returncode == 130
    (run,) = runs_in(tmp_path)
    assert run.info.status == "KILLED"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 3
    saved = {item.path for item in client.list_artifacts(run.info.run_id, "checkpoints")}
    assert {"checkpoints/last.safetensors", "checkpoints/best.safetensors"} <= saved


@pytest.mark.slow
def test_ctrl_c_under_mlflow_run_saves_and_marks_killed(project: Path) -> None:
    options = [
        word for pair in zip(ENDLESS[::2], ENDLESS[1::2], strict=True) for word in ("-P", f"{pair[0][2:]}={pair[1]}")
    ]
    words, environment = mlflow_run(project, "-e", "train_base", *options)
    with training(words, project, environment) as process:
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole process group
        process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while runs_in(project)[0].info.status != "KILLED" and time.monotonic() < deadline:
        time.sleep(0.5)
    (run,) = runs_in(project)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    assert "checkpoints/last.safetensors" in {i.path for i in client.list_artifacts(run.info.run_id, "checkpoints")}
    assert run.info.status == "KILLED"


@contextmanager
def server(words: list[str], folder: Path, path: str) -> Iterator[str]:
    """A server process on a free port; yields its URL once it responds."""
    port = free_port()
    environment = clean_environment(
        PATH=f"{BIN}:{os.environ['PATH']}", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db"
    )
    with (
        open(folder / "server.log", "w") as log,
        subprocess.Popen(
            [str(BIN / "mlflow"), *words, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            until_it_answers(process, f"http://127.0.0.1:{port}{path}", (folder / "server.log").read_text)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def post(address: str, content: object) -> object:
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.server
def test_served_model_returns_network_probabilities(store: MlflowClient, no_figures: None, tmp_path: Path) -> None:
    uri = train_base(TrainBaseParams(**SMALL)).model_uri
    extra = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path / "copy"))) / names.EXTRA_FILES
    network = build_network(architecture_from_json((extra / names.ARCHITECTURE_FILE).read_text()), generator(0, "x"))
    network.load_state_dict(safetensors.torch.load_file(extra / names.WEIGHTS_FILE))
    classifier = Classifier(network).eval()
    with server(["models", "serve", "-m", uri, "--env-manager", "local"], tmp_path, "/ping") as address:
        for count in (1, 2, 5):
            pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=generator(count, "pixels")).float()
            answer = post(f"{address}/invocations", {"inputs": pixels.tolist()})
            assert isinstance(answer, dict)
            with torch.no_grad():
                expected = classifier(pixels)
            assert torch.allclose(torch.tensor(answer["predictions"]), expected, atol=1e-5)


@pytest.mark.server
@pytest.mark.slow
def test_plain_mlflow_ui_shows_the_run(store: MlflowClient, no_figures: None, tmp_path: Path) -> None:
    run_id = train_base(TrainBaseParams(**SMALL)).run_id
    with server(["ui"], tmp_path, "/health") as address:
        found = post(f"{address}/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]})
    assert isinstance(found, dict)
    assert [item["info"]["run_id"] for item in found["runs"]] == [run_id]


@pytest.mark.mnist
def test_two_epochs_on_mnist_reach_98_percent(command: Command) -> None:
    done = command("train_base", "--epochs", "2", "--dataset", "mnist", "--data_dir", MNIST_DIR)
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.split("test accuracy ")[1].split(" %")[0])
    assert accuracy > 98.0


@pytest.mark.slow
def test_mlflow_run_transfer_trains_missing_base_once(project: Path) -> None:
    """In an empty store, and again right after."""
    for count in (2, 3):
        words, environment = mlflow_run(project, "-e", "transfer", "-P", "reuse_layers=4", "-P", "dataset=digits",
                                        "-P", "epochs=3", "-P", "threads=1")  # fmt: skip
        done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        runs = runs_in(project)
        assert len(runs) == count
        assert ("training one first, on classes 0-4" in done.stderr) is (count == 2)
    stages = sorted(run.data.tags[names.STAGE] for run in runs)
    assert stages == ["train_base", "transfer", "transfer"] and all(run.info.status == "FINISHED" for run in runs)
    assert all(run.data.params["reuse_layers"] == "4" for run in runs if run.data.tags[names.STAGE] == "transfer")


@pytest.mark.slow
def test_cnn_stages_run_in_sequence_and_are_compared(command: Command, tmp_path: Path) -> None:
    quick = ("--dataset", "digits", "--epochs", "2")
    base = command("train_base", "--model", "cnn", "--classes", "0-6", *quick)
    tuned = command("finetune_cnn", "--classes", "7-9", *quick)
    scratch = command("scratch_cnn", "--classes", "7-9", *quick)
    report = command("report")
    for done in (base, tuned, scratch, report):
        assert done.returncode == 0, done.stderr
    assert "blocks: 1 frozen, 1 fine-tuned, 1 randomly initialized; head: randomly initialized" in tuned.stderr
    assert len(runs_in(tmp_path)) == 4
    text = (tmp_path / "reports" / "comparison" / "study.md").read_text()
    assert text.count("![") == 10 and "MACs per epoch" in text
    assert (tmp_path / "reports" / "comparison" / "study.html").stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.7, 1.5])
def test_early_interrupt_exits_130_and_closes_the_run(tmp_path: Path, empty_store: Path, delay: float) -> None:
    """During imports or data loading, with the two signals that `mlflow run` sends."""
    copy_store(empty_store, tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_run("0")
    environment = clean_environment(
        MLFLOW_RUN_ID=made.info.run_id, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"
    )
    words = [sys.executable, "-m", "pipeline", "train_base", *ENDLESS]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130
    deadline = time.monotonic() + 30
    while client.get_run(made.info.run_id).info.status != "KILLED" and time.monotonic() < deadline:
        time.sleep(0.3)
    assert client.get_run(made.info.run_id).info.status == "KILLED"
