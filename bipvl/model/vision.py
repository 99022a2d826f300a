"""Vision stages and the convolution decoder, composed of MONAI's SwinUNETR parts (paper, network)."""

from collections.abc import Sequence

from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional as F


def channel_norm(x: Tensor) -> Tensor:
    """LayerNorm over the channels of B × c × h × w × d, without parameters (SwinUNETR's skip features)."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class SwinEncoder(nn.Module):
    """A Swin transformer that can be walked stage by stage, so that text can enter between stages.

    Wraps MONAI's ``SwinTransformer``; 1 to 4 stages, ``len(depths)`` of them. Stage n gives
    B × ``channels[n]`` × H/2ⁿ⁺¹ × W/2ⁿ⁺¹ × D/2ⁿ⁺¹; n = 0 is the patch embedding.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        feature_size: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        v2: bool,
    ) -> None:
        super().__init__()
        if feature_size % 12:
            raise ValueError(f"feature_size is {feature_size}; it must be divisible by 12")
        if len(depths) != len(num_heads) or not 1 <= len(depths) <= 4:
            raise ValueError(
                f"depths {depths} and num_heads {num_heads} must have one entry a stage, 1 to 4 stages"
            )
        self.swin = SwinTransformer(
            in_chans=in_channels,
            embed_dim=feature_size,
            window_size=(window_size,) * 3,
            patch_size=(2, 2, 2),
            depths=depths,
            num_heads=num_heads,
            use_v2=v2,
        )
        self.num_stages = len(depths)
        self.channels = [feature_size * 2**n for n in range(self.num_stages + 1)]
        self.divisor = 2 ** (self.num_stages + 1)

    def embed(self, volume: Tensor) -> Tensor:
        """B × M × H × W × D → patch embedding B × c₀ × H/2 × W/2 × D/2."""
        size = tuple(volume.shape[2:])
        if any(side % self.divisor for side in size) or max(size) <= self.divisor:
            raise ValueError(
                f"the volume is {size} voxels; with {self.num_stages} stages each side must be divisible by "
                f"{self.divisor} and one be longer: a single bottleneck voxel cannot be instance-normalised"
            )
        return self.swin.patch_embed(volume)

    def stage(self, n: int, x: Tensor) -> Tensor:
        """Swin stage n = 1 … S: B × cₙ₋₁ × … → B × cₙ × half the size."""
        return getattr(self.swin, f"layers{n}")[0](x.contiguous())

    def bridge(self, n: int, x: Tensor) -> Tensor:
        """The V2 residual convolution block that stands before stage n + 1; nothing after the last stage."""
        if not self.swin.use_v2 or n == self.num_stages:
            return x
        return getattr(self.swin, f"layers{n + 1}c")[0](x.contiguous())


class UnetrDecoder(nn.Module):
    """SwinUNETR's convolution decoder for any number of stages."""

    def __init__(self, *, in_channels: int, out_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        block = {"spatial_dims": 3, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        c0 = channels[0]
        self.input_block = UnetrBasicBlock(in_channels=in_channels, out_channels=c0, stride=1, **block)
        self.skip_blocks = nn.ModuleList(
            UnetrBasicBlock(in_channels=c, out_channels=c, stride=1, **block) for c in channels[:-2]
        )
        self.bottleneck = UnetrBasicBlock(
            in_channels=channels[-1], out_channels=channels[-1], stride=1, **block
        )
        ups = [*zip(channels[1:], channels[:-1], strict=True)][::-1] + [(c0, c0)]
        self.ups = nn.ModuleList(
            UnetrUpBlock(in_channels=i, out_channels=o, upsample_kernel_size=2, **block) for i, o in ups
        )
        self.out = UnetOutBlock(spatial_dims=3, in_channels=c0, out_channels=out_channels)

    def forward(self, volume: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Volume B × M × H × W × D and features v₀ … v_S → logits B × C × H × W × D."""
        skips = [self.input_block(volume)]
        skips += [block(v) for block, v in zip(self.skip_blocks, features, strict=False)]
        skips.append(features[-2])
        x = self.bottleneck(features[-1])
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
        return self.out(x)


def encode(encoder: SwinEncoder, volume: Tensor) -> list[Tensor]:
    """The encoder without language: features v₀ … v_S, each normalised over its channels."""
    x = encoder.embed(volume)
    features = [channel_norm(x)]
    for n in range(1, encoder.num_stages + 1):
        x = encoder.stage(n, encoder.bridge(n - 1, x))
        features.append(channel_norm(x))
    return features


class SwinUnetr(nn.Module):
    """MONAI's SwinUNETR (V2 by default) for 1 to 4 stages; with four it computes what MONAI's class does."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        v2: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = SwinEncoder(
            in_channels=in_channels,
            feature_size=feature_size,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            v2=v2,
        )
        self.decoder = UnetrDecoder(
            in_channels=in_channels, out_channels=out_channels, channels=self.encoder.channels
        )

    def forward(self, volume: Tensor) -> Tensor:
        """B × M × H × W × D → logits B × C × H × W × D."""
        return self.decoder(volume, encode(self.encoder, volume))
