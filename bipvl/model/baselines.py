"""The compared vision-only networks by name (paper, comparison); all are MONAI's.

Their widths follow the profile's feature size: at the paper's 48 they equal the authors' comparison.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin
from monai.networks.nets import UNETR, AttentionUnet, BasicUNetPlusPlus, DynUNet, MedNeXt, SegResNet, UNet
from torch import Tensor, nn

from bipvl.common.lookup import choose
from bipvl.model.decoder import VisionUnet


@dataclass(frozen=True)
class NetworkSize:
    """A profile's ``network`` settings and its crop (voxels a side)."""

    feature_size: int
    depths: Sequence[int]
    num_heads: Sequence[int]
    window_size: int
    crop: Sequence[int]

    @property
    def width(self) -> int:
        """Channels of a convolution network's first level: 16 if the Swin transformer has 48."""
        return self.feature_size // 3

    def levels(self, first: int) -> list[int]:
        """Channels per level of a convolution network that halves as often as the Swin transformer."""
        return [first * 2**n for n in range(len(self.depths) + 1)]


def _vision_unet(in_channels: int, out_channels: int, size: NetworkSize, *, backbone: str) -> nn.Module:
    sizes = {name: getattr(size, name) for name in ("feature_size", "depths", "num_heads", "window_size")}
    return VisionUnet(in_channels=in_channels, out_channels=out_channels, backbone=backbone, **sizes)


def _unet(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    channels = size.levels(size.width)
    return UNet(3, in_channels, out_channels, channels, [2] * (len(channels) - 1), num_res_units=2)


def _attention_unet(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    channels = size.levels(size.width)
    return AttentionUnet(3, in_channels, out_channels, channels, [2] * (len(channels) - 1))


class _First(nn.Module):
    """The first output of a network that returns a list (UNet++: the deepest column)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, volume: Tensor) -> Tensor:
        return self.network(volume)[0]


def _unet_plus_plus(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    w = 2 * size.width
    network = BasicUNetPlusPlus(3, in_channels, out_channels, (w, w, 2 * w, 4 * w, 8 * w, w))
    for head in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):
        setattr(network, head, nn.Identity())  # outputs for deep supervision, not used here
    return _First(network)


def _segresnet(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    norm = ("GROUP", {"num_groups": gcd(8, size.width)})
    return SegResNet(3, size.width, in_channels, out_channels, norm=norm)


def _dynunet(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    filters = [min(channels, 320) for channels in size.levels(2 * size.width)]
    halvings = [2] * (len(filters) - 1)
    kernels = [3] * len(filters)
    network = DynUNet(3, in_channels, out_channels, kernels, [1, *halvings], halvings, filters=filters)
    for twice in ("input_block", "downsamples", "bottleneck", "upsamples"):
        delattr(network, twice)  # also registered, and run, as part of the skip layers
    return network


def _unetr(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    width, hidden = size.feature_size, 16 * size.feature_size
    network = UNETR(in_channels, out_channels, size.crop, width, hidden, mlp_dim=4 * hidden)
    for block in network.vit.blocks:
        block.norm_cross_attn = nn.Identity()  # for a cross-attention that this network does not have
    return network


def _mednext(in_channels: int, out_channels: int, size: NetworkSize) -> nn.Module:
    options = {f"{part}_expansion_ratio": 4 for part in ("encoder", "decoder", "bottleneck")}
    options |= {"kernel_size": 5, "use_residual_connection": True}
    return MedNeXt(3, 2 * size.width, in_channels, out_channels, **options)


BASELINES: dict[str, Callable[[int, int, NetworkSize], nn.Module]] = {
    "unet": _unet,
    "attention_unet": _attention_unet,
    "unet_plus_plus": _unet_plus_plus,
    "segresnet": _segresnet,
    "dynunet": _dynunet,
    "unetr": _unetr,
    "mednext": _mednext,
    "swin_unetr": partial(_vision_unet, backbone="swin_unetr"),
    "swin_unetr_v2": partial(_vision_unet, backbone="swin_unetr_v2"),
    "conv_unet": partial(_vision_unet, backbone="conv"),
}
"""Name → builder, which takes in_channels, out_channels and size."""


class Baseline(nn.Module, PyTorchModelHubMixin):
    """A vision-only network, saved and loaded like BiPVL-Seg.

    Args:
        name: one of ``BASELINES``.
        settings: the fields of :class:`NetworkSize`.

    Raises:
        BipvlError: an unknown name.
    """

    def __init__(self, *, name: str, in_channels: int, out_channels: int, **settings: Any) -> None:
        super().__init__()
        build = choose("network", name, BASELINES)
        self.network = build(in_channels, out_channels, NetworkSize(**settings))

    def forward(self, volume: Tensor, prompts: object = None) -> Tensor:
        """B × M × H × W × D → logits B × C × H × W × D; the prompts are ignored."""
        return self.network(volume)

    predict = forward

    @classmethod
    def _from_pretrained(cls, **kwargs: Any) -> Self:
        return super()._from_pretrained(**kwargs | {"strict": True})  # a missing tensor is an error
