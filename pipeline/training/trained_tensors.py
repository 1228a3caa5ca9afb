"""The tensors of a network that training may change, which are those that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.networks.layered import LayeredNetwork


def trained_tensors(network: LayeredNetwork) -> dict[str, Tensor]:
    """Return weights and buffers of the trained blocks and the head, as in the state dict."""
    prefixes = ("head.", *(f"blocks.{index}." for index in network.trained))
    return {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}


def frozen_tensors(network: LayeredNetwork) -> dict[str, Tensor]:
    """Return all other tensors of the state dict; training does not change them."""
    trained = trained_tensors(network)
    return {name: value for name, value in network.state_dict().items() if name not in trained}


def snapshot(network: LayeredNetwork) -> dict[str, Tensor]:
    """Return copies of the tensors that training may change."""
    return {name: value.detach().clone() for name, value in trained_tensors(network).items()}


def load_trained(network: LayeredNetwork, tensors: Mapping[str, Tensor]) -> None:
    """Load weights and buffers of at least the trained blocks and the head.

    Raises:
        CheckpointError: Some are missing.
    """
    if missing := sorted(trained_tensors(network).keys() - tensors.keys()):
        raise CheckpointError(f"the checkpoint has no tensor {missing[0]}")
    network.load_state_dict({**network.state_dict(), **tensors})
