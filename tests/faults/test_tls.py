"""A tracking server with a private certificate, reachable only with MLflow's TLS settings."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import UserInputError
from pipeline.params import TrainBaseParams
from pipeline.stages.train_base import train_base
from pipeline.tracking.store import open_store
from pipeline.tracking.store_checks import examine_server_clock
from tests.conftest import copy_store, use_stores
from tests.faults.certificates import Authority
from tests.faults.proxy import proxy_to
from tests.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.usefixtures("no_figures")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    """A real server that speaks plain HTTP."""
    folder = tmp_path_factory.mktemp("server")
    copy_store(empty_store, folder)
    server = Server(folder)
    yield server
    server.kill()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that signed the server's certificate."""
    return Authority(tmp_path)


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """The server's TLS context; a test can make it require client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate("server"))
    return context


@pytest.fixture
def url(server: Server, context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's https URL, with no TLS settings yet."""
    monkeypatch.chdir(tmp_path)
    for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH", "INSECURE_TLS"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    before = mlflow.get_tracking_uri()
    with proxy_to(server.url, context) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        use_stores(proxy.url, proxy.url)
        yield proxy.url
    use_stores(before)


def test_stage_connects_to_server_with_private_ca(
    url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.ca))
    result = train_base(TrainBaseParams(dataset="digits", epochs=2, hidden_layers=2, width=16, threads=1))
    assert result.model_uri.startswith("models:/m-")
    assert open_store().get_run(result.run_id).info.status == "FINISHED"


def test_unknown_ca_error_names_the_setting(url: str) -> None:
    with pytest.raises(UserInputError, match="CERTIFICATE_VERIFY_FAILED.* Set MLFLOW_TRACKING_SERVER_CERT_PATH"):
        open_store()


def test_insecure_tls_accepts_unknown_ca(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert open_store().tracking_uri == url


def test_client_certificate_is_sent_when_required(
    url: str, authority: Authority, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.ca))
    with pytest.raises(UserInputError, match="MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        open_store()
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(authority.certificate("client")))
    assert open_store().tracking_uri == url
    (clock,) = examine_server_clock()
    assert clock.state == "ok"
