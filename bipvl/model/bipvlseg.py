"""BiPVL-Seg: vision and text stages that exchange information at every stage (paper, network)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.model.deviations import departures

from .bifusion import BiFusion, fuse_volume
from .decoder import UnetrDecoder
from .encoders import make_encoder
from .heads import PromptedHead, UniversalHead
from .released import RepeatingMerging
from .text import WEIGHTS, PromptTokens, TextEncoder, load_backbone, load_tokenizer, tokenize

HEADS = {
    "channels": "the paper's convolution: prompt row c guides, and channel c is class c by its place",
    "universal": "a compared method: the classes' texts make the last convolutions; background's logit is 0",
    "prompted": "beyond the paper: prompt row c makes channel c, so any rows in any order, new classes too",
}
"""What turns the decoder's features into a logit a class."""

Prompts = Sequence[Sequence[str]]
"""N classes, each its K + 1 short texts: the title, then every concept with its name."""

GRID = 3
"""The bottleneck is pooled to GRID³ positions, what a 96³ crop has, so that any crop size works."""


@dataclass(frozen=True)
class TextState:
    """Text up to the first fusion: token states N × L × d. The same for every image, so computed once.

    ``begun``: what the first BiFusion makes of them without an image, where its weights stand still.
    """

    hidden: Tensor
    tokens: PromptTokens
    begun: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class BiPVLOutput:
    """What training needs.

    ``logits`` B × C × H × W × D; ``class_logits`` B × C × 27 (class-specific embeddings E);
    ``visual`` B × N × 128 and ``text`` B × N × (K + 1) × 128 in the shared space, not normalised.
    """

    logits: Tensor
    class_logits: Tensor
    visual: Tensor
    text: Tensor


