"""The authors' released code as variants of the paper's method: one small class for each deviation.

``network_class``, ``objective_class`` and ``make_schedule`` build them by name. The deviations and their
effects are described in ``deviations.py`` and shown one by one in ``bipvl.released_code``.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from monai.networks.nets.swin_unetr import PatchMergingV2
from torch import Tensor

from bipvl.common.errors import BipvlError
from bipvl.model.bifusion import BiFusion, TwoWayLayer
from bipvl.model.bipvlseg import BiPVLSeg, TextState
from bipvl.model.deviations import deviations_of
from bipvl.model.losses import (
    HARD_NEGATIVES,
    NOISE,
    TEMPERATURE,
    Objective,
    UncertaintyWeighting,
    info_nce,
    unit,
)
from bipvl.model.schedule import Schedule, cosine_schedule
from bipvl.model.tokens import PromptTokens

# --- network ------------------------------------------------------------------------------------------------

OCTANTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""What the release reads of each 2 × 2 × 2 block: two octants twice, (1, 1, 0) and (0, 1, 1) never."""


class RepeatingMerging(PatchMergingV2):
    """Patch merging over ``OCTANTS``, as in MONAI's versions of the release's time; sides must be even."""

    def forward(self, x: Tensor) -> Tensor:
        """B × H × W × D × c → B × H/2 × W/2 × D/2 × 2c."""
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in OCTANTS], -1)
        return self.reduction(self.norm(x))


class ErasingLayer(TwoWayLayer):
    """A two-way layer without a residual in its self-attention."""

    def attend_to_self(self, q: Tensor, prompt: Tensor) -> Tensor:
        return self.norm_self_attn(self.self_attn(q, q, q))


class ErasingFusion(BiFusion):
    """BiFusion without a residual around the block: it erases what the text said."""

    first_layer = ErasingLayer

    def add_input(self, before: Tensor, after: Tensor) -> Tensor:
        return after


class _RepeatedOctants(BiPVLSeg):
    merging = RepeatingMerging


class _ErasingFusion(BiPVLSeg):
    fusion_type = ErasingFusion


class _UntrainedFusion(BiPVLSeg):
    def _freeze(self, text_stages: int) -> None:
        super()._freeze(text_stages)
        self.fusions.requires_grad_(False)


class _UnfusedFeatures(BiPVLSeg):
    def _decoder_input(self, n: int, unfused: Tensor, fused: Tensor) -> Tensor:
        return unfused


class _UnmaskedPadding(BiPVLSeg):
    def _start_text(self, tokens: PromptTokens) -> TextState:
        return self._text_before_fusion(self.text.embed(tokens), tokens.unmasked())


class _SeparateConcepts(BiPVLSeg):
    separate_texts = True

    def _aligned_texts(self, concepts: Tensor, tokens: PromptTokens) -> Tensor:
        return self.separate_concepts(tokens).expand(len(concepts), -1, -1, -1)

    def separate_concepts(self, tokens: PromptTokens) -> Tensor:
        """The [CLS] vectors of the concept texts, each encoded alone: N × (K + 1) × d.

        Raises:
            BipvlError: the tokens lack the separate concept texts.
        """
        if tokens.concepts is None:
            raise BipvlError(
                "this network encodes each concept's text alone, and the tokens lack these texts",
                "tokenise with separate=True, or pass texts",
            )
        state = self._start_text(tokens.concepts)
        hidden = state.hidden  # N · (K + 1) × L × d
        for n in range(self.first_fused + 1, len(self.text.stages)):
            hidden = self.text.stage(n, hidden, state.tokens.mask)
        return hidden[:, 0].unflatten(0, (self.num_classes, -1))


# --- objective ----------------------------------------------------------------------------------------------


def released_global_alignment_loss(
    visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE, noise: float = NOISE
) -> Tensor:
    """The released class level: the weights of a concept sum to one over the classes.

    Args:
        visual: B × N × D, projected, not normalised.
        text: B × N × (K + 1) × D, projected, not normalised: a longer vector weighs more.
    """
    similarity = torch.einsum("bnkd,bnd->bnk", unit(text, 0), unit(visual, 0))
    summary = torch.einsum("bnk,bnkd->bnd", similarity.softmax(1), text)
    return info_nce(unit(summary, noise) @ unit(visual, noise).transpose(-2, -1) / temperature)


