"""The preset ``released`` against an independent walk through the authors' tensors, by their own names.

The walk is put together of MONAI's SwinUNETR, transformers' BERT and plain formulas; it shares no module of
bipvl. Feature size 12 and text width 192 stand for 48 and 768.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from monai.networks.nets import SwinUNETR
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.engine.build import build_objective
from bipvl.engine.variants import get_variant
from bipvl.model.bipvlseg import BiPVLSeg
from bipvl.model.convert import convert
from bipvl.model.losses import class_embedding_loss
from bipvl.model.released import (
    ReleasedBiPVLSeg,
    ReleasedObjective,
    RepeatingMerging,
    released_global_alignment_loss,
    released_local_alignment_loss,
)
from bipvl.model.tokens import PromptTokens

WIDTH, CLASSES, TEXTS, SHARED = 12, 5, 6, 128
CHANNELS = [WIDTH * 2**n for n in range(5)]
TEXT = {
    "vocab_size": 64,
    "hidden_size": CHANNELS[-1],
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}
SWIN = {"in_channels": 1, "out_channels": CLASSES + 1, "feature_size": WIDTH, "use_v2": True}


# --- the authors' network, from its description -----------------------------------------------------------


def linear(t: dict, name: str, x: Tensor) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def norm(t: dict, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]


def attend(t: dict, name: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (linear(t, f"{name}.{p}_proj", x) for p, x in zip("qkv", (q, k, v), strict=True))
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(t, f"{name}.out_proj", (weights @ v).transpose(0, 1).flatten(1))


def mlp(t: dict, name: str, x: Tensor) -> Tensor:
    return linear(t, f"{name}.lin2", linear(t, f"{name}.lin1", x).relu())


def heads_of(width: int) -> int:
    """Eight at the release's own widths; the small ones of this test carry what they can."""
    return math.gcd(8, width)


