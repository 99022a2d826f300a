"""The text encoder: cut into stages, equal to transformers' own models, never random in silence."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from bipvl.common.errors import BipvlError
from bipvl.model.text import PAPER_CUT, WEIGHTS, TextEncoder, cut_layers, load_backbone, load_tokenizer
from bipvl.model.text_sources import HUB
from bipvl.model.tokens import PromptTokens, tokenize

PROMPTS = [["Spleen in a CT image", "Shape: round"], ["Left kidney", "Location: below liver in a CT image"]]


def random_backbone(config: dict) -> torch.nn.Module:
    config = dict(config)
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    for p in model.parameters():  # away from the zeros and ones that initialisation leaves
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, tiny_text_config, tiny_tokenizer) -> Path:
    """A complete text encoder on disk: BERT of 4 layers with its tokenizer."""
    random_backbone(tiny_text_config()).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def edit_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# --- what language knowledge is held against ---


def test_random_weights_have_nothing_of_the_pretrained_ones(folder):
    backbone = load_backbone(str(folder))
    other = WEIGHTS["random"](backbone)
    assert other.config.to_dict() == backbone.config.to_dict()
    pairs = zip(other.parameters(), backbone.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_bag_of_words_does_not_know_their_order(family, tiny_text_config):
    backbone = random_backbone(tiny_text_config(family))
    words = WEIGHTS["bag_of_words"](backbone)
    encoder = TextEncoder(config=words.config.to_dict(), num_stages=2)
    encoder.load_backbone(words)
    ids, order = torch.randint(5, 64, (1, 9)), torch.randperm(9)

    def read(ids):
        tokens = PromptTokens.of(ids, torch.ones_like(ids))
        hidden = encoder.eval().embed(tokens)
        for n in (1, 2):
            hidden = encoder.stage(n, hidden, tokens.mask)
        return hidden

    assert torch.allclose(read(ids[:, order]), read(ids)[:, order], atol=1e-6)
    assert torch.equal(encoder.embeddings.word_embeddings.weight, backbone.embeddings.word_embeddings.weight)
    assert backbone.embeddings.position_embeddings.weight.any()  # which was not changed


# --- the cut ----------------------------------------------------------------------------------------------


def test_twelve_layers_are_cut_as_in_the_paper():
    assert tuple(cut_layers(12, 4)) == PAPER_CUT == (1, 6, 8, 10, 12)


@pytest.mark.parametrize(
    ("layers", "ends"),
    [(6, [1, 3, 4, 5, 6]), (5, [1, 2, 3, 4, 5]), (4, [1, 1, 2, 3, 4]), (2, [1, 1, 1, 1, 2]), (1, [1] * 5)],
)
def test_fewer_layers_are_cut_in_the_same_shares(layers, ends):
    assert cut_layers(layers, 4) == ends


def test_late_stages_can_have_fewer_layers():
    """The first fusion then comes later; no layer is lost."""
    assert cut_layers(6, 2, late=1) == [1, 5, 6] != cut_layers(6, 2)
    assert cut_layers(12, 4, late=1) == [1, 9, 10, 11, 12]


@given(layers=st.integers(1, 48), stages=st.integers(1, 4), late=st.none() | st.integers(1, 12))
def test_a_cut_uses_every_layer_once_and_feeds_every_stage_while_it_can(layers, stages, late):
    ends = cut_layers(layers, stages, late)
    assert len(ends) == stages + 1 and ends[0] >= 1 and ends[-1] == layers
    steps = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    assert min(steps) >= (1 if layers > stages else 0)


# --- the stages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize(("layers", "stages"), [(4, 2), (6, 4), (3, 4), (1, 1)])
def test_the_stages_in_turn_are_the_whole_model(family, layers, stages, tiny_text_config, tiny_tokens):
    config = tiny_text_config(family, layers)
    backbone, tokens = random_backbone(config), tiny_tokens(classes=3)
    encoder = TextEncoder(config=config, num_stages=stages).eval()
    encoder.load_backbone(backbone)
    with torch.no_grad():
        whole = backbone(tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        hidden = encoder.embed(tokens)
        for n in range(1, stages + 1):
            hidden = encoder.stage(n, hidden, tokens.mask)
    assert torch.allclose(hidden[tokens.mask], whole[tokens.mask], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_padding_changes_nothing(family, tiny_text_config, tiny_tokens):
    encoder = TextEncoder(config=tiny_text_config(family), num_stages=2).eval()
    tokens, padded = tiny_tokens(classes=2), tiny_tokens(classes=2, pad=9)
    with torch.no_grad():
        together, wide = encoder.embed(tokens), encoder.embed(padded)
        alone = encoder.embed(
            PromptTokens.of(*(t[:1, :8] for t in (tokens.ids, tokens.mask, tokens.segment)))
        )
    assert tokens.mask[0].sum() == 8  # class 1 is longer
    assert torch.allclose(together[tokens.mask], wide[padded.mask], atol=1e-5)
    assert torch.allclose(together[0, :8], alone[0], atol=1e-5)


def test_an_encoder_that_cannot_be_cut_is_refused_with_those_that_can():
    with pytest.raises(BipvlError, match=r"type 'gpt2' cannot be cut into stages; choose.*bert, distilbert"):
        TextEncoder(config={"model_type": "gpt2"}, num_stages=2)
    with pytest.raises(BipvlError, match="cannot be cut"):
        TextEncoder(config={}, num_stages=2)


# --- loading ----------------------------------------------------------------------------------------------


def test_a_folder_loads_every_weight(folder):
    backbone = load_backbone(str(folder))
    encoder = TextEncoder(config=backbone.config.to_dict(), num_stages=2)
    encoder.load_backbone(backbone)
    stored = random_backbone(AutoConfig.from_pretrained(folder).to_dict())
    loaded = [p for module in (encoder.embeddings, encoder.stages) for p in module.parameters()]
    saved = [p for module in (stored.embeddings, stored.encoder) for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(loaded, saved, strict=True))


def test_a_half_precision_checkpoint_becomes_a_network_of_one_precision(folder):
    AutoModel.from_pretrained(folder).half().save_pretrained(folder)
    backbone = load_backbone(str(folder))
    encoder = TextEncoder(config=backbone.config.to_dict(), num_stages=2)
    encoder.load_backbone(backbone)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_a_missing_tensor_is_an_error(folder):
    edit_config(folder, num_hidden_layers=5)
    with pytest.raises(BipvlError, match=r"lacks 16 tensors.*encoder\.layer\.4.*complete checkpoint"):
        load_backbone(str(folder))


def test_a_tensor_of_another_shape_is_an_error(folder):
    edit_config(folder, intermediate_size=40)
    with pytest.raises(BipvlError, match=r"12 have another shape.*complete checkpoint"):
        load_backbone(str(folder))


def test_a_distilbert_checkpoint_under_a_bert_config_is_an_error(folder, tiny_text_config):
    config = (folder / "config.json").read_text()
    random_backbone(tiny_text_config("distilbert")).save_pretrained(folder)
    (folder / "config.json").write_text(config)
    with pytest.raises(BipvlError, match=r"lacks \d+ tensors"):
        load_backbone(str(folder))


@pytest.mark.parametrize("damage", ["empty", "no weights", "weights cut short", "config cut short"])
def test_an_incomplete_folder_is_one_sentence(folder, damage):
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "no weights":
        (folder / "model.safetensors").unlink()
    elif damage == "weights cut short":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(BipvlError, match="holds no complete transformers model"):
        load_backbone(str(folder))


@pytest.mark.parametrize("load", [load_backbone, load_tokenizer])
def test_a_source_that_cannot_be_reached_points_to_the_offline_one(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BipvlError, match=r"nobody/no-such-model.*'minilm', which needs no network"):
        load("nobody/no-such-model")


def test_a_missing_tokenizer_is_an_error(folder):
    """transformers would make one that knows no word: every prompt would read [UNK] [UNK] …"""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(BipvlError, match=r"has no tokenizer; add its tokenizer\.json"):
        load_tokenizer(str(folder))


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    return load_tokenizer("minilm")


def test_each_text_is_a_segment_of_its_classs_sequence(minilm):
    tokens = tokenize(minilm, PROMPTS)
    assert tokens.texts == 2 and tokens.ids.shape == tokens.mask.shape == tokens.segment.shape
    for c, texts in enumerate(PROMPTS):
        for k, text in enumerate(texts):
            words = minilm.decode(tokens.ids[c][tokens.segment[c] == k])
            assert words.replace(" ", "") == f"{text}.".lower().replace(" ", "")
        row = tokens.ids[c][tokens.mask[c]]
        assert row[0] == minilm.cls_token_id and row[-1] == minilm.sep_token_id
        assert (tokens.segment[c][tokens.mask[c]][[0, -1]] == -1).all()
        assert (tokens.ids[c][~tokens.mask[c]] == minilm.pad_token_id).all()
        assert (tokens.segment[c][~tokens.mask[c]] == -1).all()
    assert not tokens.mask[0, -1] and tokens.mask[1, -1]
    assert torch.equal(tokens.ids.flatten()[tokens.valid], tokens.ids[tokens.mask])


def test_the_offline_encoder_loads_and_distinguishes_related_texts(minilm):
    backbone = load_backbone("minilm")
    encoder = TextEncoder(config=backbone.config.to_dict(), num_stages=4).eval()
    encoder.load_backbone(backbone)
    tokens = tokenize(minilm, [["left kidney"], ["right kidney"], ["a jazz concert"]])
    with torch.no_grad():
        hidden = encoder.embed(tokens)
        for n in range(1, 5):
            hidden = encoder.stage(n, hidden, tokens.mask)
    mean = torch.stack([h[m].mean(0) for h, m in zip(hidden, tokens.mask, strict=True)])
    similarity = torch.nn.functional.normalize(mean, dim=-1) @ torch.nn.functional.normalize(mean, dim=-1).T
    assert encoder.dim == 384 and [len(s) for s in encoder.stages] == [1, 2, 1, 1, 1]
    assert similarity[0, 1] > 0.7 > 0.3 > similarity[0, 2]


def test_a_prompt_too_long_for_the_encoder_is_refused_not_cut(tiny_tokenizer):
    texts = ["Spleen in a CT image", "flat " * 10]  # [CLS] + 6 + 11 + [SEP]
    assert tokenize(tiny_tokenizer, [texts], max_length=19).ids.shape == (1, 19)
    with pytest.raises(
        BipvlError, match=r"begins with 'Spleen in a CT image' has 19 tokens.* reads 18; shorten it"
    ):
        tokenize(tiny_tokenizer, [texts], max_length=18)


@pytest.mark.parametrize("prompts", [["Liver", "Heart"], [["Liver"], ["Heart", "Shape: round"]], []])
def test_prompts_of_another_form_are_refused(tiny_tokenizer, prompts):
    with pytest.raises(BipvlError, match="the classes do not have equally many texts"):
        tokenize(tiny_tokenizer, prompts)


@pytest.mark.parametrize("name", sorted(HUB))
def test_hub_models_are_loaded_at_a_fixed_commit(name, monkeypatch):
    asked = []

    def refuse(path, **options):
        asked.append((path, options.get("revision")))
        raise OSError("no network")

    for loader in ("AutoModel", "AutoTokenizer"):
        monkeypatch.setattr(f"transformers.{loader}.from_pretrained", refuse)
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(BipvlError, match="neither a folder nor a hub model that can be reached"):
            load(name)
    assert [path for path, _ in asked] == [HUB[name]] * 2
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for _, revision in asked)
