"""The two presets: what the paper says, and what the authors' released code computes.

A preset is the set of its departures from the paper, so that each can also be switched alone.
"""

from collections.abc import Sequence

from bipvl.common.lookup import choose

DEPARTURES = {
    "untrained_fusion": "BiFusion blocks exist and are saved, and no optimiser ever sees them",
    "unfused_features": "decoder and class embeddings take features from before BiFusion",
    "separate_concepts": "concept texts run alone; their [CLS] vectors never see an image",
    "erasing_fusion": "no residual around BiFusion, nor in its first text self-attention",
    "unmasked_padding": "padding is attended after text stage 0 and in BiFusion",
    "repeated_octants": "patch merging reads two octants twice and two never",
    "easy_negatives": "the local loss takes the least similar classes, the right one included",
    "weights_over_classes": "the concepts' weights sum to one over the classes",
    "doubled_penalty": "the weighting adds s where Kendall et al. add s / 2",
    "rising_rate": "the learning rate falls to 0 in 300 steps, rises again, falls; that of the s_i stays 0",
}
"""Name → what the released code does; in order of the network, the objective, the training."""

PRESETS: dict[str, tuple[str, ...]] = {"paper": (), "released": tuple(DEPARTURES)}


def departures(preset: str | Sequence[str]) -> frozenset[str]:
    """The departures of a preset given by name, or of a list of departures.

    Raises:
        BipvlError: an unknown preset or departure.
    """
    if isinstance(preset, str):
        return frozenset(choose("preset", preset, PRESETS))
    for name in preset:
        choose("departure from the paper", name, DEPARTURES)
    return frozenset(preset)
