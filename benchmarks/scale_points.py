"""Measure one point of `scale`.

    python -m benchmarks.scale_points KIND SIZE

Runs in its own process, to measure peak memory; prints JSON.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import torch
from mlflow.entities import Metric, RunTag

from benchmarks.harness import endless
from benchmarks.stored_images import color_cnn, random_labels, write_images
from pipeline.data.classes import DIGITS
from pipeline.data.preprocessing import Preprocessing
from pipeline.networks.build import build_network
from pipeline.networks.layered import MLPArchitecture
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.tracking.lifecycle import stage_run
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import Fit
from pipeline.training.records import EpochRecord, FitSettings, Labelled
from pipeline.tuning.sampling import sample_generation
from pipeline.tuning.schedule import GENERATION, GENERATION_SIZE, SIZE, open_tasks
from pipeline.tuning.search_space import Space
from pipeline.tuning.study import StudySpec, open_storage, open_study

Measurements = dict[str, float]
WIDTH_IMAGES = 5_000


def peak_mb() -> float:
    """Return this process's peak resident set size."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def train_epoch(images: int, width: int) -> Measurements:
    """Train and validate one epoch of a 5-layer MLP on synthetic images, batch 128, one thread."""
    torch.set_num_threads(1)
    rng = generator(0, "images")
    pixels = torch.randint(0, 256, (images, 1, 28, 28), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 5, (images,), generator=rng)
    architecture = MLPArchitecture(
        preprocessing=Preprocessing(size=(28, 28), channels=1), classes=DIGITS[:5], width=width
    )
    network = build_network(architecture, generator(0, "weights"))
    data = Labelled(network.scale(pixels), labels)
    fit = Fit(network, data, Labelled(data.values[:1000], labels[:1000]), settings=endless(128))
    seconds = []
    for epoch in range(1, 4 if images <= 100_000 else 2):
        began = time.perf_counter()
        fit.train_epoch(epoch)
        seconds.append(time.perf_counter() - began)
    return {"epoch_seconds": min(seconds), "peak_mb": peak_mb()}


def train_stored(images: int) -> Measurements:
    """Train one epoch on stored RGB images with augmentation, and evaluate all of them, on one thread.

    `peak_anonymous_mb` is memory that is not a copy of a file: pages of the memory-mapped images do not count.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        data = Labelled(write_images(Path(folder) / "images", images), random_labels(images), torch.arange(images))
        network = color_cnn()
        fit = Fit(network, data, data.take(torch.arange(1000), torch.device("cpu")), settings=stored_settings())
        with AnonymousMemory() as memory:
            began, cpu_began = time.perf_counter(), time.process_time()
            fit.train_epoch(1)
            epoch = time.perf_counter() - began
            evaluate(network, data, probabilities=False)
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "epoch_seconds": epoch,
        "evaluation_seconds": seconds - epoch,
        "cpu_seconds_per_million": cpu_seconds / images * 1e6,
        "peak_anonymous_mb": memory.peak_mb,
    }


def stored_settings() -> FitSettings:
    """Return settings with the augmentation of photos."""
    return dataclasses.replace(endless(128), augment="crop_flip")


class AnonymousMemory:
    """Samples the anonymous resident memory of this process (Linux only) until the end of the context."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            (kibibytes,) = (int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peak_mb = max(self.peak_mb, kibibytes * 1024 / 1e6)
            if self._stop.wait(0.02):
                return

    def __enter__(self) -> AnonymousMemory:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()


def log_epochs(count: int) -> Measurements:
    """Log epochs to one run as fast as possible; time the training thread, and until all data is uploaded."""
    with stage_run(TrainBaseParams(), name="scale", note="", tags={}) as run:
        began = time.perf_counter()
        for epoch in range(1, count + 1):
            run.log_epoch(EpochRecord(epoch, 0.1, 0.9, 0.1, 0.9, 0.25, True))
        logged = time.perf_counter() - began
        assert run.uploader.flush(600), "upload timed out"
        uploaded = time.perf_counter() - began
    return {"training_thread_seconds": logged, "uploaded_seconds": uploaded, "peak_mb": peak_mb()}


def study_of(trials: int) -> Measurements:
    """Fill a study, then time opening it, and sampling a generation and looking for tasks as a worker does."""
    spec = StudySpec(f"scale {trials}", {"folds": "5"})
    study = open_study(open_storage(), spec)
    space: Space = {
        "learning_rate": optuna.distributions.FloatDistribution(3e-4, 5e-3, log=True),
        "width": optuna.distributions.IntDistribution(50, 200, step=50),
    }
    samples = torch.rand((trials, 2), generator=generator(0, "trials")).tolist()
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={"learning_rate": 3e-4 + 4e-3 * a, "width": 50 * (1 + int(3.99 * b))},
                distributions={**space},
                value=a * b,
                user_attrs={GENERATION: 0, SIZE: trials},
            )
            for a, b in samples
        ]
    )
    began = time.perf_counter()
    study = open_study(open_storage(), spec)
    opened = time.perf_counter() - began

    def one_generation() -> None:
        earlier = study.get_trials(deepcopy=False)
        assert open_tasks(earlier, trials + GENERATION_SIZE, 5, pruner="race")
        sample_generation("tpe", space, seed=0, earlier=earlier, size=GENERATION_SIZE)

    seconds = median_seconds(one_generation, 3)
    return {"open_seconds": opened, "generation_seconds": seconds, "peak_mb": peak_mb()}


def store_of(runs: int) -> Measurements:
    """Fill a store, then time a stage's run with one epoch, and a search."""
    with stage_run(TrainBaseParams(), name="first", note="", tags={}) as run:
        client, experiment = run.client, run.experiment_id
    for number in range(runs):
        run_id = client.create_run(experiment, tags={"stage": "train_base", "host": "another"}).info.run_id
        points = [Metric(name, 0.9, 1, 1) for name in ("train/loss", "val/loss", "val/accuracy")]
        client.log_batch(run_id, metrics=points, tags=[RunTag("cache_key", str(number))], synchronous=True)
        client.set_terminated(run_id)

    def one_stage() -> None:
        with stage_run(TrainBaseParams(), name="scale", note="", tags={}) as run:
            run.log_epoch(EpochRecord(1, 0.1, 0.9, 0.1, 0.9, 0.25, True))

    def one_search() -> None:
        client.search_runs([experiment], "tags.stage = 'train_base'", order_by=["attributes.start_time DESC"],
                           max_results=1)  # fmt: skip

    return {
        "stage_seconds": median_seconds(one_stage, 5),
        "search_seconds": median_seconds(one_search, 5),
        "peak_mb": peak_mb(),
    }


def median_seconds(call: Callable[[], None], times: int) -> float:
    """Return the median over several calls, after one warm-up call."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


KINDS: dict[str, Callable[[int], Measurements]] = {
    "images": lambda size: train_epoch(size, 100),
    "stored": train_stored,
    "width": lambda size: train_epoch(WIDTH_IMAGES, size),
    "epochs": log_epochs,
    "trials": study_of,
    "runs": store_of,
}


def main() -> None:
    """Measure the point given on the command line."""
    kind, size = sys.argv[1], int(sys.argv[2])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        measurements = KINDS[kind](size)
    print(json.dumps(measurements))


if __name__ == "__main__":
    main()
