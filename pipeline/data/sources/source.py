"""The interface of a data source: names, and functions that load and describe a data set.

To add one, write a module in this package that defines `SOURCE`, and list its names (or prefix) in `params/data.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.data.store.loading import LoadRequest


@dataclass(frozen=True)
class SourceRequest:
    """A request for a data set.

    Attributes:
        name: Name of the data set.
        data_dir: Folder of the data sets, in torchvision's layout.
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
    """A source of data sets.

    Attributes:
        load: Loads a data set.
        describe: Summarizes a data set without decoding images.
        names: Names of its data sets.
        prefix: Prefix of the names of its data sets, if the names are not fixed.
    """

    load: Callable[[SourceRequest], Dataset]
    describe: Callable[[SourceRequest], DatasetSummary]
    names: tuple[str, ...] = ()
    prefix: str = ""

    def serves(self, name: str) -> bool:
        """Return whether a data set comes from this source."""
        return name in self.names or (self.prefix != "" and name.startswith(self.prefix))
