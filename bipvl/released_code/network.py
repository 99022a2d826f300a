"""Rows 1 to 6: the network."""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.engine.train import Learner, make_optimizer
from bipvl.model.bifusion import BiFusion
from bipvl.model.bipvlseg import BiPVLSeg
from bipvl.model.losses import global_alignment_loss, local_alignment_loss, unit
from bipvl.model.text import PromptTokens, tokenize

from .finding import Proof, percent, yes_no
from .tiny import agreement, moved, network, objective, pretrained, texts, tokens, volume

FULL_WIDTHS, FULL_TEXT = (48, 96, 192, 384, 768), 768
"""Channels of the stages and width of the text at the paper's size."""
OWN_PROMPTS = "own AMOS prompts in a trained text encoder (all-MiniLM-L6-v2); fusion random"


class PlainList(nn.Module):
    """How the release holds its fusion blocks: in a list of Python's, not in an ``nn.ModuleList``."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = list(blocks)


def fusion_never_trained() -> Proof:
    """Row 1: blocks in a plain list are neither trained nor saved, and their absence is not noticed."""
    with torch.device("meta"):  # at the paper's size, and no memory taken
        fusions = [BiFusion(image_dim=c, text_dim=FULL_TEXT) for c in FULL_WIDTHS]
    blocks, projections = count_parameters(fusions)
    plain = PlainList(fusions)
    plain.load_state_dict({})  # strict, and content with an empty file
    registered = sum(p.numel() for p in plain.parameters())
    step = {preset: change_of_fusion(preset) for preset in ("released", "paper")}
    agree, apart = agreement_of_loaded("released")
    whole, none = agreement_of_loaded("paper")
    return Proof(
        row=1,
        what="BiFusion blocks and their projections sit in plain Python lists",
        released=f"{registered} of {blocks / 1e6:.1f} M + {projections / 1e6:.1f} M parameters registered; "
        f"change after 3 optimiser steps {step['released']:g}; the saved file in two models of other seeds: "
        f"strict loading passes, arg-max agrees on {percent(agree, 1)} of voxels",
        right=f"all {sum(p.numel() for p in nn.ModuleList(fusions).parameters()) / 1e6:.1f} M registered; "
        f"change after 3 steps {step['paper']:.2g}; the saved file in two models: agrees on "
        f"{percent(whole)} of voxels, and a file without fusion tensors is refused",
        difference=f"fusion stays random and is lost with the process (logits move by {apart:.2g} against "
        f"{none:g})",
        quoted="38.6 M + 1.1 M parameters; arg-max agrees on 98.3 % of voxels",
        shown_on="parameter counts: the paper's own size; else a small random network, direction only",
        measured={
            "registered": registered,
            "blocks": blocks,
            "projections": projections,
            "change_released": step["released"],
            "change_right": step["paper"],
            "agreement_released": agree,
            "agreement_right": whole,
            "logits_released": apart,
            "logits_right": none,
            "lacking_file_refused": refuses_a_file_without_fusion(),
        },
    )


def count_parameters(fusions: Sequence[BiFusion]) -> tuple[int, int]:
    """Parameters of fusion blocks, and of the projections between the widths of text and image."""
    sizes = [
        (n.startswith(("text_in", "text_out")), p.numel()) for f in fusions for n, p in f.named_parameters()
    ]
    return sum(size for outer, size in sizes if not outer), sum(size for outer, size in sizes if outer)


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
    return max(moved(a, b) for a, b in zip(before, model.fusions.parameters(), strict=True))


@torch.no_grad()
def agreement_of_loaded(preset: str) -> tuple[float, float]:
    """What a training saves, loaded into models of two other seeds: arg-max agreement, difference of logits.

    The release's file holds no fusion tensors.
    """
    lacking = "fusions." if preset == "released" else "\0"
    saved = {k: v for k, v in network(preset).state_dict().items() if not k.startswith(lacking)}
    logits = []
    for seed in (1, 2):
        model = network(preset, seed=seed)
        model.load_state_dict(saved, strict=preset != "released")
        logits.append(model.predict(volume(), tokens()))
    return agreement(*logits), moved(*logits)


def refuses_a_file_without_fusion() -> bool:
    """Whether this package's network, in either preset, tells that the fusion tensors are missing."""
    model = network("released")
    saved = {k: v for k, v in model.state_dict().items() if not k.startswith("fusions.")}
    try:
        model.load_state_dict(saved)
    except RuntimeError:
        return True
    return False


