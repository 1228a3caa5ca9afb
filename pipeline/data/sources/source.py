"""What a source of images is: names, and functions that load and describe a data set.

To add one, write a module in this package that defines `SOURCE`, and list its names (or prefix) in `params/data.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.data.store.loading import LoadRequest


@dataclass(frozen=True)
class SourceRequest:
    """A data set that is requested.

    Attributes:
        name: Of the data set.
        data_dir: Folder of the data sets, in torchvision's layout.
        load: Geometry, and how to treat files.
    """

    name: str
    data_dir: str
    load: LoadRequest

    @property
    def geometry(self) -> Geometry | GeometryRequest:
        """The geometry of the images, or what the user requested."""
        return self.load.geometry


@dataclass(frozen=True)
class Source:
    """A kind of data sets.

    Attributes:
        load: Returns a data set.
        describe: Returns what is known of it without decoding images.
        names: Of its data sets.
        prefix: That the names of its data sets start with, if they are not known in advance.
    """

    load: Callable[[SourceRequest], Dataset]
    describe: Callable[[SourceRequest], DatasetSummary]
    names: tuple[str, ...] = ()
    prefix: str = ""

    def serves(self, name: str) -> bool:
        """Return whether a data set is one of this source."""
        return name in self.names or (self.prefix != "" and name.startswith(self.prefix))
