"""The compared networks, each by its name (paper, comparison)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from bipvl.choices import choose

from .vision import VisionUnet

BASELINES: dict[str, Callable[..., nn.Module]] = {
    "swin_unetr": partial(VisionUnet, backbone="swin_unetr"),
    "swin_unetr_v2": partial(VisionUnet, backbone="swin_unetr_v2"),
    "conv_unet": partial(VisionUnet, backbone="conv"),
}
"""Name → builder that takes in_channels, out_channels and the profile's network settings."""


class Baseline(nn.Module, PyTorchModelHubMixin):
    """A network that sees the image alone, saved and loaded like BiPVL-Seg."""

    def __init__(self, *, name: str, in_channels: int, out_channels: int, **settings: Any) -> None:
        super().__init__()
        self.network = choose("network", name, BASELINES)(
            in_channels=in_channels, out_channels=out_channels, **settings
        )

    def forward(self, volume: Tensor, prompts: object = None) -> Tensor:
        """B × M × H × W × D → logits B × C × H × W × D; prompts are not looked at."""
        return self.network(volume)

    predict = forward

    @classmethod
    def _from_pretrained(cls, **kwargs: Any) -> Self:
        return super()._from_pretrained(**kwargs | {"strict": True})  # no tensor stays random in silence
