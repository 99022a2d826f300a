"""SwinUNETR's convolution decoder for any number of stages, and the vision-only network that uses it."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from bipvl.model.encoders import VisionEncoder, make_encoder
from bipvl.model.instance_norm import keep_layout


class UnetrDecoder(nn.Module):
    """Decode features v₀ … v_S and the volume itself, with the blocks of MONAI's SwinUNETR.

    Args:
        in_channels: image channels M.
        out_channels: C; None: return the last features, with ``channels[0]`` channels, for another head.
        channels: of v₀ … v_S.
    """

    def __init__(self, *, in_channels: int, out_channels: int | None, channels: Sequence[int]) -> None:
        super().__init__()
        settings = {"kernel_size": 3, "norm_name": "instance", "res_block": True}
        block = partial(UnetrBasicBlock, 3, stride=1, **settings)
        up = partial(UnetrUpBlock, 3, upsample_kernel_size=2, **settings)
        c0 = channels[0]
        self.input_block = block(in_channels, c0)
        self.skip_blocks = nn.ModuleList(block(c, c) for c in channels[:-2])
        self.bottleneck = block(channels[-1], channels[-1])
        self.ups = nn.ModuleList(up(i, o) for i, o in [*pairwise(reversed(channels)), (c0, c0)])
        self.out = UnetOutBlock(3, c0, out_channels) if out_channels else nn.Identity()

    def forward(self, volume: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Volume B × M × H × W × D and features v₀ … v_S → logits B × C × H × W × D."""
        return self.ascend(volume, features, self.bottleneck(features[-1]))

    def ascend(self, volume: Tensor, features: Sequence[Tensor], x: Tensor) -> Tensor:
        """The same, starting from the output ``x`` = bottleneck(v_S) of the bottleneck block."""
        skips = [self.input_block(volume)]
        skips += [block(v) for block, v in zip(self.skip_blocks, features, strict=False)]
        skips.append(features[-2])
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.out(x)


def encode(encoder: VisionEncoder, volume: Tensor) -> list[Tensor]:
    """Run a vision encoder without text: features v₀ … v_S as the decoder takes them."""
    x = encoder.embed(volume)
    features = [encoder.feature(x)]
    for n in range(1, encoder.num_stages + 1):
        x = encoder.stage(n, encoder.bridge(n - 1, x))
        features.append(encoder.feature(x))
    return features


class VisionUnet(nn.Module):
    """A vision encoder (arguments of ``make_encoder``) and the decoder.

    With four Swin stages it equals MONAI's SwinUNETR (V2).
    """

    def __init__(self, *, in_channels: int, out_channels: int, **encoder: Any) -> None:
        super().__init__()
        self.encoder = make_encoder(in_channels=in_channels, **encoder)
        self.decoder = UnetrDecoder(
            in_channels=in_channels, out_channels=out_channels, channels=self.encoder.channels
        )
        keep_layout(self)

    def forward(self, volume: Tensor) -> Tensor:
        """B × M × H × W × D → logits B × C × H × W × D."""
        return self.decoder(volume, encode(self.encoder, volume))
