"""Dice, HD95 and surface Dice of one case, per class, with rules for empty masks; uses MONAI's metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from bipvl.data.spec import DatasetSpec


@dataclass(frozen=True)
class Score:
    """One value; ``flag``: "miss" (class in the truth only) or "false_positive" (in the prediction only)."""

    class_name: str
    metric: str
    value: float
    flag: str = ""


def class_masks(labels: Tensor, spec: DatasetSpec) -> Tensor:
    """Labels as in training (1 or N × H × W × D) → binary N × H × W × D."""
    if spec.overlapping:
        return labels > 0
    return torch.cat([labels == c for c in range(1, spec.out_channels)])


def dice_scores(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice of N masks, N × H × W × D each; NaN for a class in neither mask, 0 for a class in only one."""
    dice = compute_dice(prediction[None].float(), truth[None].float(), ignore_empty=False)[0]
    absent = ~(prediction.flatten(1).any(1) | truth.flatten(1).any(1))
    return dice.masked_fill(absent, torch.nan)


def score_case(labels: Tensor, truth: Tensor, spec: DatasetSpec, spacing: Sequence[float]) -> Iterator[Score]:
    """Dice, HD95 (mm) and surface Dice (at ``spec.nsd_tolerance`` mm) of every class in either mask.

    A class in only one mask is flagged: Dice 0, surface Dice 0, HD95 the volume's diagonal.

    Args:
        labels, truth: as in training, 1 or N × H × W × D, on one grid.
        spacing: of that grid, in mm.
    """
    predicted, true = class_masks(labels, spec), class_masks(truth, spec)
    diagonal = sum((n * s) ** 2 for n, s in zip(truth.shape[1:], spacing, strict=True)) ** 0.5
    dice = dice_scores(predicted, true).tolist()
    for c, found, wanted, overlap in zip(spec.classes, predicted, true, dice, strict=True):
        if found.any() and wanted.any():
            pair = (found[None, None].float(), wanted[None, None].float())
            options = {"include_background": True, "spacing": list(spacing)}
            hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
            nsd = compute_surface_dice(*pair, class_thresholds=[spec.nsd_tolerance], **options)
            values, flag = {"dice": overlap, "hd95_mm": float(hd95), "nsd": float(nsd)}, ""
        elif found.any() or wanted.any():
            values = {"dice": 0.0, "hd95_mm": diagonal, "nsd": 0.0}
            flag = "miss" if wanted.any() else "false_positive"
        else:
            continue
        for metric, value in values.items():
            yield Score(c.name, metric, value, flag)
