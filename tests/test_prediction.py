"""`predict`, requests for the served model, and model cards."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline.errors import UserInputError
from pipeline.params import TrainBaseParams
from pipeline.prediction import predict
from pipeline.sample_photos import OUTLINES, sample_photos
from pipeline.stages.train_base import train_base
from pipeline.tracking import names

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def model(store: MlflowClient) -> str:
    """A model for gray digits of 28 x 28 pixels."""
    return train_base(TrainBaseParams(dataset="digits", epochs=2, width=16, hidden_layers=1)).model_uri


def photo(path: Path, shade: int) -> Path:
    rng = np.random.default_rng(shade)
    Image.fromarray(rng.integers(0, shade, (40, 52, 3)).astype(np.uint8)).save(path)
    return path


def test_table_and_csv_have_the_probabilities_of_the_served_graph(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [photo(tmp_path / f"{shade}.png", shade) for shade in (60, 250)]
    predictions = predict(model, images, output=tmp_path / "out.csv", request=tmp_path / "request.json")
    body = np.array(json.loads((tmp_path / "request.json").read_text())["inputs"], dtype=np.float32)
    served = mlflow.pyfunc.load_model(model).predict(body)
    assert np.allclose([one.probabilities for one in predictions], served, atol=1e-5)
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    metadata = mlflow.models.get_model_info(model).metadata
    assert metadata is not None
    for row, image, probabilities in zip(rows, images, served, strict=True):
        assert row["file"] == str(image) and row["class"] == metadata["class_names"][probabilities.argmax()]
        assert float(row[row["class"]]) == float(row["probability"]) == pytest.approx(probabilities.max(), abs=1e-5)
    assert rows[0]["class"] in capsys.readouterr().out


def test_folders_are_searched_for_images(model: str, tmp_path: Path) -> None:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    expected = [photo(tmp_path / "photos" / "a.png", 200), photo(tmp_path / "photos" / "deep" / "b.jpg", 90)]
    (tmp_path / "photos" / "notes.txt").touch()
    predictions = predict(model, [tmp_path / "photos"], output=tmp_path / "out.csv")
    assert [one.path for one in predictions] == expected


def test_all_unusable_paths_are_reported(model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match=r"(?s)images=.*nowhere.png: does not exist.*images=.*empty: has no image"):
        predict(model, [tmp_path / "nowhere.png", tmp_path / "empty"], output=tmp_path / "out.csv")
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(UserInputError, match=r"(?s)one.png: cannot be read as an image.*two.png: cannot"):
        predict(model, [tmp_path / "one.png", tmp_path / "two.png"], output=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_unknown_model_is_rejected(store: MlflowClient, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png", 200)
    with pytest.raises(UserInputError, match="model=models:/m-0+: not found.*Each stage prints its model URI"):
        predict("models:/m-" + 32 * "0", [image], output=tmp_path / "out.csv")


def test_gray_images_without_channel_axis_give_the_expected_shape(model: str) -> None:
    with pytest.raises(MlflowException, match=r"\(2, 28, 28\) does not match expected shape \(-1, 1, 28, 28\)"):
        mlflow.pyfunc.load_model(model).predict(np.zeros((2, 28, 28), np.float32))


def test_model_card_states_data_accuracy_input_and_lineage(model: str, store: MlflowClient, tmp_path: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(model, dst_path=str(tmp_path / "copy")))
    card = (folder / names.EXTRA_FILES / names.MODEL_CARD).read_text()
    logged = store.get_logged_model(model.removeprefix("models:/"))
    run = store.get_run(str(logged.source_run_id))
    assert f"Test accuracy {100 * run.data.metrics[names.TEST_ACCURACY]:.2f} % (95 % CI over" in card
    assert "(N, 1, 28, 28): gray pixels in [0, 255]" in card and "did not converge" in card
    assert f"- run: {run.info.run_id}" in card and logged.tags[names.NOTE] == card


def test_sample_photos_are_reproducible_color_and_of_several_sizes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        sample_photos(tmp_path / name, per_class=3)
    files = sorted((tmp_path / "one").rglob("*.jpg"))
    assert [path.parent.name for path in files] == [name for name in OUTLINES for _ in range(3)]
    assert all(
        path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() for path in files
    )
    images = [Image.open(path) for path in files]
    assert {image.mode for image in images} == {"RGB"} and len({image.size for image in images}) > 10


def test_sample_photos_do_not_touch_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserInputError, match="exists already. Give a new folder"):
        sample_photos(tmp_path)
