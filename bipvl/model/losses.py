"""The objective of BiPVL-Seg (paper, objective): pure loss functions, and the modules that combine them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 0.2
NOISE = 0.01
HARD_NEGATIVES = 3


def segmentation_loss(
    logits: Tensor, target: Tensor, *, overlapping: bool, class_weights: Tensor | None = None
) -> Tensor:
    """Dice + cross-entropy; for overlapping labels Dice (squared) + binary cross-entropy.

    Args:
        logits: B × C × H × W × D.
        target: B × 1 × H × W × D class indices, or B × C × H × W × D binary masks if ``overlapping``.
        class_weights: C weights of the cross-entropy (of a class's own voxels in the binary one); the paper
            has none.
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
    """Mean over samples of each sample's (weighted) mean over voxels.

    So a sample counts the same whatever the other samples of its batch hold.
    """
    if weights is None:
        return repeatable_cross_entropy(logits, classes)
    loss = repeatable_cross_entropy(logits, classes, weight=weights, reduction="none").flatten(1)
    return (loss.sum(1) / weights[classes].flatten(1).sum(1)).mean()


def repeatable_cross_entropy(
    logits: Tensor, classes: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy over axis 1 of logits B × C × …, for classes B × ….

    If torch must use deterministic algorithms, it is built from operations that have one on a GPU.

    Args:
        weight: C weights; only with ``reduction="none"``, since torch's weighted mean is another one.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.cross_entropy(logits, classes, weight=weight, reduction=reduction)
    loss = -logits.log_softmax(1).gather(1, classes[:, None])[:, 0]
    loss = loss if weight is None else loss * weight[classes]
    return loss.mean() if reduction == "mean" else loss


def class_embedding_loss(class_logits: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of the class embeddings E (B × C × g³) with the decoder's arg-max class on the g³ grid.

    No gradient flows into the decoder: its logits are the target.
    """
    grid = round(class_logits.shape[-1] ** (1 / 3))
    target = F.interpolate(logits.detach(), size=(grid,) * 3, mode="trilinear", align_corners=False)
    return repeatable_cross_entropy(class_logits, target.argmax(1).flatten(1))


def info_nce(similarity: Tensor) -> Tensor:
    """Symmetric InfoNCE of similarities B × N × N, already divided by the temperature.

    The matching pairs are on the diagonal.
    """
    rows = similarity.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    columns = similarity.log_softmax(-2).diagonal(dim1=-2, dim2=-1)
    return -(rows.mean() + columns.mean()) / 2


def hard_negative_nce(similarity: Tensor, hard: int | None = HARD_NEGATIVES) -> Tensor:
    """Symmetric InfoNCE against the ``hard`` most similar wrong classes only.

    −log( e^{s_cc} / (e^{s_cc} + Σ_{j ∈ hard(c)} e^{s_cj}) ), mean over classes and both directions. All wrong
    classes count if there are fewer than ``hard``, or if it is None.
    """
    return (_hard_rows(similarity, hard) + _hard_rows(similarity.transpose(-2, -1), hard)) / 2


def _hard_rows(similarity: Tensor, hard: int | None) -> Tensor:
    classes = similarity.shape[-1]
    positive = similarity.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)  # … × N × 1
    diagonal = torch.eye(classes, dtype=torch.bool, device=similarity.device)
    wrong = similarity.masked_fill(diagonal, -torch.inf)  # … × N × N
    count = classes - 1 if hard is None else min(hard, classes - 1)
    negatives = wrong.topk(count, dim=-1).values  # … × N × count
    return (torch.cat([positive, negatives], -1).logsumexp(-1, keepdim=True) - positive).mean()


def unit(x: Tensor, noise: float) -> Tensor:
    """Normalise to length 1 along the last axis, after adding Gaussian noise of standard deviation ``noise``.

    All samples of a batch B × … get the same noise, so that it does not depend on which process has which
    sample.
    """
    return F.normalize(x + noise * torch.randn_like(x[:1]) if noise else x, dim=-1)


def class_summary(visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """The global text vectors … × N × D: a class's texts, weighted by similarity to its image vector.

    Args:
        visual: … × N × D, unit length.
        text: … × N × (K + 1) × D, unit length.
        temperature: of the softmax over the texts of a class.
    """
    similarity = torch.einsum("...kd,...d->...k", text, visual)  # … × N × (K + 1)
    weight = (similarity / temperature).softmax(-1)
    return F.normalize(torch.einsum("...k,...kd->...d", weight, text), dim=-1)


def global_alignment_loss(visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Class level: the summary of each class's texts against the image vectors of all classes.

    Args:
        visual: B × N × D, unit length.
        text: B × N × (K + 1) × D, unit length.
        temperature: of all similarities, also of the weights over the concepts.
    """
    summary = class_summary(visual, text, temperature=temperature)  # B × N × D
    return info_nce(summary @ visual.transpose(-2, -1) / temperature)


def local_alignment_loss(
    visual: Tensor, text: Tensor, *, temperature: float = TEMPERATURE, hard: int | None = HARD_NEGATIVES
) -> Tensor:
    """Concept level: each of the K + 1 texts against its hard negatives, mean over the texts.

    Args:
        visual: B × N × D, unit length.
        text: B × N × (K + 1) × D, unit length.
        temperature: of all similarities.
        hard: number of hard negatives; None: all wrong classes.
    """
    similarity = torch.einsum("bnkd,bmd->bknm", text, visual) / temperature  # B × (K + 1) × N × N
    return hard_negative_nce(similarity, hard)


class UncertaintyWeighting(nn.Module):
    """Σ Lᵢ / (2 exp sᵢ) + sᵢ / 2 with learnt sᵢ = log σᵢ², initially 0 (Kendall et al. 2018).

    Each sᵢ converges to log Lᵢ. Exclude the sᵢ from weight decay.
    """

    penalty: ClassVar[float] = 0.5

    def __init__(self, *, terms: tuple[str, ...]) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({term: nn.Parameter(torch.zeros(())) for term in terms})

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Named scalar terms → their weighted sum."""
        return sum(losses[term] / (2 * s.exp()) + self.penalty * s for term, s in self.log_variance.items())


class Objective(nn.Module):
    """The loss of a variant: its terms, weighted by uncertainty if there are several.

    Args:
        terms: of "segmentation", "class_embedding" and "alignment" (or one of its parts,
            "global_alignment" and "local_alignment").
        overlapping: whether labels are binary masks per class instead of one class index per voxel.
        class_weights: C weights of the segmentation's cross-entropy, or None.
        noise: standard deviation of the Gaussian noise on the aligned vectors.
        temperature: of all similarities.
        hard: number of hard negatives of the local alignment; None: all wrong classes.
    """

    weighting_type: ClassVar[type[UncertaintyWeighting]] = UncertaintyWeighting

    def __init__(
        self,
        *,
        terms: tuple[str, ...],
        overlapping: bool,
        class_weights: Tensor | None = None,
        noise: float = NOISE,
        temperature: float = TEMPERATURE,
        hard: int | None = HARD_NEGATIVES,
    ) -> None:
        super().__init__()
        self.noise, self.temperature, self.hard = noise, temperature, hard
        self.terms, self.overlapping = terms, overlapping
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.weighting = self.weighting_type(terms=terms) if len(terms) > 1 else None

    @property
    def log_variances(self) -> Mapping[str, Tensor]:
        """The learnt sᵢ by term; empty if there is one term only."""
        return self.weighting.log_variance if self.weighting else {}

    def forward(self, output: Any, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A network's output (logits, or a ``BiPVLOutput``) and the target → total loss, terms by name."""
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
        visual, text = unit(visual, self.noise), unit(text, self.noise)
        of_classes = global_alignment_loss(visual, text, temperature=self.temperature)
        of_concepts = self._local_alignment(visual, text)
        return {
            "global_alignment": of_classes,
            "local_alignment": of_concepts,
            "alignment": of_classes + of_concepts,
        }

    def _local_alignment(self, visual: Tensor, text: Tensor) -> Tensor:
        return local_alignment_loss(visual, text, temperature=self.temperature, hard=self.hard)
