"""What turns the decoder's features into a logit a class, where it is not one convolution for all."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 8
"""Channels that each class's own convolutions work on, as published."""
CONTROLLER = 256
"""Width of the image's and of the text's part of what decides those convolutions, as published."""

SIMILARITY = 64
"""Width in which voxels and texts are compared."""
SCALE = 10.0
"""Of the similarities at the start: then −10 to 10, enough to tell classes apart."""


class UniversalHead(nn.Module):
    """The head of the CLIP-Driven Universal Model (Liu et al., ICCV 2023), a compared method.

    A class's text vector and the image's pooled bottleneck make the weights of three 1 × 1 × 1 convolutions,
    which give that class's logit: ``text_dim`` wide text, ``channels`` of features, ``bottleneck`` of it.
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
    """A logit is the scaled cosine similarity of a voxel's features and a class's fused text (issue 6).

    No weight belongs to a class: row c of the texts makes channel c. The background, where there is one
    channel for it, is a vector that is learnt. Without it ``bias`` says how similar is enough.
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


def _groups(channels: int) -> int:
    return next(n for n in (16, 12, 8, 6, 4, 3, 2, 1) if channels % n == 0)
