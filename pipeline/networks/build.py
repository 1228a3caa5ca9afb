"""From a description to a network: the one place that knows both families."""

from __future__ import annotations

import hashlib
import json

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from pipeline.networks.cnn import build_cnn
from pipeline.networks.layered import AnyArchitecture, CNNArchitecture, LayeredNetwork, MLPArchitecture
from pipeline.networks.mlp import build_mlp
from pipeline.runtime import tensor_bytes

MAX_DESCRIPTION_LENGTH = 1 << 20
_ADAPTER: TypeAdapter[MLPArchitecture | CNNArchitecture] = TypeAdapter(AnyArchitecture)


def build_network(architecture: MLPArchitecture | CNNArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return a fresh network of the described family, on the CPU, its weights drawn from `generator`."""
    if isinstance(architecture, MLPArchitecture):
        return build_mlp(architecture, generator)
    return build_cnn(architecture, generator)


def architecture_from_json(text: str) -> MLPArchitecture | CNNArchitecture:
    """Return the description that a JSON text holds.

    Raises:
        ValueError: The text is not JSON, lacks, adds or repeats a key, holds a value of another type, or asks for a
            size outside the limits.
    """
    if len(text) > MAX_DESCRIPTION_LENGTH:
        raise ValueError(f"not a network description: {len(text)} characters, more than any has")
    try:
        architecture = _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise ValueError(f"not a network description: {where}: {first['msg']}") from None
    json.loads(text, object_pairs_hook=_without_repeats)  # the first parser takes the last of several silently
    return architecture


def _without_repeats(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("not a network description: a key is repeated")


def architecture_digest(architecture: MLPArchitecture | CNNArchitecture) -> str:
    """Return a digest (32 hexadecimal digits) of a description: of its canonical JSON."""
    return hashlib.sha256(architecture.model_dump_json().encode()).hexdigest()[:32]


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Return a digest (32 hexadecimal digits) of named tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:32]
