"""Training, inference and evaluation of a whole run, at a scale of seconds."""

import json
import shutil
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
from bipvl.engine.checkpoints import Progress, is_trained
from bipvl.engine.deterministic import forbidden_nondeterminism
from bipvl.engine.evaluate import evaluate
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run
from bipvl.engine.train import (
    T_MAX,
    Learner,
    learning_rate,
    make_objective,
    make_optimizer,
    released_rate,
    train,
)
from bipvl.engine.variants import build_network
from bipvl.released_code.schedule import released_course

VARIANTS = ("bipvlseg", "swin_unetr_v2")


def open_run(smoke, variant):
    return Run.open(smoke.runs / smoke.profile / smoke.dataset / variant / "seed0")


@pytest.fixture
def fresh_run(smoke_runs, tmp_path):
    """A run that has not begun, beside a copy of the split."""

    def make(variant, **changes):
        run = Run.plan(
            profile=smoke_runs.profile,
            dataset=smoke_runs.dataset,
            variant=variant,
            seed=0,
            data_root=smoke_runs.data_root,
            root=tmp_path / "runs",
        )
        run.config.update(changes)
        run.split_path.parent.mkdir(parents=True, exist_ok=True)
        for name in ("split.json", "data.json"):
            shutil.copy2(open_run(smoke_runs, VARIANTS[0]).split_path.with_name(name), run.split_path.parent)
        return run

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_leaves_what_the_design_promises(smoke_runs, variant):
    run = open_run(smoke_runs, variant)
    history = pd.read_csv(run.directory / "history.csv")
    assert is_trained(run)
    assert list(history["step"]) == list(range(len(history)))
    assert np.isfinite(history["total"]).all()
    assert history["val_dice"].notna().sum() == run.config["training"]["validations"]
    manifest = json.loads((run.directory / "manifest.json").read_text())
    assert set(manifest["phases"]) == {"train", "evaluate"}
    assert run.config["cohort"] == "synthetic"


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_cover_every_test_case_on_both_grids(smoke_runs, variant):
    run = open_run(smoke_runs, variant)
    table = pd.read_csv(run.directory / "metrics.csv", keep_default_na=False)
    assert list(table.columns) == ["case", "class", "metric", "grid", "value", "flag"]
    test = json.loads(run.split_path.read_text())["test"]
    for grid in ("scan", "working"):
        assert set(table.loc[table["grid"] == grid, "case"]) == set(test)
    assert set(table["metric"]) == {"dice", "hd95_mm", "nsd"}
    assert not table.duplicated(["case", "class", "metric", "grid"]).any()


def test_predictions_lie_on_the_scans_own_grid_in_native_codes(smoke_runs):
    run = open_run(smoke_runs, "bipvlseg")
    for case in list_cases(run.spec, smoke_runs.data_root):
        path = run.directory / "predictions" / f"{case.id}.nii.gz"
        if path.exists():
            predicted, scan = nib.load(path), nib.load(case.image)
            assert predicted.shape == scan.shape[:3]
            np.testing.assert_allclose(predicted.affine, scan.affine, atol=1e-5)
            assert set(np.unique(predicted.get_fdata())) <= set(run.spec.known_codes)


def test_the_same_command_gives_the_same_bytes(smoke_runs, fresh_run):
    run = fresh_run("bipvlseg")
    train(run, smoke_runs.data_root, progress=False)
    evaluate(run, smoke_runs.data_root, progress=False)
    for name in ("history.csv", "metrics.csv", "config.json", "model/model.safetensors"):
        assert (run.directory / name).read_bytes() == (
            open_run(smoke_runs, "bipvlseg").directory / name
        ).read_bytes(), name


