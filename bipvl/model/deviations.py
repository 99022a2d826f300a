"""The deviations of the authors' released code from the paper, by name; ``released.py`` implements them.

The preset ``paper`` has none of them, the preset ``released`` has all. Each can also be used alone.
"""

from collections.abc import Sequence

from bipvl.common.lookup import choose

DEVIATIONS = {
    "untrained_fusion": "BiFusion blocks exist and are saved, but no optimiser trains them",
    "unfused_features": "decoder and class embeddings take the features from before BiFusion",
    "separate_concepts": "concept texts are encoded alone; their [CLS] vectors never see an image",
    "erasing_fusion": "no residual around BiFusion, nor in its first text self-attention",
    "unmasked_padding": "padding is attended to after text stage 0 and in BiFusion",
    "repeated_octants": "patch merging reads two octants twice and two never",
    "easy_negatives": "the local loss takes the least similar classes, the right one included",
    "weights_over_classes": "the concept weights sum to one over the classes",
    "doubled_penalty": "the loss weighting adds s where Kendall et al. add s / 2",
    "rising_rate": "the learning rate falls to 0 in 300 steps and rises again; that of the s_i stays 0",
}
"""Name → what the released code does; in the order network, objective, training."""

PRESETS: dict[str, tuple[str, ...]] = {"paper": (), "released": tuple(DEVIATIONS)}


def deviations_of(preset: str | Sequence[str]) -> tuple[str, ...]:
    """The deviations of a preset's name, or of a list of deviations, in the order of ``DEVIATIONS``.

    Raises:
        BipvlError: an unknown preset or deviation.
    """
    if isinstance(preset, str):
        return choose("preset", preset, PRESETS)
    for name in preset:
        choose("deviation from the paper", name, DEVIATIONS)
    return tuple(name for name in DEVIATIONS if name in preset)