def decoder_before_fusion() -> Proof:
    """Row 2: the decoder reads features from before fusion; what comes last has no effect."""
    changed = {
        (preset, part): outputs_that_break(preset, part)
        for preset in ("released", "paper")
        for part in ("last fusion", "last text stage", "first fusion")
    }
    logits = {key: "logits" in names for key, names in changed.items()}
    return Proof(
        row=2,
        what="the decoder's skips and bottleneck take features from before BiFusion",
        released=f"last BiFusion set to NaN: {len(changed['released', 'last fusion'])} of 4 outputs change; "
        f"last text stage set to NaN: logits change: {yes_no(logits['released', 'last text stage'])} (the "
        f"first BiFusion reaches them, through the next stage: {yes_no(logits['released', 'first fusion'])})",
        right=f"last BiFusion: {len(changed['paper', 'last fusion'])} of 4 outputs become NaN; last text "
        f"stage: logits change: {yes_no(logits['paper', 'last text stage'])}",
        difference="the deepest exchange of image and text is computed and thrown away",
        quoted="the last BiFusion and the last text stage set to NaN: nothing changes",
        shown_on="small random network; holds for any weights",
        measured={
            "outputs_released": len(changed["released", "last fusion"]),
            "outputs_right": len(changed["paper", "last fusion"]),
            **{f"logits_{p}_{part.replace(' ', '_')}": float(v) for (p, part), v in logits.items()},
        },
    )


@torch.no_grad()
def outputs_that_break(preset: str, part: str) -> set[str]:
    """Which of the four outputs change when a part's weights are set to NaN.

    In the release the concept texts run through the same last text stage on a path of their own, and their
    vectors break with it. Logits, class embeddings and visual vectors do not.
    """
    model = network(preset)
    parts = {"first fusion": model.fusions[0], "last fusion": model.fusions[-1]}
    module = (parts | {"last text stage": model.text.stages[-1]})[part]
    before = vars(model(volume(), tokens()))
    for p in module.parameters():
        p.fill_(math.nan)
    after = vars(model(volume(), tokens()))
    return {name for name in before if not torch.equal(before[name], after[name])}


def concepts_never_fused() -> Proof:
    """Row 3: the texts that are aligned never met the image."""
    apart = {p: concepts_of_two_images(p) for p in ("released", "paper")}
    reached = {p: tensors_reached_from_text(p) for p in (("separate_concepts",), "paper")}
    (none, total), (some, _) = reached.values()
    return Proof(
        row=3,
        what="concept texts run apart and are never fused; the fused full text feeds no loss",
        released=f"concept embeddings of two images differ by {apart['released']:g}; on its text side the "
        f"alignment loss reaches {none} of {total} tensors of vision encoder and fusion",
        right=f"they differ by {apart['paper']:.2g} of their length; it reaches {some} of {total}",
        difference="the text side of the alignment teaches the text encoder alone, never the fusion",
        quoted="concept embeddings are identical for two different images",
        shown_on="small random network; the zeros hold for any weights",
        measured={
            "apart_released": apart["released"],
            "apart_right": apart["paper"],
            "reached_released": none,
            "reached_right": some,
            "tensors": total,
        },
    )


@torch.no_grad()
def concepts_of_two_images(preset: str) -> float:
    """Distance of the concept embeddings that two images give, relative to their length."""
    model = network(preset)
    a, b = (model(volume(seed=seed), tokens()).text for seed in (1, 2))
    return float((a - b).norm() / a.norm())


def tensors_reached_from_text(preset: str | Sequence[str]) -> tuple[int, int]:
    """How many weights of vision encoder and fusion the concept embeddings depend on, and of how many."""
    model = network(preset)
    model(volume(), tokens()).text.square().sum().backward()
    weights = [*model.vision.parameters(), *model.fusions.parameters()]
    return sum(p.grad is not None for p in weights), len(weights)


def fusion_erases_text() -> Proof:
    """Row 4: without residuals an untrained block makes all text tokens one."""
    before, released = mean_cosines(("erasing_fusion",))
    _, right = mean_cosines("paper")
    one = {p: change_by_one_word(p) for p in ("released", "paper")}
    return Proof(
        row=4,
        what="no residual in the first text self-attention nor around the block",
        released=f"mean cosine of two text tokens {before:.2f} before the first BiFusion, {released:.3f} "
        f"after; every prompt replaced by one word moves the logits by {percent(one['released'], 2)}",
        right=f"{before:.2f} before, {right:.2f} after; moves the logits by {percent(one['paper'], 2)}",
        difference="the block as initialised, where row 1 keeps it, makes all tokens the same: the text is "
        "gone",
        quoted="0.45 before, 1.000 after; one word for every AMOS prompt changes 0.045 % of arg-max voxels",
        shown_on=OWN_PROMPTS,
        measured={
            "before": before,
            "after_released": released,
            "after_right": right,
            "one_word_released": one["released"],
            "one_word_right": one["paper"],
        },
    )


