"""The vision stages and decoder: equal to MONAI's SwinUNETR, for one to four stages, on any device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import SwinUNETR
from monai.networks.nets.swin_unetr import MERGING_MODE
from torch import nn
from torch.testing import assert_close

from bipvl.common.errors import BipvlError
from bipvl.model.decoder import VisionUnet, encode
from bipvl.model.encoders import BACKBONES, channel_norm
from bipvl.model.instance_norm import keep_layout
from bipvl.model.losses import segmentation_loss

NAMES = {
    "encoder.swin": "swinViT",
    "decoder.input_block": "encoder1",
    "decoder.skip_blocks.0": "encoder2",
    "decoder.skip_blocks.1": "encoder3",
    "decoder.skip_blocks.2": "encoder4",
    "decoder.bottleneck": "encoder10",
    **{f"decoder.ups.{i}": f"decoder{5 - i}" for i in range(5)},
    "decoder.out": "out",
}
"""Where our modules stand in MONAI's class."""


def tiny(stages: int = 2, **overrides) -> VisionUnet:
    sizes = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "window_size": 4}
    stage_sizes = {"depths": (1,) * stages, "num_heads": (2, 4, 4, 4)[:stages]}
    torch.manual_seed(0)
    return VisionUnet(**sizes | stage_sizes | overrides).eval()


def from_monai(reference: SwinUNETR) -> dict[str, torch.Tensor]:
    """MONAI's weights under our names."""
    ours = {theirs: mine for mine, theirs in NAMES.items()}
    return {
        f"{ours[name.split('.')[0]]}.{name.split('.', 1)[1]}": tensor
        for name, tensor in reference.state_dict().items()
        if not name.endswith("relative_position_index")  # a constant
    }


@pytest.mark.parametrize("v2", [True, False])
def test_four_stages_equal_monai(v2):
    torch.manual_seed(0)
    sizes = {"in_channels": 2, "out_channels": 3, "feature_size": 12, "depths": (2, 2, 2, 2)}
    reference = SwinUNETR(**sizes, num_heads=(3, 6, 12, 24), window_size=7, use_v2=v2).eval()
    backbone = "swin_unetr_v2" if v2 else "swin_unetr"
    mine = VisionUnet(**sizes, num_heads=(3, 6, 12, 24), window_size=7, backbone=backbone).eval()
    mine.load_state_dict(from_monai(reference))  # strict: no tensor missing, none left over
    volume = torch.randn(1, 2, 32, 64, 32)
    theirs = []
    reference.swinViT.register_forward_hook(lambda module, inputs, output: theirs.extend(output))
    with torch.no_grad():
        logits, features = reference(volume), encode(mine.encoder, volume)
        for a, b in zip(features, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        assert torch.allclose(mine.decoder(volume, features), logits, atol=1e-5)


def test_merging_reads_every_octant_once():
    """MONAI's merging of the past read two octants twice and two never; the one in use must not."""
    encoder = tiny().encoder
    merging = encoder.swin.layers1[0].downsample
    assert type(merging) is MERGING_MODE["merging"]
    merging.norm = merging.reduction = torch.nn.Identity()
    octants = torch.arange(8.0).view(1, 2, 2, 2, 1)
    assert sorted(merging(octants).flatten().tolist()) == list(range(8))


@settings(max_examples=8, deadline=None)
@given(
    stages=st.integers(1, 4),
    channels=st.integers(1, 4),
    classes=st.integers(1, 5),
    batch=st.integers(1, 2),
    backbone=st.sampled_from(sorted(BACKBONES)),
)
def test_any_number_of_stages_channels_and_classes(stages, channels, classes, batch, backbone):
    network = tiny(stages, in_channels=channels, out_channels=classes, backbone=backbone)
    side = network.encoder.divisor
    assert side == 2 ** (stages + 1)
    volume = torch.randn(batch, channels, side, 2 * side, side)
    with torch.no_grad():
        features = encode(network.encoder, volume)
        assert network(volume).shape == (batch, classes, side, 2 * side, side)
    for n, v in enumerate(features):
        assert v.shape == (batch, 12 * 2**n, side >> n + 1, 2 * side >> n + 1, side >> n + 1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("stages", [1, 3])
def test_every_parameter_gets_a_gradient(stages, backbone):
    network = tiny(stages, backbone=backbone)
    volume = torch.randn(1, 1, *(2 * network.encoder.divisor,) * 3)
    segmentation_loss(network(volume), (volume > 0).float(), overlapping=False).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_a_batch_of_two_is_two_batches_of_one():
    network, volume = tiny(), torch.randn(2, 1, 16, 16, 24)
    with torch.no_grad():
        assert torch.allclose(network(volume), torch.cat([network(v[None]) for v in volume]), atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16, 20), (12, 16, 16), (8, 8, 8)])
def test_a_volume_that_does_not_fit_is_named_with_what_would(size):
    with pytest.raises(ValueError, match=r"with 2 stages each side must be divisible by 8"):
        tiny()(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"feature_size": 16}, "divisible by 12"),
        ({"depths": (1, 1, 1)}, "one entry per stage"),
        ({"depths": (), "num_heads": ()}, "1 to 4 stages"),
        ({"depths": (1,) * 5, "num_heads": (2,) * 5}, "1 to 4 stages"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        tiny(**wrong)


def test_channel_norm_is_a_layer_norm_over_channels_alone():
    x = torch.randn(2, 12, 3, 4, 5) * 5 + 2
    v = x.double().numpy()
    expected = (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5)
    assert np.allclose(channel_norm(x).numpy(), expected, atol=1e-5)


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(BipvlError, match="no backbone 'resnet'; choose one of: conv, swin_unetr"):
        tiny(backbone="resnet")


def test_instance_norm_keeps_the_layout_and_agrees_with_torch():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d).requires_grad_()
    norm = nn.Sequential(nn.InstanceNorm3d(3))
    expected = norm(x)
    keep_layout(norm)
    found = norm(x)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert_close(found, expected)
    weight = torch.randn(2, 3, 4, 5, 6)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    assert_close(*gradients)
