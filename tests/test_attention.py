"""Attention of a word: compared with the explicit softmax, which the networks never store."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from transformers import BertTokenizer

from bipvl.analysis.word_attention import (
    AttendedWindow,
    attended_windows,
    attention_weights,
    head_noun,
    window_around,
    word_attention,
    words_of,
)
from bipvl.common.errors import BipvlError
from bipvl.data.prompts import default_prompts
from bipvl.engine.evaluate import test_cases as cases_of
from bipvl.engine.run import Run

PROMPTS = [
    ["Spleen in a CT image", "Shape: flat"],
    ["Liver in a CT image", "Location: right, above right kidney"],
    ["Left kidneys in a CT image", "Shape: round"],
]
"""Of different lengths, so that there is padding; "kidneys" has two tokens, "right" occurs twice."""


@pytest.fixture
def model(tiny_bipvlseg):
    words = "spleen liver left right kidney ##s in a ct image shape location round flat above : , ."
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    model = tiny_bipvlseg()
    model.tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate([*special, *words.split()])})
    return model


@pytest.fixture
def volume():
    return torch.randn(1, 1, 16, 16, 24, generator=torch.Generator().manual_seed(0))


def record_attention(model, volume):
    """By stage, the last layer's text → image attention with its inputs and output."""
    seen, handles = {}, []
    for stage, fusion in enumerate(model.fusions, start=1):
        attention = fusion.layers[-1].cross_attn_text_to_image
        handles.append(
            attention.register_forward_hook(
                lambda module, inputs, output, stage=stage: seen.update({stage: (module, inputs, output)})
            )
        )
    with torch.no_grad():
        model.predict(volume, PROMPTS)
    for handle in handles:
        handle.remove()
    return seen


def explicit_attention(attention, query, key):
    """Attention by its definition, head by head, from the weights: heads × Q × P."""
    project = lambda layer, x: x[0].double() @ layer.weight.double().T + layer.bias.double()  # noqa: E731
    q, k = project(attention.q_proj, query), project(attention.k_proj, key)
    width = q.shape[1] // attention.heads
    heads = []
    for h in range(attention.heads):
        own = slice(h * width, (h + 1) * width)
        exponents = torch.exp(q[:, own] @ k[:, own].T / width**0.5)
        heads.append(exponents / exponents.sum(1, keepdim=True))
    return torch.stack(heads)


@torch.no_grad()
@pytest.mark.parametrize(
    ("class_index", "word", "rows"),
    [
        (0, "spleen", [1]),  # after [CLS]
        (1, "Image", [17]),  # after class 0's 12 tokens and [CLS] liver in a ct
        (1, "right", [21, 24]),
        (2, "kidneys", [30, 31]),
    ],
)
def test_map_of_a_word_is_the_mean_over_its_rows_of_the_softmax(model, volume, class_index, word, rows):
    maps = word_attention(model, volume, PROMPTS, class_index, word)
    assert {stage: tuple(m.shape) for stage, m in maps.items()} == {1: (4, 4, 6), 2: (2, 2, 3)}
    for stage, (attention, (query, key, _), _) in record_attention(model, volume).items():
        expected = explicit_attention(attention, query, key)[:, rows].mean((0, 1))
        torch.testing.assert_close(maps[stage].flatten(), expected.float(), atol=1e-6, rtol=1e-4)
        assert maps[stage].sum().item() == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_weights_times_values_are_the_output_of_the_block(model, volume):
    for attention, (query, key, value), output in record_attention(model, volume).values():
        weights = attention_weights(attention, attention.q_proj(query), attention.k_proj(key))
        values = attention.v_proj(value).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        rebuilt = attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(rebuilt, output, atol=1e-5, rtol=1e-4)


def test_unknown_word_is_an_error_that_lists_the_words(model, volume):
    with pytest.raises(
        BipvlError, match=r"class 0 has no word 'liver'; choose one of: spleen, in, a, ct, image, shape, flat"
    ):
        word_attention(model, volume, PROMPTS, 0, "liver")
    with pytest.raises(BipvlError, match="no word 'kidney'"):  # only part of a word
        word_attention(model, volume, PROMPTS, 2, "kidney")


