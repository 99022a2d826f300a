"""What a variant costs, counted without running it, held against networks that are run."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from bipvl.analysis.costs import Operations, cost_key, empty_network, measure, window_operations
from bipvl.data.spec import load_spec
from bipvl.engine.build import build_network, build_objective
from bipvl.engine.profiles import dataset_settings
from bipvl.engine.train import Learner
from bipvl.engine.variants import VARIANTS, prompt_texts

SPEC = load_spec("mmwhs_ct")


def settings(profile="smoke", **training):
    """Of a profile, with changes to its training."""
    found = dataset_settings(profile, SPEC)
    return found | {"training": found["training"] | training}


@pytest.mark.parametrize("name", ["bipvlseg", "text-frozen", "unet"])
def test_parameters_are_those_of_the_network_itself(name):
    network = build_network(VARIANTS[name], SPEC, settings())
    cost = measure(VARIANTS[name], SPEC, settings())
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert cost.stand_in == ""


def test_operations_are_those_of_a_hand_count():
    """The residual U-Net's first convolution: 8³ places, 2 · 27 · 1 · 12 operations each, and a second."""
    network, _ = empty_network(VARIANTS["conv_unet"], SPEC, settings())
    stem = network.network.encoder.stem.to("meta")
    with Operations() as counted:
        stem(torch.empty(1, 1, 16, 16, 16, device="meta"))
    first, second, shortcut = 27 * 1 * 12, 27 * 12 * 12, 1 * 12
    assert counted.total == 2 * 8**3 * (first + second + shortcut)


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet"])
def test_a_window_takes_what_the_network_takes_that_is_run(name):
    network = build_network(VARIANTS[name], SPEC, settings()).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.predict(torch.zeros(1, 1, *settings()["crop"]))
    assert window_operations(VARIANTS[name], SPEC, settings()) == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", ["bipvlseg", "swin_unetr_v2"])
def test_a_step_is_what_torch_counts_forwards_and_backwards(name):
    variant = VARIANTS[name]
    laptop = settings("laptop", batch_size=1)
    network, _ = empty_network(variant, SPEC, laptop)
    learner = Learner(network=network, objective=build_objective(variant, SPEC)).to("meta").train()
    prompts = network.training_prompts(prompt_texts(variant, SPEC)) if variant.language else None
    with FlopCounterMode(display=False) as counter:
        volume = torch.empty(1, 1, *laptop["crop"], device="meta")
        learner(volume, torch.empty_like(volume), prompts)[0].backward()
    again = measure(variant, SPEC, settings("laptop", batch_size=1, checkpointing=True))
    plain = measure(variant, SPEC, laptop)
    assert plain.step == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert 0.8 * plain.forward < again.step - plain.step < plain.forward
    assert again.memory_gib < 0.8 * plain.memory_gib


def test_activations_are_the_bytes_that_a_training_step_keeps():
    """On a processor, every saved tensor being counted once by its address."""
    variant, saved = VARIANTS["unet"], {}
    learner = Learner(
        network=build_network(variant, SPEC, settings()), objective=build_objective(variant, SPEC)
    )
    own = {p.data_ptr() for p in learner.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    crop = settings()["crop"]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total, _ = learner(torch.rand(1, 1, *crop), torch.randint(0, 8, (1, 1, *crop)).float(), None)
    numbers = sum(p.numel() for p in learner.parameters())
    expected = (4 * 4 * numbers + sum(saved.values())) / 2**30  # weight, gradient, two moments
    assert measure(variant, SPEC, settings()).memory_gib == pytest.approx(expected, rel=0.02)
    del total


def test_a_text_encoder_that_is_not_here_has_a_stand_in(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cost = measure(VARIANTS["text-clinicalbert"], SPEC, settings())
    assert cost.stand_in == "DistilBERT of base size for medicalai/ClinicalBERT"
    assert cost.parameters > 60e6  # DistilBERT's 66 million among them


def test_variants_that_differ_in_nothing_that_costs_share_their_key():
    paper = settings("paper")

    def key(name, dataset="mmwhs_ct"):
        return cost_key(VARIANTS[name], load_spec(dataset), paper)

    same = ("segmentation_alone", "prompts-empty", "bipvlseg-25_percent", "deviation-easy_negatives")
    assert {key(name) for name in same} == {key("bipvlseg")} == {key("bipvlseg", "mmwhs_mr")}
    other = ("no_fusion", "text-frozen", "text-bag_of_words", "swin_unetr_v2", "unet", "bipvlseg-released")
    assert len({key("bipvlseg"), key("bipvlseg", "amos22"), *(key(name) for name in other)}) == 8
    assert key("swin_unetr_v2-10_percent") == key("swin_unetr_v2")
