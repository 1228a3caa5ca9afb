"""An optimizer step with a manual backward pass, for linear + ReLU blocks on a CPU.

For small layers, the overhead of autograd equals the cost of the computation. Here, matrix products write to
preallocated buffers, the trainable weights are flat, and Adam and EMA are one call each. A test compares the gradients
with those of autograd.

Legend: B examples in a batch, D inputs of a layer, W outputs of a layer, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.networks.layered import LayeredNetwork

Buffers = tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]


def supports(network: LayeredNetwork) -> bool:
    """Return whether all blocks above the frozen ones are trained linear + ReLU blocks, in float32 on a CPU."""
    trained = network.blocks[network.frozen :]
    head = network.head
    if not isinstance(head, nn.Linear) or network.pool is not None or head.bias is None:
        return False
    if len(trained) != len(network.trained):
        return False
    plain = all(
        type(block) is nn.Sequential and isinstance(part, nn.Flatten | nn.Linear | nn.ReLU)
        for block in trained
        for part in block.children()
    )
    return plain and head.weight.device.type == "cpu" and head.weight.dtype == torch.float32


def _gradient(parameter: Tensor) -> Tensor:
    """Return a parameter's gradient, a view of the flat gradient."""
    assert parameter.grad is not None, "trainable parameters must be flattened"
    return parameter.grad


class ManualBackwardStep:
    """Forward, backward and update without autograd.

    Args:
        network: A supported network with flattened parameters.
        update: Updates the weights.
        start: Depth of the input values.
        after: Called after each update.
    """

    def __init__(
        self,
        network: LayeredNetwork,
        update: Callable[[], None],
        *,
        start: int,
        after: Callable[[], None],
    ):
        self.network, self.update, self.start, self.after = network, update, start, after
        layers = [
            part
            for block in network.blocks[network.frozen :]
            for part in block.children()
            if isinstance(part, nn.Linear)
        ]
        assert isinstance(network.head, nn.Linear), "unsupported network"
        layers.append(network.head)
        self.weights = [layer.weight.detach() for layer in layers]  # (W, D) each
        self.transposed = [weight.t() for weight in self.weights]
        self.biases = [layer.bias.detach() for layer in layers]
        self.weight_gradients = [_gradient(layer.weight) for layer in layers]
        self.bias_gradients = [_gradient(layer.bias) for layer in layers]
        self.buffers: dict[int, Buffers] = {}

    def _buffers(self, size: int) -> Buffers:
        """Return outputs (B, W), gradients (B, W) and transposed gradients of every layer, and a column of -1."""
        if size not in self.buffers:
            shapes = [(size, len(bias)) for bias in self.biases]
            kind = self.weights[0].dtype
            outputs, gradients = ([torch.empty(shape, dtype=kind) for shape in shapes] for _ in range(2))
            transposed = [gradient.t() for gradient in gradients]
            self.buffers[size] = (outputs, gradients, transposed, torch.full((size, 1), -1.0, dtype=kind))
        return self.buffers[size]

    @torch.no_grad()
    def __call__(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch."""
        size = len(labels)
        if self.start < self.network.frozen:
            values = self.network.run_blocks(values, self.start, self.network.frozen)
        outputs, gradients, transposed, minus_one = self._buffers(size)
        inputs = [values.reshape(size, -1), *outputs[:-1]]
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.transposed, self.biases, strict=True)):
            torch.addmm(bias, inputs[index], weight, out=outputs[index])
            if index < last:
                outputs[index].clamp_min_(0)
        logits, gradient = outputs[last], gradients[last]
        log_probabilities = torch.log_softmax(logits, 1)
        loss = torch.nn.functional.nll_loss(log_probabilities, labels)
        torch.exp(log_probabilities, out=gradient)  # d loss / d logits = (probabilities - one-hot labels) / B
        gradient.scatter_add_(1, labels.unsqueeze(1), minus_one).div_(size)
        for index in range(last, -1, -1):
            gradient = gradients[index]
            torch.mm(transposed[index], inputs[index], out=self.weight_gradients[index])
            torch.sum(gradient, 0, out=self.bias_gradients[index])
            if index > 0:
                below = gradients[index - 1]
                torch.mm(gradient, self.weights[index], out=below)
                torch.ops.aten.threshold_backward.grad_input(below, outputs[index - 1], 0, grad_input=below)
        self.update()
        self.after()
        return loss, logits
