"""Studies shared by several workers and commands, some of them killed, mostly on PostgreSQL.

A command on a simulated second machine has a different host name and boot id, so only its leases show that it is
alive.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial

from pipeline.errors import UserInputError
from pipeline.tracking import names
from pipeline.tracking.store import open_store
from pipeline.tuning.schedule import FINISHED, GENERATION, fold_metrics
from pipeline.tuning.study import RUN_ID, StudySpec, open_storage, open_study, open_study_claims
from pipeline.tuning.tasks import RETRIES
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
        more = {"PIPELINE_STORAGE": self.storage, "MLFLOW_TRACKING_URI": self.tracking, "PIPELINE_LEASE_SECONDS": "6"}
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

    def scored_folds(self) -> int:
        """Return the number of scored folds."""
        return sum(len(fold_metrics(trial)) for trial in self.trials())


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


def assert_study_is_consistent(machine: Machine, trials: int, out: str) -> list[Run]:
    """Check that no trial or run is missing, duplicated or still running; return the runs."""
    found = machine.trials()
    assert len(found) == trials and {trial.state for trial in found} <= set(FINISHED), out
    assert all(len(fold_metrics(trial)) == 3 for trial in found), out
    runs = list(MlflowClient(machine.tracking).search_runs(["0"]))
    assert "RUNNING" not in {run.info.status for run in runs}, out
    done = [run for run in runs if run.data.tags.get(names.STAGE) == "trial" and run.info.status == "FINISHED"]
    assert sorted(run.info.run_id for run in done) == sorted(trial.user_attrs[RUN_ID] for trial in found), out
    return runs


def retries(machine: Machine) -> int:
    return sum(trial.user_attrs.get(RETRIES, 0) for trial in machine.trials())


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize(("workers", "tracking"), [(2, "sqlite"), (4, "postgresql")])
def test_killed_worker_loses_one_fold_on_postgresql(
    tmp_path: Path, empty_store: Path, new_database: Callable[[], str], workers: int, tracking: str
) -> None:
    if tracking == "sqlite":
        copy_store(empty_store, tmp_path)
    store = f"sqlite:///{tmp_path}/mlflow.db" if tracking == "sqlite" else new_database()
    machine = Machine(tmp_path, new_database(), store)
    process = machine.start(trials=6, workers=workers, fold_epochs=50)
    with killed_on_exit(process):
        wait_until(lambda: machine.scored_folds() >= 2)
        workers_of(process.pid)[-1].kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and PASSWORD not in out, out
    assert_study_is_consistent(machine, 6, out)
    assert retries(machine) <= 1 and "a worker process died (exit code -9)" in out, out


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
        wait_until(lambda: here.scored_folds() >= 4 and len(children_of(killed.pid)) == 2)
        time.sleep(1)
        os.killpg(killed.pid, signal.SIGKILL)
        out, _ = survivor.communicate(timeout=250)
    assert survivor.returncode == 0 and PASSWORD not in out, out
    runs = assert_study_is_consistent(here, 8, out)
    assert 1 <= retries(here) <= 2
    studies = [run for run in runs if names.PARENT_RUN_ID not in run.data.tags]
    assert sorted(run.info.status for run in studies) == ["FINISHED", "KILLED"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5])
def test_all_workers_killed_leave_nothing_running(tmp_path: Path, empty_store: Path, seconds: float) -> None:
    copy_store(empty_store, tmp_path)
    machine = Machine(tmp_path, f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db")
    process = machine.start(trials=4, workers=2, fold_epochs=25)
    with killed_on_exit(process):
        wait_until(machine.trials)
        time.sleep(seconds)
        for worker in workers_of(process.pid):
            worker.kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "a worker process died" in out, out
    assert_study_is_consistent(machine, 4, out)


@pytest.mark.slow
def test_interrupted_study_keeps_scored_folds(tmp_path: Path, empty_store: Path) -> None:
    copy_store(empty_store, tmp_path)
    machine = Machine(tmp_path, f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db")
    first = machine.start(trials=3, workers=2, fold_epochs=40)
    with killed_on_exit(first):
        wait_until(lambda: machine.scored_folds() >= 2)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert first.returncode == 130
    kept = {trial.number: fold_metrics(trial) for trial in machine.trials()}
    second = machine.start(trials=3, workers=2, fold_epochs=40)
    with killed_on_exit(second):
        out, _ = second.communicate(timeout=200)
    assert second.returncode == 0, out
    assert_study_is_consistent(machine, 3, out)
    for trial in machine.trials():
        assert kept[trial.number].items() <= fold_metrics(trial).items()
    assert retries(machine) == 0


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
        open_study_claims()
        study = open_study(open_storage(), StudySpec("s", {}))
        assert len(study.trials) == run_history  # all that went through the other addresses
        study.ask().set_user_attr(GENERATION, 0)


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