@pytest.mark.parametrize("options", [{"fusion_direction": "text_to_image"}, {"fused_stages": ()}])
def test_network_without_text_to_image_attention_is_an_error(options, model, volume, tiny_bipvlseg):
    other = tiny_bipvlseg(**options)
    other.tokenizer = model.tokenizer
    with pytest.raises(BipvlError, match="has no text → image attention; choose a network"):
        word_attention(other, volume, PROMPTS, 0, "spleen")


def test_hooks_are_removed_also_after_an_error(model, volume):
    word_attention(model, volume, PROMPTS, 0, "flat")
    with pytest.raises(ValueError, match="must be divisible"):
        word_attention(model, volume[..., :3], PROMPTS, 0, "flat")
    assert not any(module._forward_hooks for module in model.modules())


def test_words_are_joined_from_their_tokens_without_punctuation(model):
    ids = torch.tensor(model.tokenizer("left kidneys, right kidneys: round.")["input_ids"])
    expected = {"left": [1], "kidneys": [2, 3, 6, 7], "right": [5], "round": [9]}
    assert words_of(model.tokenizer, ids) == expected


@pytest.mark.parametrize(
    ("title", "noun"),
    [
        ("Left ventricle in a cardiac CT image", "ventricle"),
        ("Myocardium of the left ventricle in a cardiac MR image", "myocardium"),
        ("Prostate/uterus in a CT image", "uterus"),
        ("Spleen", "spleen"),
    ],
)
def test_head_noun(title, noun):
    assert head_noun(title) == noun


def test_title_without_a_class_name_is_an_error():
    with pytest.raises(BipvlError, match="'of a CT image' does not begin with the name of a class; put"):
        head_noun("of a CT image")


def test_window_has_its_class_in_the_middle_or_ends_at_the_border():
    label = torch.zeros(2, 30, 20, 6)
    label[0, 14:18, 9:12, 2:4] = 1
    label[1, 28:30, :2, :6] = 1
    affine = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    image = torch.arange(30 * 20 * 6.0).view(1, 30, 20, 6)
    sample = {"image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}
    middle, corner = (window_around(sample, c, (8, 8, 8)) for c in (0, 1))
    assert middle["image"].shape == corner["image"].shape == (1, 8, 8, 8)
    assert middle["image"].affine[:3, 3].tolist() == [24, 12, -2]
    assert corner["image"].affine[:3, 3].tolist() == [44, 0, -2]
    assert torch.equal(middle["image"][0, :, :, 1:7].as_subclass(torch.Tensor), image[0, 12:20, 6:14])
    assert middle["label"][0].sum() == label[0].sum() and corner["label"][1].sum() == label[1].sum()


def test_inside_is_a_multiple_of_uniform_attention():
    all_in_one, mask = np.zeros((2, 2, 2)), np.zeros((4, 4, 4), bool)
    all_in_one[0, 0, 1] = 1
    mask[:2, :2, 2:] = True
    window = AttendedWindow(
        class_index=0, word="w", mask=mask, affine=np.eye(4), maps={1: all_in_one, 2: mask / mask.sum()}
    )
    assert window.inside(1) == pytest.approx(8) and window.inside(2) == pytest.approx(8)
    uniform = {1: np.full((2, 2, 2), 1 / 8)}
    window = AttendedWindow(class_index=0, word="w", mask=mask, affine=np.eye(4), maps=uniform)
    assert window.inside(1) == pytest.approx(1)


def test_windows_of_a_trained_run_have_its_largest_classes_and_the_nouns_of_their_titles(smoke_runs):
    run = Run.open(smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset / "bipvlseg" / "seed0")
    found = attended_windows(run, cases_of(run, smoke_runs.data_root)[0], count=2)
    titles = [row["Title"] for row in default_prompts(run.spec).rows]
    assert len({window.class_index for window in found}) == 2
    for window in found:
        assert window.word == head_noun(titles[window.class_index])
        assert window.mask.shape == tuple(run.config["crop"]) and window.mask.any()
        assert {stage: m.shape for stage, m in window.maps.items()} == {1: (4, 4, 4), 2: (2, 2, 2)}
        assert all(m.sum() == pytest.approx(1, abs=1e-5) for m in window.maps.values())
        np.testing.assert_allclose(np.abs(np.diag(window.affine)[:3]), run.config["spacing"])
