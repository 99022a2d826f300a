"""The objective of BiPVL-Seg (paper, objective): pure functions and one weighting module."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.model.deviations import departures

TEMPERATURE = 0.2
NOISE = 0.01
HARD_NEGATIVES = 3


def segmentation_loss(
    logits: Tensor, target: Tensor, *, overlapping: bool, class_weights: Tensor | None = None
) -> Tensor:
    """Dice + cross-entropy for one label a voxel, Dice (squared) + BCE for overlapping labels.

    Args:
        logits: B × C × H × W × D.
        target: B × 1 × H × W × D class index, or B × C × H × W × D binary where ``overlapping``.
        class_weights: C weights of the cross-entropy (of a class's own voxels in BCE); all 1 in the paper.
    """
    from monai.losses import DiceLoss

    if overlapping:
        target = target.to(logits.dtype)
        dice = DiceLoss(sigmoid=True, squared_pred=True)(logits, target)
        weights = None if class_weights is None else class_weights.view(-1, 1, 1, 1)
        return dice + F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)
    dice = DiceLoss(softmax=True, to_onehot_y=True)(logits, target)
    return dice + _cross_entropy(logits, target[:, 0].long(), class_weights)


def _cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over samples of each one's (weighted) mean over voxels: no sample's share hangs on the others."""
    if weights is None:
        return repeatable_cross_entropy(logits, classes)
    loss = repeatable_cross_entropy(logits, classes, weight=weights, reduction="none").flatten(1)
    return (loss.sum(1) / weights[classes].flatten(1).sum(1)).mean()


def repeatable_cross_entropy(
    logits: Tensor, classes: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Torch's cross-entropy over axis 1; where determinism is demanded, made of parts that have it on a GPU.

    Logits B × C × …, classes B × …, ``weight`` C, which only
    the reduction ``none`` takes: torch's weighted mean is another.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.cross_entropy(logits, classes, weight=weight, reduction=reduction)
    loss = -logits.log_softmax(1).gather(1, classes[:, None])[:, 0]
    loss = loss if weight is None else loss * weight[classes]
    return loss.mean() if reduction == "mean" else loss


def class_embedding_loss(class_logits: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of E (B × C × g³) with the arg-max class of the decoder's logits on the g³ grid.

    No gradient flows into the decoder: its logits are the target.
    """
    grid = round(class_logits.shape[-1] ** (1 / 3))
    target = F.interpolate(logits.detach(), size=(grid,) * 3, mode="trilinear", align_corners=False)
    return repeatable_cross_entropy(class_logits, target.argmax(1).flatten(1))


def info_nce(similarity: Tensor) -> Tensor:
    """Symmetric InfoNCE of B × N × N similarities, temperature applied; the matches are the diagonal."""
    rows = similarity.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    columns = similarity.log_softmax(-2).diagonal(dim1=-2, dim2=-1)
    return -(rows.mean() + columns.mean()) / 2


def hard_negative_nce(similarity: Tensor, hard: int | None = HARD_NEGATIVES) -> Tensor:
    """Symmetric InfoNCE against the ``hard`` most similar wrong classes only; all where fewer exist, or None.

    −log( e^{s_cc} / (e^{s_cc} + Σ_{j ∈ hard(c)} e^{s_cj}) ), mean over classes, both directions.
    """
    return (_hard_rows(similarity, hard) + _hard_rows(similarity.transpose(-2, -1), hard)) / 2


def _hard_rows(similarity: Tensor, hard: int | None) -> Tensor:
    classes = similarity.shape[-1]
    positive = similarity.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # ... × N × 1
    diagonal = torch.eye(classes, dtype=torch.bool, device=similarity.device)
    wrong = similarity.masked_fill(diagonal, -torch.inf)
    count = classes - 1 if hard is None else min(hard, classes - 1)
    negatives = wrong.topk(count, dim=-1).values
    return (torch.cat([positive, negatives], -1).logsumexp(-1, keepdim=True) - positive).mean()


def unit(x: Tensor, noise: float) -> Tensor:
    """Length 1 along the last axis, after Gaussian noise of standard deviation ``noise``.

    All samples of a batch B × … get the same noise, so that it is the same whatever process has which sample.
    """
    return F.normalize(x + noise * torch.randn_like(x[:1]) if noise else x, dim=-1)


def class_summary(visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """The global text vectors, … × N × D: each class's texts, weighted by how well they match its image.

    ``visual`` … × N × D and ``text`` … × N × (K + 1) × D, unit length, as is the result.
    """
    match = torch.einsum("...kd,...d->...k", text, visual)
    weight = (match / temperature).softmax(-1)
    return F.normalize(torch.einsum("...k,...kd->...d", weight, text), dim=-1)


def global_alignment_loss(visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Class level: each class's summary of its texts against all classes.

    Args:
        visual: B × N × D, unit length.
        text: B × N × (K + 1) × D, unit length.
        temperature: of all similarities, the weights' softmax over the concepts included.
    """
    summary = class_summary(visual, text, temperature=temperature)
    return info_nce(summary @ visual.transpose(-2, -1) / temperature)


def local_alignment_loss(
    visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE, hard: int | None = HARD_NEGATIVES
) -> Tensor:
    """Concept level: each of the K + 1 texts against its hard negatives, mean over the texts.

    ``visual`` B × N × D and ``text`` B × N × (K + 1) × D, unit length.
    """
    similarity = torch.einsum("bnkd,bmd->bknm", text, visual) / temperature
    return hard_negative_nce(similarity, hard)


def released_global_alignment_loss(
    visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE, noise: float = NOISE
) -> Tensor:
    """The released code's class level: weights over the classes of a concept, not over a class's concepts.

    Args:
        visual: B × N × D, projected, not normalised.
        text: B × N × (K + 1) × D, projected, not normalised: the longer vector weighs more.
    """
    match = torch.einsum("bnkd,bnd->bnk", unit(text, 0), unit(visual, 0))
    summary = torch.einsum("bnk,bnkd->bnd", match.softmax(1), text)
    return info_nce(unit(summary, noise) @ unit(visual, noise).transpose(-2, -1) / temperature)


def released_local_alignment_loss(
    visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE
) -> Tensor:
    """The released code's concept level: log of all classes' share plus the three *least* similar, the right
    class not excluded; its floor is log 3 − 1. Shapes as in ``local_alignment_loss``; N ≥ 3.
    """
    similarity = torch.einsum("bnkd,bmd->bknm", text, visual)

    def rows(s: Tensor) -> Tensor:
        positive = (s / temperature).log_softmax(-1).diagonal(dim1=-2, dim2=-1)
        easiest = s.topk(HARD_NEGATIVES, dim=-1, largest=False).values
        return (easiest.logsumexp(-1) - positive).mean()

    return (rows(similarity) + rows(similarity.transpose(-2, -1))) / 2


class UncertaintyWeighting(nn.Module):
    """Σ Lᵢ / (2 exp sᵢ) + p sᵢ with learnt sᵢ = log σᵢ², start 0, p = 1/2 (Kendall et al. 2018).

    Each sᵢ settles at log Lᵢ. Keep the sᵢ out of weight decay.
    """

    def __init__(self, *, terms: tuple[str, ...], penalty: float = 0.5) -> None:
        super().__init__()
        self.penalty = penalty
        self.log_variance = nn.ParameterDict({term: nn.Parameter(torch.zeros(())) for term in terms})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Named scalar terms → their weighted sum."""
        return sum(losses[term] / (2 * s.exp()) + self.penalty * s for term, s in self.log_variance.items())


class Objective(nn.Module):
    """The loss of a variant: its terms, weighted by uncertainty where there are several.

    Args:
        terms: of "segmentation", "class_embedding" and "alignment" (or one of its parts,
            "global_alignment" and "local_alignment").
        overlapping: whether labels are binary channels rather than one class index a voxel.
        class_weights: C weights of the segmentation's cross-entropy, or None for all 1.
        preset: ``paper``, ``released``, or deviations from the paper by name (``bipvl.model.deviations``).
        noise: standard deviation of the Gaussian noise on the vectors that are aligned.
        temperature: of all similarities.
        hard: negatives of the local alignment; None: all wrong classes.
    """

    def __init__(
        self,
        *,
        terms: tuple[str, ...],
        overlapping: bool,
        class_weights: Tensor | None = None,
        preset: str | Sequence[str] = "paper",
        noise: float = NOISE,
        temperature: float = TEMPERATURE,
        hard: int | None = HARD_NEGATIVES,
    ) -> None:
        super().__init__()
        self.noise, self.temperature, self.hard = noise, temperature, hard
        self.departures = departures(preset)
        penalty = 1.0 if "doubled_penalty" in self.departures else 0.5
        self.terms, self.overlapping = terms, overlapping
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.weighting = UncertaintyWeighting(terms=terms, penalty=penalty) if len(terms) > 1 else None

    @property
    def log_variances(self) -> Mapping[str, Tensor]:
        """The learnt sᵢ by term; none where nothing is weighted."""
        return self.weighting.log_variance if self.weighting else {}

    def forward(self, output: Any, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A network's output (logits, or an output that has them) and target → total, named terms."""
        logits = output if isinstance(output, Tensor) else output.logits
        segmentation = segmentation_loss(
            logits, target, overlapping=self.overlapping, class_weights=self.class_weights
        )
        losses = {"segmentation": segmentation}
        if "class_embedding" in self.terms:
            losses["class_embedding"] = class_embedding_loss(output.class_logits, logits)
        if any(term.endswith("alignment") for term in self.terms):
            losses |= self._alignment(output.visual, output.text)
        return self.weighting(losses) if self.weighting else losses["segmentation"], losses

    def _alignment(self, visual: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Both alignment terms and their sum, of projected vectors B × N × D and B × N × (K + 1) × D."""
        noisy, tau = (unit(visual, self.noise), unit(text, self.noise)), self.temperature
        if "weights_over_classes" in self.departures:
            of_classes = released_global_alignment_loss(visual, text, temperature=tau, noise=self.noise)
        else:
            of_classes = global_alignment_loss(*noisy, temperature=tau)
        if "easy_negatives" in self.departures:
            of_concepts = released_local_alignment_loss(*noisy, temperature=tau)
        else:
            of_concepts = local_alignment_loss(*noisy, temperature=tau, hard=self.hard)
        return {
            "global_alignment": of_classes,
            "local_alignment": of_concepts,
            "alignment": of_classes + of_concepts,
        }
