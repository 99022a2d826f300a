"""The mean atlas: the score of the voxel-wise majority label of the training cases, without any image."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bipvl.common.files import write_csv
from bipvl.data.layouts import Case
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import prepare_transform
from bipvl.engine.evaluate import score_cases
from bipvl.engine.metrics import class_masks

FLOOR = 1e-6
"""Replaces a frequency of 0, so that its logarithm is finite."""


def score_mean_atlas(
    spec: DatasetSpec,
    spacing: Sequence[float],
    *,
    train: Sequence[Case],
    test: Sequence[Case],
    output: Path,
    progress: bool = True,
) -> None:
    """Score the mean atlas of the training cases on the test cases; writes ``output``, as metrics.csv.

    ``spacing``: of the working grid, mm.
    """
    load = prepare_transform(spec, spacing)
    labels = [load(case.paths)["label"].as_subclass(Tensor) for case in train]
    title = f"{spec.name} · mean atlas"
    table = score_cases(test, spec, spacing, mean_atlas(labels, spec), title=title, progress=progress)
    write_csv(output, table)


def mean_atlas(labels: Sequence[Tensor], spec: DatasetSpec) -> Callable[[Tensor], Tensor]:
    """Make a predictor from label maps on the working grid (as in training); it uses an image's shape only.

    The maps, each cropped to its content box, are resampled to one shape (nearest neighbour). A voxel's
    logits are the log-odds (overlapping classes) or logarithms of the frequency of each class there.
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