def two_way(t: dict, n: int, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Image P × c and text T × c of one case through the n-th block."""
    q, k, full, half = text, image, heads_of(image.shape[1]), heads_of(image.shape[1] // 2)
    for i in range(2):
        at = f"bifusions.{n}.layers.{i}"
        if i == 0:
            q = attend(t, f"{at}.self_attn", q, q, q, full)
        else:
            q = q + attend(t, f"{at}.self_attn", q + text, q + text, q, full)
        q = norm(t, f"{at}.norm1", q)
        q = norm(t, f"{at}.norm2", q + attend(t, f"{at}.cross_attn_text_to_image", q + text, k, k, half))
        q = norm(t, f"{at}.norm3", q + mlp(t, f"{at}.mlp", q))
        k = norm(t, f"{at}.norm4", k + attend(t, f"{at}.cross_attn_image_to_text", k, q + text, q, half))
        k = norm(t, f"{at}.norm5", k + mlp(t, f"{at}.mlp2", k))
    q = q + attend(t, f"bifusions.{n}.final_attn_text_to_image", q + text, k, k, half)
    return k, norm(t, f"bifusions.{n}.norm_final_attn", q)


def repeating(merging: torch.nn.Module):
    def forward(x: Tensor) -> Tensor:
        starts = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
        parts = [x[:, a::2, b::2, c::2] for a, b, c in starts]
        return merging.reduction(merging.norm(torch.cat(parts, -1)))

    return forward


def channel_norm(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()


class Theirs:
    """Random tensors under the authors' names, and what their network makes of a volume and token ids."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.vision = SwinUNETR(**SWIN).eval()
        self.bert = BertForMaskedLM(BertConfig(**TEXT)).eval()
        for n in range(1, 5):
            merging = getattr(self.vision.swinViT, f"layers{n}")[0].downsample
            merging.forward = repeating(merging)
        self.tensors = {**self.vision.state_dict()}
        self.tensors |= {f"text_encoder.{name}": t for name, t in self.bert.state_dict().items()}
        self.tensors["text_encoder.bert.pooler.dense.weight"] = torch.randn(192, 192)
        self.tensors["text_encoder.bert.pooler.dense.bias"] = torch.randn(192)
        self._add_linear("cp_feats.mlp.0", CHANNELS[-1], CHANNELS[-1])
        self._add_linear("cp_feats.mlp.2", CLASSES + 1, CHANNELS[-1])
        for n, c in enumerate(CHANNELS):
            self._add_block(n, c)
            if n < 4:
                self._add_linear(f"cp_layers.{n}", c, CHANNELS[-1])
                self._add_linear(f"reverse_cp_layers.{n}", CHANNELS[-1], c)
        self.heads: dict[str, Tensor] = {}
        for name, width in (("cp_feats_visual", 27), ("cp_feats_text", CHANNELS[-1])):
            self.heads |= {
                f"{name}.weight": torch.randn(SHARED, width) / 5,
                f"{name}.bias": torch.randn(SHARED),
            }

    def _add_linear(self, name: str, out: int, inner: int) -> None:
        self.tensors[f"{name}.weight"] = torch.randn(out, inner) / math.sqrt(inner)
        self.tensors[f"{name}.bias"] = torch.randn(out) / 10

    def _add_block(self, n: int, c: int) -> None:
        for i in range(2):
            at = f"bifusions.{n}.layers.{i}"
            for part, inner in (("self_attn", c), ("cross_attn_text_to_image", c // 2)):
                self._add_attention(f"{at}.{part}", c, inner)
            self._add_attention(f"{at}.cross_attn_image_to_text", c, c // 2)
            for part in ("mlp", "mlp2"):
                self._add_linear(f"{at}.{part}.lin1", 32, c)
                self._add_linear(f"{at}.{part}.lin2", c, 32)
            for j in range(1, 6):
                self._add_norm(f"{at}.norm{j}", c)
        self._add_attention(f"bifusions.{n}.final_attn_text_to_image", c, c // 2)
        self._add_norm(f"bifusions.{n}.norm_final_attn", c)

    def _add_attention(self, name: str, c: int, inner: int) -> None:
        for part in "qkv":
            self._add_linear(f"{name}.{part}_proj", inner, c)
        self._add_linear(f"{name}.out_proj", c, inner)

    def _add_norm(self, name: str, c: int) -> None:
        self.tensors |= {f"{name}.weight": 1 + torch.randn(c) / 10, f"{name}.bias": torch.randn(c) / 10}

    def text_stage(self, n: int, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = None if mask is None else (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
        ends = [0, 1, 6, 8, 10, 12]
        for layer in self.bert.bert.encoder.layer[ends[n] : ends[n + 1]]:
            hidden = layer(hidden, attention_mask=bias)
        return hidden

    def stage(self, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """(what the decoder takes, what BiFusion takes)."""
        swin = self.vision.swinViT
        x = swin.patch_embed(x) if n == 0 else getattr(swin, f"layers{n}")[0](x.contiguous())
        return channel_norm(x), getattr(swin, f"layers{n + 1}c")[0](x.contiguous()) if n < 4 else x

    @torch.no_grad()
    def __call__(self, volume: Tensor, full: SimpleNamespace, short: SimpleNamespace) -> SimpleNamespace:
        t = self.tensors
        skip, x = self.stage(0, volume)
        features = [skip]
        text = self.text_stage(0, self.bert.bert.embeddings(full.ids), full.mask)
        shorts = self.text_stage(0, self.bert.bert.embeddings(short.ids), short.mask)
        for n in range(1, 5):
            skip, x = self.stage(n, x)
            features.append(skip)
            text, shorts = self.text_stage(n, text), self.text_stage(n, shorts)
            words = F.normalize(text.flatten(0, 1), dim=-1)
            if n < 4:
                words = linear(t, f"cp_layers.{n}", words)
            k, q = two_way(t, n, x[0].flatten(1).T, words)
            x = k.T.reshape_as(x[0])[None]
            text = (linear(t, f"reverse_cp_layers.{n}", q) if n < 4 else q).view_as(text)
        net = self.vision
        deepest = net.encoder10(features[4])
        up = net.decoder5(deepest, features[3])
        up = net.decoder4(up, net.encoder4(features[2]))
        up = net.decoder3(up, net.encoder3(features[1]))
        up = net.decoder2(up, net.encoder2(features[0]))
        logits = net.out(net.decoder1(up, net.encoder1(volume)))
        voxels = linear(t, "cp_feats.mlp.0", deepest[0].flatten(1).T).relu()
        classes = linear(t, "cp_feats.mlp.2", voxels).T  # C × 27
        cls = shorts[:, 0].view(CLASSES, TEXTS, -1)
        return SimpleNamespace(logits=logits, classes=classes[None], cls=cls)


# --- its losses, from their description -------------------------------------------------------------------


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a[:, None], b[None], dim=-1)


def their_alignment(visual: Tensor, text: Tensor) -> tuple[float, float]:
    """Of N × D and N × (K + 1) × D projected vectors, without noise: global, local."""
    summary = torch.zeros_like(visual)
    for k in range(text.shape[1]):
        weight = F.cosine_similarity(text[:, k], visual, dim=-1).softmax(0)
        summary += weight[:, None] * text[:, k]
    match, right = cosines(summary, visual) / 0.2, torch.arange(len(visual))
    classes = (F.cross_entropy(match, right) + F.cross_entropy(match.T, right)) / 2
    concepts = []
    for k in range(text.shape[1]):
        match = cosines(text[:, k], visual)
        for s in (match, match.T):
            easiest = s.sort(dim=-1).values[:, :3]
            own = s.diag() / 0.2 - (s / 0.2).exp().sum(-1).log()
            concepts.append(-(own - easiest.exp().sum(-1).log()).mean())
    return classes.item(), torch.stack(concepts).mean().item()


# --- the tests --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    return Theirs()


def words(rows: int, length: int, seed: int) -> SimpleNamespace:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(length // 2, length + 1, (rows, 1), generator=random)
    return SimpleNamespace(
        ids=torch.randint(5, 64, (rows, length), generator=random), mask=torch.arange(length) < lengths
    )


@pytest.fixture(scope="module")
def case(theirs: Theirs) -> SimpleNamespace:
    """A volume, token ids, their outputs and ours."""
    volume = torch.randn(1, 1, 96, 96, 96, generator=torch.Generator().manual_seed(3))
    full, short = words(CLASSES, 20, 1), words(CLASSES * TEXTS, 7, 2)
    tokens = PromptTokens.of(full.ids, full.mask, concepts=PromptTokens.of(short.ids, short.mask))
    model = released_model()
    model.load_state_dict(convert(checkpoint(theirs)))  # strict: none missing, none left over
    with torch.no_grad():
        ours, plain = model(volume, tokens), model.predict(volume, tokens)
        state = model.predict(volume, model.encode_prompts(tokens))
    return SimpleNamespace(
        theirs=theirs(volume, full, short), ours=ours, plain=plain, fast=state, tokens=tokens, model=model
    )


def released_model() -> BiPVLSeg:
    return ReleasedBiPVLSeg(
        in_channels=1,
        num_classes=CLASSES,
        text_config={"model_type": "bert", **TEXT},
        feature_size=WIDTH,
        fusion_width=32,
    ).eval()


def checkpoint(theirs: Theirs) -> dict:
    """As their training saves it, but with the fusion tensors."""
    heads = {
        name: {part: theirs.heads[f"{name}.{part}"] for part in ("weight", "bias")}
        for name in ("cp_feats_visual", "cp_feats_text")
    }
    return {"model": theirs.tensors, **heads, "log_sigma1": torch.zeros(())}


@pytest.mark.slow
def test_the_logits_are_theirs(case):
    assert case.theirs.logits.std() > 0.05
    assert torch.allclose(case.ours.logits, case.theirs.logits, atol=1e-4)
    assert torch.allclose(case.plain, case.ours.logits, atol=1e-5)
    assert torch.allclose(case.fast, case.ours.logits, atol=1e-5)


@pytest.mark.slow
def test_the_class_and_concept_embeddings_are_theirs(case):
    assert torch.allclose(case.ours.class_logits, case.theirs.classes, atol=1e-4)
    concepts = case.model.separate_concepts(case.tokens)
    assert concepts.shape == (CLASSES, TEXTS, CHANNELS[-1])
    assert torch.allclose(concepts, case.theirs.cls, atol=1e-4)


@pytest.mark.slow
def test_the_losses_are_theirs(case, theirs):
    visual = linear(theirs.heads, "cp_feats_visual", case.theirs.classes[0, 1:])
    text = linear(theirs.heads, "cp_feats_text", case.theirs.cls)
    assert torch.allclose(case.ours.visual[0], visual, atol=1e-4)
    assert torch.allclose(case.ours.text[0], text, atol=1e-4)
    of_classes, of_concepts = their_alignment(visual, text)
    objective = ReleasedObjective(
        terms=("segmentation", "class_embedding", "alignment"), overlapping=False, noise=0
    )
    with torch.no_grad():
        total, losses = objective(case.ours, torch.zeros(1, 1, 96, 96, 96))
    assert losses["global_alignment"].item() == pytest.approx(of_classes, abs=1e-4)
    assert losses["local_alignment"].item() == pytest.approx(of_concepts, abs=1e-4)
    small = F.interpolate(case.theirs.logits, size=(3, 3, 3), mode="trilinear").argmax(1).flatten(1)
    expected = F.cross_entropy(case.theirs.classes, small)
    assert losses["class_embedding"].item() == pytest.approx(expected.item(), abs=1e-4)
    assert class_embedding_loss(case.theirs.classes, case.theirs.logits).item() == pytest.approx(
        expected.item()
    )
    parts = losses["segmentation"] + losses["class_embedding"] + losses["alignment"]
    assert total.item() == pytest.approx(parts.item() / 2, rel=1e-5)  # s = 0


@pytest.mark.parametrize("classes", [3, 15])
def test_the_alignment_of_any_vectors_is_theirs(classes):
    random = torch.Generator().manual_seed(classes)
    visual = torch.randn(1, classes, SHARED, generator=random)
    text = torch.randn(1, classes, TEXTS, SHARED, generator=random) * torch.rand(TEXTS, 1, generator=random)
    of_classes, of_concepts = their_alignment(visual[0], text[0])
    assert released_global_alignment_loss(visual, text, noise=0).item() == pytest.approx(of_classes, rel=1e-5)
    ours = released_local_alignment_loss(F.normalize(visual, dim=-1), F.normalize(text, dim=-1))
    assert ours.item() == pytest.approx(of_concepts, rel=1e-5)


def test_fusion_tensors_exist_are_saved_and_do_not_train():
    model = released_model()
    fusion = {name for name, _ in model.named_parameters() if name.startswith("fusions.")}
    assert fusion == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fusion <= model.state_dict().keys()


def test_the_repeating_merging_reads_two_octants_twice_and_two_never():
    merging = RepeatingMerging(dim=1)
    merging.norm = merging.reduction = torch.nn.Identity()
    read = merging(torch.arange(8.0).view(1, 2, 2, 2, 1)).flatten().tolist()
    assert read == [0, 4, 2, 1, 5, 2, 1, 7]


def test_a_file_that_their_code_saved_lacks_the_fusion_which_a_warning_says(theirs):
    lacking = ("bifusions.", "cp_layers.", "reverse_cp_layers.")
    saved = {name: t for name, t in theirs.tensors.items() if not name.startswith(lacking)}
    with pytest.warns(UserWarning, match="no BiFusion tensors.*lost.*not the authors'"):
        state = convert(saved)
    with pytest.raises(RuntimeError, match=r"fusions\.0"):
        released_model().load_state_dict(state)


def test_a_tensor_of_another_network_is_named():
    with pytest.raises(
        BipvlError, match=r"tensor backbone\.conv1\.weight does not belong to the released network; give"
    ):
        convert({"backbone.conv1.weight": torch.zeros(1)})


@pytest.mark.slow
def test_the_released_preset_needs_the_concepts_alone(case):
    with pytest.raises(BipvlError, match="encodes each concept's text alone"):
        case.model(torch.zeros(1, 1, 64, 32, 32), PromptTokens.of(case.tokens.ids, case.tokens.mask))


def test_the_released_negatives_refuse_a_data_set_with_fewer_than_three_classes():
    hippocampus, variant = load_spec("msd_hippocampus"), get_variant("deviation-easy_negatives")
    with pytest.raises(BipvlError, match=r"needs 3 classes, and MSD Task04 \(hippocampus MR\) has 2"):
        build_objective(variant, hippocampus)
    build_objective(get_variant("bipvlseg"), hippocampus)
