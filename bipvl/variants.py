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
    """``terms`` are the objective's; ``language`` tells whether the network reads prompts.

    ``preset`` and ``backbone`` are those of ``BiPVLSeg``; a network without language is a baseline by name.
    """

    name: str
    title: str
    terms: tuple[str, ...] = ("segmentation",)
    language: bool = False
    preset: str | tuple[str, ...] = "paper"
    backbone: str = "swin_unetr_v2"


def _bipvlseg(name: str, title: str, **options: Any) -> Variant:
    return Variant(name, title, ("segmentation", "class_embedding", "alignment"), language=True, **options)


VARIANTS = {
    v.name: v
    for v in (
        _bipvlseg("bipvlseg", "BiPVL-Seg"),
        _bipvlseg("bipvlseg-released", "BiPVL-Seg, as released", preset="released"),
        _bipvlseg("bipvlseg-swin_unetr", "BiPVL-Seg on SwinUNETR", backbone="swin_unetr"),
        _bipvlseg("bipvlseg-conv", "BiPVL-Seg on convolutions", backbone="conv"),
        Variant("unet", "UNet"),
        Variant("attention_unet", "Attention U-Net"),
        Variant("unet_plus_plus", "UNet++"),
        Variant("segresnet", "SegResNet"),
        Variant("dynunet", "DynUNet (nnU-Net)"),
        Variant("unetr", "UNETR"),
        Variant("mednext", "MedNeXt"),
        Variant("swin_unetr_v2", "SwinUNETR-V2"),
        Variant("swin_unetr", "SwinUNETR"),
        Variant("conv_unet", "Residual U-Net"),
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
        return Baseline(
            name=variant.name,
            in_channels=channels,
            out_channels=spec.out_channels,
            crop=settings["crop"],
            **network,
        )
    return BiPVLSeg.create(
        in_channels=channels,
        num_classes=spec.num_classes,
        background=not spec.overlapping,
        preset=variant.preset,
        backbone=variant.backbone,
        **network,
        **settings["language"],
    )


def load_network(variant: Variant, folder: str | Path) -> "nn.Module":
    """The network that a run saved in its ``model/`` folder."""
    from bipvl.model.baselines import Baseline
    from bipvl.model.bipvlseg import BiPVLSeg

    return (BiPVLSeg if variant.language else Baseline).from_pretrained(folder)