@cache
@torch.no_grad()
def token_cosines(preset: str | tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Cosines of all pairs of text tokens (AMOS prompts) before and after the first BiFusion, untrained."""
    model, seen = pretrained(preset), {}
    model.fusions[0].register_forward_hook(lambda _, inputs, output: seen.update(a=inputs[1], b=output[1]))
    model.predict(volume(), texts("amos22"))

    def pairs(words: Tensor) -> Tensor:
        unit = F.normalize(words[0], dim=-1)
        return (unit @ unit.T)[torch.ones(len(unit), len(unit)).triu(1).bool()]

    return pairs(seen["a"]), pairs(seen["b"])


def mean_cosines(preset: str | tuple[str, ...]) -> tuple[float, float]:
    """Means of ``token_cosines``."""
    before, after = token_cosines(preset)
    return float(before.mean()), float(after.mean())


@torch.no_grad()
def change_by_one_word(preset: str) -> float:
    """Relative change of the logits when each text of each class becomes the same single word."""
    model, prompts = pretrained(preset), texts("amos22")
    a = model.predict(volume(), prompts)
    b = model.predict(volume(), [["organ"] * len(row) for row in prompts])
    return float((a - b).norm() / a.norm())


def order_of_prompts() -> Proof:
    """Row 5: the fusion does not know which row belongs to which channel, in either preset."""
    released, right = (effect_of_reversal(preset) for preset in ("released", "paper"))
    loss, reversed_loss = loss_of_matched_rows()
    return Proof(
        row=5,
        what="fusion never ties prompt row c to output channel c",
        released=f"prompt rows reversed: the logits move by {released['logits']:.0e}",
        right=f"the preset `paper` does the same: {right['logits']:.0e}. Only the losses know the order: "
        f"well aligned vectors have the alignment loss {loss:.2f}, in reversed rows {reversed_loss:.2f}",
        difference="none between the presets: attention knows no order; a property to know, not mended here",
        quoted="1e-6",
        shown_on="small random network; holds for any weights",
        measured={
            "logits_released": released["logits"],
            "logits_right": right["logits"],
            "texts_follow": right["texts"],
            "loss": loss,
            "loss_reversed": reversed_loss,
        },
    )


@torch.no_grad()
def effect_of_reversal(preset: str) -> dict[str, float]:
    """How far reversed prompt rows move the logits, and the text vectors but for their order."""
    model = network(preset)
    a, b = (model(volume(), tokens(rows)) for rows in (texts(), texts()[::-1]))
    return {
        "logits": moved(a.logits, b.logits),
        "texts": moved(a.text, b.text.flip(1)),
    }


def loss_of_matched_rows(classes: int = 7, noise: float = 0.3) -> tuple[float, float]:
    """Global and local alignment loss of six texts a class, near their image vector; and in reversed rows."""
    random = torch.Generator().manual_seed(5)
    visual = torch.eye(classes)[None]
    text = unit(visual[:, :, None] + noise * torch.randn(1, classes, 6, classes, generator=random), 0)

    def loss(rows: Tensor) -> float:
        return float(global_alignment_loss(visual, rows) + local_alignment_loss(visual, rows))

    return loss(text), loss(text.flip(1))


def padding_attended() -> Proof:
    """Row 6: after the first text stage padding counts as words."""
    found = effect_of_padding()
    return Proof(
        row=6,
        what="the attention mask is passed to text stage 0 only, and never to BiFusion",
        released=f"{percent(found['padding_full'])} of full-description and "
        f"{percent(found['padding_concepts'])} of concept tokens are padding and attended; [CLS] cosine to "
        f"the same text alone, unpadded: {found['cosine_released']:.3f} (lowest "
        f"{found['lowest_released']:.3f})",
        right=f"padding is attended nowhere: cosine {found['cosine_right']:.6f}",
        difference="a text's embedding depends on how long the other texts are",
        quoted="27 % and 40 % padding; [CLS] cosine 0.958",
        shown_on="own AMOS prompts in a trained text encoder (all-MiniLM-L6-v2)",
        measured=found,
    )


@torch.no_grad()
def effect_of_padding() -> dict[str, float]:
    """Padding's share, and the cosine of [CLS] vectors to those of every concept text run alone."""
    model = pretrained(("separate_concepts",))
    careless = pretrained(("separate_concepts", "unmasked_padding"))
    together = tokenize(model.tokenizer, texts("amos22"), separate=True)
    alone = torch.cat([cls_alone(model, text) for row in texts("amos22") for text in row])

    def cosines(network: BiPVLSeg) -> Tensor:
        return F.cosine_similarity(network.separate_concepts(together).flatten(0, 1), alone, dim=-1)

    released, right = cosines(careless), cosines(model)
    return {
        "padding_full": _padding(together),
        "padding_concepts": _padding(together.concepts),
        "cosine_released": float(released.mean()),
        "lowest_released": float(released.min()),
        "cosine_right": float(right.min()),
    }


def cls_alone(model: BiPVLSeg, text: str) -> Tensor:
    """The [CLS] vector (1 × d) of one text through all text stages, with nothing beside it."""
    words = tokenize(model.tokenizer, [[text]])
    hidden = model.text.begin(words)
    for n in range(1, len(model.text.stages)):
        hidden = model.text.stage(n, hidden, words.mask)
    return hidden[:, 0]


def _padding(words: PromptTokens) -> float:
    return 1 - float(words.mask.float().mean())
