"""Build a variant for a data set: its network and its objective; load a trained network."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec
from bipvl.engine.variants import Variant
from bipvl.model.baselines import Baseline
from bipvl.model.losses import HARD_NEGATIVES, Objective
from bipvl.model.released import network_class, objective_class


def build_network(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> nn.Module:
    """A new network for a data set, with a profile's ``network`` and ``language`` settings."""
    if variant.language:
        return network_class(variant.deviations).create(**bipvlseg_arguments(variant, spec, settings))
    return Baseline(
        name=variant.network or variant.name,
        in_channels=len(spec.channels),
        out_channels=spec.out_channels,
        crop=settings["crop"],
        **settings["network"],
    )


def bipvlseg_arguments(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``BiPVLSeg.create`` for a variant that reads prompts."""
    return {
        "in_channels": len(spec.channels),
        "num_classes": spec.num_classes,
        "background": not spec.overlapping,
        **settings["network"],
        **settings["language"],
        **variant.options,
    }


def build_objective(variant: Variant, spec: DatasetSpec, class_weights: Tensor | None = None) -> Objective:
    """The loss of a variant on a data set.

    Raises:
        BipvlError: the released local alignment takes three negatives, and there are fewer classes.
    """
    if "easy_negatives" in variant.deviations and spec.num_classes < HARD_NEGATIVES:
        problem = f"the released local alignment needs {HARD_NEGATIVES} classes, and {spec.title} has"
        fix = f"train {variant.name} on another data set"
        raise BipvlError(f"{problem} {spec.num_classes}", fix)
    return objective_class(variant.deviations)(
        terms=variant.terms, overlapping=spec.overlapping, class_weights=class_weights, **variant.objective
    )


def class_weights(cases: Sequence[Mapping], spec: DatasetSpec, power: float) -> Tensor | None:
    """C weights of the cross-entropy, larger for rarer classes; None for power 0, as in the paper.

    One label per voxel: ∝ (1 / share of voxels)^power, scaled so that the mean voxel has weight 1.
    Overlapping labels: a class's own voxels against all others, (others / own)^power. Short trainings need
    such weights, or they never find the small classes.
    """
    if not power:
        return None
    if spec.overlapping:
        share = torch.stack([c["label"].float().mean((1, 2, 3)) for c in cases]).mean(0).clamp(min=1e-6)
        return ((1 - share) / share) ** power
    counts = sum(torch.bincount(c["label"].flatten().long(), minlength=spec.out_channels) for c in cases)
    share = counts.clamp(min=1) / counts.sum()
    return share**-power / (share ** (1 - power)).sum()


def load_network(variant: Variant, folder: str | Path) -> nn.Module:
    """The network that a run saved in its ``model/`` folder.

    Raises:
        BipvlError: the folder is incomplete, damaged or holds another network.
    """
    kind = network_class(variant.deviations) if variant.language else Baseline
    try:
        network = kind.from_pretrained(folder)
        if variant.language and network.tokenizer is None:
            raise ValueError("its tokenizer is missing")
        return network
    except Exception as error:  # json, safetensors, torch and the networks each raise their own
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        problem = f"no network of {variant.title} can be loaded from here ({reason})"
        fix = "restore the folder, or delete the run and train it again"
        raise BipvlError(problem, fix, folder) from error
