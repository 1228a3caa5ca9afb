"""The interface of a data source: names, and functions that load and describe a dataset.

To add one, write a module in this package that defines `SOURCE`, and list its names (or prefix) in `params/data.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.data.store.loading import LoadRequest


@dataclass(frozen=True)
class SourceRequest:
    """A request for a dataset.

    Attributes:
        name: Name of the dataset.
        data_dir: Folder of the datasets, in torchvision's layout.
        load: Geometry and options for loading files.
    """

    name: str
    data_dir: str
    load: LoadRequest

    @property
    def geometry(self) -> Geometry | GeometryRequest:
        """Geometry of the images, or what the user requested."""
        return self.load.geometry


@dataclass(frozen=True)
class Source:
    """A source of datasets.

    Attributes:
        load: Loads a dataset.
        describe: Summarizes a dataset without decoding images.
        names: Names of its datasets.
        prefix: Prefix of the names of its datasets, if the names are not fixed.
    """

    load: Callable[[SourceRequest], Dataset]
    describe: Callable[[SourceRequest], DatasetSummary]
    names: tuple[str, ...] = ()
    prefix: str = ""

    def serves(self, name: str) -> bool:
        """Return whether a dataset comes from this source."""
        return name in self.names or (self.prefix != "" and name.startswith(self.prefix))
