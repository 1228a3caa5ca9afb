"""scikit-learn's digits: 1,797 images that need no download."""

import torch

from pipeline.data.identity import content_ids
from pipeline.data.idx import SIDE
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset, DatasetSummary, Images
from pipeline.data.sources.arrays import resize_dataset, summarize
from pipeline.data.sources.source import Source, SourceRequest
from pipeline.data.stratified import split_test


def load_digits() -> Dataset:
    """Return the digits, upsampled to 28x28, the size of MNIST."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    upsampled = torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    pixels = upsampled.round().clamp(0, 255).to(torch.uint8)
    train, test = split_test(Images(pixels, torch.from_numpy(bunch.target).long(), content_ids(pixels)))
    geometry, note = Geometry(size=(SIDE, SIDE), channels=1), "scikit-learn's digits, upsampled from 8x8 to 28x28"
    return Dataset("digits", train, test, tuple(map(str, range(10))), "sklearn.datasets.load_digits", note, geometry)


def _load(request: SourceRequest) -> Dataset:
    return resize_dataset(load_digits(), request)


def _describe(request: SourceRequest) -> DatasetSummary:
    return summarize(load_digits(), request)


SOURCE = Source(_load, _describe, names=("digits",))
