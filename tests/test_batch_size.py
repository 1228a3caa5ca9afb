"""Default batch sizes: an epoch over a small folder has about ten steps; larger data keep the default."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.params import ScratchCnnParams, TrainBaseParams
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.training.batch_size import default_batch_size
from pipeline.tuning.search_space import DEFAULT_SPACES, extremes, fit_batches
from tests.photos import write_photos


@pytest.mark.parametrize(
    ("images", "expected"),
    [(45_000, 128), (384, 128), (383, 32), (259, 16), (160, 16), (159, 8), (20, 8), (8, 8), (5, 5), (1, 1)],
)
def test_default_batch_size_leaves_ten_steps_of_few_images(images: int, expected: int) -> None:
    assert default_batch_size(128, images) == expected


@pytest.mark.parametrize(("images", "sizes"), [(384, (64, 128, 256)), (259, (16, 32, 64)), (10, (8,)), (3, (3,))])
def test_default_search_space_has_batch_sizes_for_few_images(images: int, sizes: tuple[int, ...]) -> None:
    assert extremes(fit_batches(DEFAULT_SPACES["cnn"], images)["batch_size"]) == sizes


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("options", "expected"), [({}, "8"), ({"batch_size": 64}, "64")], ids=["default", "given"])
def test_only_a_default_batch_size_is_lowered(
    options: dict[str, int],
    expected: str,
    store: MlflowClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    dataset = write_photos(tmp_path / "photos", ("ants", "bees"), count=50)
    base = train_base(TrainBaseParams(dataset=dataset, epochs=1, hidden_layers=1, width=4, **options))
    scratch = scratch_cnn(ScratchCnnParams(dataset=dataset, epochs=1, **options))
    for result in (base, scratch):
        assert store.get_run(result.run_id).data.params["batch_size"] == expected
    reason = "training images are fewer than 3 batches of 128 per epoch"
    assert (f"batch_size: lowered from 128 to {expected}" in caplog.text and reason in caplog.text) == (not options)
