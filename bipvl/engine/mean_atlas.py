"""The mean atlas: what the voxel-wise majority label of the training cases scores, without any image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bipvl.data.spec import DatasetSpec
from bipvl.engine.metrics import class_masks

FLOOR = 1e-6
"""Frequency that stands for never, so that its logarithm is finite."""


def mean_atlas(labels: Sequence[Tensor], spec: DatasetSpec) -> Callable[[Tensor], Tensor]:
    """Label maps on the working grid (as in training) → a predictor that looks at an image's shape alone.

    The maps, each cropped to its content box, are brought to one shape by nearest-neighbour resampling;
    a voxel's logits are the log-odds or logarithms of how often each class lies there.
    """
    shape = torch.tensor([label.shape[1:] for label in labels]).median(0).values.tolist()
    masks = (class_masks(label, spec)[None].float() for label in labels)
    frequency = torch.stack([F.interpolate(m, size=shape, mode="nearest-exact")[0] for m in masks]).mean(0)
    if spec.overlapping:
        logits = frequency.clamp(FLOOR, 1 - FLOOR).logit()
    else:
        background = 1 - frequency.sum(0, keepdim=True)
        logits = torch.cat([background, frequency]).clamp(min=FLOOR).log()

    def predict(image: Tensor) -> Tensor:
        """Image M × h × w × d → logits C × h × w × d."""
        return F.interpolate(logits[None], size=tuple(image.shape[1:]), mode="nearest-exact")[0]

    return predict
