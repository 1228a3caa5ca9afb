"""Plans on a Dask cluster of real processes: the same results as on one machine, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from tests.faults.cluster import Cluster, cluster_in
from tests.faults.killing import runs_of, stage, store_of, wait_until
from tests.faults.test_workers import STEPS, Results, finish, new_folder, results, training_steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def plan_on(cluster: Cluster, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A running plan, killed on exit."""
    words = ("main", "--plan", "plan.yaml", "--dataset", "digits", "--cluster", cluster.address)
    return stage(cluster.folder, *words, **environment)


def finish_on(cluster: Cluster) -> str:
    """Run a plan to its end and return its output."""
    with plan_on(cluster) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    return str(out)


def step_processes(cluster: Cluster) -> list[psutil.Process]:
    """The live processes in which steps of the cluster run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "pipeline.execution.worker" in process.cmdline() and process.cwd() == str(cluster.folder):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Results:
    """The results of an undisturbed plan in one process."""
    folder = new_folder(tmp_path_factory.mktemp("expected"), empty_store)
    finish(folder, 1)
    return results(folder)


@pytest.fixture
def cluster(tmp_path: Path, empty_store: Path) -> Iterator[Cluster]:
    """A cluster without workers, in a folder with a plan and an empty store."""
    with cluster_in(new_folder(tmp_path, empty_store)) as cluster:
        yield cluster


@pytest.fixture
def long_cluster(tmp_path: Path, empty_store: Path) -> Iterator[Cluster]:
    """The same with a plan that does not end by itself."""
    with cluster_in(new_folder(tmp_path, empty_store, 5000)) as cluster:
        yield cluster


def test_two_workers_give_the_results_of_one_process(cluster: Cluster, expected: Results) -> None:
    cluster.add_worker("first")
    cluster.add_worker("second", OMP_NUM_THREADS="3")
    finish_on(cluster)
    assert results(cluster.folder) == expected
    assert "all 6 steps are cached" in finish_on(cluster)


def test_killed_worker_does_not_stop_the_plan(cluster: Cluster, expected: Results) -> None:
    killed = cluster.add_worker("killed", "--no-nanny")
    cluster.add_worker("other")
    with plan_on(cluster) as process:
        wait_until(lambda: training_steps(cluster.folder) == 2, lambda: process.poll() is None)
        killed.kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "worker killed at" in out, out
    assert results(cluster.folder) == expected


def test_killed_step_is_run_again(cluster: Cluster, expected: Results) -> None:
    cluster.add_worker("one")
    with plan_on(cluster) as process:
        wait_until(lambda: training_steps(cluster.folder) == 1, lambda: process.poll() is None)
        step_processes(cluster)[0].kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "was killed by signal 9 (out of memory?); running it again" in out, out
    assert results(cluster.folder) == expected


def test_killed_scheduler_ends_the_plan_which_the_same_command_resumes(
    tmp_path: Path, empty_store: Path, expected: Results
) -> None:
    folder = new_folder(tmp_path, empty_store)
    with cluster_in(folder) as cluster:
        cluster.add_worker("one")
        with plan_on(cluster) as process:
            wait_until(lambda: training_steps(folder) == 1, lambda: process.poll() is None)
            cluster.scheduler.kill()
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 1 and "the Dask scheduler is gone" in out and "Traceback" not in out, out
        wait_until(lambda: not step_processes(cluster), seconds=30)
        cluster.file.unlink()
    with cluster_in(folder) as cluster:
        cluster.add_worker("again")
        finish_on(cluster)
    assert results(folder) == expected


def test_worker_that_joins_late_gets_steps(cluster: Cluster) -> None:
    with plan_on(cluster) as process:
        wait_until(lambda: len(runs_of(store_of(cluster.folder))) == 1, lambda: process.poll() is None)
        cluster.add_worker("late")
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "waiting for one" in out, out
    assert len(results(cluster.folder)) == STEPS


def add_changed_worker(cluster: Cluster, name: str, code: str) -> None:
    """Add a worker whose processes first run some code that changes a library."""
    site = cluster.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    cluster.add_worker(name, PYTHONPATH=f"{site}:{Path(__file__).parents[2]}")


def test_worker_with_other_versions_gets_no_steps(cluster: Cluster) -> None:
    code = (
        "import importlib.metadata as metadata\nreal = metadata.version\n"
        "metadata.version = lambda name: '1.0' if name == 'scipy' else real(name)\n"
    )
    add_changed_worker(cluster, "old", code)
    cluster.add_worker("current")
    out = finish_on(cluster)
    assert "worker old at" in out and "gets no steps: scipy: 1.0 there" in out, out


def test_worker_with_other_data_gets_no_steps(cluster: Cluster) -> None:
    code = (
        "import sklearn.datasets as sets\nreal = sets.load_digits\n"
        "def changed(*args, **options):\n    digits = real(*args, **options)\n    digits.images[0] = 0\n"
        "    return digits\nsets.load_digits = changed\n"
    )
    add_changed_worker(cluster, "other", code)
    cluster.add_worker("same")
    out = finish_on(cluster)
    assert "worker other at" in out and "gets no steps: data digits:" in out, out


def test_worker_that_listens_on_all_interfaces_gets_no_steps(cluster: Cluster) -> None:
    cluster.add_worker("open", "--host", "0.0.0.0")
    cluster.add_worker("closed")
    out = finish_on(cluster)
    assert "worker open at" in out and "gets no steps: " in out and "without TLS" in out, out


def test_ctrl_c_ends_the_steps_but_not_the_workers(long_cluster: Cluster) -> None:
    worker = long_cluster.add_worker("one")
    with plan_on(long_cluster) as process:
        wait_until(lambda: training_steps(long_cluster.folder) == 1, lambda: process.poll() is None)
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert not step_processes(long_cluster) and worker.poll() is None
    assert {run.info.status for run in runs_of(store_of(long_cluster.folder))} == {"KILLED"}


def test_steps_end_with_a_killed_owner(long_cluster: Cluster) -> None:
    long_cluster.add_worker("one")
    with plan_on(long_cluster) as process:
        wait_until(lambda: training_steps(long_cluster.folder) == 1, lambda: process.poll() is None)
        process.kill()
        wait_until(lambda: not step_processes(long_cluster), seconds=30)
    (step,) = [run for run in runs_of(store_of(long_cluster.folder)) if run.data.tags["stage"] == "train_base"]
    assert step.info.status == "KILLED"


def test_workers_listen_on_loopback_only(cluster: Cluster) -> None:
    cluster.add_worker("one")
    finish_on(cluster)
    groups = {os.getpgid(process.pid) for process in (cluster.scheduler, *cluster.workers.values())}
    processes = [process for process in psutil.process_iter() if os.getpgid(process.pid) in groups]
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}
