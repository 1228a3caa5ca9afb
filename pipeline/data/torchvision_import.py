"""Importing torchvision's data sets whichever PyTorch build is installed.

torchvision's wheels carry compiled operators for one build of PyTorch. Beside another build (a CPU one, say)
they do not load, and the import itself then fails because it looks up the signatures of two of them. Data sets
need none of it, so the two signatures are declared first; with a matching build nothing is done.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

logger = logging.getLogger(__name__)

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a library's declarations live as long as the object


@cache
def torchvision_datasets() -> ModuleType:
    """Return the module `torchvision.datasets`, imported when first asked for."""
    make_importable()
    import torchvision.datasets

    datasets: ModuleType = torchvision.datasets
    return datasets


@cache
def make_importable() -> None:
    """Have `import torchvision` work from here on, also where another library does it."""
    if not operators_load():
        declare_operators()


def operators_load() -> bool:
    """Whether torchvision's compiled operators are there, or can be loaded into this PyTorch."""
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
