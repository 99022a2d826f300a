"""The text-conditioned head of a compared method, alone and in the network."""

import pytest
import torch
from torch.nn import functional as F

from bipvl.losses import segmentation_loss
from bipvl.model.heads import UniversalHead

UNIVERSAL = {"head": "universal", "fused_stages": (), "frozen_stages": 99}


@torch.no_grad()
def test_each_class_has_the_convolutions_that_its_text_and_the_image_make():
    torch.manual_seed(0)
    head = UniversalHead(channels=12, bottleneck=24, text_dim=10)
    features, bottleneck, text = torch.randn(2, 12, 4, 3, 5), torch.randn(2, 24, 2, 2, 2), torch.randn(3, 10)
    logits = head(features, bottleneck, text)
    assert logits.shape == (2, 3, 4, 3, 5)
    image, words, x = head.image(bottleneck)[1], head.text(text[2]).relu(), head.features(features)[1:2]
    made = head.controller(torch.cat([image, words]))
    assert len(made) == 8 * 8 + 8 + 8 * 8 + 8 + 8 + 1  # as published
    for kernel, bias, shape in ((made[:64], made[64:72], (8, 8)), (made[72:136], made[136:144], (8, 8))):
        x = F.conv3d(x, kernel.view(*shape, 1, 1, 1), bias).relu()
    x = F.conv3d(x, made[144:152].view(1, 8, 1, 1, 1), made[152:])
    assert torch.allclose(logits[1, 2], x[0, 0], atol=1e-5)


@torch.no_grad()
def test_the_order_of_the_prompts_is_the_order_of_the_classes(tiny_bipvlseg, tiny_tokens):
    from bipvl.model.text import PromptTokens

    model, tokens = tiny_bipvlseg(**UNIVERSAL), tiny_tokens()
    order = [2, 0, 1]
    turned = PromptTokens.of(tokens.ids[order], tokens.mask[order], tokens.segment[order])
    volume = torch.randn(1, 1, 16, 16, 24)
    logits, other = model.predict(volume, tokens), model.predict(volume, turned)
    assert (logits[:, 0] == 0).all()  # the background's
    assert torch.allclose(other[:, 1:], logits[:, 1:][:, order], atol=1e-5)
    assert not torch.allclose(logits[:, 1], logits[:, 2], atol=1e-3)


def test_it_learns_around_a_text_encoder_that_stays(tiny_bipvlseg, tiny_tokens):
    model = tiny_bipvlseg(background=False, **UNIVERSAL).train()
    output = model(torch.randn(2, 1, 16, 16, 24), tiny_tokens())
    assert output.logits.shape == (2, 3, 16, 16, 24)
    segmentation_loss(output.logits, torch.randint(0, 2, output.logits.shape), overlapping=True).backward()
    assert all(p.grad is not None for p in model.head.parameters())
    assert all(p.grad is None for p in model.text.parameters())


def test_texts_that_saw_the_image_are_refused(tiny_bipvlseg):
    with pytest.raises(ValueError, match="give it fused_stages="):
        tiny_bipvlseg(head="universal")


@torch.no_grad()
def test_saved_and_loaded_it_predicts_the_same(tiny_bipvlseg, tiny_tokens, tmp_path):
    model, volume = tiny_bipvlseg(**UNIVERSAL), torch.randn(1, 1, 16, 16, 24)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.predict(volume, tiny_tokens()), model.predict(volume, tiny_tokens()))
