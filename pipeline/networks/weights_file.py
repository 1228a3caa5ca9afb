"""Load the weights of a network from a published file, and report what was loaded.

Formats: safetensors, and PyTorch's format through `torch.load(weights_only=True)`, which reads tensors and plain
containers and runs no code. Files are untrusted: their size is checked first, and a tensor is used only if its name and
shape match.
"""

import hashlib
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import abbreviate
from pipeline.networks.tensor_file import read_tensor_file
from pipeline.redaction import first_line

PICKLED_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".tar", ".ckpt")
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
COUNTER = "num_batches_tracked"  # of a batch norm; missing in files written before PyTorch 0.4.1, and unused here
# a checkpoint may also contain optimizer state and averaged weights
SIZE_FACTOR, EXTRA_BYTES = 8, 64 << 20
MAX_LISTED = 8


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file or download.

    Attributes:
        source: Path, or origin of the download.
        tensors: Tensors by their name in the network.
        unwrapped: Container keys and name prefixes that were stripped.
        ignored: Other entries of the containers.
        digest: SHA-256 of the file; empty for a download.
    """

    source: str
    tensors: Mapping[str, Tensor]
    unwrapped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class WeightsReport:
    """Names of the tensors of a network and a weights file.

    Attributes:
        source: Path, or origin of the download.
        digest: SHA-256 of the file; empty for a download.
        matched: Loaded tensors.
        missing: Tensors of the network only.
        unexpected: Tensors of the file only.
        mismatched: Tensors whose shape or dtype kind differs, with a description of both.
        unwrapped: Container keys and name prefixes that were stripped.
        ignored: Entries of the file that are not tensors of the network, such as an epoch.
        converted: Loaded tensors that were converted from another floating-point dtype.
        new_head: Whether the head was not loaded and is randomly initialized.
    """

    source: str
    digest: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unwrapped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    new_head: bool = False

    def __str__(self) -> str:
        """Return the report as one line."""
        parts = [f"loaded {len(self.matched)} tensors from {self.source}"]
        parts += [f"unwrapped {', '.join(self.unwrapped)}"] if self.unwrapped else []
        parts += [f"ignored {abbreviate(self.ignored, MAX_LISTED)}"] if self.ignored else []
        parts += [f"converted {len(self.converted)} tensors to float32"] if self.converted else []
        differing = (*self.missing, *self.unexpected, *self.mismatched)
        parts += (
            [f"head initialized randomly, because it differs: {abbreviate(differing, MAX_LISTED)}"]
            if self.new_head
            else []
        )
        return "; ".join(parts)

    @property
    def differences(self) -> str:
        """Description of the tensors that do not match; empty if all do."""
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "other shape": self.mismatched}
        return "; ".join(
            f"{kind} ({len(names)}): {abbreviate(names, MAX_LISTED)}" for kind, names in kinds.items() if names
        )


def load_weights(
    module: nn.Module, file: WeightsFile, *, head_parameters: Iterable[str] = (), accept_new_head: bool = False
) -> WeightsReport:
    """Copy a file's tensors into a network with exactly the same tensors.

    Args:
        module: The network; unchanged on an error.
        file: See `read_weights_file`.
        head_parameters: Names of the parameters of the network's head.
        accept_new_head: Whether the head may differ; it then keeps its random initialization.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape, or contain NaN or infinity.
    """
    report = compare_weights(module, file, head_parameters)
    if report.differences and not (report.new_head and accept_new_head):
        raise ValueError(_mismatch_message(report))
    with torch.no_grad():
        state = module.state_dict()
        for name in report.matched:
            if not bool(torch.isfinite(file.tensors[name]).all()):
                raise ValueError(f"{file.source}: {name} contains NaN or infinity. Use another file.")
        for name in report.matched:
            state[name].copy_(file.tensors[name])
    return report


def _mismatch_message(report: WeightsReport) -> str:
    if report.new_head:
        return f"{report.source} has a different head: {report.differences}. Give as many classes as the file has."
    return (
        f"{report.source} does not match the network: {len(report.matched)} tensors match; {report.differences}. "
        "Choose the model that the file belongs to."
    )


def compare_weights(module: nn.Module, file: WeightsFile, head_parameters: Iterable[str] = ()) -> WeightsReport:
    """Compare a file with a network; `new_head` of the report tells whether only the head differs."""
    expected = module.state_dict()
    missing = [name for name in expected.keys() - file.tensors.keys() if not name.endswith(COUNTER)]
    unexpected = file.tensors.keys() - expected.keys()
    shared = sorted(expected.keys() & file.tensors.keys())
    mismatched = {name: text for name in shared if (text := _mismatch(name, file.tensors[name], expected[name]))}
    matched = [name for name in shared if name not in mismatched]
    head = set(head_parameters)
    owners = {name.rpartition(".")[0] for name in head}
    differing = {*missing, *mismatched}
    extra = {name for name in unexpected if name.rpartition(".")[0] not in owners}
    return WeightsReport(
        source=file.source,
        digest=file.digest,
        matched=tuple(matched),
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(unexpected)),
        mismatched=tuple(mismatched.values()),
        unwrapped=file.unwrapped,
        ignored=file.ignored,
        converted=tuple(name for name in matched if file.tensors[name].dtype != expected[name].dtype),
        new_head=bool(differing or unexpected) and differing <= head and not extra and bool(matched),
    )


def _mismatch(name: str, actual: Tensor, expected: Tensor) -> str:
    """Return how a tensor differs from the expected one in shape or dtype kind, or an empty string."""
    if actual.shape != expected.shape:
        return f"{name} {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    same_kind = actual.is_floating_point() == expected.is_floating_point() and not actual.is_complex()
    if actual.layout != torch.strided or actual.is_quantized or not same_kind:
        return f"{name} {actual.dtype} {actual.layout} instead of {expected.dtype} {expected.layout}"
    return ""


def read_weights_file(
    path: Path, module: nn.Module, *, rename: Callable[[str], str | None] = lambda name: name
) -> WeightsFile:
    """Read a weights file, stripping containers and name prefixes.

    Args:
        path: File with the suffix `.safetensors` or one of `PICKLED_SUFFIXES`.
        module: The network; its state dict limits the size and determines which prefixes to strip.
        rename: See `ModelSource.rename`.

    Raises:
        ValueError: Unknown suffix, too large, truncated, invalid, or a pickle that contains code.
    """
    expected = module.state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    content = _read(path, SIZE_FACTOR * size + EXTRA_BYTES)
    unwrapped: list[str] = []
    ignored: list[str] = []
    tensors = _without_prefixes(_unwrap(path, content, unwrapped, ignored=ignored), expected, unwrapped)
    renamed = {name: new for name in tensors if (new := rename(name)) is not None}
    ignored += [name for name in tensors if name not in renamed]
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return WeightsFile(
        str(path), {new: tensors[name] for name, new in renamed.items()}, tuple(unwrapped), tuple(ignored), digest
    )


def _read(path: Path, max_bytes: int) -> object:
    try:
        _check_file(path, max_bytes)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path}: {reason}. Give a .safetensors, .pt, .pth or .th file with a state_dict().") from None
    if path.suffix == ".safetensors":
        try:
            return read_tensor_file(path, max_bytes)[0]
        except (ValueError, OSError) as error:
            raise ValueError(f"{path}: truncated or not a safetensors file ({error}). Download it again.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of a pickle, before it is rejected
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path}: {_unreadable(error)}") from None


def _check_file(path: Path, max_bytes: int) -> None:
    """Check suffix, type and size, before and after decompression.

    Raises:
        ValueError: One of them is invalid.
        OSError: Missing or not readable.
    """
    if path.suffix not in (".safetensors", *PICKLED_SUFFIXES):
        raise ValueError(f"unknown suffix {path.suffix!r}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    size = status.st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError("a TorchScript archive contains code, and was not loaded")
    if size > max_bytes:
        raise ValueError(f"{size} bytes exceed the limit of {max_bytes} for this network")


def _unreadable(error: Exception) -> str:
    """Return why PyTorch could not read a file."""
    text = str(error)
    if type(error).__name__ == "UnpicklingError" and (match := re.search(r"(?:GLOBAL|class) '?([\w.]+)", text)):
        return (
            f"the pickle contains code ({match[1]}) and was rejected; nothing in it was run. Save the state_dict() "
            "instead of the whole module, or convert it to safetensors where you trust it."
        )
    if type(error).__name__ == "UnpicklingError":  # its text recommends to load the file without this protection
        return (
            "damaged, or a pickle that torch.save did not write; it was rejected, and nothing in it was run. "
            "Download it again, or save the state_dict() with torch.save."
        )
    return f"truncated or not a PyTorch file ({type(error).__name__}: {first_line(error)}). Download it again."


def _unwrap(path: Path, content: object, unwrapped: list[str], *, ignored: list[str]) -> dict[str, Tensor]:
    """Return the tensors inside nested containers; append the stripped and ignored keys to the lists."""
    while True:
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise ValueError(
                f"{path}: contains a {type(content).__name__} instead of tensors by name. Save state_dict()."
            )
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        ignored += [key for key in content if key != inner[0]]
        unwrapped.append(inner[0])
        content = content[inner[0]]
    tensors = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    ignored += [name for name in content if name not in tensors]
    if not tensors:
        raise ValueError(f"{path}: contains no tensors. Save state_dict().")
    return tensors


def _without_prefixes(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], unwrapped: list[str]
) -> dict[str, Tensor]:
    """Strip prefixes that all names have, but no name in the network."""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        if any(name.startswith(prefix) for name in expected):
            break
        unwrapped.append(f"prefix {prefix}")
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
