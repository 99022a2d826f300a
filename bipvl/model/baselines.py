"""The compared networks, each by its name (paper, comparison)."""

from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from .vision import SwinUnetr

BASELINES: dict[str, type[nn.Module]] = {"swin_unetr_v2": SwinUnetr}
"""Name → class that takes in_channels, out_channels and the profile's network settings."""


class Baseline(nn.Module, PyTorchModelHubMixin):
    """A network that sees the image alone, saved and loaded like BiPVL-Seg."""

    def __init__(self, *, name: str, in_channels: int, out_channels: int, **settings: Any) -> None:
        super().__init__()
        self.network = BASELINES[name](in_channels=in_channels, out_channels=out_channels, **settings)

    def forward(self, volume: Tensor, prompts: object = None) -> Tensor:
        """B × M × H × W × D → logits B × C × H × W × D; prompts are not looked at."""
        return self.network(volume)

    predict = forward

    @classmethod
    def _from_pretrained(cls, **kwargs: Any) -> Self:
        return super()._from_pretrained(**kwargs | {"strict": True})  # no tensor stays random in silence
