"""BiPVL-Seg: a vision and a text encoder that exchange information at every stage (paper, network)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.model.bifusion import BiFusion, fuse_volume
from bipvl.model.decoder import UnetrDecoder
from bipvl.model.encoders import make_encoder
from bipvl.model.heads import ModulatedHead, PromptedHead, make_head
from bipvl.model.instance_norm import keep_layout
from bipvl.model.text import WEIGHTS, TextEncoder, load_backbone, load_tokenizer
from bipvl.model.tokens import PromptTokens, tokenize

Prompts = Sequence[Sequence[str]]
"""For each of N classes its K + 1 short texts: the title, then every concept with its name."""

GRID = 3
"""The bottleneck is pooled to GRID³ positions, the size that a 96³ crop has, so that any crop works."""


@dataclass(frozen=True)
class TextState:
    """The text up to the first fusion, which is the same for every image.

    Attributes:
        hidden: token states N × L × d.
        tokens: the tokens that they belong to.
        precomputed: what the first BiFusion computes of the text alone; None while its weights are trained.
    """

    hidden: Tensor
    tokens: PromptTokens
    precomputed: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class BiPVLOutput:
    """What the training objective needs.

    Attributes:
        logits: B × C × H × W × D.
        class_logits: class-specific embeddings E, B × C × 27.
        visual: visual embedding of each class in the shared space, B × N × 128, not normalised.
        text: text embeddings of each class in the shared space, B × N × (K + 1) × 128, not normalised.
    """

    logits: Tensor
    class_logits: Tensor
    visual: Tensor
    text: Tensor


class BiPVLSeg(nn.Module, PyTorchModelHubMixin):
    """Segment a volume, guided by one prompt per class.

    Args:
        in_channels: image channels M.
        num_classes: foreground classes N, one prompt each.
        text_config: transformers config of the text encoder, as a dict (see :meth:`create`).
        background: whether the logits have a background channel before the classes (softmax data sets).
        backbone: one of ``bipvl.model.encoders.BACKBONES``.
        feature_size, depths, num_heads, window_size: as in MONAI's SwinUNETR; 1 to 4 stages.
        fusion_layers, fusion_heads, fusion_width: layers, heads and MLP width of each BiFusion.
        fusion_direction: one of ``bipvl.model.bifusion.DIRECTIONS``.
        fused_stages: numbers of the stages with a BiFusion, from 1, or from −1 backwards; default: all.
        shared_dim: width of the shared space of the alignment losses.
        late_text_layers: layers of each text stage from stage 2 on; default: the paper's shares.
        frozen_stages: number of text stages that keep their pretrained weights, counted from stage 0. The
            stages up to the first fusion see no image; if they are frozen, a training computes them once.
        head: one of ``bipvl.model.heads.HEADS``.

    Example:
        >>> model = BiPVLSeg.create(text="minilm", in_channels=1, num_classes=2)  # doctest: +SKIP
        >>> model.predict(volume, [["Liver in a CT image", ...], ["Spleen ...", ...]])  # doctest: +SKIP
    """

    deviations: ClassVar[tuple[str, ...]] = ()
    """What subclasses in ``released.py`` do differently from the paper."""
    fusion_type: ClassVar[type[BiFusion]] = BiFusion
    merging: ClassVar[str | type[nn.Module]] = "merging"
    """Patch merging of the Swin encoders, as in MONAI's SwinTransformer."""
    separate_texts: ClassVar[bool] = False
    """Whether tokens also hold each concept's text alone."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        text_config: dict[str, Any],
        background: bool = True,
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
        late_text_layers: int | None = None,
        frozen_stages: int = 0,
        head: str = "channels",
    ) -> None:
        super().__init__()
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
            merging=self.merging,
        )
        channels = self.vision.channels
        self.text = TextEncoder(
            config=text_config, num_stages=self.vision.num_stages, late_layers=late_text_layers
        )
        self.fused_stages = _stage_numbers(fused_stages, self.vision.num_stages)
        self.first_fused = min(self.fused_stages, default=self.vision.num_stages)
        self.fusions = nn.ModuleList(
            self.fusion_type(
                image_dim=c,
                text_dim=self.text.dim,
                layers=fusion_layers,
                heads=fusion_heads,
                mlp_width=fusion_width,
                direction=fusion_direction,
            )
            if n in self.fused_stages
            else nn.Identity()  # so that the others keep their numbers
            for n, c in enumerate(channels[1:], start=1)
        )
        if head == "universal" and self.fused_stages:
            raise ValueError("the universal head reads texts that saw no image; give it fused_stages=()")
        self.head = make_head(
            head,
            channels=channels[0],
            bottleneck=channels[-1],
            text_dim=self.text.dim,
            background=background,
            out_channels=self.out_channels,
        )
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
        keep_layout(self)

    @classmethod
    def create(cls, *, text: str, text_weights: str = "pretrained", **arguments: Any) -> Self:
        """Make a new model with a pretrained text encoder.

        Args:
            text: the text encoder's folder, hub id or short name (``minilm`` works offline).
            text_weights: one of ``bipvl.model.text.WEIGHTS``; the others test what its knowledge is worth.
            arguments: as for the class.

        Raises:
            BipvlError: the text encoder cannot be loaded completely, or its tokenizer does not fit it.
        """
        change = choose("kind of text weights", text_weights, WEIGHTS)
        backbone, tokenizer = change(load_backbone(text)), load_tokenizer(text)
        if len(tokenizer) > (words := backbone.config.vocab_size):
            raise BipvlError(
                f"the tokenizer of {text} has {len(tokenizer)} words, but its text encoder only {words}",
                "give both from the same checkpoint",
            )
        model = cls(text_config=backbone.config.to_dict(), **arguments)
        model.text.load_backbone(backbone)
        model.tokenizer = tokenizer
        return model

    def forward(
        self, volume: Tensor, prompts: Prompts | PromptTokens | TextState, *, logits_only: bool = False
    ) -> BiPVLOutput | Tensor:
        """Volume B × M × H × W × D and prompts → the network's output, or its logits alone."""
        # Embed
        text = self._encode_text(prompts)  # the text stages that see no image, once for all samples
        hidden = text.hidden.expand(len(volume), -1, -1, -1)  # B × N × L × d
        x = self.vision.embed(volume)  # B × c₀ × H/2 × W/2 × D/2
        features = [self.vision.feature(x)]
        x = self.vision.bridge(0, x)

        # For each stage: vision, text, fuse
        for n in range(1, self.vision.num_stages + 1):
            unfused = self.vision.stage(n, x)  # B × cₙ × H/2ⁿ⁺¹ × W/2ⁿ⁺¹ × D/2ⁿ⁺¹
            x = self.vision.bridge(n, unfused)
            if n > self.first_fused:  # the stages before have run in _encode_text
                hidden = self._text_stage(n, hidden, text.tokens.mask)
            if n in self.fused_stages:
                x, hidden = self._fuse(n, x, hidden, text)
            features.append(self.vision.feature(self._decoder_input(n, unfused, x)))

        # Decode
        bottleneck = self.decoder.bottleneck(features[-1])  # B × c_S × H/2ˢ⁺¹ × W/2ˢ⁺¹ × D/2ˢ⁺¹
        concepts = text.tokens.pool_texts(hidden)  # B × N × (K + 1) × d
        logits = self._decode(volume, features, bottleneck, concepts, text)  # B × C × H × W × D
        if logits_only:
            return logits

        # Class embeddings and alignment vectors
        class_logits = self._class_embeddings(bottleneck)  # B × C × 27
        visual = self.visual_projection(class_logits[:, -self.num_classes :])  # B × N × 128
        aligned = self.text_projection(self._aligned_texts(concepts, text.tokens))  # B × N × (K + 1) × 128
        return BiPVLOutput(logits=logits, class_logits=class_logits, visual=visual, text=aligned)

    def predict(self, volume: Tensor, prompts: Prompts | PromptTokens | TextState) -> Tensor:
        """Logits B × C × H × W × D, for inference: without class embeddings and alignment vectors."""
        return self(volume, prompts, logits_only=True)

    def training_prompts(self, prompts: Prompts) -> PromptTokens | TextState:
        """What a whole training can share of the prompts: tokens, or the states of frozen text stages."""
        tokens = self._tokenize(prompts).to(self.text_projection.weight.device)
        if not self.text_is_static:
            return tokens
        with torch.no_grad():
            return self._encode_text(tokens)  # the first fusion is trained: nothing of it can be kept

    def encode_prompts(self, prompts: Prompts | PromptTokens | TextState) -> TextState:
        """Everything about the prompts that needs no image: compute it once for all windows and scans.

        After the model's weights change, the result is out of date.
        """
        state = self._encode_text(prompts)
        if not self.fused_stages:
            return state
        words = state.tokens.without_padding(state.hidden[None])
        return replace(state, precomputed=self.fusions[self.first_fused - 1].precompute(words))

    @property
    def takes_any_prompts(self) -> bool:
        """Whether each prompt row makes a channel of its own, for any number and names of classes."""
        return isinstance(self.head, PromptedHead)

    def _freeze(self, text_stages: int) -> None:
        frozen = [self.text.embeddings, *self.text.stages[:text_stages]] if text_stages else []
        for module in frozen:
            module.requires_grad_(False)

    def _encode_text(self, prompts: Prompts | PromptTokens | TextState) -> TextState:
        """Tokenise the prompts and run the text stages that see no image."""
        if isinstance(prompts, TextState):
            return prompts
        tokens = prompts if isinstance(prompts, PromptTokens) else self._tokenize(prompts)
        if len(tokens.ids) != self.num_classes and not self.takes_any_prompts:
            raise ValueError(
                f"{len(tokens.ids)} prompts for {self.num_classes} classes; give one prompt per class"
            )
        return self._start_text(tokens.to(self.text_projection.weight.device))

    def _tokenize(self, prompts: Prompts) -> PromptTokens:
        if self.tokenizer is None:
            raise BipvlError("this model has no tokenizer", "set model.tokenizer, or pass PromptTokens")
        length = self.text.config.max_position_embeddings
        return tokenize(self.tokenizer, prompts, max_length=length, separate=self.separate_texts)

    def _start_text(self, tokens: PromptTokens) -> TextState:
        return self._text_before_fusion(self.text.embed(tokens), tokens)

    def _text_before_fusion(self, hidden: Tensor, tokens: PromptTokens) -> TextState:
        """Text stages 1 to the first fusion, of token states N × L × d after stage 0."""
        for n in range(1, self.first_fused + 1):
            hidden = self.text.stage(n, hidden, tokens.mask)
        return TextState(hidden=hidden, tokens=tokens)

    def _text_stage(self, n: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Text stage n on token states B × N × L × d with their mask N × L."""
        return self.text.stage(n, hidden.flatten(0, 1), mask.repeat(len(hidden), 1)).view_as(hidden)

    def _fuse(self, n: int, x: Tensor, hidden: Tensor, text: TextState) -> tuple[Tensor, Tensor]:
        """BiFusion n: image B × cₙ × h × w × d and token states B × N × L × d → the same shapes."""
        precomputed = text.precomputed if n == self.first_fused else None
        words = text.tokens.without_padding(hidden)  # B × T × d
        x, words = fuse_volume(self.fusions[n - 1], x, words, precomputed)
        return x, text.tokens.with_padding(words, hidden)

    def _decoder_input(self, n: int, unfused: Tensor, fused: Tensor) -> Tensor:
        """What the decoder takes of stage n: the fused features, if the image has read the text there."""
        is_fused = n in self.fused_stages and self.fusions[n - 1].direction.image_reads
        return fused if is_fused else unfused

    def _decode(
        self, volume: Tensor, features: list[Tensor], bottleneck: Tensor, concepts: Tensor, text: TextState
    ) -> Tensor:
        """From the bottleneck's output to the logits B × C × H × W × D; ``concepts`` B × N × (K + 1) × d."""
        x = self.decoder.ascend(volume, features, bottleneck)
        if self.head is None:
            return x
        if isinstance(self.head, PromptedHead | ModulatedHead):
            return self.head(x, concepts.mean(2))
        titles = text.tokens.pool_texts(text.hidden[None])[0, :, 0]  # N × d
        logits = self.head(x, bottleneck, titles)
        background = torch.zeros_like(logits[:, : self.out_channels - self.num_classes])
        return torch.cat([background, logits], 1)

    def _class_embeddings(self, bottleneck: Tensor) -> Tensor:
        """Bottleneck features B × c × h × w × d → class-specific embeddings E, B × C × 27."""
        if bottleneck.shape[2:] != (GRID,) * 3:  # pooling that changes nothing has no repeatable gradient
            bottleneck = F.adaptive_avg_pool3d(bottleneck, GRID)
        positions = bottleneck.flatten(2).transpose(1, 2)  # B × 27 × c
        return self.class_head(positions).transpose(1, 2)

    def _aligned_texts(self, concepts: Tensor, tokens: PromptTokens) -> Tensor:
        """The text vectors of the alignment losses, B × N × (K + 1) × d: those that have seen the image."""
        return concepts

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if self.deviations:
            self._hub_mixin_config["deviations"] = list(self.deviations)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, config: dict[str, Any] | None = None, **kwargs: Any) -> Self:
        saved = tuple((config or {}).get("deviations", ()))
        if saved != cls.deviations:
            raise BipvlError(
                f"this network was saved with the deviations {list(saved)} from the paper, not "
                f"{list(cls.deviations)}",
                f"open it with bipvl.model.released.network_class({list(saved)}).from_pretrained",
                model_id,
            )
        model = super()._from_pretrained(model_id=model_id, **kwargs | {"strict": True})
        with suppress(BipvlError):  # a model saved without a tokenizer takes PromptTokens only
            model.tokenizer = load_tokenizer(model_id)
        return model


def _stage_numbers(chosen: Sequence[int] | None, stages: int) -> frozenset[int]:
    """The chosen ones of stages 1 to ``stages``, all if None; negative numbers count from the last."""
    if chosen is None:
        return frozenset(range(1, stages + 1))
    if any(n == 0 or abs(n) > stages for n in chosen):
        raise BipvlError(
            f"fused_stages is {tuple(chosen)}, but the encoder has the stages 1 to {stages}",
            "choose another variant or a profile with more stages",
        )
    return frozenset(n if n > 0 else stages + 1 + n for n in chosen)
