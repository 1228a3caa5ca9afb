"""Networks and weights for tests: a small ResNet in the style of the CIFAR papers, and weights that say something."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Call(nn.Module):
    """Calls a function, as some published networks do for a shortcut without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """Two convolutions, and a shortcut that pads channels with zeros where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        missing = (outside - inside) // 2
        self.shortcut: nn.Module = nn.Sequential()
        if stride > 1:
            self.shortcut = Call(lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing, missing)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return F.relu(out)


class SmallResNet(nn.Module):
    """A stem, three stages and a linear classifier; `F.avg_pool2d` and `view` before it."""

    def __init__(self, widths: tuple[int, ...] = (4, 8, 16), blocks: int = 2, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inside = [], widths[0]
        for width in widths:
            stages.append(nn.Sequential())
            for _ in range(blocks):
                stages[-1].append(Residual(inside, width, 1 if inside == width else 2))
                inside = width
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(inside, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def randomize(module: nn.Module, images: Tensor) -> None:
    """Draw all weights and batch-norm statistics anew, so that logits have a standard deviation near 1.

    Libraries initialize some networks so that their logits are exactly 0, and comparisons of zeros always pass.
    """
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif tensor.ndim > 1:
            tensor.copy_(noise * (1.5 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
    _calibrate(module, images)
    heads = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    module.eval()
    with torch.no_grad():
        spread = module(images).std()
        assert spread.isfinite() and spread > 0, "the network is dead"
        heads[-1].weight.div_(spread)
        if heads[-1].bias is not None:
            heads[-1].bias.div_(spread)


def _calibrate(module: nn.Module, images: Tensor) -> None:
    """Let batch norms see some images, so that activations neither vanish nor explode with the depth."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = {part: part.momentum for part in norms}
    module.eval()
    for part in norms:
        part.train()
        part.momentum = 0.9
    with torch.no_grad():
        module(images)
    for part in norms:
        part.momentum = before[part]
