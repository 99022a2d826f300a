"""Metrics compared with closed forms, and the rules for empty masks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipvl.data.spec import load_spec
from bipvl.engine.mean_atlas import mean_atlas
from bipvl.engine.metrics import dice_scores, score_case
from bipvl.engine.predict import to_labels
from bipvl.engine.scan_grid import labels_on_grid

SPEC = load_spec("mmwhs_ct")


def box(low, high, shape=(24, 24, 24), value=1):
    labels = torch.zeros(1, *shape, dtype=torch.uint8)
    labels[(0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = value
    return labels


def scores(predicted, truth, spacing=(1.0, 1.0, 1.0), spec=SPEC):
    return {(s.class_name, s.metric): s for s in score_case(predicted, truth, spec, spacing)}


def test_a_shifted_box_in_anisotropic_spacing():
    truth, predicted = box((4, 4, 4), (14, 14, 14)), box((4, 4, 6), (14, 14, 16))
    found = scores(predicted, truth, spacing=(1.0, 2.0, 3.0))
    assert found["left ventricle", "dice"].value == pytest.approx(0.8)
    assert found["left ventricle", "hd95_mm"].value == pytest.approx(6.0)  # two voxels of 3 mm
    assert 0 < found["left ventricle", "nsd"].value < 1


def test_equal_masks_score_perfectly():
    truth = box((4, 4, 4), (14, 14, 14))
    found = scores(truth, truth)
    assert [found["left ventricle", m].value for m in ("dice", "hd95_mm", "nsd")] == [1.0, 0.0, 1.0]
    assert all(type(s.value) is float for s in found.values())


@pytest.mark.parametrize("tolerance, expected", [(0.5, "some"), (2.0, "all")])
def test_surface_dice_counts_voxels_within_the_tolerance(tolerance, expected):
    truth, predicted = box((4, 4, 4), (14, 14, 14)), box((4, 4, 5), (14, 14, 15))
    found = scores(predicted, truth, spec=SPEC.model_copy(update={"nsd_tolerance": tolerance}))
    value = found["left ventricle", "nsd"].value
    assert value == 1.0 if expected == "all" else 0 < value < 1


@pytest.mark.parametrize("missing, flag", [("prediction", "miss"), ("truth", "false_positive")])
def test_a_class_in_only_one_mask_has_the_worst_score_and_a_flag(missing, flag):
    there, empty = box((4, 4, 4), (8, 8, 8)), torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    predicted, truth = (empty, there) if missing == "prediction" else (there, empty)
    found = scores(predicted, truth, spacing=(1.0, 2.0, 2.0))
    assert {s.flag for s in found.values()} == {flag} and len(found) == 3
    assert found["left ventricle", "dice"].value == 0 == found["left ventricle", "nsd"].value
    assert found["left ventricle", "hd95_mm"].value == pytest.approx(24 * 3.0)  # √(1 + 4 + 4) = 3


def test_a_class_in_neither_is_not_scored():
    empty = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    assert scores(empty, empty) == {}


def test_an_absent_class_does_not_hide_later_ones():
    truth = box((4, 4, 4), (8, 8, 8), value=1) + box((10, 10, 10), (16, 16, 16), value=3)
    found = scores(truth, truth)
    assert {name for name, _ in found} == {SPEC.classes[0].name, SPEC.classes[2].name}


def test_dice_is_0_for_a_class_in_one_mask_and_nan_for_one_in_neither():
    there, empty = box((4, 4, 4), (8, 8, 8)) > 0, torch.zeros(1, 24, 24, 24, dtype=torch.bool)
    pairs = (there, empty), (empty, there), (there, there), (empty, empty)
    dice = dice_scores(*(torch.cat(masks) for masks in zip(*pairs, strict=True)))
    assert dice[:3].tolist() == [0, 0, 1] and dice[3].isnan()


def test_too_few_spacings_or_channels_are_refused():
    """Otherwise the diagonal of a miss would be wrong, or a class would have no score."""
    there, empty = box((4, 4, 4), (8, 8, 8)), torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    with pytest.raises(ValueError):
        scores(empty, there, spacing=(1.0, 1.0))
    with pytest.raises(ValueError):
        scores(there, there, spec=load_spec("msd_brain"))


def test_overlapping_classes_are_scored_separately():
    spec = load_spec("msd_brain")
    truth = torch.cat([box((4, 4, 4), (8, 8, 8)), box((2, 2, 2), (12, 12, 12)), box((0, 0, 0), (0, 0, 0))])
    found = scores(truth, truth, spec=spec)
    assert {name for name, _ in found} == {"tumour core", "whole tumour"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.6))
def test_dice_is_symmetric_bounded_and_equals_its_formula(seed, share):
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.random((3, 5, 5, 5)) < share) for _ in range(2))
    dice = dice_scores(a, b)
    for c in range(3):
        size = a[c].sum() + b[c].sum()
        if size == 0:
            assert dice[c].isnan()
        else:
            assert dice[c] == pytest.approx(float(2 * (a[c] & b[c]).sum() / size))
    assert torch.equal(dice.nan_to_num(-1), dice_scores(b, a).nan_to_num(-1))


def test_mean_atlas_predicts_the_majority_at_any_size():
    maps = [
        box((2, 2, 2), (6, 6, 6), (8, 8, 8)),
        box((2, 2, 2), (6, 6, 6), (8, 8, 8)),
        box((0, 0, 0), (8, 8, 8), (8, 8, 8)),
    ]
    predict = mean_atlas(maps, SPEC)
    labels = to_labels(predict(torch.zeros(1, 16, 16, 16)), overlapping=False)
    assert torch.equal(labels, box((4, 4, 4), (12, 12, 12), (16, 16, 16)))


@pytest.mark.parametrize("overlapping", [False, True])
def test_labels_on_a_grid_with_another_orientation_spacing_and_origin(overlapping):
    """A block on a 2 mm RAS grid is resampled to a 1 mm LPS grid: the same block in world coordinates."""
    logits = torch.full((3, 10, 10, 10), -9.0)
    logits[0] = 9.0 * (not overlapping)
    logits[0, 3:6, 4:8, 2:9] = -9.0
    logits[2, 3:6, 4:8, 2:9] = 9.0
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    target = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    target[:3, 3] = torch.tensor([18.5, 18.5, -0.5])
    probabilities = logits.sigmoid() if overlapping else logits.softmax(0)
    labels = labels_on_grid(probabilities, affine, target, (20, 20, 20), overlapping=overlapping)
    mask = labels[2] > 0 if overlapping else labels[0] == 2
    where = mask.nonzero().double() @ target[:3, :3].T + target[:3, 3]  # world, mm
    low, high = where.min(0).values, where.max(0).values
    assert torch.allclose(low, torch.tensor([5.5, 7.5, 3.5]).double())
    assert torch.allclose(high, torch.tensor([10.5, 14.5, 16.5]).double())
