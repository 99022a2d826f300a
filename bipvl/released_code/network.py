"""Rows 1 to 6: the network."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.engine.optimizer import make_optimizer
from bipvl.engine.train import Learner
from bipvl.model.bifusion import BiFusion
from bipvl.model.bipvlseg import BiPVLSeg
from bipvl.model.losses import global_alignment_loss, local_alignment_loss, unit
from bipvl.model.tokens import tokenize

from .tiny import (
    error_of,
    largest_difference,
    network,
    objective,
    pretrained,
    texts,
    tokens,
    volume,
    with_both,
)

FULL_WIDTHS, FULL_TEXT = (48, 96, 192, 384, 768), 768
"""Channels of the stages and width of the text at the paper's size."""


def untrained_fusion() -> dict[str, Any]:
    """Row 1: blocks in a plain list are neither trained nor saved, and loading does not miss them."""
    with torch.device("meta"):  # the paper's size without its memory
        fusions = [BiFusion(image_dim=c, text_dim=FULL_TEXT) for c in FULL_WIDTHS]
    blocks, projections = count_parameters(fusions)
    plain = nn.Module()
    plain.blocks = fusions  # as in the release: a Python list, not an nn.ModuleList
    plain.load_state_dict({})  # strict, and yet an empty file is accepted
    agreement_released, logits_released = compare_loaded("released")
    agreement_right, logits_right = compare_loaded("paper")
    return {
        "registered": sum(p.numel() for p in plain.parameters()),
        "blocks_m": blocks / 1e6,
        "projections_m": projections / 1e6,
        "total_m": (blocks + projections) / 1e6,
        **with_both("change", change_of_fusion),
        "agreement_released": agreement_released,
        "agreement_right": agreement_right,
        "logits_released": logits_released,
        "logits_right": logits_right,
        "incomplete_file_refused": bool(error_of(RuntimeError, load_without_fusion)),
    }


def count_parameters(fusions: Sequence[BiFusion]) -> tuple[int, int]:
    """Parameters of fusion blocks, and of the projections between the widths of text and image."""
    projections = [part for f in fusions for part in (f.text_in, f.text_out)]
    total, projected = (sum(p.numel() for m in ms for p in m.parameters()) for ms in (fusions, projections))
    return total - projected, projected


