"""Thread count, precision and random state: chosen by the step's cost, restored after a stage."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient

from pipeline.data.examples import select_examples
from pipeline.data.records import Dataset
from pipeline.errors import UserInputError
from pipeline.networks.build import build_network
from pipeline.networks.from_params import architecture_from_params
from pipeline.params import TrainBaseParams
from pipeline.runtime import Runtime, generator, resolve_runtime
from pipeline.stages.fit_settings import resolve_training_runtime
from pipeline.stages.train_base import train_base
from pipeline.training.features import prefix_seconds
from pipeline.training.inputs import model_inputs
from tests.conftest import ROOT, clean_environment, preprocessing
from tests.golden_losses import default_fit

QUICK = {"dataset": "digits", "epochs": 1, "hidden_layers": 1, "width": 8}


def default_threads(model: str, *, frozen: int = 0, start: int = 0, **changes: Any) -> int:
    """The thread count for training a default network on 28x28 images."""
    params = TrainBaseParams(model=model, **changes)
    network = build_network(architecture_from_params(params, preprocessing(), tuple("01234")), generator(0, "weights"))
    network.freeze(frozen)
    return resolve_training_runtime(params, network, params.batch_size, start=start).threads


@pytest.mark.parametrize("cores", [1, 64])
def test_thread_count_depends_only_on_step_cost(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    torch.set_num_threads(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    chosen = [
        resolve_runtime("cpu", "auto", "auto", operations=count).threads for count in (0, 10**7, 2 * 10**8, 10**12)
    ]
    assert chosen == [1, 1, 2, 2]


@pytest.mark.parametrize("batch_size", [20, 128])
def test_default_mlp_steps_use_one_thread(batch_size: int) -> None:
    assert default_threads("mlp", batch_size=batch_size) == 1


def test_heads_on_cached_features_use_one_thread() -> None:
    assert default_threads("mlp", frozen=5, start=5, batch_size=4096) == 1


def test_large_steps_use_two_threads() -> None:
    assert default_threads("cnn") == 2 and default_threads("mlp", batch_size=4096) == 2


def test_stage_restores_thread_count(store: MlflowClient, no_figures: None) -> None:
    torch.set_num_threads(3)
    train_base(TrainBaseParams(**QUICK, threads=2))
    assert torch.get_num_threads() == 3


def test_thread_count_does_not_leak_into_next_stage(store: MlflowClient, no_figures: None) -> None:
    found = [
        store.get_run(train_base(TrainBaseParams(**QUICK, threads=threads)).run_id).data
        for threads in ("auto", 2, "auto")
    ]
    assert [run.params["threads"] for run in found] == ["1", "2", "1"]
    assert found[0].tags["cache_key"] == found[2].tags["cache_key"] != found[1].tags["cache_key"]


def test_tf32_is_disabled_and_then_restored() -> None:
    torch.set_float32_matmul_precision("high")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    try:
        with Runtime(torch.device("cpu"), torch.float32, 1).in_effect():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before
        assert torch.get_float32_matmul_precision() == "high" and before[0]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_cpu_training_reads_no_gpu_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a GPU's random state creates a CUDA context on it."""
    read: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: read.append(device) or torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    default_fit("autograd").train_epoch(1)
    assert read == []


def test_feature_timing_synchronizes_the_device(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the `meta` device, which computes nothing."""
    waited: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: waited.append(device.type))
    params = TrainBaseParams(dataset="digits")
    examples = select_examples(digits.train, (0, 1), digits)
    architecture = architecture_from_params(params, preprocessing(), ("0", "1"))
    network = build_network(architecture, generator(0, "weights")).to("meta")
    prefix_seconds(network, 2, [model_inputs(network, examples)], batch_size=32)
    assert waited == ["meta", "meta"]  # before the first and before the second look at the clock


@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_omp_wait_policy_defaults_to_passive(given: dict[str, str], expected: str) -> None:
    code = "import pipeline, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {
        name: value for name, value in clean_environment().items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**environment, **given}, text=True, capture_output=True, check=True
    )
    assert done.stdout.split() == [expected, "False"]


def test_bfloat16_is_rejected_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runtime.has_bfloat16", lambda device: False)
    with pytest.raises(UserInputError, match="dtype=bfloat16: this processor has no native bfloat16"):
        resolve_runtime("cpu", "bfloat16", "auto", operations=0, convolutional=True)
    assert resolve_runtime("cpu", "auto", "auto", operations=0, convolutional=True).train_dtype == torch.float32
