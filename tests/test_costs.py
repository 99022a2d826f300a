"""The counted cost of a variant, compared with networks that are run."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from bipvl.analysis import costs
from bipvl.analysis.cost_keys import cost_key
from bipvl.analysis.costs import Operations, empty_network, measure, window_operations
from bipvl.data.spec import load_spec
from bipvl.engine.build import build_network, build_objective
from bipvl.engine.profiles import dataset_settings
from bipvl.engine.train import Learner
from bipvl.engine.variants import VARIANTS, prompt_texts

SPEC = load_spec("mmwhs_ct")


def settings(profile="smoke", **training):
    """A profile's settings, with changes to its training."""
    found = dataset_settings(profile, SPEC)
    return found | {"training": found["training"] | training}


@pytest.mark.parametrize("name", ["bipvlseg", "text-frozen", "unet"])
def test_parameters_are_those_of_the_network(name):
    network = build_network(VARIANTS[name], SPEC, settings())
    cost = measure(VARIANTS[name], SPEC, settings())
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.trained == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert cost.stand_in == ""


def test_operations_equal_a_count_by_hand():
    """The residual U-Net's first block: at 8³ positions two 3³ convolutions (1 → 12 → 12) and a 1³ one."""
    network, _ = empty_network(VARIANTS["conv_unet"], SPEC, settings())
    stem = network.network.encoder.stem.to("meta")
    with Operations() as counted:
        stem(torch.empty(1, 1, 16, 16, 16, device="meta"))
    first, second, shortcut = 27 * 1 * 12, 27 * 12 * 12, 1 * 12
    assert counted.total == 2 * 8**3 * (first + second + shortcut)


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet"])
def test_window_operations_equal_those_of_a_network_that_is_run(name):
    network = build_network(VARIANTS[name], SPEC, settings()).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.predict(torch.zeros(1, 1, *settings()["crop"]))
    assert window_operations(VARIANTS[name], SPEC, settings()) == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", ["bipvlseg", "swin_unetr_v2"])
def test_step_operations_are_close_to_torchs_count_of_forward_and_backward(name):
    variant = VARIANTS[name]
    laptop = settings("laptop", batch_size=1)
    laptop["language"] |= {"frozen_stages": 0}  # otherwise the text is computed once, not in each step
    network, _ = empty_network(variant, SPEC, laptop)
    learner = Learner(network=network, objective=build_objective(variant, SPEC)).to("meta").train()
    prompts = network.training_prompts(prompt_texts(variant, SPEC)) if variant.language else None
    with FlopCounterMode(display=False) as counter:
        volume = torch.empty(1, 1, *laptop["crop"], device="meta")
        learner(volume, torch.empty_like(volume), prompts)[0].backward()
    again = measure(variant, SPEC, laptop | {"training": laptop["training"] | {"checkpointing": True}})
    plain = measure(variant, SPEC, laptop)
    assert plain.step == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert 0.8 * plain.forward < again.step - plain.step < plain.forward
    assert again.memory_gib < 0.8 * plain.memory_gib


def test_memory_is_close_to_the_bytes_that_a_training_step_keeps():
    """On a CPU, where every saved tensor is counted once by its address."""
    variant, saved = VARIANTS["unet"], {}
    learner = Learner(
        network=build_network(variant, SPEC, settings()), objective=build_objective(variant, SPEC)
    )
    weights = {p.data_ptr() for p in learner.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    crop = settings()["crop"]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total, _ = learner(torch.rand(1, 1, *crop), torch.randint(0, 8, (1, 1, *crop)).float(), None)
    numbers = sum(p.numel() for p in learner.parameters())
    expected = (4 * 4 * numbers + sum(saved.values())) / 2**30  # weight, gradient, two moments
    assert measure(variant, SPEC, settings()).memory_gib == pytest.approx(expected, rel=0.02)
    del total


@pytest.mark.parametrize("name", ["bipvlseg", "bipvlseg-released", "swin_unetr_v2"])
def test_a_count_is_the_same_each_time_and_whether_or_not_operations_are_looked_up(name, monkeypatch):
    monkeypatch.setattr(costs, "_KNOWN", {})
    first = measure(VARIANTS[name], SPEC, settings("quick"))
    assert measure(VARIANTS[name], SPEC, settings("quick")) == first
    monkeypatch.setattr(costs, "_is_function_of_shapes", lambda function: False)
    monkeypatch.setattr(costs, "_changes_only_values", lambda function: False)
    assert measure(VARIANTS[name], SPEC, settings("quick")) == first


def test_missing_text_encoder_has_a_stand_in(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cost = measure(VARIANTS["text-clinicalbert"], SPEC, settings())
    assert cost.stand_in == "DistilBERT of base size for medicalai/ClinicalBERT"
    assert cost.parameters > 60e6  # including DistilBERT's 66 million


def test_variants_of_equal_cost_share_their_key():
    paper = settings("paper")

    def key(name, dataset="mmwhs_ct"):
        return cost_key(VARIANTS[name], load_spec(dataset), paper)

    same = ("segmentation_alone", "prompts-empty", "bipvlseg-25_percent", "deviation-easy_negatives")
    assert {key(name) for name in same} == {key("bipvlseg")} == {key("bipvlseg", "mmwhs_mr")}
    other = ("no_fusion", "text-frozen", "text-bag_of_words", "swin_unetr_v2", "unet", "bipvlseg-released")
    assert len({key("bipvlseg"), key("bipvlseg", "amos22"), *(key(name) for name in other)}) == 8
    assert key("swin_unetr_v2-10_percent") == key("swin_unetr_v2")
