"""Killed stages resume under their run id, with a result bit-identical to an uninterrupted run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.execution.attempt import load_stage
from pipeline.params import ENTRY_POINTS, parse_params
from pipeline.tracking.recovery.run_history import read_run_history
from pipeline.training.checkpoint import load_checkpoint
from tests.conftest import ROOT, Command, clean_environment, command_in, copy_store, on_another_machine
from tests.faults.killing import (
    TINY,
    Points,
    assert_one_ready_model,
    journaled_epochs,
    kill_when,
    local_state,
    result_of,
    runs_of,
    stage,
    store_of,
    wait_until,
)

pytestmark = pytest.mark.slow
Result = tuple[str, Points, dict[str, str]]
MLP = ("train_base", *TINY, "--epochs", "40")


def killed_run(folder: Path, *words: str, epochs: int = 10) -> str:
    """Kill a stage after some epochs and return its run id."""
    known = {run.info.run_id for run in runs_of(store_of(folder))}
    kill_when(folder, lambda: journaled_epochs(folder) >= epochs, *words)
    (run,) = [run for run in runs_of(store_of(folder)) if run.info.run_id not in known]
    assert run.info.status == "RUNNING"
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Result:
    """The expected result, from an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    copy_store(empty_store, folder)
    with stage(folder, *MLP) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    return result_of(store_of(folder), runs_of(store_of(folder))[0].info.run_id)


def uninterrupted(entry_point: str, *words: str) -> str:
    """Run the same stage uninterrupted in this process and return its run id."""
    raw = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    return str(load_stage(ENTRY_POINTS[entry_point])(parse_params(ENTRY_POINTS[entry_point], raw)).run_id)


