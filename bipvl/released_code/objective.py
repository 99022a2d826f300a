"""Rows 7, 8, 11 and 13: the objective."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bipvl.model.losses import (
    HARD_NEGATIVES,
    TEMPERATURE,
    UncertaintyWeighting,
    global_alignment_loss,
    info_nce,
    local_alignment_loss,
    unit,
)
from bipvl.model.released import DoubledPenalty, released_global_alignment_loss, released_local_alignment_loss

from .tiny import error_of, network, objective, texts, tokens, volume

CLASSES, CONCEPTS, DIM = 15, 6, 128
"""Classes of AMOS, texts per class (title and five concepts), dimensions of the shared space."""


def easy_negatives() -> dict[str, Any]:
    """Row 7: the easiest negatives are used, and a class can be its own negative."""
    two_classes = torch.eye(2)
    from_similarity(local_alignment_loss, two_classes)  # does not fail
    crash = error_of(RuntimeError, from_similarity, released_local_alignment_loss, two_classes)
    return {
        "own_class_at_15": share_of_own_class(CLASSES),
        "own_class_at_3": share_of_own_class(3),
        "slope_released": slope_at_match(released_local_alignment_loss),
        "slope_right": slope_at_match(local_alignment_loss),
        "floor_released": loss_when_perfect(released_local_alignment_loss),
        "floor_right": loss_when_perfect(local_alignment_loss),
        "bound": math.log(3) - 1,
        "two_classes_crash": bool(crash),
    }


def share_of_own_class(classes: int) -> float:
    """How often the right class is among the three least similar ones, for 200 draws of unit vectors."""
    random = torch.Generator().manual_seed(classes)
    a, b = (unit(torch.randn(200, classes, DIM, generator=random), 0) for _ in range(2))
    picked = (a @ b.transpose(1, 2)).topk(HARD_NEGATIVES, dim=-1, largest=False).indices
    return float((picked == torch.arange(classes)[:, None]).any(-1).float().mean())


def from_similarity(loss: Callable[..., Tensor], similarity: Tensor, **options: float) -> Tensor:
    """A local alignment loss at a given N × N matrix of similarities (one image, one text per class)."""
    return loss(torch.eye(len(similarity))[None], similarity[None, :, None], **options)


def slope_at_match(loss: Callable[..., Tensor]) -> float:
    """Derivative by the similarity of one match, for three well-matched classes (0.9, all others 0.1)."""
    similarity = (0.1 + 0.8 * torch.eye(3)).requires_grad_()
    from_similarity(loss, similarity).backward()
    return float(similarity.grad[0, 0])


def loss_when_perfect(loss: Callable[..., Tensor]) -> float:
    """Loss at similarity 1 with the match and −1 with all others, at a very low temperature."""
    return float(from_similarity(loss, 2 * torch.eye(CLASSES) - 1, temperature=0.01))


def weights_over_classes() -> dict[str, Any]:
    """Row 8: the softmax that weighs the concepts of a class runs over the classes."""
    released, right, error = concept_weights()
    sums = released.sum(-1)
    return {
        "concepts": CONCEPTS,
        "equal_share": 1 / CONCEPTS,
        "sum_released": float(sums.mean()),
        "lowest_sum_released": float(sums.min()),
        "highest_sum_released": float(sums.max()),
        "sum_right": float(right.sum(-1).mean()),
        "worst_sum_right": float((right.sum(-1) - 1).abs().max()),
        "best_released": float((released.max(-1).values / sums).mean()),
        "best_right": float(right.max(-1).values.mean()),
        "error": error,
    }


def concept_weights() -> tuple[Tensor, Tensor, float]:
    """Concept weights N × (K + 1) of both presets on random vectors, and their error.

    The losses do not return their weights. The error is the difference between each loss and its value
    recomputed from these weights; a small one shows that they are the weights in use.
    """
    random = torch.Generator().manual_seed(8)
    visual = unit(torch.randn(1, CLASSES, DIM, generator=random), 0)
    text = unit(torch.randn(1, CLASSES, CONCEPTS, DIM, generator=random), 0)
    match = torch.einsum("bnkd,bnd->bnk", text, visual)
    released, right = match.softmax(1), (match / TEMPERATURE).softmax(-1)

    def recomputed(weight: Tensor) -> Tensor:
        summary = F.normalize(torch.einsum("bnk,bnkd->bnd", weight, text), dim=-1)
        return info_nce(summary @ visual.transpose(-2, -1) / TEMPERATURE)

    errors = (
        recomputed(released) - released_global_alignment_loss(visual, text, noise=0),
        recomputed(right) - global_alignment_loss(visual, text),
    )
    return released[0], right[0], max(abs(float(e)) for e in errors)


@torch.no_grad()
def background_row() -> dict[str, Any]:
    """Row 11: there is a visual row per channel, but a text per class only."""
    model = network(num_classes=CLASSES, background=True)
    output = model(volume(), tokens(texts("amos22")))
    visual = model.visual_projection(output.class_logits)  # all C = N + 1 rows
    error = error_of(RuntimeError, released_global_alignment_loss, visual, output.text)
    _, losses = objective()(output, torch.zeros_like(output.logits[:, :1]))
    return {
        "rows": visual.shape[1],
        "texts": output.text.shape[1],
        "error": error and f"`RuntimeError`: {error.split(': ')[-1]}",
        "loss": float(losses["alignment"]),
    }


def doubled_penalty() -> dict[str, Any]:
    """Row 13: the weights of the losses have another optimum than in the cited formula."""
    losses = (0.2, 1.0, 3.0)
    released, right = (
        [optimal_variance(loss, kind) for loss in losses] for kind in (DoubledPenalty, UncertaintyWeighting)
    )

    def worst_ratio(variances: list[float], expected: float) -> float:
        return max(abs(v / loss - expected) for v, loss in zip(variances, losses, strict=True))

    def mean_product(variances: list[float]) -> float:
        """Mean of weight 1/(2eˢ) times loss."""
        return sum(loss / (2 * v) for loss, v in zip(losses, variances, strict=True)) / len(losses)

    return {
        "ratio_released": worst_ratio(released, 0.5),
        "ratio_right": worst_ratio(right, 1.0),
        "optima_released": ", ".join(f"{v:.3f}" for v in released),
        "optima_right": ", ".join(f"{v:.3f}" for v in right),
        "product_released": mean_product(released),
        "product_right": mean_product(right),
    }


def optimal_variance(loss: float, kind: type[UncertaintyWeighting]) -> float:
    """The eˢ at the minimum of a weighting of one constant loss, found by L-BFGS."""
    weighting = kind(terms=("segmentation",)).double()
    constant = {"segmentation": torch.tensor(loss, dtype=torch.float64)}
    search = torch.optim.LBFGS(
        weighting.parameters(), max_iter=50, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def value() -> Tensor:
        search.zero_grad()
        total = weighting(constant)
        total.backward()
        return total

    search.step(value)
    return float(weighting.log_variance["segmentation"].detach().exp())
