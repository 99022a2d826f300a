"""The variants: named networks with their objectives. ``build.py`` makes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bipvl.common.lookup import choose
from bipvl.data.prompt_edits import EDITS, Texts, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.model.deviations import DEVIATIONS, PRESETS


@dataclass(frozen=True)
class Variant:
    """A network with its objective, under one name.

    Attributes:
        name: of run folders, studies and commands.
        title: for figures and tables.
        terms: of the objective.
        language: whether the network reads prompts.
        deviations: from the paper (``bipvl.model.deviations``).
        options: arguments of ``BiPVLSeg``; they override the profile's.
        objective: arguments of ``Objective``.
        prompts: the edit (``bipvl.data.prompt_edits``) of the texts that it is trained and tested with.
        share: of the training cases that it sees.
        network: name of the baseline, for a network without language; default: the variant's name.
    """

    name: str
    title: str
    terms: tuple[str, ...] = ("segmentation",)
    language: bool = False
    deviations: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    prompts: str = "full"
    share: float = 1.0
    network: str = ""


ALL_STAGES = 99
"""More text stages than exist: freeze all of them."""
ALL_TERMS = ("segmentation", "class_embedding", "alignment")
MEAN_ATLAS = "mean_atlas"
"""Name, in place of a variant's, of the majority label of the training cases; it has no training."""
TEXT_ENCODERS = {"minilm": "MiniLM", "bert": "BERT", "biobert": "BioBERT", "clinicalbert": "ClinicalBERT"}


def _bipvlseg(name: str, title: str, deviations: tuple[str, ...] = (), **options: Any) -> Variant:
    return Variant(name, title, ALL_TERMS, language=True, deviations=deviations, options=options)


def _trained_with(name: str, title: str, *terms: str, **objective: Any) -> Variant:
    """BiPVL-Seg with another objective: ``terms`` besides the segmentation's."""
    return Variant(name, title, ("segmentation", *terms), language=True, objective=objective)


VARIANTS = {
    v.name: v
    for v in (
        _bipvlseg("bipvlseg", "BiPVL-Seg"),
        _bipvlseg("bipvlseg-released", "BiPVL-Seg, as released", deviations=PRESETS["released"]),
        _bipvlseg("bipvlseg-prompted", "BiPVL-Seg, prompted head", head="prompted"),
        _bipvlseg("bipvlseg-modulated", "BiPVL-Seg, modulated head", head="modulated"),
        _bipvlseg("bipvlseg-swin_unetr", "BiPVL-Seg on SwinUNETR", backbone="swin_unetr"),
        _bipvlseg("bipvlseg-conv", "BiPVL-Seg on convolutions", backbone="conv"),
        _bipvlseg("no_fusion", "No fusion", fused_stages=()),
        _bipvlseg("image_to_text", "Image → text only", fusion_direction="image_to_text"),
        _bipvlseg("text_to_image", "Text → image only", fusion_direction="text_to_image"),
        *(_bipvlseg(f"stage_{n}", f"Fusion at stage {n} alone", fused_stages=(n,)) for n in (1, 2, 3)),
        _bipvlseg("late_fusion", "Late fusion (last stage alone)", fused_stages=(-1,)),
        _bipvlseg("no_residual", "No residual around BiFusion", ("erasing_fusion",)),
        *(
            _bipvlseg(f"deviation-{name}", f"Deviation: {name.replace('_', ' ')}", (name,))
            for name in DEVIATIONS
            if name != "erasing_fusion"  # the variant no_residual
        ),
        *(_bipvlseg(f"text-{name}", title, text=name) for name, title in TEXT_ENCODERS.items()),
        _bipvlseg("text-random", "Random text weights", text_weights="random"),
        _bipvlseg("text-bag_of_words", "Bag of words", text_weights="bag_of_words", frozen_stages=ALL_STAGES),
        _bipvlseg("text-frozen", "Text encoder frozen", frozen_stages=ALL_STAGES),
        _bipvlseg("text-trained", "Text encoder trained whole", frozen_stages=0),
        Variant(
            "universal",
            "CLIP-Driven Universal Model",
            language=True,
            options={"head": "universal", "fused_stages": (), "frozen_stages": ALL_STAGES},
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
    """A variant by name.

    Raises:
        BipvlError: an unknown name; the message lists the nearest ones.
    """
    return choose("variant", name, VARIANTS)


def variant_title(name: str) -> str:
    """What a variant is called in figures and tables."""
    if name == MEAN_ATLAS:
        return "Mean atlas"
    return VARIANTS[name].title if name in VARIANTS else name


def prompt_texts(variant: Variant, spec: DatasetSpec) -> Texts:
    """The N × (K + 1) texts that a variant is trained and tested with on a data set."""
    return edited(default_prompts(spec).segments(), variant.prompts)