def test_resumed_train_base_is_bit_identical(command: Command, tmp_path: Path, reference: Result) -> None:
    client = store_of(tmp_path)
    run_id = killed_run(tmp_path, *MLP)
    at = load_checkpoint(local_state(tmp_path, run_id) / "checkpoints" / "last.safetensors").facts["progress"]["epoch"]
    assert at >= 8
    resumed = command("resume", "--run_id", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming run {run_id} from epoch {at}" in resumed.stderr
    assert "all data uploaded" in resumed.stderr
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(runs_of(client)) == 1
    assert result_of(client, run_id) == reference
    assert_one_ready_model(client, run_id)
    assert not local_state(tmp_path, run_id).exists()
    assert 0 <= run.data.metrics["time/lost_seconds"] < 60
    epochs = client.get_metric_history(run_id, "time/epoch_seconds")
    assert sum(point.value for point in epochs) < 2 * run.data.metrics["time/fit_seconds"]


CHAINS = {
    "transfer": (("train_base", *TINY, "--epochs", "3"),
                 ("transfer", "--dataset", "digits", "--per_class", "20", "--val_per_class", "10", "--epochs", "40",
                  "--threads", "1", "--checkpoint_every", "4", "--features", "auto")),
    "continued": (("train_base", *TINY, "--epochs", "3"),
                  ("transfer", "--base", "BASE", "--classes", "0-4", "--unfreeze", "1", "--epochs", "40",
                   "--threads", "1", "--checkpoint_every", "4", "--patience", "1000")),
    "finetune_cnn": (("train_base", "--model", "cnn", "--dataset", "digits", "--epochs", "1", "--threads", "1"),
                     ("finetune_cnn", "--dataset", "digits", "--epochs", "14", "--patience", "100", "--threads", "1",
                      "--checkpoint_every", "2")),
    "scratch_cnn": ((),
                    ("scratch_cnn", "--dataset", "digits", "--epochs", "14", "--patience", "100", "--threads", "1",
                     "--checkpoint_every", "2")),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_every_resumed_training_stage_is_bit_identical(
    store: MlflowClient, no_figures: None, tmp_path: Path, name: str
) -> None:
    first, words = CHAINS[name]
    client = store_of(tmp_path)
    if first:
        base_id = uninterrupted(*first)
        words = tuple(word.replace("BASE", base_id) for word in words)
    run_id = killed_run(tmp_path, *words, epochs=6)
    resumed = command_in(tmp_path)("resume", "--run_id", run_id)
    assert resumed.returncode == 0, resumed.stderr
    other = uninterrupted(*words)
    mine, theirs = result_of(client, run_id), result_of(client, other)
    for result in (mine, theirs):  # depends on timings
        result[1].pop("features/break_even_epochs", None)
    assert mine == theirs
    tags = client.get_run(run_id).data.tags
    assert tags["cache_key"] == client.get_run(other).data.tags["cache_key"]
    assert_one_ready_model(client, run_id)


def test_run_killed_before_first_checkpoint_restarts_under_same_id(
    command: Command, tmp_path: Path, reference: Result
) -> None:
    client = store_of(tmp_path)
    run_id = killed_run(tmp_path, *MLP, "--checkpoint_every", "1000")
    assert not (local_state(tmp_path, run_id) / "checkpoints" / "last.safetensors").exists()
    resumed = command("resume", "--run_id", run_id)
    assert resumed.returncode == 0 and "from the start, because it has no checkpoint" in resumed.stderr, resumed.stderr
    assert result_of(client, run_id)[:2] == reference[:2]
    assert client.get_run(run_id).data.metrics["time/lost_seconds"] > 0


@pytest.mark.parametrize("damaged", [("last",), ("last", "previous")])
def test_damaged_checkpoints_are_reported_and_skipped(
    command: Command, tmp_path: Path, reference: Result, damaged: tuple[str, ...]
) -> None:
    client = store_of(tmp_path)
    run_id = killed_run(tmp_path, *MLP)
    for name in damaged:
        path = local_state(tmp_path, run_id) / "checkpoints" / f"{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-9] ^= 4
        path.write_bytes(content)
    resumed = command("resume", "--run_id", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert "last.safetensors: altered" in resumed.stderr
    assert ("using the previous checkpoint" in resumed.stderr) is (len(damaged) == 1)
    assert ("no valid checkpoint" in resumed.stderr) is (len(damaged) == 2)
    assert result_of(client, run_id) == reference


def test_resume_downloads_checkpoints_if_local_state_is_missing(
    command: Command, tmp_path: Path, reference: Result
) -> None:
    client = store_of(tmp_path)
    with stage(tmp_path, *MLP) as process:
        wait_until(lambda: journaled_epochs(tmp_path) >= 10, lambda: process.poll() is None)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    (run,) = runs_of(client)
    run_id = run.info.run_id
    assert run.info.status == "KILLED" and f"to resume: python -m pipeline resume --run_id {run_id}" in out
    shutil.rmtree(tmp_path / ".pipeline")
    resumed = command("resume", "--run_id", run_id)
    assert resumed.returncode == 0 and "downloaded checkpoints from the run's artifacts" in resumed.stderr
    assert f"resuming run {run_id} from epoch" in resumed.stderr
    assert result_of(client, run_id) == reference


def test_run_can_be_killed_and_resumed_repeatedly(command: Command, tmp_path: Path, reference: Result) -> None:
    client = store_of(tmp_path)
    run_id = killed_run(tmp_path, *MLP, epochs=6)
    lost = []
    for epochs in (15, 26):
        kill_when(tmp_path, lambda least=epochs: journaled_epochs(tmp_path) >= least, "resume", "--run_id", run_id)
        known = read_run_history(client, client.get_run(run_id), local_state(tmp_path, run_id))
        lost.append(float(known.tags["wasted_seconds"]))
    assert command("resume", "--run_id", run_id).returncode == 0
    assert result_of(client, run_id) == reference
    metrics = client.get_run(run_id).data.metrics
    assert 0 < lost[0] <= lost[1] <= metrics["time/lost_seconds"] < 60


def test_rerunning_a_killed_stage_suggests_resume(command: Command, tmp_path: Path) -> None:
    run_id = killed_run(tmp_path, *MLP)
    again = command(*MLP)
    assert again.returncode == 0
    assert f"run {run_id} was RUNNING without a process: marked KILLED" in again.stderr
    assert f"python -m pipeline resume --run_id {run_id}" in again.stderr
    other = command(*MLP, "--seed", "1")
    assert other.returncode == 0 and "resume" not in other.stderr
    assert store_of(tmp_path).get_run(run_id).info.status == "KILLED"


def test_run_resumes_after_host_name_change(command: Command, tmp_path: Path, reference: Result) -> None:
    run_id = killed_run(tmp_path, *MLP)
    resumed = command("resume", "--run_id", run_id, **on_another_machine(tmp_path, "renamed"))
    assert resumed.returncode == 0, resumed.stderr
    assert "not visible from here, but its state is here and unlocked: assuming" in resumed.stderr
    assert result_of(store_of(tmp_path), run_id) == reference


def test_mlflow_run_resumes_killed_run_and_links_to_it(command: Command, tmp_path: Path, reference: Result) -> None:
    client = store_of(tmp_path)
    run_id = killed_run(tmp_path, *MLP)
    for name in ("MLproject", "conda.yaml", "requirements.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        [str(bin_folder / "mlflow"), "run", ".", "--env-manager", "local", "-e", "resume", "-P", f"run_id={run_id}"],
        cwd=tmp_path, env=clean_environment(PATH=f"{bin_folder}:{os.environ['PATH']}"), text=True,
        capture_output=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert result_of(client, run_id) == reference
    (own,) = [run for run in runs_of(client) if run.info.run_id != run_id]
    assert own.data.tags["resumed_run_id"] == run_id and "stage" not in own.data.tags
    assert own.info.status == "FINISHED" and client.get_run(run_id).info.status == "FINISHED"
    refused = command("resume", "--run_id", own.info.run_id)
    assert refused.returncode == 2 and f"resume --run_id {run_id}" in refused.stderr
