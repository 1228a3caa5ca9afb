"""Worker processes of a study: single-threaded, forked once per study, sharing the images in memory.

Each worker runs tasks until the study is complete. The same command on another machine adds workers. There is no
scheduler: the study storage is the queue.
"""

import contextlib
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.forkserver
import os

from pipeline.interruption import interruptible
from pipeline.runtime import process_lives, resolve_runtime
from pipeline.tuning.job import Job
from pipeline.tuning.study import open_storage, open_study, open_study_claims
from pipeline.tuning.tasks import Tasks

Worker = multiprocessing.context.ForkServerProcess


def start_forkserver() -> multiprocessing.context.ForkServerContext:
    """Start the process that workers are forked from; it imports their modules while the caller loads data."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.tuning.preload"])
    multiprocessing.forkserver.ensure_running()
    return context


class Workers:
    """`count` worker processes for one job."""

    def __init__(self, job: Job, count: int):
        self.job, self.count = job, count
        self.context = start_forkserver()
        self.processes: list[Worker] = []

    def fill(self) -> list[int]:
        """Start the missing workers; return the exit codes of those that died since the last call."""
        exit_codes = [process.exitcode for process in self.processes if not process.is_alive() and process.exitcode]
        self.processes = [process for process in self.processes if process.is_alive()]
        while len(self.processes) < self.count:
            process = self.context.Process(target=work, args=(self.job,))
            process.start()
            self.processes.append(process)
        return exit_codes

    def wait(self, limit_seconds: float) -> None:
        """Wait until a worker exits, or for `limit_seconds`."""
        multiprocessing.connection.wait([process.sentinel for process in self.processes], timeout=limit_seconds)

    def stop(self, limit_seconds: float = 30) -> None:
        """Terminate the workers; kill those that do not exit in time."""
        for process in self.processes:
            if process.is_alive():  # checked first: after an exit, another process may have its id
                process.terminate()
        for process in self.processes:
            process.join(limit_seconds)
            if process.is_alive():
                process.kill()
                process.join()


def work(job: Job) -> None:
    """Run tasks until the study is complete; the target of a worker process."""
    with contextlib.suppress(KeyboardInterrupt), interruptible(until_exit=True):
        os.chdir(job.folder)
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PIPELINE_"))]:
            del os.environ[name]
        os.environ.update(job.environment)
        tasks = Tasks(open_study(open_storage(), job.spec), job, open_study_claims())
        runtime = resolve_runtime(job.params.device, "float32", 1, operations=0)  # a trial's dtype is in its settings
        with runtime.in_effect():
            while process_lives(job.owner) and tasks.run_next():
                pass
