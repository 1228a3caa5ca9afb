"""A tracking server with basic auth: stages work with credentials, fail clearly without, and never leak them."""

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
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import clean_environment, error_lines
from tests.ports import free_port, until_it_answers

USER, PASSWORD = "ada", "Analytical-Engine-1843"
ADMIN_PASSWORD = "Difference-Engine-1822"
STORAGE_PASSWORD = "Jacquard-Loom-1804"
TOOLS = Path(sys.executable).parent
QUICK = ("--dataset", "digits", "--epochs", "2", "--width", "16", "--hidden_layers", "2")

pytestmark = [pytest.mark.slow, pytest.mark.server]


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, content: object, user: str, password: str) -> object:
        """Post JSON as a user and return the response."""
        import base64

        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
        request = urllib.request.Request(f"{self.address}/api/2.0/mlflow/{path}", json.dumps(content).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def running(folder: Path, port: int) -> Iterator[None]:
    """Run MLflow's server with its basic-auth app until the block ends."""
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = clean_environment(
        MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"),
        MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN_PASSWORD,
        MLFLOW_FLASK_SERVER_SECRET_KEY="a secret of these tests",
        PATH=f"{TOOLS}:{os.environ['PATH']}",
    )
    words = ["server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]  # fmt: skip
    with (
        open(folder / "server.log", "w") as log,
        subprocess.Popen(
            [str(TOOLS / "mlflow"), *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            until_it_answers(process, f"http://127.0.0.1:{port}/health", (folder / "server.log").read_text)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an administrator and one user."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with running(folder, port):
        server = Server(port, folder)
        server.ask("users/create", {"username": USER, "password": PASSWORD}, "admin", ADMIN_PASSWORD)
        yield server


def stage(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=clean_environment(**environment),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def contents_of(folder: Path) -> bytes:
    """The names and contents of all files under a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join([str(paths).encode(), *(path.read_bytes() for path in paths)])


@pytest.mark.parametrize("how", ["variables", "in the address"])
def test_stage_works_with_credentials_without_leaking_them(server: Server, tmp_path: Path, how: str) -> None:
    if how == "variables":
        login = {
            "MLFLOW_TRACKING_URI": server.address,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
    else:
        login = {"MLFLOW_TRACKING_URI": server.address.replace("://", f"://{USER}:{PASSWORD}@")}
    base = stage(tmp_path, "train_base", *QUICK, **login)
    assert base.returncode == 0, base.stderr
    tuned = stage(tmp_path, "transfer", "--dataset", "digits", "--epochs", "2", **login)
    assert tuned.returncode == 0, tuned.stderr
    printed = "".join(done.stdout + done.stderr for done in (base, tuned))
    runs = server.ask("runs/search", {"experiment_ids": ["0"]}, USER, PASSWORD)
    models = server.ask("logged-models/search", {"experiment_ids": ["0"]}, USER, PASSWORD)
    stored = json.dumps([runs, models])
    assert "run " in base.stdout and f"{server.address}/#/" in tuned.stdout and "train_base" in stored
    kept = contents_of(tmp_path) + contents_of(server.folder / "files")
    assert PASSWORD not in printed and PASSWORD not in stored and PASSWORD.encode() not in kept
    assert (server.folder / "files").is_dir() and len(kept) > 100_000


def test_study_storage_password_is_never_shown(tmp_path: Path) -> None:
    storage = f"postgresql://me:{STORAGE_PASSWORD}@127.0.0.1:1/studies"  # nobody listens on port 1
    refused = stage(tmp_path, "tune", "--dataset", "digits", "--trials", "1", PIPELINE_STORAGE=storage)
    assert refused.returncode == 2 and "PIPELINE_STORAGE=postgresql://***@127.0.0.1:1" in refused.stderr, refused.stderr
    assert STORAGE_PASSWORD not in refused.stdout + refused.stderr
    assert STORAGE_PASSWORD.encode() not in contents_of(tmp_path)


@pytest.mark.parametrize(
    "login",
    [{}, {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": "guessed-wrongly"}],
    ids=["without credentials", "with a wrong password"],
)
def test_missing_or_wrong_credentials_fail_fast_with_one_line(
    server: Server, tmp_path: Path, login: dict[str, str]
) -> None:
    began = time.monotonic()
    done = stage(tmp_path, "train_base", *QUICK, MLFLOW_TRACKING_URI=server.address, **login)
    seconds = time.monotonic() - began
    assert done.returncode == 2
    (line,) = error_lines(done.stderr)
    assert line.startswith(f"error: MLFLOW_TRACKING_URI={server.address}: cannot be used as a tracking store: ")
    assert "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line and "guessed-wrongly" not in line
    assert seconds < 30, f"{seconds:.1f} s"
    assert not (tmp_path / ".pipeline").exists()


def test_password_is_not_shown_when_server_dies_during_stage(server: Server, tmp_path: Path) -> None:
    """The client's errors contain the server's URL, which includes the password."""
    port = free_port()
    folder = tmp_path / "server"
    folder.mkdir()
    address = f"http://admin:{ADMIN_PASSWORD}@127.0.0.1:{port}"
    words = ["train_base", "--dataset", "digits", "--epochs", "100000", "--patience", "100000", "--width", "16"]
    with running(folder, port):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words], cwd=tmp_path, env=clean_environment(MLFLOW_TRACKING_URI=address),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch"):
                break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    printed = "".join(lines) + out + err
    assert ADMIN_PASSWORD not in printed and "it is saved in" in printed
    assert ADMIN_PASSWORD.encode() not in contents_of(tmp_path / ".pipeline")
