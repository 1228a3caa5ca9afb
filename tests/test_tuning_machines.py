"""Studies shared by several workers and commands, some of them killed, mostly on PostgreSQL.

A command on a simulated second machine has a different host name and boot id, so only its heartbeats show that it is
alive.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import mlflow
import optuna
import psutil
import pytest
import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import UserInputError
from pipeline.stages import tune_search as stage
from pipeline.tracking import names
from pipeline.tracking.store import open_store
from pipeline.tuning.study import (
    FINISHED,
    RETRIED,
    RUN_ID,
    UNMARKED_GRACE_SECONDS,
    StudySpec,
    fail_stale_trials,
    open_storage,
    open_study,
)
from tests.conftest import ROOT, clean_environment, copy_store, on_another_machine
from tests.ports import free_port
from tests.postgres import PASSWORD

SPACE = "learning_rate: {low: 0.001, high: 0.01, log: true}\nbatch_size: [32, 64]\nwidth: {low: 8, high: 24, step: 8}\n"
WORDS = (
    "tune", "--dataset", "digits", "--classes", "0-2", "--folds", "3", "--study", "s", "--refit", "false",
    "--space", "space.yaml", "--pruner", "none",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A folder in which commands run as on a separate machine.

    Attributes:
        folder: Its working directory.
        storage: URL of the Optuna storage.
        tracking: URI of the tracking store.
        host: Simulated host name; empty for the real one.
    """

    folder: Path
    storage: str
    tracking: str
    host: str = ""

    def start(self, trials: int, workers: int, fold_epochs: int) -> subprocess.Popen[str]:
        """Start `tune` in its own process group."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "space.yaml").write_text(SPACE)
        words = [*WORDS, "--trials", str(trials), "--workers", str(workers)]
        epochs = ["--fold_epochs", str(fold_epochs), "--fold_patience", str(fold_epochs)]
        more = {"PIPELINE_STORAGE": self.storage, "MLFLOW_TRACKING_URI": self.tracking}
        if self.host:
            more |= on_another_machine(self.folder, self.host)
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words, *epochs], cwd=self.folder, env=clean_environment(**more),
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def trials(self) -> list[FrozenTrial]:
        """Return the study's trials, without creating its tables if they do not exist yet."""
        engine = sqlalchemy.create_engine(self.storage, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("trials"):
                return []
            if not connection.execute(sqlalchemy.text("SELECT 1 FROM trials")).first():
                return []
        return optuna.load_study(study_name="s", storage=self.storage).trials

    def running_trials(self, host: str = "") -> list[FrozenTrial]:
        """Return the RUNNING trials that have an MLflow run, optionally on one host only."""
        running = [t for t in self.trials() if t.state is TrialState.RUNNING and t.user_attrs.get(RUN_ID)]
        return [t for t in running if not host or t.user_attrs["host"] == host]


@contextmanager
def killed_on_exit(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the commands' process groups on exit."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_until(condition: Callable[[], object], limit_seconds: float = 90) -> None:
    deadline = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def assert_study_is_consistent(machine: Machine, trials: int, at_most: int, out: str) -> list[Run]:
    """Check that no trial or run is missing, duplicated or still running; return the runs."""
    found = machine.trials()
    finished = [trial for trial in found if trial.state in FINISHED]
    assert trials <= len(finished) <= at_most, out
    assert {trial.state for trial in found} <= {*FINISHED, TrialState.FAIL}, out
    lost = [trial for trial in found if trial.state is TrialState.FAIL and trial.params]
    retried = [trial.user_attrs[RETRIED] for trial in found if RETRIED in trial.user_attrs]
    assert sorted(retried) == [trial.number for trial in lost], out
    for trial in found:
        if RETRIED in trial.user_attrs:
            killed = found[trial.user_attrs[RETRIED]]  # maybe before it had all of its parameters
            assert killed.params.items() <= trial.params.items()
    runs = list(MlflowClient(machine.tracking).search_runs(["0"]))
    assert "RUNNING" not in {run.info.status for run in runs}, out
    done = [run for run in runs if run.data.tags.get(names.STAGE) == "trial" and run.info.status == "FINISHED"]
    assert sorted(run.info.run_id for run in done) == sorted(trial.user_attrs[RUN_ID] for trial in finished), out
    return runs


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize(("workers", "tracking"), [(2, "sqlite"), (4, "postgresql")])
def test_killed_worker_loses_no_trials_on_postgresql(
    tmp_path: Path, empty_store: Path, new_database: Callable[[], str], workers: int, tracking: str
) -> None:
    if tracking == "sqlite":
        copy_store(empty_store, tmp_path)
    store = f"sqlite:///{tmp_path}/mlflow.db" if tracking == "sqlite" else new_database()
    machine = Machine(tmp_path, new_database(), store)
    process = machine.start(trials=6, workers=workers, fold_epochs=50)
    with killed_on_exit(process):
        wait_until(lambda: len(machine.running_trials()) >= 2)
        victim = machine.running_trials()[-1]
        os.kill(int(victim.user_attrs["process"].split()[0]), signal.SIGKILL)
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and PASSWORD not in out, out
    runs = assert_study_is_consistent(machine, 6, 6 + workers - 1, out)
    states = {trial.number: trial.state for trial in machine.trials()}
    assert states[victim.number] is TrialState.FAIL and list(states.values()).count(TrialState.FAIL) == 1
    lost = next(run for run in runs if run.info.run_id == victim.user_attrs[RUN_ID])
    assert lost.info.status == "FAILED" and "enqueued again" in lost.data.tags[names.NOTE]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("hosts", [("", ""), ("here", "there")], ids=["one machine", "two machines"])
def test_surviving_command_finishes_a_shared_study(
    tmp_path: Path, new_database: Callable[[], str], hosts: tuple[str, str]
) -> None:
    storage, tracking = new_database(), new_database()
    here, there = (
        Machine(tmp_path / name, storage, tracking, host) for name, host in zip(("here", "there"), hosts, strict=True)
    )
    survivor, killed = (machine.start(trials=8, workers=2, fold_epochs=60) for machine in (here, there))
    with killed_on_exit(survivor, killed):
        wait_until(lambda: len(here.running_trials(there.host)) >= (2 if there.host else 4))
        os.killpg(killed.pid, signal.SIGKILL)
        out, _ = survivor.communicate(timeout=250)
    assert survivor.returncode == 0 and PASSWORD not in out, out
    runs = assert_study_is_consistent(here, 8, 8 + 3, out)
    assert sum(trial.state is TrialState.FAIL for trial in here.trials()) == 2
    studies = [run for run in runs if names.PARENT_RUN_ID not in run.data.tags]
    assert sorted(run.info.status for run in studies) == ["FINISHED", "KILLED"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5])
def test_workers_killed_at_trial_start_leave_nothing_running(tmp_path: Path, empty_store: Path, seconds: float) -> None:
    copy_store(empty_store, tmp_path)
    machine = Machine(tmp_path, f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db")
    process = machine.start(trials=4, workers=2, fold_epochs=25)
    with killed_on_exit(process):
        wait_until(machine.trials)
        time.sleep(seconds)
        for worker in workers_of(process.pid):
            worker.kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert_study_is_consistent(machine, 4, 5, out)
    assert any(trial.state is TrialState.FAIL for trial in machine.trials())


@pytest.mark.slow
def test_workers_wait_for_the_lock_to_start_a_trial(tmp_path: Path, empty_store: Path) -> None:
    copy_store(empty_store, tmp_path)
    machine = Machine(tmp_path, f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db")
    lock = FileLock(tmp_path / "optuna.db.trials.lock")
    lock.acquire()
    process = machine.start(trials=2, workers=2, fold_epochs=1)
    with killed_on_exit(process):
        wait_until(lambda: len(children_of(process.pid)) == 2)
        time.sleep(8)  # opening the storage takes a worker 2 s
        assert not machine.trials()
        lock.release()
        out, _ = process.communicate(timeout=100)
    assert_study_is_consistent(machine, 2, 2, out)


@pytest.mark.slow
def test_next_command_runs_trials_of_an_interrupted_one(tmp_path: Path, empty_store: Path) -> None:
    copy_store(empty_store, tmp_path)
    machine = Machine(tmp_path, f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db")
    first = machine.start(trials=3, workers=2, fold_epochs=40)
    with killed_on_exit(first):
        wait_until(lambda: len([trial for trial in machine.running_trials() if trial.params]) == 2)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert first.returncode == 130
    waiting = [trial for trial in machine.trials() if trial.state is TrialState.WAITING]
    assert len(waiting) == 2
    second = machine.start(trials=3, workers=2, fold_epochs=40)
    with killed_on_exit(second):
        out, _ = second.communicate(timeout=200)
    assert second.returncode == 0, out
    assert_study_is_consistent(machine, 3, 3, out)


def workers_of(owner: int) -> list[psutil.Process]:
    """Return a command's worker processes, the children of its fork server."""
    found = children_of(owner)
    assert found
    return found


def children_of(owner: int) -> list[psutil.Process]:
    """Return the children of a command's children, if any."""
    return [child for server in psutil.Process(owner).children() for child in server.children()]


@pytest.mark.server
def test_storage_url_works_without_driver_or_password(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = new_database()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    urls = (plain, plain.replace("postgresql:", "postgresql+psycopg:"), plain.replace(f":{PASSWORD}", ""))
    for run_history, url in enumerate(urls):
        monkeypatch.setenv("PIPELINE_STORAGE", url)
        study = open_study(open_storage(), StudySpec("s", "tpe", "median", {}))
        assert len(study.trials) == run_history  # all that went through the other addresses
        study.ask()


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_concurrent_commands_initialize_empty_databases_once(
    kind: str, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    storage, tracking = f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db"
    if kind == "postgresql":
        storage, tracking = new_database(), new_database()
    code = (
        "from pipeline.tracking.store import open_store; from pipeline.tuning.study import open_storage; import sys; "
        "print('ready', flush=True); sys.stdin.readline(); open_storage(); open_store()"
    )
    environment = clean_environment(PIPELINE_STORAGE=storage, MLFLOW_TRACKING_URI=tracking)
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]  # fmt: skip
    with killed_on_exit(*processes):
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            _, err = process.communicate(timeout=100)
            assert process.returncode == 0, err


OPENERS: list[tuple[str, Callable[[], object]]] = [
    ("PIPELINE_STORAGE", open_storage),
    ("MLFLOW_TRACKING_URI", open_store),
]


@pytest.fixture
def unset_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the tracking URI, so that only the environment decides; restore it after the test."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(None)
    yield
    mlflow.set_tracking_uri(before)


def refused(variable: str, url: str, opener: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the error for an unusable URL, which must come within 10 s and not contain the password."""
    monkeypatch.setenv(variable, url)
    began = time.monotonic()
    with pytest.raises(UserInputError, match=f"{variable}=postgresql://") as caught:
        opener()
    assert time.monotonic() - began < 10
    line = str(caught.value)
    assert PASSWORD not in line and "\n" not in line
    return line


@pytest.mark.usefixtures("unset_tracking_uri")
@pytest.mark.parametrize(("variable", "opener"), OPENERS)
def test_closed_port_fails_immediately(
    variable: str, opener: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{free_port()}/x"
    assert "refused" in refused(variable, url, opener, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("unset_tracking_uri")
@pytest.mark.parametrize(("variable", "opener"), OPENERS)
def test_silent_server_times_out_within_ten_seconds(
    variable: str, opener: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x?user=someone&password={PASSWORD}"
        assert "timeout" in refused(variable, url, opener, monkeypatch)


@pytest.mark.usefixtures("unset_tracking_uri")
@pytest.mark.parametrize(("variable", "opener"), OPENERS)
@pytest.mark.parametrize("separator", ["@", ":@"])
def test_password_with_at_sign_is_not_shown(
    variable: str, opener: Callable[[], object], separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://someone:x{separator}{PASSWORD}@127.0.0.1:1/x"
    assert "@ as %40" in refused(variable, url, opener, monkeypatch)


@pytest.mark.server
@pytest.mark.usefixtures("unset_tracking_uri")
def test_shared_database_for_mlflow_and_optuna_is_rejected(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for (first, open_first), (second, open_second) in (OPENERS, reversed(OPENERS)):
        url = new_database()
        monkeypatch.setenv(first, url)
        open_first()
        assert "need separate databases" in refused(second, url, open_second, monkeypatch)


def test_trial_without_process_is_requeued_after_grace_period(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPELINE_STORAGE", raising=False)
    study = open_study(open_storage(), StudySpec("s", "tpe", "median", {}))
    old, young = study.ask(), study.ask()
    began = datetime.now() - timedelta(seconds=UNMARKED_GRACE_SECONDS + 1)
    with sqlite3.connect(tmp_path / "optuna.db") as connection:
        connection.execute("UPDATE trials SET datetime_start = ? WHERE number = ?", (str(began), old.number))
    assert [trial.number for trial in fail_stale_trials(study)] == [old.number]
    assert study.trials[young.number].state is TrialState.RUNNING


def test_no_workers_start_for_trials_running_elsewhere(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_STORAGE", raising=False)
    study = open_study(open_storage(), StudySpec("s", "tpe", "median", {}))
    elsewhere = study.ask()
    fills: list[int] = []
    waits: list[float] = []

    class Idle:
        """Workers that had nothing to do and exited."""

        def __init__(self, job: object, count: int): ...

        def fill(self) -> list[int]:
            fills.append(1)
            return []

        def any_alive(self) -> bool:
            return False

        def any_died(self) -> bool:
            return False

        def wait(self, limit_seconds: float) -> None: ...

        def stop(self) -> None: ...

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            study.tell(elsewhere, 0.5)

    monkeypatch.setattr(stage, "Workers", Idle)
    monkeypatch.setattr(stage.time, "sleep", sleep)
    job = SimpleNamespace(params=SimpleNamespace(trials=1))
    stage.search(study, job, 2)
    assert len(fills) == 1 and waits == [stage.POLL_SECONDS] * 5
