"""Heads: turn the decoder's features into one logit per class, in other ways than the paper's convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.lookup import choose

HEADS = {
    "channels": "the paper's convolution: prompt row c guides, and channel c is class c by its position",
    "universal": "a compared method: class texts generate the last convolutions; the background's logit is 0",
    "prompted": "beyond the paper: prompt row c makes channel c, so rows may be new classes, in any order",
    "modulated": "beyond the paper: the mean text scales and shifts the features before the convolution",
}
"""What turns the decoder's features into one logit per class."""

WIDTH = 8
"""Channels of the convolutions that a class text generates, as published."""
CONTROLLER = 256
"""Width of the image's and of the text's part of the input that generates them, as published."""

SIMILARITY = 64
"""Width of the space in which voxels and texts are compared."""
SCALE = 10.0
"""Initial factor of the similarities: logits from −10 to 10 can separate classes."""


class UniversalHead(nn.Module):
    """The head of the CLIP-Driven Universal Model (Liu et al., ICCV 2023), a compared method.

    A class's text vector and the pooled bottleneck generate the weights of three 1 × 1 × 1 convolutions,
    which compute the class's logit.

    Args:
        channels: of the decoder's features.
        bottleneck: channels of the bottleneck.
        text_dim: width of a text vector.
    """

    def __init__(self, *, channels: int, bottleneck: int, text_dim: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.GroupNorm(_groups(channels), channels), nn.ReLU(), nn.Conv3d(channels, WIDTH, 1)
        )
        self.image = nn.Sequential(
            nn.GroupNorm(_groups(bottleneck), bottleneck),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(bottleneck, CONTROLLER),
        )
        self.text = nn.Linear(text_dim, CONTROLLER)
        self.shapes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (1, WIDTH)]
        self.controller = nn.Linear(2 * CONTROLLER, sum(o * (i + 1) for o, i in self.shapes))

    def forward(self, features: Tensor, bottleneck: Tensor, text: Tensor) -> Tensor:
        """Features B × c × H × W × D, bottleneck B × c' × h × w × d, text N × d → B × N × H × W × D."""
        image = self.image(bottleneck)[:, None].expand(-1, len(text), -1)  # B × N × 256
        words = F.relu(self.text(text)).expand(len(image), -1, -1)
        weights = self.controller(torch.cat([image, words], -1))  # B × N × all weights
        x = self.features(features).flatten(2)[:, None].expand(-1, len(text), -1, -1)  # B × N × 8 × HWD
        start = 0
        for number, (out, width) in enumerate(self.shapes):
            kernel, bias = weights[..., start : start + out * (width + 1)].split([out * width, out], -1)
            start += out * (width + 1)
            x = kernel.unflatten(-1, (out, width)) @ x + bias[..., None]
            x = F.relu(x) if number < len(self.shapes) - 1 else x
        return x.squeeze(2).unflatten(-1, features.shape[2:])


class PromptedHead(nn.Module):
    """A logit is the scaled cosine similarity of a voxel's features and a class's fused text.

    No weight belongs to a class: row c of the texts makes channel c. The background, if it has a channel, is
    a learnt vector; without that channel a learnt ``bias`` decides how similar is enough.
    """

    def __init__(self, *, channels: int, text_dim: int, background: bool) -> None:
        super().__init__()
        self.features = nn.Conv3d(channels, SIMILARITY, 1)
        self.text = nn.Linear(text_dim, SIMILARITY)
        self.background = nn.Parameter(torch.randn(1, SIMILARITY)) if background else None
        self.bias = None if background else nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Features B × c × H × W × D and texts B × N × d → B × C × H × W × D, C = N (+ 1 for background)."""
        classes = self.text(text)  # B × N × 64
        if self.background is not None:
            classes = torch.cat([self.background.expand(len(classes), -1, -1), classes], 1)
        voxels = F.normalize(self.features(features), dim=1)
        similarity = torch.einsum("bcxyz,bnc->bnxyz", voxels, F.normalize(classes, dim=-1))
        logits = similarity * self.log_scale.exp()
        return logits if self.bias is None else logits + self.bias


class ModulatedHead(nn.Module):
    """The paper's convolution after features that the text has scaled and shifted, channel by channel.

    In the paper's network the features of the two finest resolutions never meet the text; here they do.

    Args:
        channels: of the decoder's features.
        text_dim: width of a text vector.
        out_channels: of the logits.
    """

    def __init__(self, *, channels: int, text_dim: int, out_channels: int) -> None:
        super().__init__()
        self.text = nn.Linear(text_dim, 2 * channels)
        nn.init.zeros_(self.text.bias)
        self.mix = nn.Conv3d(channels, channels, 1)
        self.out = nn.Conv3d(channels, out_channels, 1)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Features B × c × H × W × D and texts B × N × d → B × C × H × W × D."""
        scale, shift = self.text(text.mean(1))[..., None, None, None].chunk(2, dim=1)  # B × c × 1 × 1 × 1
        return self.out(F.relu(self.mix(features * (1 + scale) + shift)))


def _groups(channels: int) -> int:
    return next(n for n in (16, 12, 8, 6, 4, 3, 2, 1) if channels % n == 0)


def make_head(
    name: str, *, channels: int, bottleneck: int, text_dim: int, background: bool, out_channels: int
) -> nn.Module | None:
    """A head by name; None for ``channels``, which is the decoder's own convolution.

    Raises:
        BipvlError: an unknown name.
    """
    choose("head", name, HEADS)
    if name == "universal":
        return UniversalHead(channels=channels, bottleneck=bottleneck, text_dim=text_dim)
    if name == "prompted":
        return PromptedHead(channels=channels, text_dim=text_dim, background=background)
    if name == "modulated":
        return ModulatedHead(channels=channels, text_dim=text_dim, out_channels=out_channels)
    return None
