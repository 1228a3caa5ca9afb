"""Import torchvision with any build of PyTorch.

torchvision's wheels contain operators compiled for one build of PyTorch. With another (such as a CPU build) they do not
load, and importing torchvision fails when it looks up the signatures of two of them. Nothing here needs the operators,
so the signatures are declared first. With a matching build, this does nothing.
"""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # declarations live as long as their library object


@cache
def torchvision_datasets() -> ModuleType:
    """Import and return the module `torchvision.datasets`."""
    make_importable()
    import torchvision.datasets

    datasets: ModuleType = torchvision.datasets
    return datasets


@cache
def torchvision_functional() -> ModuleType:
    """Import and return the module `torchvision.transforms.v2.functional`."""
    make_importable()
    import torchvision.transforms.v2.functional

    functional: ModuleType = torchvision.transforms.v2.functional
    return functional


@cache
def make_importable() -> None:
    """Make `import torchvision` work, also for other libraries."""
    if not operators_load():
        declare_operators()


def operators_load() -> bool:
    """Return whether torchvision's compiled operators can be loaded into this PyTorch."""
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None, "torchvision is not installed"
    for library in sorted(Path(spec.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return hasattr(torch.ops.torchvision, "nms")
    return False


def declare_operators() -> None:
    """Declare the two signatures that `import torchvision` looks for."""
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        fragment.define(name + SIGNATURE)
    _declared.append(fragment)
