"""A tracking server behind a certificate of its own, reached by MLflow's settings for such a one, and only by them."""

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
    """A real server, which itself speaks plain HTTP."""
    folder = tmp_path_factory.mktemp("server")
    copy_store(empty_store, folder)
    found = Server(folder)
    yield found
    found.kill()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who has signed the server's certificate."""
    return Authority(tmp_path)


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    """What the server shows; a test may have it want a certificate too."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(authority.certificate("server"))
    return made


@pytest.fixture
def url(server: Server, context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address with TLS; no setting says yet what to make of its certificate."""
    monkeypatch.chdir(tmp_path)
    for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH", "INSECURE_TLS"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    before = mlflow.get_tracking_uri()
    with proxy_to(server.url, context) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        use_stores(proxy.url, proxy.url)
        yield proxy.url
    use_stores(before)


def test_a_run_reaches_a_server_with_a_private_authority(
    url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.ca))
    result = train_base(TrainBaseParams(dataset="digits", epochs=2, hidden_layers=2, width=16, threads=1))
    assert result.model_uri.startswith("models:/m-")
    assert open_store().get_run(result.run_id).info.status == "FINISHED"


def test_an_unknown_authority_is_refused_with_the_setting_to_make(url: str) -> None:
    with pytest.raises(UserInputError, match="CERTIFICATE_VERIFY_FAILED.* Set MLFLOW_TRACKING_SERVER_CERT_PATH"):
        open_store()


def test_insecure_tls_reaches_a_server_of_an_unknown_authority(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert open_store().tracking_uri == url


def test_a_client_certificate_is_shown_to_a_server_that_wants_one(
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
