"""The bidirectional fusion block (paper, figure b): text and image tokens attend to each other."""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.lookup import choose


@dataclass(frozen=True)
class Direction:
    """Who reads whom: an ablation of the paper's both-ways fusion."""

    text_reads: bool = True
    image_reads: bool = True


DIRECTIONS = {
    "both": Direction(),
    "image_to_text": Direction(image_reads=False),
    "text_to_image": Direction(text_reads=False),
}
"""Name → who reads; ``image_to_text`` is knowledge of the image flowing into the text alone."""


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its input (width // downsample)."""

    def __init__(self, *, dim: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = math.gcd(heads, inner)  # widths below the paper's carry fewer heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """B × Q × c, B × K × c, B × K × c → B × Q × c; the Q × K matrix is never held in memory."""
        q, k, v = (
            self._split(self.q_proj(query)),
            self._split(self.k_proj(key)),
            self._split(self.v_proj(value)),
        )
        out = F.scaled_dot_product_attention(q, k, v)  # B × heads × Q × inner/heads
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TwoWayLayer(nn.Module):
    """One layer of the block: text self-attention, text → image, text MLP, image → text, image MLP.

    Of a one-way block the image is left as it is, or the text sees no image.
    """

    def __init__(
        self, *, dim: int, heads: int, mlp_width: int, first_residual: bool, direction: Direction
    ) -> None:
        super().__init__()
        self.first_residual, self.direction = first_residual, direction
        self.text_self = Attention(dim=dim, heads=heads)
        self.text_mlp = _mlp(dim, mlp_width)
        self.text_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 + direction.text_reads))
        if direction.text_reads:
            self.text_to_image = Attention(dim=dim, heads=heads, downsample=2)
        if direction.image_reads:
            self.image_to_text = Attention(dim=dim, heads=heads, downsample=2)
            self.image_mlp = _mlp(dim, mlp_width)
            self.image_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def read(self, q: Tensor, prompt: Tensor) -> Tensor:
        """Text self-attention, which needs no image: text and positional prompt B × T × c → text."""
        if self.first_residual:
            return self.text_norms[0](q + self.text_self(q + prompt, q + prompt, q))
        return self.text_norms[0](self.text_self(q, q, q))

    def exchange(self, q: Tensor, k: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """All after ``read``: text B × T × c, image B × P × c, positional prompt B × T × c → text, image."""
        if self.direction.text_reads:
            q = self.text_norms[1](q + self.text_to_image(q + prompt, k, k))
        q = self.text_norms[-1](q + self.text_mlp(q))
        if self.direction.image_reads:
            k = self.image_norms[0](k + self.image_to_text(k, q + prompt, q))
            k = self.image_norms[1](k + self.image_mlp(k))
        return q, k


class BiFusion(nn.Module):
    """Bidirectional fusion of B × P × c image tokens with B × T × d text tokens; both come back in place.

    ``residual`` (the paper's figure) adds the block's input to its output on both sides and to the first
    text self-attention; without it (the released code) the block erases what the text said. ``direction``:
    of ``DIRECTIONS``; what does not read passes unchanged.
    """

    def __init__(
        self,
        *,
        image_dim: int,
        text_dim: int,
        layers: int = 2,
        heads: int = 8,
        mlp_width: int = 2048,
        residual: bool = True,
        direction: str = "both",
    ) -> None:
        super().__init__()
        self.residual = residual
        self.direction = choose("fusion direction", direction, DIRECTIONS)
        same = image_dim == text_dim
        self.text_in = nn.Identity() if same else nn.Linear(text_dim, image_dim)
        if self.direction.text_reads:
            self.text_out = nn.Identity() if same else nn.Linear(image_dim, text_dim)
        self.layers = nn.ModuleList(
            TwoWayLayer(
                dim=image_dim,
                heads=heads,
                mlp_width=mlp_width,
                first_residual=residual or i > 0,
                direction=self.direction,
            )
            for i in range(layers)
        )
        if self.direction.text_reads:
            self.final = Attention(dim=image_dim, heads=heads, downsample=2)
            self.final_norm = nn.LayerNorm(image_dim)

    def begin(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """What needs no image: text B × T × d → positional prompt and first queries, B × T × c each."""
        prompt = self.text_in(F.normalize(text, dim=-1))
        return prompt, self.layers[0].read(prompt, prompt)

    def forward(
        self, image: Tensor, text: Tensor, begun: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image B × P × c, text B × T × d → the same shapes, each having seen the other.

        ``begun`` is ``begin(text)`` where it is known already; its batch may be 1.
        """
        prompt, q = begun or self.begin(text)
        prompt, q = prompt.expand(len(image), -1, -1), q.expand(len(image), -1, -1)
        k = image
        for i, layer in enumerate(self.layers):
            q, k = layer.exchange(q if i == 0 else layer.read(q, prompt), k, prompt)
        if self.direction.image_reads:
            image = image + k if self.residual else k
        if self.direction.text_reads:
            q = self.text_out(self.final_norm(q + self.final(q + prompt, k, k)))
            text = text + q if self.residual else q
        return image, text


def _mlp(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim))


def fuse_volume(
    block: BiFusion, x: Tensor, text: Tensor, begun: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """``block`` on a feature volume B × c × h × w × d and text B × T × d."""
    tokens, text = block(x.flatten(2).transpose(1, 2), text, begun)
    return tokens.transpose(1, 2).reshape_as(x), text