class BiPVLSeg(nn.Module, PyTorchModelHubMixin):
    """Segmentation of a volume under the guidance of one prompt a class.

    Args:
        in_channels: image channels M.
        num_classes: foreground classes N, one prompt each.
        background: whether the logits have a background channel before the classes (softmax sets).
        text_config: transformers config of the text encoder, as a dict (see :meth:`create`).
        preset: ``paper``, ``released``, or deviations from the paper by name (``bipvl.model.deviations``).
        backbone: of ``bipvl.model.encoders.BACKBONES``.
        feature_size, depths, num_heads, window_size: as in MONAI's SwinUNETR; 1 to 4 stages.
        fusion_layers, fusion_heads, fusion_width: layers, heads and MLP width of each BiFusion.
        fusion_direction: of ``bipvl.model.bifusion.DIRECTIONS``.
        fused_stages: numbers of the stages with a BiFusion, from 1, or from −1 down; all where not given.
        frozen_stages: text stages kept at their pretrained weights, from the lowest (0) up; those up to the
            first fusion see no image, so freezing them lets a training compute them once.
        head: of ``HEADS``.

    Example:
        >>> model = BiPVLSeg.create(text="minilm", in_channels=1, num_classes=2)  # doctest: +SKIP
        >>> model.predict(volume, [["Liver in a CT image", ...], ["Spleen ...", ...]])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        text_config: dict[str, Any],
        background: bool = True,
        preset: str | Sequence[str] = "paper",
        backbone: str = "swin_unetr_v2",
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        fusion_layers: int = 2,
        fusion_heads: int = 8,
        fusion_width: int = 2048,
        fusion_direction: str = "both",
        fused_stages: Sequence[int] | None = None,
        shared_dim: int = 128,
        frozen_stages: int = 0,
        head: str = "channels",
    ) -> None:
        super().__init__()
        self.departures = departures(preset)
        self.num_classes = num_classes
        self.out_channels = num_classes + int(background)
        self.tokenizer: Any = None
        self.vision = make_encoder(
            backbone=backbone,
            in_channels=in_channels,
            feature_size=feature_size,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            merging=RepeatingMerging if "repeated_octants" in self.departures else "merging",
        )
        channels = self.vision.channels
        self.text = TextEncoder(config=text_config, num_stages=self.vision.num_stages)
        self.fused_stages = _stage_numbers(fused_stages, self.vision.num_stages)
        self.first_fused = min(self.fused_stages, default=self.vision.num_stages)
        self.fusions = nn.ModuleList(
            BiFusion(
                image_dim=c,
                text_dim=self.text.dim,
                layers=fusion_layers,
                heads=fusion_heads,
                mlp_width=fusion_width,
                residual="erasing_fusion" not in self.departures,
                direction=fusion_direction,
            )
            if n in self.fused_stages
            else nn.Identity()  # so that the others keep their numbers
            for n, c in enumerate(channels[1:], start=1)
        )
        self.head = self._make_head(head, channels, background)
        self.decoder = UnetrDecoder(
            in_channels=in_channels,
            out_channels=self.out_channels if self.head is None else None,
            channels=channels,
        )
        self.class_head = nn.Sequential(
            nn.Linear(channels[-1], channels[-1]), nn.ReLU(), nn.Linear(channels[-1], self.out_channels)
        )
        self.visual_projection = nn.Linear(GRID**3, shared_dim)
        self.text_projection = nn.Linear(self.text.dim, shared_dim)
        self.text_is_static = frozen_stages > self.first_fused  # nothing up to the first fusion is trained
        self._freeze(frozen_stages)
        if "untrained_fusion" in self.departures:
            self.fusions.requires_grad_(False)

    @property
    def takes_any_prompts(self) -> bool:
        """Whether ``predict`` makes a channel a prompt row, however many there are and whatever they name."""
        return isinstance(self.head, PromptedHead)

    @classmethod
    def create(cls, *, text: str, text_weights: str = "pretrained", **arguments: Any) -> Self:
        """A new model around a pretrained text encoder: a folder, hub id or short name (``minilm``: offline).

        ``text_weights``: of ``bipvl.model.text.WEIGHTS``; the others are what language knowledge is held
        against.

        Raises:
            BipvlError: it cannot be loaded whole, or its tokenizer has more words than it.
        """
        change = choose("kind of text weights", text_weights, WEIGHTS)
        backbone, tokenizer = change(load_backbone(text)), load_tokenizer(text)
        words = backbone.config.vocab_size
        if len(tokenizer) > words:
            raise BipvlError(
                f"the tokenizer of {text} has {len(tokenizer)} words and its text encoder {words}: "
                "they are not of one model; give both from the same checkpoint"
            )
        model = cls(text_config=backbone.config.to_dict(), **arguments)
        model.text.load_backbone(backbone)
        model.tokenizer = tokenizer
        return model

    def forward(self, volume: Tensor, prompts: Prompts | PromptTokens | TextState) -> BiPVLOutput:
        """Volume B × M × H × W × D and the prompts → all that the objective needs."""
        state = self._read(prompts)
        features, hidden = self._fuse(volume, state)
        bottleneck = self.decoder.bottleneck(features[-1])
        class_logits = self._class_embeddings(bottleneck)  # B × C × 27
        concepts = self._pool_segments(hidden, state.tokens)  # B × N × (K + 1) × d
        logits = self._logits(volume, features, bottleneck, state, concepts)
        if "separate_concepts" in self.departures:
            concepts = self.separate_concepts(state.tokens).expand(len(volume), -1, -1, -1)
        return BiPVLOutput(
            logits=logits,
            class_logits=class_logits,
            visual=self.visual_projection(class_logits[:, -self.num_classes :]),
            text=self.text_projection(concepts),
        )

    def predict(self, volume: Tensor, prompts: Prompts | PromptTokens | TextState) -> Tensor:
        """Logits B × C × H × W × D alone: no class embeddings, no alignment, for inference."""
        state = self._read(prompts)
        features, hidden = self._fuse(volume, state)
        concepts = self._pool_segments(hidden, state.tokens)
        return self._logits(volume, features, self.decoder.bottleneck(features[-1]), state, concepts)

    def encode_prompts(self, prompts: Prompts | PromptTokens | TextState) -> TextState:
        """All that needs no image: tokens, first text stages, first queries; do it once and pass it around.

        Of a model whose weights have changed since, the result is out of date.
        """
        state = self._read(prompts)
        if not self.fused_stages:
            return state
        words = _tokens_of(state.hidden[None], state.tokens)
        return replace(state, begun=self.fusions[self.first_fused - 1].begin(words))

    def separate_concepts(self, tokens: PromptTokens) -> Tensor:
        """The released code's concept texts, each alone: their [CLS] vectors, N × (K + 1) × d.

        Raises:
            BipvlError: the tokens hold no concept texts of their own.
        """
        if tokens.concepts is None:
            raise BipvlError(
                "this preset reads each concept's text alone: give PromptTokens their concepts too, or texts"
            )
        alone = tokens.concepts
        hidden, mask = self.text.begin(alone), self._mask_after_first(alone).mask
        for n in range(1, len(self.text.stages)):
            hidden = self.text.stage(n, hidden, mask)
        return hidden[:, 0].unflatten(0, (self.num_classes, -1))

    def _read(self, prompts: Prompts | PromptTokens | TextState) -> TextState:
        """Tokens and the text stages that see no image."""
        if isinstance(prompts, TextState):
            return prompts
        tokens = prompts if isinstance(prompts, PromptTokens) else self._tokenize(prompts)
        if len(tokens.ids) != self.num_classes and not self.takes_any_prompts:
            raise ValueError(f"{len(tokens.ids)} prompts for {self.num_classes} classes; give one a class")
        tokens = tokens.to(self.text_projection.weight.device)
        hidden = self.text.begin(tokens)
        tokens = self._mask_after_first(tokens)
        for n in range(1, self.first_fused + 1):
            hidden = self.text.stage(n, hidden, tokens.mask)
        return TextState(hidden=hidden, tokens=tokens)

    def _mask_after_first(self, tokens: PromptTokens) -> PromptTokens:
        return tokens.unmasked() if "unmasked_padding" in self.departures else tokens

    def static_prompts(self, prompts: Prompts) -> PromptTokens | TextState:
        """The prompts as far ahead as a whole training can share them: tokens, or frozen text states."""
        tokens = self._tokenize(prompts).to(self.text_projection.weight.device)
        if not self.text_is_static:
            return tokens
        with torch.no_grad():
            return self._read(tokens)  # the first fusion is trained: nothing of it can be kept

    def train(self, mode: bool = True) -> Self:
        """As usual, but frozen text layers stay without dropout: they are a fixed function."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _fuse(self, volume: Tensor, state: TextState) -> tuple[list[Tensor], Tensor]:
        """Walk both encoders; returns fused features v₀ … v_S and token states B × N × L × d."""
        tokens = state.tokens
        hidden = state.hidden.expand(len(volume), -1, -1, -1)  # B × N × L × d
        x = self.vision.embed(volume)
        features = [self.vision.feature(x)]
        x = self.vision.bridge(0, x)
        for n, fusion in enumerate(self.fusions, start=1):
            seen = self.vision.stage(n, x)
            x = self.vision.bridge(n, seen)
            if n > self.first_fused:  # those before are in the state already
                hidden = self._text_stage(n, hidden, tokens.mask)
            feature = seen
            if n in self.fused_stages:
                begun = state.begun if n == self.first_fused else None
                x, words = fuse_volume(fusion, x, _tokens_of(hidden, tokens), begun)
                flat = hidden.flatten(1, 2)  # B × N·L × d
                hidden = flat.index_copy(1, tokens.valid, words.to(flat.dtype)).view_as(hidden)
                if fusion.direction.image_reads and "unfused_features" not in self.departures:
                    feature = x
            features.append(self.vision.feature(feature))
        return features, hidden

    def _text_stage(self, n: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Text stage n on B × N × L × d token states with their N × L mask.

        In training a sample at a time, and each meets the same dropout: so a batch means the same to one
        process as to several that share it.
        """
        if not self.training:
            return self.text.stage(n, hidden.flatten(0, 1), mask.repeat(len(hidden), 1)).view_as(hidden)
        devices = [] if hidden.device.type == "cpu" else [hidden.device]
        samples = []
        for k, sample in enumerate(hidden, start=1):
            with torch.random.fork_rng(devices, k < len(hidden), device_type=hidden.device.type):
                samples.append(self.text.stage(n, sample, mask))
        return torch.stack(samples)

    def _make_head(self, name: str, channels: Sequence[int], background: bool) -> nn.Module | None:
        """The head by name, None for the decoder's own convolution."""
        choose("head", name, HEADS)
        if name == "universal" and self.fused_stages:
            raise ValueError("the universal head reads texts that saw no image; give it fused_stages=()")
        if name == "universal":
            return UniversalHead(channels=channels[0], bottleneck=channels[-1], text_dim=self.text.dim)
        if name == "prompted":
            return PromptedHead(channels=channels[0], text_dim=self.text.dim, background=background)
        return None

    def _logits(
        self,
        volume: Tensor,
        features: list[Tensor],
        bottleneck: Tensor,
        state: TextState,
        concepts: Tensor,
    ) -> Tensor:
        """From the bottleneck block's output up: B × C × H × W × D. ``concepts`` B × N × (K + 1) × d."""
        x = self.decoder.ascend(volume, features, bottleneck)
        if self.head is None:
            return x
        if isinstance(self.head, PromptedHead):
            return self.head(x, concepts.mean(2))
        titles = self._pool_segments(state.hidden[None], state.tokens)[0, :, 0]  # N × d
        logits = self.head(x, bottleneck, titles)
        background = torch.zeros_like(logits[:, : self.out_channels - self.num_classes])
        return torch.cat([background, logits], 1)

    def _class_embeddings(self, bottleneck: Tensor) -> Tensor:
        """Bottleneck features B × c × h × w × d → class-specific embeddings E, B × C × 27."""
        if bottleneck.shape[2:] != (GRID,) * 3:  # else what it is, without a gradient that no GPU repeats
            bottleneck = F.adaptive_avg_pool3d(bottleneck, GRID)
        positions = bottleneck.flatten(2).transpose(1, 2)  # B × 27 × c
        return self.class_head(positions).transpose(1, 2)

    @staticmethod
    def _pool_segments(hidden: Tensor, tokens: PromptTokens) -> Tensor:
        """Mean token state of every text of every class: B × N × L × d → B × N × (K + 1) × d."""
        number = torch.arange(tokens.texts, device=hidden.device)
        member = (tokens.segment[:, None, :] == number[:, None]).to(hidden.dtype)  # N × (K + 1) × L
        weight = member / member.sum(-1, keepdim=True).clamp(min=1)
        return torch.einsum("bnld,nkl->bnkd", hidden, weight)

    def _tokenize(self, prompts: Prompts) -> PromptTokens:
        if self.tokenizer is None:
            raise BipvlError("this model has no tokenizer; set model.tokenizer, or pass PromptTokens")
        return tokenize(
            self.tokenizer,
            prompts,
            max_length=self.text.config.max_position_embeddings,
            separate="separate_concepts" in self.departures,
        )

    def _freeze(self, stages: int) -> None:
        self._frozen = [self.text.embeddings, *self.text.stages[:stages]] if stages else []
        for module in self._frozen:
            module.requires_grad_(False).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **kwargs: Any) -> Self:
        model = super()._from_pretrained(model_id=model_id, **kwargs | {"strict": True})
        with suppress(BipvlError):  # a model saved without a tokenizer takes PromptTokens alone
            model.tokenizer = load_tokenizer(model_id)
        return model


def _stage_numbers(chosen: Sequence[int] | None, stages: int) -> frozenset[int]:
    """The chosen of the stages 1 to ``stages``, all where None; negative numbers count from the last."""
    if chosen is None:
        return frozenset(range(1, stages + 1))
    if any(n == 0 or abs(n) > stages for n in chosen):
        raise ValueError(f"fused_stages is {tuple(chosen)}; the encoder has the stages 1 to {stages}")
    return frozenset(n if n > 0 else stages + 1 + n for n in chosen)


def _tokens_of(hidden: Tensor, tokens: PromptTokens) -> Tensor:
    """Token states without the padding: B × N × L × d → B × T × d."""
    return hidden.flatten(1, 2).index_select(1, tokens.valid)
