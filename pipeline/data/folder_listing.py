"""List the images of a folder: official splits, classes, and what is ignored.

`train/`, `val/` (or `valid/`, `validation/`) and `test/` at the top are official splits if they hold class folders;
otherwise every sub-folder is a class. Class folders may be nested. Symbolic links to folders are not followed, and
links to files only if they stay within the folder: nothing outside is read, and link loops are harmless.
"""

import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.decode import IMAGE_SUFFIXES
from pipeline.errors import DataFileError, Fault, abbreviate

SPLIT_OF_FOLDER = {
    "train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test",
}  # fmt: skip
ARCHIVE_RESIDUE = "__MACOSX"
NAMES_SHOWN = 3


@dataclass
class FileTable:
    """Image files of one split, sorted by class, then by path.

    Attributes:
        names: Paths relative to the folder.
        sizes: Sizes in bytes.
        mtimes: Modification times in nanoseconds.
        labels: Class indices.
    """

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    mtimes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class FolderListing:
    """Classes, splits and images of a folder.

    Attributes:
        root: The folder.
        class_names: Folder names of the classes, sorted.
        splits: Files per split (`train`, `validation`, `test`); the only key is `all` without official splits.
        ignored: Ignored paths, by reason.
        note: Where the splits come from; empty without official splits.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: dict[str, FileTable]
    ignored: dict[str, list[str]]
    note: str

    @property
    def ignored_text(self) -> str:
        """Summary of the ignored files by reason, with the first names of each; empty if there are none."""
        return "; ".join(
            f"{len(names)} {reason} ({abbreviate(names, NAMES_SHOWN)})" for reason, names in self.ignored.items()
        )


def list_folder(name: str, root: Path) -> FolderListing:
    """List the images of a folder without opening them.

    Args:
        name: Name of the dataset, for error messages.
        root: The folder.

    Raises:
        DataFileError: `root` is not a folder or cannot be read, or there are fewer than two classes.
    """
    if not root.is_dir():
        raise invalid_folder(name, f"{root} is not a folder.", "Give folder:PATH with one sub-folder per class.")
    try:
        return _Scan(name, root.resolve()).run()
    except PermissionError as error:
        raise invalid_folder(
            name, f"{error.filename} cannot be read: {error.strerror}.", "Grant read permission."
        ) from None


def invalid_folder(name: str, allowed: str, remedy: str) -> DataFileError:
    """Return the error for a folder that cannot be used."""
    return DataFileError(Fault("dataset", name, allowed, remedy))


class _Scan:
    """One scan of a folder.

    Args:
        name: Name of the dataset, for error messages.
        root: Folder, with symbolic links resolved.
    """

    def __init__(self, name: str, root: Path):
        self.name, self.root = name, root
        self.ignored: dict[str, list[str]] = defaultdict(list)

    def run(self) -> FolderListing:
        """Detect splits and classes, and list their files."""
        top = self._folders(self.root)
        split_folders = self._split_folders(top)
        if not split_folders:
            splits = {"all": self._class_folders(top)}
        else:
            for folder in top:
                if folder not in split_folders.values():
                    self.ignored["folders next to the split folders"].append(self._relative(folder))
            splits = {
                split: self._class_folders(self._folders(path, stray=f"{path.name}/"))
                for split, path in split_folders.items()
            }
        note = self._note(split_folders)
        if "test" not in splits and "validation" in splits:
            splits["test"] = splits.pop("validation")
        if set(splits) == {"train"}:
            splits = {"all": splits["train"]}
        class_names = self._class_names(splits)
        numbers = {class_name: number for number, class_name in enumerate(class_names)}
        tables = {split: self._table(folders, numbers) for split, folders in splits.items()}
        return FolderListing(self.root, class_names, tables, dict(self.ignored), note)

    def _folders(self, folder: Path, stray: str = "") -> list[Path]:
        """Return the sub-folders; record everything else as ignored, prefixed with `stray`."""
        folders = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if _hidden(entry.name):
                self.ignored["hidden files or folders"].append(stray + entry.name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif entry.is_symlink():
                self.ignored["symbolic links that are not followed"].append(stray + entry.name)
            else:
                self.ignored["stray files"].append(stray + entry.name)
        return folders

    def _split_folders(self, top: list[Path]) -> dict[str, Path]:
        """Return the folders of official splits, which contain class folders; empty without `train`."""
        folders: dict[str, Path] = {}
        for path in top:
            split = SPLIT_OF_FOLDER.get(path.name.lower())
            if split is None or not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(path)):
                continue
            if split in folders:
                what = f"{folders[split].name}/ and {path.name}/ are both folders of the {split} split."
                raise invalid_folder(self.name, what, "Merge or rename one of them.")
            folders[split] = path
        classes = [path for path in top if path.name.lower() not in SPLIT_OF_FOLDER]
        return {} if "train" not in folders or (len(folders) == 1 and classes) else folders

    def _note(self, split_folders: dict[str, Path]) -> str:
        if not split_folders:
            return ""
        names = {split: f"{path.name}/" for split, path in split_folders.items()}
        if set(names) == {"train"}:
            return f"all images are in {names['train']}; the test split is sampled from them"
        if "test" not in names:
            return f"{names['validation']} is the test split; validation is sampled from {names['train']}"
        validation = names.get("validation", f"validation is sampled from {names['train']}")
        return f"official splits {names['train']}, {validation}, {names['test']}"

    def _class_folders(self, folders: list[Path]) -> dict[str, Path]:
        """Return class folders by class name.

        Names are NFC-normalized: macOS uses another Unicode normal form than other systems.
        """
        classes: dict[str, Path] = {}
        for folder in folders:
            class_name = unicodedata.normalize("NFC", folder.name)
            if not class_name.isprintable():
                what = f"the class folder {folder.name!a} has a name that cannot be printed."
                raise invalid_folder(self.name, what, "Rename it.")
            if class_name in classes:
                what = f"two class folders are called {class_name}, in different Unicode normal forms."
                raise invalid_folder(self.name, what, "Merge or rename one of them.")
            classes[class_name] = folder
        return classes

    def _class_names(self, splits: dict[str, dict[str, Path]]) -> tuple[str, ...]:
        union = sorted(set().union(*splits.values()))
        if not union:
            what = "must hold one sub-folder of images per class, but has no sub-folders."
            raise invalid_folder(self.name, what, "Move the images into one folder per class.")
        if len(union) < 2:
            what = f"has one class, {union[0]}; a classifier needs at least two."
            raise invalid_folder(self.name, what, "Add a sub-folder of images for each further class.")
        return tuple(union)

    def _table(self, folders: dict[str, Path], numbers: dict[str, int]) -> FileTable:
        table = FileTable()
        for class_name in sorted(folders):
            count = len(table.names)
            self._walk(folders[class_name], self._relative(folders[class_name]), table)
            table.labels.extend([numbers[class_name]] * (len(table.names) - count))
        return table

    def _walk(self, folder: Path | str, relative: str, table: FileTable) -> None:
        """Append the images of a folder and its sub-folders, sorted by name."""
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            name = f"{relative}/{entry.name}"
            if _hidden(entry.name):
                self.ignored["hidden files or folders"].append(name)
            elif entry.is_symlink() and not self._inside(entry):
                self.ignored["symbolic links that are not followed"].append(name)
            elif entry.is_dir(follow_symlinks=False):
                self._walk(entry.path, name, table)
            elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                self.ignored["files of unsupported types"].append(name)
            else:
                status = entry.stat()
                table.names.append(name)
                table.sizes.append(status.st_size)
                table.mtimes.append(status.st_mtime_ns)

    def _inside(self, link: os.DirEntry[str]) -> bool:
        """Return whether a link points to a file within the root folder."""
        target = Path(os.path.realpath(link.path))
        return target.is_file() and target.is_relative_to(self.root)

    def _relative(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == ARCHIVE_RESIDUE
