"""Variants: a named network with its objective, built for a dataset at a profile's scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bipvl.choices import choose
from bipvl.data.spec import DatasetSpec

if TYPE_CHECKING:  # the names alone must not cost the import of torch
    from torch import nn


@dataclass(frozen=True)
class Variant:
    """``terms`` are the objective's; ``language`` tells whether the network reads prompts."""

    name: str
    title: str
    terms: tuple[str, ...] = ("segmentation",)
    language: bool = False


VARIANTS = {
    v.name: v
    for v in (
        Variant(
            "bipvlseg",
            "BiPVL-Seg",
            terms=("segmentation", "class_embedding", "alignment"),
            language=True,
        ),
        Variant("swin_unetr_v2", "SwinUNETR-V2"),
    )
}


def get_variant(name: str) -> Variant:
    """A variant by name; an unknown one is a BipvlError that lists the near ones."""
    return choose("variant", name, VARIANTS)


def build_network(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> "nn.Module":
    """A new network for a dataset with a profile's ``network`` and ``language`` settings."""
    from bipvl.model.baselines import Baseline
    from bipvl.model.bipvlseg import BiPVLSeg

    network, channels = settings["network"], len(spec.channels)
    if not variant.language:
        return Baseline(name=variant.name, in_channels=channels, out_channels=spec.out_channels, **network)
    return BiPVLSeg.create(
        in_channels=channels,
        num_classes=spec.num_classes,
        background=not spec.overlapping,
        **network,
        **settings["language"],
    )


def load_network(variant: Variant, folder: str | Path) -> "nn.Module":
    """The network that a run saved in its ``model/`` folder."""
    from bipvl.model.baselines import Baseline
    from bipvl.model.bipvlseg import BiPVLSeg

    return (BiPVLSeg if variant.language else Baseline).from_pretrained(folder)
