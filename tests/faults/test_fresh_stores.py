"""Stores that are missing, half created or broken: what the next command does about them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.schema import write_schema
from tests.conftest import clean_environment, copy_store
from tests.end_to_end.test_commands import BIN, mlflow_run
from tests.faults.killing import runs_of, store_of, wait_until
from tests.faults.test_doctor import read_only
from tests.faults.test_files import may_mount, small_disk

CREATE_STORE_WITH_MLFLOW = "import mlflow; mlflow.MlflowClient('sqlite:///mlflow.db').search_experiments()"
pytestmark = pytest.mark.slow


def setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `setup`, which creates or repairs the store."""
    words = [sys.executable, "-m", "pipeline", "setup"]
    return subprocess.run(words, cwd=folder, env=clean_environment(**environment), text=True, capture_output=True)


def tables_of(folder: Path) -> list[str]:
    """The tables in a folder's store, oldest first."""
    with closing(sqlite3.connect(f"file:{folder}/mlflow.db?mode=rw", uri=True, timeout=20)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def has_tables(folder: Path, count: int) -> Callable[[], bool]:
    """A condition: the folder's store has at least `count` tables."""
    return lambda: (folder / "mlflow.db").exists() and len(tables_of(folder)) >= count


def schema_of(path: Path) -> dict[str, list[str]]:
    """Every table, index and trigger of a store with its sorted parts, and the schema version."""
    with closing(sqlite3.connect(path)) as connection:
        parts = connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_master").fetchall()
        version = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    return {"version": version, **{name: sorted(part.strip() for part in sql.split(",")) for name, sql in parts}}


@contextmanager
def mlflow_creating_tables(folder: Path, count: int) -> Iterator[subprocess.Popen[bytes]]:
    """A plain MLflow process that has created `count` tables in a new store so far."""
    with subprocess.Popen(
        [sys.executable, "-c", CREATE_STORE_WITH_MLFLOW], cwd=folder, env=clean_environment()
    ) as process:
        try:
            wait_until(has_tables(folder, count), lambda: process.poll() is None)
            yield process
        finally:
            process.kill()


def assert_store_works(folder: Path, whole: Path) -> None:
    """Check that the store has the full schema, and that a run can be created, logged to and searched."""
    assert schema_of(folder / "mlflow.db") == schema_of(whole)
    client = store_of(folder)
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "val/loss", 0.5)
    assert client.search_runs(["0"], "metrics.`val/loss` < 1")[0].info.run_id == run.info.run_id


def test_schema_matches_mlflow(tmp_path: Path, empty_store: Path) -> None:
    subprocess.run([sys.executable, "-c", CREATE_STORE_WITH_MLFLOW], cwd=tmp_path, env=clean_environment(), check=True)
    assert schema_of(tmp_path / "mlflow.db") == schema_of(empty_store)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as theirs, closing(sqlite3.connect(empty_store)) as ours:
        rows = [connection.execute("SELECT * FROM workspaces").fetchall() for connection in (theirs, ours)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("count", [12, 40])
def test_half_created_store_is_repaired(tmp_path: Path, empty_store: Path, count: int) -> None:
    with mlflow_creating_tables(tmp_path, count) as process:
        process.kill()
    assert len(tables_of(tmp_path)) < len(tables_of(empty_store.parent))
    done = setup(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_store_works(tmp_path, empty_store)


def test_setup_waits_for_another_process_creating_tables(tmp_path: Path, empty_store: Path) -> None:
    with mlflow_creating_tables(tmp_path, 12) as process:
        process.send_signal(signal.SIGSTOP)
        words = [sys.executable, "-m", "pipeline", "setup"]
        with subprocess.Popen(words, cwd=tmp_path, env=clean_environment()) as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(15)  # without the wait, it would have finished
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 0
            assert second.wait(60) == 0
    assert_store_works(tmp_path, empty_store)


def test_setup_repairs_store_after_killed_mlflow_run(project: Path) -> None:
    words, environment = mlflow_run(project, "-e", "train_base", "-P", "dataset=digits", "-P", "epochs=2")
    with subprocess.Popen(words, cwd=project, env=environment, start_new_session=True) as process:
        wait_until(has_tables(project, 20), lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGKILL)
    assert setup(project).returncode == 0
    again = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert [run.info.status for run in runs_of(store_of(project))] == ["FINISHED"]
    assert "left RUNNING" not in again.stdout


def half_migrated_with_a_run(path: Path) -> None:
    MlflowClient(f"sqlite:///{path}").create_run("0")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '75868b020152'")
        connection.execute("DROP TABLE job_locks")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300_000])


@pytest.mark.parametrize(
    "rows",
    [["CREATE TABLE mine (name)"], ["CREATE TABLE experiments (name)", "INSERT INTO experiments VALUES ('mine')"]],
)
def test_foreign_tables_are_left_alone(tmp_path: Path, rows: list[str]) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for row in rows:
            connection.execute(row)
    content = path.read_bytes()
    write_schema(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("broken", [half_migrated_with_a_run, cut_short])
def test_printed_fix_for_broken_store_works(tmp_path: Path, empty_store: Path, broken: Callable[[Path], None]) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    copy_store(empty_store, folder)
    broken(folder / "mlflow.db")
    refused = setup(folder)
    assert refused.returncode == 2 and "cannot be used as a tracking store" in refused.stderr, refused.stderr
    remedy = refused.stderr.strip().rpartition("creates an empty one: ")[2]
    subprocess.run(remedy, shell=True, check=True, cwd=tmp_path, env=clean_environment(PATH=f"{BIN}:/bin:/usr/bin"))
    done = setup(folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "broken-store" / "mlflow.db").is_file()  # the broken store is moved, not deleted
    assert_store_works(folder, empty_store)


@pytest.mark.skipif(not may_mount(), reason="needs a file system of a given size")
def test_setup_succeeds_once_disk_space_is_freed(tmp_path: Path, empty_store: Path) -> None:
    with small_disk(tmp_path / "disk", "500k") as disk:
        refused = setup(disk)
        assert refused.returncode == 2 and "Free some" in refused.stderr, refused.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        done = setup(disk)
        assert done.returncode == 0, done.stderr
        assert_store_works(disk, empty_store)


@pytest.mark.skipif(os.geteuid() == 0 and not may_mount(), reason="root needs a mount that can only be read")
def test_read_only_folder_error_explains_the_fix(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with read_only(tmp_path / "kept"):
        done = setup(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/kept/mlflow.db")
    assert done.returncode == 2
    assert "Make its folder writable, or set MLFLOW_TRACKING_URI to another file." in done.stderr
