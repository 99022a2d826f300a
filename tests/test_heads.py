"""The heads that texts condition, alone and in the network: a compared method's, and the prompted one."""

import pytest
import torch
from torch.nn import functional as F

from bipvl.common.errors import BipvlError
from bipvl.model.heads import ModulatedHead, PromptedHead, UniversalHead
from bipvl.model.losses import segmentation_loss
from bipvl.model.tokens import PromptTokens

PROMPTED = {"head": "prompted"}
UNIVERSAL = {"head": "universal", "fused_stages": (), "frozen_stages": 99}


def rows(tokens, order):
    """The prompts of some rows, in this order."""
    return PromptTokens.of(tokens.ids[order], tokens.mask[order], tokens.segment[order])


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
    model, tokens = tiny_bipvlseg(**UNIVERSAL), tiny_tokens()
    order = [2, 0, 1]
    turned = rows(tokens, order)
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
@pytest.mark.parametrize(
    "options", [UNIVERSAL, PROMPTED, {"head": "modulated"}], ids=["universal", "prompted", "modulated"]
)
def test_saved_and_loaded_it_predicts_the_same(tiny_bipvlseg, tiny_tokens, tmp_path, options):
    model, volume = tiny_bipvlseg(**options), torch.randn(1, 1, 16, 16, 24)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.predict(volume, tiny_tokens()), model.predict(volume, tiny_tokens()))


@torch.no_grad()
@pytest.mark.parametrize("background", [True, False])
def test_a_logit_is_the_scaled_cosine_of_a_voxel_and_a_text(background):
    torch.manual_seed(0)
    head = PromptedHead(channels=12, text_dim=10, background=background)
    features, text = torch.randn(2, 12, 4, 3, 5), torch.randn(2, 3, 10)
    logits = head(features, text)
    assert logits.shape == (2, 3 + background, 4, 3, 5)
    voxel = head.features.weight[..., 0, 0, 0] @ features[1, :, 2, 0, 4] + head.features.bias
    vectors = [*head.text(text[1])]
    if background:
        vectors = [head.background[0], *vectors]
    else:
        head.bias.fill_(0.25)
    for channel, vector in enumerate(vectors):
        cosine = voxel @ vector / (voxel.norm() * vector.norm())
        expected = 10 * cosine + (0 if background else 0.25)
        assert head(features, text)[1, channel, 2, 0, 4] == pytest.approx(float(expected), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("background", [True, False])
def test_prompt_rows_in_another_order_give_the_channels_in_that_order(tiny_bipvlseg, tiny_tokens, background):
    model, tokens = tiny_bipvlseg(background=background, **PROMPTED), tiny_tokens()
    volume, order = torch.randn(1, 1, 16, 16, 24), [2, 0, 1]
    logits, other = model.predict(volume, tokens), model.predict(volume, rows(tokens, order))
    first = int(background)
    assert torch.allclose(other[:, first:], logits[:, first:][:, order], atol=1e-4)
    assert torch.allclose(other[:, :first], logits[:, :first], atol=1e-4)
    assert not torch.allclose(logits[:, -1], logits[:, -2], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("order", [[0, 2], [1], [0, 1, 2, 1]])
def test_some_prompts_or_more_give_a_channel_each(tiny_bipvlseg, tiny_tokens, order):
    model, volume = tiny_bipvlseg(**PROMPTED), torch.randn(1, 1, 16, 16, 24)
    tokens = rows(tiny_tokens(), order)
    logits = model.predict(volume, tokens)
    assert logits.shape == (1, 1 + len(order), 16, 16, 24)
    assert torch.allclose(model.predict(volume, model.encode_prompts(tokens)), logits, atol=1e-6)


def test_other_heads_refuse_other_rows(tiny_bipvlseg, tiny_tokens):
    with pytest.raises(ValueError, match="2 prompts for 3 classes; give one prompt per class"):
        tiny_bipvlseg().predict(torch.zeros(1, 1, 16, 16, 24), rows(tiny_tokens(), [0, 1]))


def test_the_prompted_head_and_all_before_it_learn(tiny_bipvlseg, tiny_tokens):
    model = tiny_bipvlseg(**PROMPTED).train()
    output = model(torch.randn(1, 1, 16, 16, 24), tiny_tokens())
    target = torch.randint(0, 4, (1, 1, 16, 16, 24))
    segmentation_loss(output.logits, target, overlapping=False).backward()
    unreached = ("class_head.", "visual_projection.", "text_projection.")  # of the other terms
    reached = {n: p.grad is not None for n, p in model.named_parameters() if not n.startswith(unreached)}
    assert all(reached.values()), [n for n, got in reached.items() if not got]


def test_a_head_that_does_not_exist_is_named(tiny_bipvlseg):
    with pytest.raises(BipvlError, match="prompted"):
        tiny_bipvlseg(head="promted")


@torch.no_grad()
def test_the_mean_text_scales_and_shifts_the_features_before_the_convolution():
    torch.manual_seed(0)
    head = ModulatedHead(channels=12, text_dim=10, out_channels=4)
    features, text = torch.randn(2, 12, 4, 3, 5), torch.randn(2, 3, 10)
    logits = head(features, text)
    assert logits.shape == (2, 4, 4, 3, 5)
    weights = head.text.weight @ text[1].mean(0) + head.text.bias
    voxel = features[1, :, 2, 0, 4] * (1 + weights[:12]) + weights[12:]
    mixed = (head.mix.weight[..., 0, 0, 0] @ voxel + head.mix.bias).clamp(min=0)
    expected = head.out.weight[..., 0, 0, 0] @ mixed + head.out.bias
    assert torch.allclose(logits[1, :, 2, 0, 4], expected, atol=1e-5)


@torch.no_grad()
def test_the_modulated_head_hears_the_text_more_than_the_papers(tiny_bipvlseg, tiny_tokens):
    volume, tokens = torch.randn(1, 1, 16, 16, 24), tiny_tokens()
    words = tiny_bipvlseg().text.config.vocab_size
    other = PromptTokens.of((tokens.ids + 7) % words, tokens.mask, tokens.segment)

    def change(head):
        torch.manual_seed(0)
        model = tiny_bipvlseg(head=head)
        logits = model.predict(volume, tokens)
        return ((model.predict(volume, other) - logits).norm() / logits.norm()).item()

    assert change("modulated") > 3 * change("channels")
