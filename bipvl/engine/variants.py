"""Variants: a named network with its objective, built for a dataset at a profile's scale."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.data.prompt_edits import EDITS, Texts, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.model.deviations import DEPARTURES

if TYPE_CHECKING:  # the names alone must not cost the import of torch
    from torch import nn


@dataclass(frozen=True)
class Variant:
    """``terms`` are the objective's; ``language`` tells whether the network reads prompts.

    ``preset`` and ``options`` are arguments of ``BiPVLSeg`` and go before the profile's, ``objective`` of
    ``Objective``. ``prompts`` is the edit of the texts (``bipvl.data.prompt_edits``) that it is trained and
    tested with, ``share`` that of the training cases that it sees. A network without language is a baseline
    by name (``network``, or the variant's own).
    """

    name: str
    title: str
    terms: tuple[str, ...] = ("segmentation",)
    language: bool = False
    preset: str | tuple[str, ...] = "paper"
    options: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    prompts: str = "full"
    share: float = 1.0
    network: str = ""


EVERY_STAGE = 99
"""More text stages than there are: all frozen."""
ALL_TERMS = ("segmentation", "class_embedding", "alignment")


TEXT_ENCODERS = {
    "minilm": "MiniLM",
    "bert": "BERT",
    "biobert": "BioBERT",
    "clinicalbert": "ClinicalBERT",
}


def _bipvlseg(name: str, title: str, preset: str | tuple[str, ...] = "paper", **options: Any) -> Variant:
    return Variant(name, title, ALL_TERMS, language=True, preset=preset, options=options)


def _trained_with(name: str, title: str, *terms: str, **objective: Any) -> Variant:
    """BiPVL-Seg under another objective; terms beside the segmentation's."""
    return Variant(name, title, ("segmentation", *terms), language=True, objective=objective)


VARIANTS = {
    v.name: v
    for v in (
        _bipvlseg("bipvlseg", "BiPVL-Seg"),
        _bipvlseg("bipvlseg-released", "BiPVL-Seg, as released", preset="released"),
        _bipvlseg("bipvlseg-prompted", "BiPVL-Seg, prompted head", head="prompted"),
        _bipvlseg("bipvlseg-swin_unetr", "BiPVL-Seg on SwinUNETR", backbone="swin_unetr"),
        _bipvlseg("bipvlseg-conv", "BiPVL-Seg on convolutions", backbone="conv"),
        _bipvlseg("no_fusion", "No fusion", fused_stages=()),
        _bipvlseg("image_to_text", "Image → text only", fusion_direction="image_to_text"),
        _bipvlseg("text_to_image", "Text → image only", fusion_direction="text_to_image"),
        _bipvlseg("stage_1", "Fusion at stage 1 alone", fused_stages=(1,)),
        _bipvlseg("stage_2", "Fusion at stage 2 alone", fused_stages=(2,)),
        _bipvlseg("stage_3", "Fusion at stage 3 alone", fused_stages=(3,)),
        _bipvlseg("late_fusion", "Late fusion (last stage alone)", fused_stages=(-1,)),
        _bipvlseg("no_residual", "No residual around BiFusion", preset=("erasing_fusion",)),
        *(
            _bipvlseg(f"departure-{name}", f"Departure: {name.replace('_', ' ')}", preset=(name,))
            for name in DEPARTURES
            if name != "erasing_fusion"  # the variant no_residual
        ),
        *(_bipvlseg(f"text-{name}", title, text=name) for name, title in TEXT_ENCODERS.items()),
        _bipvlseg("text-random", "Random text weights", text_weights="random"),
        _bipvlseg(
            "text-bag_of_words", "Bag of words", text_weights="bag_of_words", frozen_stages=EVERY_STAGE
        ),
        _bipvlseg("text-frozen", "Text encoder frozen", frozen_stages=EVERY_STAGE),
        _bipvlseg("text-trained", "Text encoder trained whole", frozen_stages=0),
        Variant(
            "universal",
            "CLIP-Driven Universal Model",
            language=True,
            options={"head": "universal", "fused_stages": (), "frozen_stages": EVERY_STAGE},
            prompts="names",
        ),
        _trained_with("segmentation_alone", "Segmentation alone"),
        _trained_with("class_embedding", "+ class embedding", "class_embedding"),
        _trained_with("global_alignment", "+ global alignment", "class_embedding", "global_alignment"),
        _trained_with("local_alignment", "+ local alignment", "class_embedding", "local_alignment"),
        _trained_with("all_negatives", "All negatives", *ALL_TERMS[1:], hard=None),
        _trained_with("one_negative", "One hard negative", *ALL_TERMS[1:], hard=1),
        _trained_with("temperature_0.05", "Temperature 0.05", *ALL_TERMS[1:], temperature=0.05),
        _trained_with("temperature_1", "Temperature 1", *ALL_TERMS[1:], temperature=1.0),
        *(
            Variant(f"prompts-{edit}", f"Prompts: {edit.replace('_', ' ')}", ALL_TERMS, True, prompts=edit)
            for edit in EDITS
            if edit != "full"
        ),
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
VARIANTS |= {
    f"{name}-{percent}_percent": replace(
        VARIANTS[name],
        name=f"{name}-{percent}_percent",
        title=f"{VARIANTS[name].title}, {percent} % of the cases",
        share=percent / 100,
        network=name,
    )
    for name in ("bipvlseg", "swin_unetr_v2")
    for percent in (10, 25, 50)
}


def get_variant(name: str) -> Variant:
    """A variant by name; an unknown one is a BipvlError that lists the near ones."""
    return choose("variant", name, VARIANTS)


def prompt_texts(variant: Variant, spec: DatasetSpec) -> Texts:
    """N × (K + 1) texts that a variant is trained and tested with on a dataset."""
    return edited(default_prompts(spec).segments(), variant.prompts)


def build_network(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> "nn.Module":
    """A new network for a dataset with a profile's ``network`` and ``language`` settings."""
    from bipvl.model.baselines import Baseline
    from bipvl.model.bipvlseg import BiPVLSeg

    if not variant.language:
        return Baseline(
            name=variant.network or variant.name,
            in_channels=len(spec.channels),
            out_channels=spec.out_channels,
            crop=settings["crop"],
            **settings["network"],
        )
    return BiPVLSeg.create(**bipvlseg_arguments(variant, spec, settings))


def bipvlseg_arguments(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``BiPVLSeg.create`` for a variant that reads prompts."""
    return {
        "in_channels": len(spec.channels),
        "num_classes": spec.num_classes,
        "background": not spec.overlapping,
        "preset": variant.preset,
        **settings["network"],
        **settings["language"],
        **variant.options,
    }


def load_network(variant: Variant, folder: str | Path) -> "nn.Module":
    """The network that a run saved in its ``model/`` folder; one that is damaged is a BipvlError."""
    from bipvl.model.baselines import Baseline
    from bipvl.model.bipvlseg import BiPVLSeg

    try:
        network = (BiPVLSeg if variant.language else Baseline).from_pretrained(folder)
        if variant.language and network.tokenizer is None:
            raise ValueError("its tokenizer is missing")
        return network
    except Exception as error:  # json, safetensors, torch and the networks each raise their own
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise BipvlError(
            f"{folder} holds no network of {variant.title} that can be loaded ({reason}); restore the "
            "folder, or delete the run and train it anew"
        ) from error


MEAN_ATLAS = "mean_atlas"
"""The variant's name of what the training cases' majority label scores; it has no training and one seed."""


def variant_title(name: str) -> str:
    """What a variant is called in figures and tables."""
    from bipvl.engine.variants import VARIANTS

    if name == MEAN_ATLAS:
        return "Mean atlas"
    return VARIANTS[name].title if name in VARIANTS else name
