"""A real PostgreSQL server for tests, started from Debian's package in a temporary folder."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.ports import free_port

USER, PASSWORD = "pipeline", "not-to-be-seen"
START_SECONDS = 60
# durability does not matter here
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=100")


@dataclass(frozen=True)
class Postgres:
    """A server on the loopback interface.

    Attributes:
        port: The port it listens on.
        pid: The id of its main process.
    """

    port: int
    pid: int

    def url(self, database: str) -> str:
        """Return the URL of a database with the password, without a driver name."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str) -> None:
        """Run a statement outside a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


def binaries_folder() -> Path | None:
    """Return the folder with the newest PostgreSQL's binaries, None if none is installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return installed[-1].parent if installed else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests in this process."""
    binaries = binaries_folder()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short, for its socket, and not inside root's home
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL does not run as root
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    try:
        initialize(binaries, folder, user)
        process, port = start(binaries, folder, user)
        try:
            yield Postgres(port, process.pid)
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: closes connections, then exits
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def initialize(binaries: Path, folder: Path, user: str | None) -> None:
    """Create an empty cluster with one user and a password."""
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    words = [binaries / "initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}"]
    done = subprocess.run([*words, "-N", "-E", "UTF8", "--locale=C"], user=user, group=user, cwd=folder,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def start(binaries: Path, folder: Path, user: str | None) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server and wait until it accepts connections; return its process and port."""
    port = free_port()
    settings = [*FAST, f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
    words = [binaries / "postgres", "-D", folder / "data", *(word for setting in settings for word in ("-c", setting))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            words, user=user, group=user, cwd=folder, stdout=log, stderr=log, preexec_fn=end_with_parent
        )
    deadline = time.monotonic() + START_SECONDS
    while not answers(Postgres(port, process.pid)):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise AssertionError(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.1)
    return process, port


def end_with_parent() -> None:
    """Ask the kernel to stop this process when its parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def answers(server: Postgres) -> bool:
    """Whether the server accepts connections."""
    try:
        psycopg.connect(server.url("postgres"), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def new_database(postgres: Postgres) -> Iterator[Callable[[], str]]:
    """Create empty databases and return their URLs; they are dropped after the test."""
    created: list[str] = []

    def create() -> str:
        created.append(f"test_{uuid.uuid4().hex}")
        postgres.run(f"CREATE DATABASE {created[-1]}")
        return postgres.url(created[-1])

    yield create
    for name in created:
        postgres.run(f"DROP DATABASE {name} WITH (FORCE)")
