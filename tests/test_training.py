"""Training, inference and evaluation of a run, in seconds."""

import json
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from bipvl.common.errors import BipvlError
from bipvl.data.crops import TrainingCrops, nested_share, prepared
from bipvl.data.layouts import list_cases
from bipvl.data.splits import split_cases
from bipvl.engine.build import build_network, build_objective
from bipvl.engine.checkpoints import Progress, is_trained
from bipvl.engine.deterministic import forbidden_nondeterminism
from bipvl.engine.evaluate import evaluate
from bipvl.engine.optimizer import make_optimizer
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run
from bipvl.engine.train import Learner, train
from bipvl.model.released import T_MAX, released_factor
from bipvl.model.schedule import cosine_schedule
from bipvl.released_code.schedule import released_course

VARIANTS = ("bipvlseg", "swin_unetr_v2")


def assert_same_bytes(run, other, *names):
    for name in names:
        assert (run.directory / name).read_bytes() == (other.directory / name).read_bytes(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_writes_history_manifest_and_config(variant, trained_run):
    run = trained_run(variant)
    history = pd.read_csv(run.directory / "history.csv")
    assert is_trained(run)
    assert list(history["step"]) == list(range(len(history)))
    assert np.isfinite(history["total"]).all()
    assert history["val_dice"].notna().sum() == run.config["training"]["validations"]
    manifest = json.loads((run.directory / "manifest.json").read_text())
    assert set(manifest["phases"]) == {"train", "evaluate"}
    assert run.config["cohort"] == "synthetic"


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_cover_every_test_case_on_both_grids(variant, trained_run):
    run = trained_run(variant)
    table = pd.read_csv(run.directory / "metrics.csv", keep_default_na=False)
    assert list(table.columns) == ["case", "class", "metric", "grid", "value", "flag"]
    test = json.loads(run.split_path.read_text())["test"]
    for grid in ("scan", "working"):
        assert set(table.loc[table["grid"] == grid, "case"]) == set(test)
    assert set(table["metric"]) == {"dice", "hd95_mm", "nsd"}
    assert not table.duplicated(["case", "class", "metric", "grid"]).any()


def test_predictions_have_the_scans_grid_and_the_data_sets_codes(smoke_runs, trained_run):
    run = trained_run("bipvlseg")
    for case in list_cases(run.spec, smoke_runs.data_root):
        path = run.directory / "predictions" / f"{case.id}.nii.gz"
        if path.exists():
            predicted, scan = nib.load(path), nib.load(case.image)
            assert predicted.shape == scan.shape[:3]
            np.testing.assert_allclose(predicted.affine, scan.affine, atol=1e-5)
            assert set(np.unique(predicted.get_fdata())) <= set(run.spec.known_codes)


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(smoke_runs, new_run, trained_run):
    run = new_run("bipvlseg")
    train(run, smoke_runs.data_root, progress=False)
    evaluate(run, smoke_runs.data_root, progress=False)
    names = ("history.csv", "metrics.csv", "config.json", "model/model.safetensors")
    assert_same_bytes(run, trained_run("bipvlseg"), *names)


def test_a_resumed_training_ends_with_the_same_bytes(smoke_runs, new_run, monkeypatch, trained_run):
    run = new_run("bipvlseg")
    add, stop_at = Progress.add, 6

    def interrupted(self, *args):
        add(self, *args)
        if self.step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run, smoke_runs.data_root, progress=False)
    monkeypatch.setattr(Progress, "add", add)
    assert not is_trained(run)
    assert [*(run.directory / "state").glob("step-*")], (
        "the interruption must come after the first saved state"
    )
    train(run, smoke_runs.data_root, progress=False)
    assert_same_bytes(run, trained_run("bipvlseg"), "history.csv", "model/model.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_equal_the_recorded_ones(variant, trained_run):
    expected = json.loads(Path(__file__).with_name("expected_losses.json").read_text())
    version = torch.__version__.split("+")[0]
    if version not in expected:
        pytest.skip(f"expected_losses.json has no torch {version}; add its losses after checking them")
    history = pd.read_csv(trained_run(variant).directory / "history.csv")
    assert history["total"].tolist() == pytest.approx(expected[version][variant], rel=1e-3)


def made_optimizer(run):
    """Learner and optimizer of a run, with a different rate for each kind of parameter."""
    network = build_network(run.variant, run.spec, run.config)
    learner = Learner(network=network, objective=build_objective(run.variant, run.spec))
    rates = {"lr": 1.0, "language_lr": 2.0, "text_lr": 3.0, "weight_decay": 0.5}
    return learner, make_optimizer(learner, rates)


def test_vision_language_text_encoder_and_loss_weights_have_separate_rates(new_run):
    learner, optimizer = made_optimizer(new_run("bipvlseg-prompted"))
    found = {
        id(p): (group["peak_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    expected = {"vision": 1.0, "decoder": 1.0, "text": 3.0}
    for part, module in learner.network.named_children():
        for p in filter(lambda p: p.requires_grad, module.parameters()):
            assert found.pop(id(p)) == (expected.get(part, 2.0), 0.5), part
    assert list(found.values()) == [(1.0, 0.0)] * len(learner.objective.log_variances)


def test_a_network_without_language_has_the_vision_rate(new_run):
    _, optimizer = made_optimizer(new_run("unet"))
    assert {group["peak_lr"] for group in optimizer.param_groups} == {1.0}


@pytest.mark.slow
def test_worker_processes_do_not_change_the_result(smoke_runs, new_run, trained_run):
    run = new_run("bipvlseg")
    run.config["training"]["workers"] = 2
    train(run, smoke_runs.data_root, progress=False)
    assert_same_bytes(run, trained_run("bipvlseg"), "history.csv", "model/model.safetensors")


@pytest.mark.slow
def test_deterministic_training_names_a_nondeterministic_operation(smoke_runs, new_run, trained_run):
    run = new_run("bipvlseg")
    run.config["training"]["deterministic"] = True
    train(run, smoke_runs.data_root, progress=False)
    assert not torch.are_deterministic_algorithms_enabled()  # only inside the block
    again, usual = (pd.read_csv(r.directory / "history.csv") for r in (run, trained_run("bipvlseg")))
    pd.testing.assert_frame_equal(
        again, usual, rtol=1e-3, check_exact=False
    )  # other kernels give nearly the same losses
    with forbidden_nondeterminism(), pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def test_a_directory_of_other_settings_is_refused(new_run, smoke_runs):
    new_run().claim()
    with pytest.raises(BipvlError, match="other settings \\(crop\\)"):
        train(new_run(crop=[24, 24, 24]), smoke_runs.data_root)


@pytest.fixture
def other_precision():
    """Accelerate keeps the first precision of a process; this resets it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("other_precision")
def test_mixed_precision_and_checkpointing(new_run, smoke_runs):
    """With Accelerate, as on a GPU; the bottleneck is 4³ (the bf16 test of the model says why)."""
    run = new_run("bipvlseg", crop=[32, 32, 32])
    run.config["training"] |= {
        "mixed_precision": "bf16",
        "checkpointing": True,
        "epochs": 1,
        "validations": 1,
    }
    train(run, smoke_runs.data_root, progress=False)
    history = pd.read_csv(run.directory / "history.csv")
    assert np.isfinite(history["total"]).all() and len(history) >= 2
    assert all(
        t.dtype == torch.float32 for t in load_file(run.directory / "model/model.safetensors").values()
    )


def test_crops_depend_only_on_seed_and_index(smoke_runs, tmp_path, trained_run):
    run = trained_run("bipvlseg")
    cases, _, _ = split_cases(run.split_path, run.spec, smoke_runs.data_root)
    data = prepared(run.spec, cases, run.config["spacing"], tmp_path)

    def crops(seed, order):
        crops = TrainingCrops(cases=data, spec=run.spec, crop=(16, 16, 16), length=12, seed=seed)
        found = {i: crops[i]["image"] for i in order}
        return [found[i] for i in sorted(found)]

    forwards, backwards, other = crops(0, range(12)), crops(0, reversed(range(12))), crops(1, range(12))
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(forwards, other, strict=True))


def test_learning_rate_rises_then_falls_to_zero():
    rates = [cosine_schedule(100, 0.1)(step, "vision") for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01
    assert cosine_schedule(300, 0.0)(0, "vision") == 1.0


def test_the_released_rate_equals_that_of_the_released_code():
    rates = released_course(4200).rates[: 2 * T_MAX]
    for column, group in (("release", "vision"), ("release_s", "loss weights")):
        mine = [1e-4 * released_factor(step, group) for step in range(2 * T_MAX)]
        np.testing.assert_allclose(mine, rates[column], atol=1e-12)


def test_a_share_of_the_cases_is_part_of_every_larger_share():
    cases = list(range(16))
    shares = [list(nested_share(cases, share)) for share in (0.01, 0.25, 0.5, 1)]
    assert [len(s) for s in shares] == [1, 4, 8, 16]
    assert all(set(small) < set(large) for small, large in pairwise(shares))
    assert shares[1] != cases[:4]


@pytest.mark.slow
def test_a_share_is_trained_for_as_many_steps_as_all_cases(new_run, smoke_runs, trained_run):
    run = new_run("swin_unetr_v2-25_percent")
    train(run, smoke_runs.data_root, progress=False)
    histories = [pd.read_csv(r.directory / "history.csv") for r in (run, trained_run("swin_unetr_v2"))]
    assert len(histories[0]) == len(histories[1])
    assert histories[0]["total"].iloc[-1] != histories[1]["total"].iloc[-1]


@pytest.mark.slow
def test_the_released_schedule_is_a_deviation_that_a_run_takes(new_run, smoke_runs):
    run = new_run("deviation-rising_rate")
    train(run, smoke_runs.data_root, progress=False)
    lr = pd.read_csv(run.directory / "history.csv")["lr"]
    expected = [run.config["training"]["lr"] * released_factor(i, "vision") for i in range(len(lr))]
    np.testing.assert_allclose(lr, expected, rtol=1e-6)


def test_an_untrained_run_cannot_segment(new_run):
    run = new_run("bipvlseg")
    run.claim()
    with pytest.raises(BipvlError, match="train it first"):
        Segmenter(run=run)
    with pytest.raises(BipvlError, match="holds no run"):
        Run.open(run.directory.parent)
