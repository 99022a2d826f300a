"""BiFusion, the bidirectional fusion block (paper, figure b): text and image tokens attend to each other."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.lookup import choose


@dataclass(frozen=True)
class Direction:
    """Which side attends to the other; the paper's fusion works in both directions."""

    text_reads: bool = True
    image_reads: bool = True


DIRECTIONS = {
    "both": Direction(),
    "image_to_text": Direction(image_reads=False),
    "text_to_image": Direction(text_reads=False),
}
"""Name → direction. In ``image_to_text`` the text learns from the image, and the image passes unchanged."""


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its input (``dim // downsample``)."""

    def __init__(self, *, dim: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = math.gcd(heads, inner)  # widths below the paper's have fewer heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query B × Q × c, key and value B × K × c → B × Q × c. The Q × K matrix is never in memory."""
        q = self._split_heads(self.q_proj(query))  # B × heads × Q × inner/heads
        k = self._split_heads(self.k_proj(key))  # B × heads × K × inner/heads
        v = self._split_heads(self.v_proj(value))  # B × heads × K × inner/heads
        out = F.scaled_dot_product_attention(q, k, v)  # B × heads × Q × inner/heads
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TwoWayLayer(nn.Module):
    """One layer: text self-attention, text → image attention, text MLP, image → text attention, image MLP.

    In the names of the attentions the side that asks (the query) comes first. A one-way layer lacks the
    parts of the side that does not read.
    """

    def __init__(self, *, dim: int, heads: int, mlp_width: int, direction: Direction) -> None:
        super().__init__()
        self.direction = direction
        self.self_attn = Attention(dim=dim, heads=heads)
        self.mlp = _mlp(dim, mlp_width)
        self.norm_self_attn = nn.LayerNorm(dim)
        if direction.text_reads:
            self.norm_text_to_image = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        if direction.text_reads:
            self.cross_attn_text_to_image = Attention(dim=dim, heads=heads, downsample=2)
        if direction.image_reads:
            self.cross_attn_image_to_text = Attention(dim=dim, heads=heads, downsample=2)
            self.image_mlp = _mlp(dim, mlp_width)
            self.norm_image_to_text = nn.LayerNorm(dim)
            self.norm_image_mlp = nn.LayerNorm(dim)

    def attend_to_self(self, q: Tensor, prompt: Tensor) -> Tensor:
        """Text self-attention, which needs no image: text and positional prompt B × T × c → B × T × c."""
        return self.norm_self_attn(q + self.self_attn(q + prompt, q + prompt, q))

    def exchange(self, q: Tensor, k: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """All after the self-attention: text and prompt B × T × c, image B × P × c → text, image."""
        if self.direction.text_reads:
            q = self.norm_text_to_image(q + self.cross_attn_text_to_image(q + prompt, k, k))
        q = self.norm_mlp(q + self.mlp(q))
        if self.direction.image_reads:
            k = self.norm_image_to_text(k + self.cross_attn_image_to_text(k, q + prompt, q))
            k = self.norm_image_mlp(k + self.image_mlp(k))
        return q, k


class BiFusion(nn.Module):
    """Bidirectional fusion of image tokens B × P × c with text tokens B × T × d; shapes stay the same.

    A residual connection adds the block's input to its output on both sides (paper, figure b).

    Args:
        image_dim: width c of an image token.
        text_dim: width d of a text token; it is projected to c and back where the two differ.
        layers: number of two-way layers.
        heads: attention heads.
        mlp_width: hidden width of the MLPs.
        direction: one of ``DIRECTIONS``; a side that does not read passes unchanged.
    """

    first_layer: ClassVar[type[TwoWayLayer]] = TwoWayLayer

    def __init__(
        self,
        *,
        image_dim: int,
        text_dim: int,
        layers: int = 2,
        heads: int = 8,
        mlp_width: int = 2048,
        direction: str = "both",
    ) -> None:
        super().__init__()
        self.direction = choose("fusion direction", direction, DIRECTIONS)
        same = image_dim == text_dim
        self.text_in = nn.Identity() if same else nn.Linear(text_dim, image_dim)
        if self.direction.text_reads:
            self.text_out = nn.Identity() if same else nn.Linear(image_dim, text_dim)
        kinds = [self.first_layer] + [TwoWayLayer] * (layers - 1)
        self.layers = nn.ModuleList(
            kind(dim=image_dim, heads=heads, mlp_width=mlp_width, direction=self.direction) for kind in kinds
        )
        if self.direction.text_reads:
            self.final_attn_text_to_image = Attention(dim=image_dim, heads=heads, downsample=2)
            self.norm_final_attn = nn.LayerNorm(image_dim)

    def forward(
        self, image: Tensor, text: Tensor, precomputed: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image B × P × c and text B × T × d → the same shapes, after each has read the other.

        ``precomputed`` is ``precompute(text)`` if it is known already; its batch size may be 1.
        """
        prompt, q = precomputed or self.precompute(text)  # B × T × c each
        prompt, q = prompt.expand(len(image), -1, -1), q.expand(len(image), -1, -1)
        k = image
        for number, layer in enumerate(self.layers):
            q = layer.attend_to_self(q, prompt) if number else q
            q, k = layer.exchange(q, k, prompt)
        fused_image, fused_text = image, text
        if self.direction.image_reads:
            fused_image = self.add_input(image, k)
        if self.direction.text_reads:
            q = self.norm_final_attn(q + self.final_attn_text_to_image(q + prompt, k, k))
            fused_text = self.add_input(text, self.text_out(q))
        return fused_image, fused_text

    def precompute(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """What needs no image: text B × T × d → positional prompt E and first queries, B × T × c each."""
        prompt = self.text_in(F.normalize(text, dim=-1))
        return prompt, self.layers[0].attend_to_self(prompt, prompt)

    def add_input(self, before: Tensor, after: Tensor) -> Tensor:
        """The residual connection around the block."""
        return before + after


def _mlp(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim))


def fuse_volume(
    block: BiFusion, x: Tensor, text: Tensor, precomputed: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Apply ``block`` to a feature volume B × c × h × w × d and text B × T × d."""
    tokens, text = block(x.flatten(2).transpose(1, 2), text, precomputed)  # B × hwd × c, B × T × d
    return tokens.transpose(1, 2).reshape_as(x), text