def change_of_fusion(preset: str, steps: int = 3) -> float:
    """Largest change of any fusion weight after a few optimiser steps on the whole objective."""
    model = network(preset).train()
    before = [p.detach().clone() for p in model.fusions.parameters()]
    learner = Learner(network=model, objective=objective(preset))
    rates = dict.fromkeys(("lr", "language_lr", "text_lr"), 1e-3)
    optimizer = make_optimizer(learner, rates | {"weight_decay": 1e-5})
    for seed in range(steps):
        image = volume(seed=seed)
        learner(image, (image > 1).byte(), tokens())[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return max(largest_difference(a, b) for a, b in zip(before, model.fusions.parameters(), strict=True))


@torch.no_grad()
def compare_loaded(preset: str) -> tuple[float, float]:
    """One training's file in models of two other seeds: arg-max agreement and difference of the logits."""
    saved = network(preset).state_dict()
    if preset == "released":
        saved = without_fusion(saved)
    logits = []
    for seed in (1, 2):
        model = network(preset, seed=seed)
        model.load_state_dict(saved, strict=preset != "released")
        logits.append(model.predict(volume(), tokens()))
    a, b = logits
    return float((a.argmax(1) == b.argmax(1)).float().mean()), largest_difference(a, b)


def without_fusion(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the release saves."""
    return {name: weight for name, weight in weights.items() if not name.startswith("fusions.")}


def load_without_fusion() -> None:
    """Load such a file into this package's network."""
    model = network("released")
    model.load_state_dict(without_fusion(model.state_dict()))


def decoder_before_fusion() -> dict[str, Any]:
    """Row 2: the decoder reads features from before fusion, so the last exchange has no effect."""
    return with_both("outputs", lambda preset: len(outputs_that_change(preset, "last fusion"))) | {
        f"logits_{preset}_{part.replace(' ', '_')}": "logits" in outputs_that_change(preset, part)
        for preset in ("released", "paper")
        for part in ("last fusion", "last text stage", "first fusion")
    }


@torch.no_grad()
def outputs_that_change(preset: str, part: str) -> set[str]:
    """Which of the four outputs change when the weights of a part are set to NaN.

    In the release the concept texts also pass through the last text stage, on a separate path, so their
    vectors change with it; logits, class embeddings and visual vectors do not.
    """
    model = network(preset)
    first, *_, last = model.fusions
    modules = {"first fusion": first, "last fusion": last, "last text stage": model.text.stages[-1]}
    before = vars(model(volume(), tokens()))
    for p in modules[part].parameters():
        p.fill_(math.nan)
    after = vars(model(volume(), tokens()))
    return {name for name in before if not torch.equal(before[name], after[name])}


def unfused_concepts() -> dict[str, Any]:
    """Row 3: the aligned texts never see the image."""
    reached_released, tensors = tensors_reached_from_text(("separate_concepts",))
    reached_right, _ = tensors_reached_from_text("paper")
    return {
        **with_both("apart", concepts_of_two_images),
        "reached_released": reached_released,
        "reached_right": reached_right,
        "tensors": tensors,
    }


@torch.no_grad()
def concepts_of_two_images(preset: str) -> float:
    """Distance of the concept embeddings of two images, relative to their length."""
    model = network(preset)
    a, b = (model(volume(seed=seed), tokens()).text for seed in (1, 2))
    return float((a - b).norm() / a.norm())


def tensors_reached_from_text(preset: str | Sequence[str]) -> tuple[int, int]:
    """Number of weight tensors of vision encoder and fusion that concept embeddings depend on, and of all."""
    model = network(preset)
    model(volume(), tokens()).text.square().sum().backward()
    weights = [*model.vision.parameters(), *model.fusions.parameters()]
    return sum(p.grad is not None for p in weights), len(weights)


def erased_text() -> dict[str, Any]:
    """Row 4: without residuals an untrained block makes all text tokens equal."""
    before, after_released = token_cosines(("erasing_fusion",))
    _, after_right = token_cosines("paper")
    return {
        "before": float(before.mean()),
        "after_released": float(after_released.mean()),
        "after_right": float(after_right.mean()),
        **with_both("one_word", change_by_one_word),
    }


@cache
@torch.no_grad()
def token_cosines(preset: str | tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Cosines of all pairs of text tokens (AMOS prompts) before and after the first BiFusion, untrained."""
    model, seen = pretrained(preset), {}
    model.fusions[0].register_forward_hook(
        lambda _, inputs, output: seen.update(before=inputs[1], after=output[1])
    )
    model.predict(volume(), texts("amos22"))

    def pairs(words: Tensor) -> Tensor:
        unit_words = F.normalize(words[0], dim=-1)
        return (unit_words @ unit_words.T)[torch.ones(len(unit_words), len(unit_words)).triu(1).bool()]

    return pairs(seen["before"]), pairs(seen["after"])


@torch.no_grad()
def change_by_one_word(preset: str) -> float:
    """Relative change of the logits when every text of every class becomes the same single word."""
    model, prompts = pretrained(preset), texts("amos22")
    a = model.predict(volume(), prompts)
    b = model.predict(volume(), [["organ"] * len(row) for row in prompts])
    return float((a - b).norm() / a.norm())


def prompt_order() -> dict[str, Any]:
    """Row 5: in either preset, fusion does not know which row belongs to which channel."""
    logits_released, _ = effect_of_reversal("released")
    logits_right, texts_follow = effect_of_reversal("paper")
    logits = {"logits_released": logits_released, "logits_right": logits_right}
    return logits | {"texts_follow": texts_follow} | loss_of_matched_rows()


@torch.no_grad()
def effect_of_reversal(preset: str) -> tuple[float, float]:
    """Effect of reversed prompt rows on the logits, and on the text vectors apart from their order."""
    model = network(preset)
    a, b = (model(volume(), tokens(rows)) for rows in (texts(), texts()[::-1]))
    return largest_difference(a.logits, b.logits), largest_difference(a.text, b.text.flip(1))


def loss_of_matched_rows() -> dict[str, float]:
    """Global + local alignment loss of six texts per class near their image vector, and in reversed rows."""
    visual = torch.eye(7)[None]
    text = visual[:, :, None] + 0.3 * torch.randn(1, 7, 6, 7, generator=torch.Generator().manual_seed(5))
    return {
        name: float(global_alignment_loss(visual, rows) + local_alignment_loss(visual, rows))
        for name, rows in (("loss", unit(text, 0)), ("loss_reversed", unit(text, 0).flip(1)))
    }


@torch.no_grad()
def attended_padding() -> dict[str, Any]:
    """Row 6: after the first text stage padding counts as words.

    Compares the [CLS] vectors of all concept texts with those of each text encoded alone.
    """
    right_model = pretrained(("separate_concepts",))
    released_model = pretrained(("separate_concepts", "unmasked_padding"))
    together = tokenize(right_model.tokenizer, texts("amos22"), separate=True)
    alone = torch.cat([cls_alone(right_model, text) for row in texts("amos22") for text in row])
    right, released = (
        F.cosine_similarity(model.separate_concepts(together).flatten(0, 1), alone, dim=-1)
        for model in (right_model, released_model)
    )
    return {
        "padding_full": 1 - float(together.mask.float().mean()),
        "padding_concepts": 1 - float(together.concepts.mask.float().mean()),
        "cosine_released": float(released.mean()),
        "lowest_released": float(released.min()),
        "cosine_right": float(right.min()),
    }


def cls_alone(model: BiPVLSeg, text: str) -> Tensor:
    """The [CLS] vector (1 × d) of a single text after all text stages."""
    words = tokenize(model.tokenizer, [[text]])
    hidden = model.text.embed(words)
    for n in range(1, len(model.text.stages)):
        hidden = model.text.stage(n, hidden, words.mask)
    return hidden[:, 0]
