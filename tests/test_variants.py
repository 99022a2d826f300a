"""Every variant at the paper's size on ``meta``, a device without memory; checkpointing keeps gradients.

There a tensor made on another device, or a shape that fits the small profiles alone, fails at no cost.
"""

import copy

import pytest
import torch
from accelerate import init_empty_weights
from transformers import AutoModel, BertConfig

from bipvl.data.spec import load_spec
from bipvl.engine.build import build_network, build_objective
from bipvl.engine.profiles import dataset_settings
from bipvl.engine.train import Learner
from bipvl.engine.variants import VARIANTS, Variant
from bipvl.model import bipvlseg
from bipvl.model.baselines import BASELINES, Baseline
from bipvl.model.checkpointing import checkpoint_activations
from bipvl.model.losses import segmentation_loss
from bipvl.model.released import network_class, objective_class
from bipvl.model.tokens import PromptTokens


def kind_of_network(variant: Variant) -> tuple:
    """What makes a network or objective different here, where all text encoders have the same size."""
    if not variant.language:
        return (variant.network or variant.name,)
    options = sorted((key, value) for key, value in variant.options.items() if key != "text")
    return (network_class(variant.deviations), objective_class(variant.deviations).__bases__, *options)


NETWORKS = [*{kind_of_network(variant): name for name, variant in reversed(VARIANTS.items())}.values()]
UNREACHED = {
    "universal": ("class_head.", "visual_projection.", "text_projection."),  # its objective is Dice and BCE
    "deviation-separate_concepts": (
        "fusions.3.final_attn",
        "fusions.3.norm_final",
        "fusions.3.text_out",
    ),  # whose text output nothing reads
}


@pytest.fixture(scope="module")
def bert_base():
    """A 12-layer text encoder of width 768 on ``meta``."""
    with init_empty_weights():
        return AutoModel.from_config(BertConfig(vocab_size=1000))


def prompt_tokens(classes: int, length: int = 110, texts: int = 6) -> PromptTokens:
    ids = torch.randint(5, 1000, (classes, length))
    mask = torch.arange(length) < torch.randint(80, length + 1, (classes, 1))
    segment = (torch.arange(length) // (length // texts + 1)).where(mask, -1)
    alone = torch.randint(5, 1000, (classes * texts, 20))
    return PromptTokens.of(ids, mask, segment, PromptTokens.of(alone, torch.ones_like(alone)))


@pytest.mark.parametrize(
    ("name", "dataset"),
    [pytest.param(name, "amos22", marks=pytest.mark.slow) for name in NETWORKS]
    + [(name, "msd_brain") for name in ("bipvlseg", "bipvlseg-released", "swin_unetr_v2")],
)
def test_every_variant_trains_at_the_papers_size_on_another_device(name, dataset, bert_base, monkeypatch):
    monkeypatch.setattr(bipvlseg, "load_backbone", lambda source: bert_base)
    monkeypatch.setattr(bipvlseg, "load_tokenizer", lambda source: ())
    spec, variant = load_spec(dataset), VARIANTS[name]
    with init_empty_weights():
        network = build_network(variant, spec, dataset_settings("paper", spec))
    objective = build_objective(variant, spec)
    learner = Learner(network=network, objective=objective).to("meta").train()
    crop = dataset_settings("paper", spec)["crop"]
    volume = torch.zeros(1, len(spec.channels), *crop, device="meta")
    target = torch.zeros(1, spec.out_channels if spec.overlapping else 1, *crop, device="meta")
    total, losses = learner(volume, target, prompt_tokens(spec.num_classes))
    total.backward()
    assert total.is_meta and all(term in losses for term in variant.terms)
    reached = {
        name: p.grad is not None and p.grad.is_meta
        for name, p in learner.network.named_parameters()
        if p.requires_grad and not name.startswith(UNREACHED.get(variant.name, ()))
    }
    assert reached and all(reached.values())


@pytest.mark.parametrize("name", ["bipvlseg", "conv_unet", "swin_unetr_v2"])
def test_checkpointed_activations_give_the_same_gradients(name, tiny_bipvlseg, tiny_tokens):
    network = tiny_bipvlseg() if name == "bipvlseg" else small_baseline(name)
    twin = copy.deepcopy(network)
    count = checkpoint_activations(twin)
    assert count > 2
    volume = torch.randn(1, 1, 16, 16, 24)
    for n in (network.eval(), twin.eval()):
        output = n(volume, tiny_tokens())
        tensors = [output] if isinstance(output, torch.Tensor) else vars(output).values()
        sum(t.square().mean() for t in tensors).backward()
    for (key, p), (_, q) in zip(network.named_parameters(), twin.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        assert p.grad is None or torch.allclose(p.grad, q.grad, atol=1e-6), key


def small_baseline(name: str) -> torch.nn.Module:

    torch.manual_seed(0)
    sizes = {"feature_size": 12, "depths": (1, 1), "num_heads": (2, 4), "window_size": 4, "crop": (32,) * 3}
    return Baseline(name=name, in_channels=1, out_channels=4, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_every_compared_network_learns_with_all_its_parameters_and_is_saved_whole(name, tmp_path):
    """At the quick profile's size: two cases of two channels, four classes; in training's memory format."""
    torch.manual_seed(0)
    sizes = {"feature_size": 12, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4, "crop": (32,) * 3}
    network = Baseline(name=name, in_channels=2, out_channels=4, **sizes).train()
    network = network.to(memory_format=torch.channels_last_3d)
    volume = torch.randn(2, 2, 32, 32, 32)
    logits = network(volume)
    assert logits.shape == (2, 4, 32, 32, 32)
    segmentation_loss(logits, torch.randint(0, 4, (2, 1, 32, 32, 32)), overlapping=False).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    with torch.no_grad():
        assert torch.allclose(network(volume[:1]), network(volume)[:1], atol=1e-4)  # batch by batch
        network.save_pretrained(tmp_path)
        loaded = Baseline.from_pretrained(tmp_path).to(memory_format=torch.channels_last_3d)
        assert torch.allclose(loaded(volume), network(volume), atol=1e-5)


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.objective or len(v.terms) == 2])
def test_every_objective_has_its_terms_and_teaches_the_decoder(name, tiny_bipvlseg, tiny_tokens):
    variant, network = VARIANTS[name], tiny_bipvlseg(num_classes=5)
    objective = build_objective(variant, load_spec("mmwhs_ct"))
    target = torch.randint(0, 6, (1, 1, 16, 16, 24))
    total, losses = objective(network(torch.randn(1, 1, 16, 16, 24), tiny_tokens(classes=5)), target)
    total.backward()
    assert set(variant.terms) <= losses.keys() and total.isfinite()
    assert set(objective.log_variances) == (set(variant.terms) if len(variant.terms) > 1 else set())
    assert all(p.grad is not None for p in network.decoder.parameters())
    aligned = any(term.endswith("alignment") for term in variant.terms)
    assert (network.text_projection.weight.grad is not None) == aligned
