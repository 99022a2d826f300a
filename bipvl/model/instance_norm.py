"""Instance normalisation that keeps the memory layout of its input, for all MONAI blocks of a network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` without its two copies of a channels-last tensor.

    Torch's own makes every input contiguous. For a single sample it is batch normalisation, which
    takes any layout. On a CPU, torch sums a channels-last tensor less exactly: at 96³ voxels the normalised
    values differ by up to 4 · 10⁻⁴.
    """

    def forward(self, x: Tensor) -> Tensor:
        """B × c × h × w × d → the same shape and layout."""
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for sample in x.split(1)
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


def keep_layout(network: nn.Module) -> None:
    """Replace the instance normalisations in a network; parameters and their names stay the same."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d:
            module.__class__ = InstanceNorm
