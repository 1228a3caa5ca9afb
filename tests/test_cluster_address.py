"""Addresses of clusters that are accepted, and what differs between hosts."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.records import Dataset
from pipeline.errors import UserInputError
from pipeline.execution.cluster_address import cluster_address, is_exposed
from pipeline.execution.dask_executor import HostCheck
from pipeline.params import MainParams
from pipeline.stages.host_facts import dataset_digest
from tests.ports import free_port


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:8786", "tcp://example.org:8786", "tcp://0.0.0.0:8786"])
def test_address_on_the_network_needs_tls(address: str) -> None:
    with pytest.raises(UserInputError, match="without TLS. Use tls://"):
        cluster_address(address)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "tls://10.0.0.5:1"])
def test_loopback_and_tls_are_not_exposed(address: str) -> None:
    assert not is_exposed(address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "inproc://1"])
def test_invalid_address_is_rejected(address: str) -> None:
    with pytest.raises(UserInputError, match="is not an address such as tcp://127.0.0.1:8786"):
        cluster_address(address)


def test_scheduler_that_does_not_answer_is_rejected() -> None:
    with pytest.raises(UserInputError, match="no scheduler answers"):
        cluster_address(f"tcp://127.0.0.1:{free_port()}")


def test_scheduler_file_names_the_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "scheduler.json").write_text(json.dumps({"address": address}))
        assert cluster_address(str(tmp_path / "scheduler.json")) == address


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_damaged_scheduler_file_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(UserInputError, match="neither an address nor a readable scheduler file"):
        cluster_address(str(tmp_path / "scheduler.json"))


def test_cluster_and_workers_exclude_each_other() -> None:
    with pytest.raises(UserInputError, match="Does not go with workers"):
        MainParams(cluster="tcp://127.0.0.1:8786", workers=2)


def test_differences_between_hosts_are_named() -> None:
    check = HostCheck([], {"torch": "2.13", "data mnist": "aa"})
    assert not check.differences({"torch": "2.13", "data mnist": "aa", "more": "1"})
    assert check.differences({"torch": "2.12"}) == "torch: 2.12 there, 2.13 here; data mnist: unknown there, aa here"


def test_digest_of_a_data_set_covers_pixels_and_labels(digits: Dataset) -> None:
    relabelled = replace(digits.train, labels=digits.train.labels.flip(0))
    changed = replace(digits.train, ids=digits.train.ids + 1)
    digests = {dataset_digest(replace(digits, train=train)) for train in (digits.train, relabelled, changed)}
    assert len(digests) == 3 and dataset_digest(digits) == dataset_digest(digits)
