"""`folder:PATH`: a folder of images with one sub-folder per class, with or without official splits."""

from pathlib import Path

from pipeline.data.file_splits import concatenate_tables
from pipeline.data.folder_listing import list_folder
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.data.sources.files import FileSource
from pipeline.data.sources.source import Source, SourceRequest
from pipeline.params import FOLDER_PREFIX


def _list(request: SourceRequest) -> FileSource:
    """List the folder.

    Raises:
        DataFileError: It does not exist, or does not have one sub-folder of images per class.
    """
    path = Path(request.name.removeprefix(FOLDER_PREFIX)).expanduser()
    listing = list_folder(request.name, path)
    labelled = concatenate_tables(
        f"{FOLDER_PREFIX}{listing.root}", listing.root, listing.splits, class_names=listing.class_names
    )
    return FileSource(labelled, str(path.absolute()), listing.note, listing.ignored_text)


def _load(request: SourceRequest) -> Dataset:
    return _list(request).load(request)


def _describe(request: SourceRequest) -> DatasetSummary:
    return _list(request).describe(request)


SOURCE = Source(_load, _describe, prefix=FOLDER_PREFIX)
