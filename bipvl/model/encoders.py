"""Vision encoders that run stage by stage, so that text can enter between stages (paper, network)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from monai.networks.blocks import UnetResBlock
from monai.networks.nets.swin_unetr import SwinTransformer, WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.lookup import choose


def channel_norm(x: Tensor) -> Tensor:
    """LayerNorm over the channels of B × c × h × w × d, without parameters, as in SwinUNETR."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class VisionEncoder(nn.Module, ABC):
    """S stages, each of which halves the size and doubles the channels.

    The output of stage n is B × ``channels[n]`` × H/2ⁿ⁺¹ × W/2ⁿ⁺¹ × D/2ⁿ⁺¹; stage 0 is the embedding. Between
    stages comes ``bridge``, whose output BiFusion takes. ``feature`` prepares an output for the decoder.
    """

    def __init__(self, *, feature_size: int, num_stages: int) -> None:
        super().__init__()
        self.num_stages = num_stages
        self.channels = [feature_size * 2**n for n in range(num_stages + 1)]
        self.divisor = 2 ** (num_stages + 1)

    def embed(self, volume: Tensor) -> Tensor:
        """B × M × H × W × D → B × c₀ × H/2 × W/2 × D/2.

        Raises:
            ValueError: a side cannot be halved often enough.
        """
        size = tuple(volume.shape[2:])
        if any(side % self.divisor for side in size) or max(size) <= self.divisor:
            raise ValueError(
                f"the volume has {size} voxels; with {self.num_stages} stages each side must be divisible by "
                f"{self.divisor} and one must be longer: one bottleneck voxel cannot be instance-normalised"
            )
        return self._embed(volume)

    @abstractmethod
    def _embed(self, volume: Tensor) -> Tensor: ...

    @abstractmethod
    def stage(self, n: int, x: Tensor) -> Tensor:
        """Stage n = 1 … S: B × cₙ₋₁ × … → B × cₙ × half the size."""

    def bridge(self, n: int, x: Tensor) -> Tensor:
        """What comes before stage n + 1, with the same shape; by default nothing."""
        return x

    def feature(self, x: Tensor) -> Tensor:
        """A stage's output as the decoder takes it, with the same shape; by default unchanged."""
        return x


class SwinEncoder(VisionEncoder):
    """MONAI's Swin transformer, 1 to 4 stages; V2 has a residual convolution block before each stage."""

    def __init__(
        self,
        *,
        in_channels: int,
        feature_size: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        v2: bool,
        merging: str | type[nn.Module] = "merging",
    ) -> None:
        if feature_size % 12:
            raise ValueError(f"feature_size is {feature_size}; it must be divisible by 12")
        if len(depths) != len(num_heads) or not 1 <= len(depths) <= 4:
            raise ValueError(
                f"depths {depths} and num_heads {num_heads} must have one entry per stage, for 1 to 4 stages"
            )
        super().__init__(feature_size=feature_size, num_stages=len(depths))
        self.swin = SwinTransformer(
            in_chans=in_channels,
            embed_dim=feature_size,
            window_size=(window_size,) * 3,
            patch_size=(2, 2, 2),
            depths=depths,
            num_heads=num_heads,
            use_v2=v2,
            downsample=merging,
            use_flash_attention=True,  # MONAI uses it only when no gradient is needed
        )
        for module in self.swin.modules():
            if isinstance(module, WindowAttention):  # a constant, which does not belong in a checkpoint
                index = module.relative_position_index
                module.register_buffer("relative_position_index", index, persistent=False)

    def _embed(self, volume: Tensor) -> Tensor:
        return self.swin.patch_embed(volume)

    def stage(self, n: int, x: Tensor) -> Tensor:
        return getattr(self.swin, f"layers{n}")[0](x.contiguous())

    def bridge(self, n: int, x: Tensor) -> Tensor:
        """The V2 block of the next stage; nothing after the last one."""
        if not self.swin.use_v2 or n == self.num_stages:
            return x
        return getattr(self.swin, f"layers{n + 1}c")[0](x.contiguous())

    def feature(self, x: Tensor) -> Tensor:
        return channel_norm(x)


class ConvEncoder(VisionEncoder):
    """A residual convolution encoder of MONAI's ``UnetResBlock``; ``depths`` are the blocks per stage."""

    def __init__(self, *, in_channels: int, feature_size: int, depths: Sequence[int]) -> None:
        super().__init__(feature_size=feature_size, num_stages=len(depths))
        block = partial(UnetResBlock, 3, kernel_size=3, norm_name="instance")
        self.stem = block(in_channels, feature_size, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(block(c // 2, c, stride=2), *(block(c, c, stride=1) for _ in range(depth - 1)))
            for c, depth in zip(self.channels[1:], depths, strict=True)
        )

    def _embed(self, volume: Tensor) -> Tensor:
        return self.stem(volume)

    def stage(self, n: int, x: Tensor) -> Tensor:
        return self.stages[n - 1](x)


BACKBONES: dict[str, Callable[..., VisionEncoder]] = {
    "swin_unetr": partial(SwinEncoder, v2=False),
    "swin_unetr_v2": partial(SwinEncoder, v2=True),
    "conv": ConvEncoder,
}


def make_encoder(
    *,
    in_channels: int,
    backbone: str = "swin_unetr_v2",
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
    merging: str | type[nn.Module] = "merging",
) -> VisionEncoder:
    """A vision encoder by name; only the Swin encoders use heads, window size and patch merging.

    Raises:
        BipvlError: no such backbone.
    """
    build = choose("backbone", backbone, BACKBONES)
    sizes = {"in_channels": in_channels, "feature_size": feature_size, "depths": depths}
    if build is not ConvEncoder:
        sizes |= {"num_heads": num_heads, "window_size": window_size, "merging": merging}
    return build(**sizes)