def test_an_interrupted_training_goes_on_and_ends_with_the_same_bytes(smoke_runs, fresh_run, monkeypatch):
    run = fresh_run("bipvlseg")
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
    assert [*(run.directory / "state").glob("step-*")], "the stop must come after the first saved state"
    train(run, smoke_runs.data_root, progress=False)
    for name in ("history.csv", "model/model.safetensors"):
        assert (run.directory / name).read_bytes() == (
            open_run(smoke_runs, "bipvlseg").directory / name
        ).read_bytes(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_losses_are_those_that_were_written_down(smoke_runs, variant):
    expected = json.loads(Path(__file__).with_name("expected_losses.json").read_text())
    version = torch.__version__.split("+")[0]
    if version not in expected:
        pytest.skip(f"expected_losses.json has no torch {version}; add its losses, once you trust them")
    history = pd.read_csv(open_run(smoke_runs, variant).directory / "history.csv")
    assert history["total"].tolist() == pytest.approx(expected[version][variant], rel=1e-3)


def made_optimizer(run):
    """Learner and optimizer of a run, each kind of parameter with a rate that tells it."""
    network = build_network(run.variant, run.spec, run.config)
    learner = Learner(network=network, objective=make_objective(run.variant, run.spec))
    rates = {"lr": 1.0, "language_lr": 2.0, "text_lr": 3.0, "weight_decay": 0.5}
    return learner, make_optimizer(learner, rates)


def test_vision_language_text_encoder_and_loss_weights_have_their_own_rates(fresh_run):
    learner, optimizer = made_optimizer(fresh_run("bipvlseg-prompted"))
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


def test_a_network_without_language_learns_at_the_rate_of_vision(fresh_run):
    _, optimizer = made_optimizer(fresh_run("unet"))
    assert {group["peak_lr"] for group in optimizer.param_groups} == {1.0}


def test_processes_that_load_the_crops_change_nothing(smoke_runs, fresh_run):
    run = fresh_run("bipvlseg")
    run.config["training"]["workers"] = 2
    train(run, smoke_runs.data_root, progress=False)
    whole = open_run(smoke_runs, "bipvlseg")
    for name in ("history.csv", "model/model.safetensors"):
        assert (run.directory / name).read_bytes() == (whole.directory / name).read_bytes()


def test_a_training_that_must_be_deterministic_says_which_operation_is_not(
    smoke_runs, fresh_run, monkeypatch
):
    run = fresh_run("bipvlseg")
    run.config["training"]["deterministic"] = True
    train(run, smoke_runs.data_root, progress=False)
    assert not torch.are_deterministic_algorithms_enabled()  # for the block alone
    again, usual = (pd.read_csv(r.directory / "history.csv") for r in (run, open_run(smoke_runs, "bipvlseg")))
    pd.testing.assert_frame_equal(
        again, usual, rtol=1e-3, check_exact=False
    )  # other kernels, the same losses
    with forbidden_nondeterminism(), pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def test_a_directory_of_other_settings_is_refused(fresh_run, smoke_runs):
    fresh_run("bipvlseg").claim()
    with pytest.raises(BipvlError, match="other settings \\(crop\\)"):
        train(fresh_run("bipvlseg", crop=[24, 24, 24]), smoke_runs.data_root)


@pytest.fixture
def other_precision():
    """Accelerate keeps the first precision of a process; here it may be chosen anew."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_precision")
def test_mixed_precision_and_checkpointing_train_as_the_profile_says(fresh_run, smoke_runs):
    """Through Accelerate, as on a GPU; the bottleneck is 4³ (see the bf16 test of the model for why)."""
    run = fresh_run("bipvlseg", crop=[32, 32, 32])
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


def test_crops_depend_on_seed_and_number_alone(smoke_runs, tmp_path):
    run = open_run(smoke_runs, "bipvlseg")
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
    rates = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and max(rates) == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01
    assert learning_rate(0, 300, 0.0) == 1.0


def test_the_released_rate_is_that_of_the_released_order_of_things():
    rates = released_course(4200).rates[: 2 * T_MAX]
    for column, of_weights in (("release", False), ("release_s", True)):
        mine = [1e-4 * released_rate(step, of_weights=of_weights) for step in range(2 * T_MAX)]
        np.testing.assert_allclose(mine, rates[column], atol=1e-12)


def test_a_share_of_the_cases_lies_within_every_larger_one():
    cases = list(range(16))
    shares = [list(nested_share(cases, share)) for share in (0.01, 0.25, 0.5, 1)]
    assert [len(s) for s in shares] == [1, 4, 8, 16]
    assert all(set(small) < set(large) for small, large in pairwise(shares))
    assert shares[1] != cases[:4]


def test_a_share_is_trained_on_for_as_many_steps_as_all_cases(fresh_run, smoke_runs):
    run = fresh_run("swin_unetr_v2-25_percent")
    train(run, smoke_runs.data_root, progress=False)
    histories = [
        pd.read_csv(r.directory / "history.csv") for r in (run, open_run(smoke_runs, "swin_unetr_v2"))
    ]
    assert len(histories[0]) == len(histories[1])
    assert histories[0]["total"].iloc[-1] != histories[1]["total"].iloc[-1]


def test_the_released_schedule_is_a_departure_that_a_run_takes(fresh_run, smoke_runs):
    run = fresh_run("departure-rising_rate")
    train(run, smoke_runs.data_root, progress=False)
    lr = pd.read_csv(run.directory / "history.csv")["lr"]
    expected = [run.config["training"]["lr"] * released_rate(i, of_weights=False) for i in range(len(lr))]
    np.testing.assert_allclose(lr, expected, rtol=1e-6)


def test_segment_writes_a_mask_and_tells_what_is_wrong(smoke_runs, tmp_path):
    run = open_run(smoke_runs, "bipvlseg")
    case = list_cases(run.spec, smoke_runs.data_root)[0]
    segmenter = Segmenter(run=run)
    segmenter.segment(case.image, tmp_path / "mask.nii.gz")
    assert nib.load(tmp_path / "mask.nii.gz").shape == nib.load(case.image).shape
    with pytest.raises(BipvlError, match=r"nothing\.nii\.gz is missing"):
        segmenter.segment(tmp_path / "nothing.nii.gz", tmp_path / "other.nii.gz")
    with pytest.raises(BipvlError, match=r"ends in \.nii\.gz"):
        segmenter.segment(case.image, tmp_path / "mask.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.nii.gz"]


def test_an_untrained_run_cannot_segment(fresh_run):
    run = fresh_run("bipvlseg")
    run.claim()
    with pytest.raises(BipvlError, match="train it first"):
        Segmenter(run=run)
    with pytest.raises(BipvlError, match="holds no run"):
        Run.open(run.directory.parent)
