"""From a description to a network: the one place that knows both families."""

from __future__ import annotations

import hashlib

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from pipeline.networks.cnn import build_cnn
from pipeline.networks.layered import AnyArchitecture, CNNArchitecture, LayeredNetwork, MLPArchitecture
from pipeline.networks.mlp import build_mlp
from pipeline.runtime import tensor_bytes

_ADAPTER: TypeAdapter[MLPArchitecture | CNNArchitecture] = TypeAdapter(AnyArchitecture)


def build_network(architecture: MLPArchitecture | CNNArchitecture, generator: torch.Generator) -> LayeredNetwork:
    """Return a fresh network of the described family, on the CPU, its weights drawn from `generator`."""
    if isinstance(architecture, MLPArchitecture):
        return build_mlp(architecture, generator)
    return build_cnn(architecture, generator)


def architecture_from_json(text: str) -> MLPArchitecture | CNNArchitecture:
    """Return the description that a JSON text holds.

    Raises:
        ValueError: The text is not JSON, lacks or adds a key, or asks for a size outside the limits.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise ValueError(f"not a network description: {where}: {first['msg']}") from None


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Return a digest (32 hexadecimal digits) of named tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:32]