def released_local_alignment_loss(
    visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """The released concept level: the negatives are the three *least* similar classes.

    The right class is not excluded from them, and they have no temperature; the minimum is log 3 − 1. Shapes
    as in ``local_alignment_loss``; N ≥ 3.
    """
    similarity = torch.einsum("bnkd,bmd->bknm", text, visual)

    def rows(s: Tensor) -> Tensor:
        positive = (s / temperature).log_softmax(-1).diagonal(dim1=-2, dim2=-1)
        easiest = s.topk(HARD_NEGATIVES, dim=-1, largest=False).values
        return (easiest.logsumexp(-1) - positive).mean()

    return (rows(similarity) + rows(similarity.transpose(-2, -1))) / 2


class DoubledPenalty(UncertaintyWeighting):
    """Σ Lᵢ / (2 exp sᵢ) + sᵢ."""

    penalty = 1.0


class _EasyNegatives(Objective):
    def _local_alignment(self, visual: Tensor, text: Tensor) -> Tensor:
        return released_local_alignment_loss(visual, text, temperature=self.temperature)


class _WeightsOverClasses(Objective):
    def _alignment(self, visual: Tensor, text: Tensor) -> dict[str, Tensor]:
        terms = super()._alignment(visual, text)
        of_classes = released_global_alignment_loss(
            visual, text, temperature=self.temperature, noise=self.noise
        )
        total = of_classes + terms["local_alignment"]
        return terms | {"global_alignment": of_classes, "alignment": total}


class _DoubledPenalty(Objective):
    weighting_type = DoubledPenalty


# --- learning rate ------------------------------------------------------------------------------------------

T_MAX = 300
"""Epochs of the paper's annealing; the released code steps its scheduler at every iteration instead."""


def released_factor(step: int, group: str) -> float:
    """The released schedule: down to 0 and up again; of the learnt loss weights 0 from step 300 on."""
    if group == "loss weights" and step >= T_MAX:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * step / T_MAX))


# --- by name ------------------------------------------------------------------------------------------------

_NETWORKS = {
    "untrained_fusion": _UntrainedFusion,
    "unfused_features": _UnfusedFeatures,
    "separate_concepts": _SeparateConcepts,
    "erasing_fusion": _ErasingFusion,
    "unmasked_padding": _UnmaskedPadding,
    "repeated_octants": _RepeatedOctants,
}
_OBJECTIVES = {
    "easy_negatives": _EasyNegatives,
    "weights_over_classes": _WeightsOverClasses,
    "doubled_penalty": _DoubledPenalty,
}


def network_class(preset: str | Sequence[str]) -> type[BiPVLSeg]:
    """BiPVLSeg with the deviations of a preset (``paper``, ``released``) or of a list of names."""
    return _network_class(deviations_of(preset))


@cache
def _network_class(deviations: tuple[str, ...]) -> type[BiPVLSeg]:
    own = tuple(name for name in deviations if name in _NETWORKS)
    if not own:
        return BiPVLSeg
    bases = tuple(_NETWORKS[name] for name in own)
    return type("ReleasedBiPVLSeg", bases, {"deviations": own, "__module__": __name__})


def objective_class(preset: str | Sequence[str]) -> type[Objective]:
    """Objective with the deviations of a preset (``paper``, ``released``) or of a list of names."""
    bases = tuple(_OBJECTIVES[name] for name in deviations_of(preset) if name in _OBJECTIVES)
    return type("ReleasedObjective", bases, {}) if bases else Objective


def make_schedule(preset: str | Sequence[str], steps: int, warmup: float) -> Schedule:
    """The learning-rate schedule of a preset: the released one never depends on the number of steps."""
    return released_factor if "rising_rate" in deviations_of(preset) else cosine_schedule(steps, warmup)


ReleasedBiPVLSeg = network_class("released")
ReleasedObjective = objective_class("released")
