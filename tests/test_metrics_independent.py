"""The metrics compared with closed forms, brute force and scipy, and laws that must hold.

MONAI's definitions, which ``bipvl.engine.metrics`` uses, differ from the textbook's in three ways:

- A surface is the set of mask voxels with a face neighbour outside the mask or at the volume's border, each a
  point at its centre. The textbook's surface is the boundary itself, half a voxel further out.
- Surface Dice counts these voxels. The textbook's (Nikolov et al. 2018) measures area, so that in a scan with
  thick slices the large faces between slices count more.
- HD95 is the larger of the two directions' 95th percentiles, each interpolated between voxels. Others take
  the percentile over both directions together, or weight by area.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from bipvl.data.spec import load_spec
from bipvl.engine.metrics import score_case

SPEC = load_spec("mmwhs_ct")
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
spacings = st.tuples(*[st.floats(0.3, 6.0)] * 3)
shapes = st.tuples(*[st.integers(2, 8)] * 3)


def scores(predicted: np.ndarray, truth: np.ndarray, spacing=(1.0, 1.0, 1.0), tolerance=2.0) -> dict:
    """Metric → value for two masks H × W × D that are not empty."""
    labels = [torch.from_numpy(mask.astype(np.uint8))[None] for mask in (predicted, truth)]
    found = list(score_case(*labels, SPEC.model_copy(update={"nsd_tolerance": tolerance}), spacing))
    assert {(s.class_name, s.flag) for s in found} == {(SPEC.classes[0].name, "")}
    return {s.metric: s.value for s in found}


def masks(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two random masks, from single voxels to full volumes, with holes and at the volume's border."""
    rng = np.random.default_rng(seed)
    pair = [rng.random(shape) < rng.choice([0.05, 0.3, 0.7, 0.95, 1.0]) for _ in range(2)]
    assume(all(mask.any() for mask in pair))
    return tuple(pair)


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of a mask that have a face neighbour outside it."""
    padded = np.pad(mask, 1)
    neighbours = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
    return mask & ~np.logical_and.reduce(neighbours)[1:-1, 1:-1, 1:-1]


def by_brute_force(a: np.ndarray, b: np.ndarray, spacing) -> list[np.ndarray]:
    """Distance in mm from each surface voxel of a mask to the nearest of the other, over all pairs."""
    p, q = (np.argwhere(surface(mask)) * spacing for mask in (a, b))
    apart = np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1))
    return [apart.min(1), apart.min(0)]


def by_distance_transform(a: np.ndarray, b: np.ndarray, spacing) -> list[np.ndarray]:
    edges = surface(a), surface(b)
    to_edge = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return [to_edge[1][edges[0]], to_edge[0][edges[1]]]


def box(low, high, shape=(24, 24, 24)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def ball(centre, radius: float, spacing, shape) -> np.ndarray:
    """Voxels whose centres are within ``radius`` mm of ``centre`` (mm from the first voxel)."""
    at = np.moveaxis(np.indices(shape), 0, -1) * spacing
    return ((at - centre) ** 2).sum(-1) <= radius**2


# --- brute force and distance transform -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=seeds, shape=shapes, spacing=spacings, tolerance=st.floats(0.2, 8.0))
def test_any_two_masks_compared_with_brute_force_and_distance_transform(seed, shape, spacing, tolerance):
    a, b = masks(seed, shape)
    found = scores(a, b, spacing, tolerance)
    assert found["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    for distances in (by_brute_force(a, b, spacing), by_distance_transform(a, b, spacing)):
        both = np.concatenate(distances)
        assume((np.abs(both - tolerance) > 1e-4).all())  # otherwise rounding decides
        assert found["hd95_mm"] == pytest.approx(max(np.percentile(d, 95) for d in distances), abs=1e-4)
        assert found["nsd"] == pytest.approx((both <= tolerance).mean(), abs=1e-6)


# --- boxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [1, 3])
def test_a_cube_shifted_along_one_axis(axis, voxels):
    """Of n³ voxels: Dice (n − d)/n; the leading face (over 5 % of the surface) is d voxels away."""
    n, spacing = 10, np.array([0.7, 1.5, 4.0])
    low = np.array([5, 5, 5])
    moved = low + voxels * np.eye(3, dtype=int)[axis]
    found = scores(box(low, low + n), box(moved, moved + n), spacing, tolerance=0.1)
    assert found["dice"] == pytest.approx((n - voxels) / n)
    assert found["hd95_mm"] == pytest.approx(voxels * spacing[axis])
    # Common to both surfaces: a ring of 4(n − 1) voxels in each of the n − d shared layers.
    assert found["nsd"] == pytest.approx(4 * (n - 1) * (n - voxels) / (n**3 - (n - 2) ** 3))


def test_a_box_that_is_too_long():
    """2 of 12 layers (8 × 8 voxels) too many: 64 + 28 of the longer box's 2 · 64 + 10 · 28 surface voxels are
    outside the tolerance: the end face by two layers, the ring of the layer before it by one."""
    truth, predicted = box((4, 4, 4), (12, 12, 14)), box((4, 4, 4), (12, 12, 16))
    found = scores(predicted, truth, spacing=(1.0, 1.0, 3.0), tolerance=0.9)
    assert found["dice"] == pytest.approx(20 / 22)
    assert found["hd95_mm"] == pytest.approx(6.0)
    beyond = 64 + 28 + 36  # these, and the 6 × 6 voxels of the truth's end face that are now inside
    assert found["nsd"] == pytest.approx(1 - beyond / (2 * 64 + 10 * 28 + 2 * 64 + 8 * 28))


def test_two_single_voxels():
    """Each is its own surface, so every distance is the one between them: √(3² + 8² + 15²)."""
    found = scores(box((2, 2, 2), (3, 3, 3)), box((5, 6, 7), (6, 7, 8)), spacing=(1.0, 2.0, 3.0))
    assert found == {"dice": 0.0, "hd95_mm": pytest.approx(298**0.5), "nsd": 0.0}


@pytest.mark.parametrize("side, expected", [(1, 0.0), (3, 20.0)])
def test_hd95_ignores_a_stray_voxel_but_not_five_percent(side, expected):
    """Besides 152 matching surface voxels, 1 outlier is ignored and 9 are not."""
    truth = box((2, 2, 2), (8, 8, 8), (8, 8, 40))
    predicted = truth.copy()
    predicted[2 : 2 + side, 2 : 2 + side, 27] = True
    assert scores(predicted, truth)["hd95_mm"] == pytest.approx(expected)


def test_a_distance_equal_to_the_tolerance_counts_as_within():
    truth, predicted = box((4, 4, 4), (14, 14, 14)), box((4, 4, 5), (14, 14, 15))
    spacing = (1.0, 1.0, 2.5)
    assert scores(predicted, truth, spacing, tolerance=2.5)["nsd"] == 1
    assert scores(predicted, truth, spacing, tolerance=2.49)["nsd"] < 1


def test_surface_dice_counts_voxels_where_the_textbook_measures_area():
    """A box of 10³ voxels of 1 × 1 × 5 mm, one slice too high: 324 of 488 surface voxels agree (0.66), and
    1800 of 2200 mm² of the area (0.82): the four sides without one slice."""
    truth, predicted = box((4, 4, 4), (14, 14, 14)), box((4, 4, 5), (14, 14, 15))
    found = scores(predicted, truth, spacing=(1.0, 1.0, 5.0), tolerance=0.5)["nsd"]
    assert found == pytest.approx(324 / 488)


def test_hd95_is_the_worse_direction_not_the_percentile_of_both_together():
    """A small truth inside a large prediction: a pooled percentile would dilute the distances."""
    truth, predicted = box((10, 10, 10), (13, 13, 13)), box((2, 2, 2), (20, 20, 20))
    there, back = by_brute_force(predicted, truth, (1.0, 1.0, 1.0))
    found = scores(predicted, truth)["hd95_mm"]
    assert found == pytest.approx(np.percentile(there, 95)) and np.percentile(back, 95) < found
    assert found > np.percentile(np.concatenate([there, back]), 95)


# --- balls ------------------------------------------------------------------------------------------------
# Voxel centres are within one voxel diagonal of the ball's true surface, so this error is allowed.

FINE, FLAT = (0.8, 0.8, 0.8), (0.6, 0.9, 1.8)


@pytest.mark.parametrize("spacing", [FINE, FLAT])
def test_a_ball_in_a_ball(spacing):
    """Radii r < R around one centre: Dice 2r³/(r³ + R³), every distance R − r."""
    shape, centre = [round(44 / s) for s in spacing], (21.0, 22.0, 21.5)
    inner, outer = (ball(centre, radius, spacing, shape) for radius in (12.0, 18.0))
    voxel = np.linalg.norm(spacing)
    found = scores(inner, outer, spacing, tolerance=6 + voxel)
    assert found["dice"] == pytest.approx(2 * 12**3 / (12**3 + 18**3), abs=0.005)
    assert found["hd95_mm"] == pytest.approx(6, abs=voxel)
    assert found["nsd"] == 1
    assert scores(inner, outer, spacing, tolerance=6 - voxel)["nsd"] == 0


@pytest.mark.parametrize("spacing", [FINE, FLAT])
def test_two_balls_side_by_side(spacing):
    """Radius r, distance d. A point of one ball at angle θ from the axis (cos θ uniform over the area) is
    √(d² + r² + 2 d r cos θ) − r away from the other; 95 % of the area has cos θ ≤ 0.9.
    """
    r, d = 10.0, 24.0
    shape = [round(length / s) for length, s in zip((24, 24, 48), spacing, strict=True)]
    a, b = (ball((12.0, 12.0, z), r, spacing, shape) for z in (11.5, 11.5 + d))
    found = scores(a, b, spacing)
    assert found["dice"] == 0
    assert found["hd95_mm"] == pytest.approx(
        (d**2 + r**2 + 1.8 * d * r) ** 0.5 - r, abs=np.linalg.norm(spacing)
    )


@pytest.mark.parametrize("tolerance", [2.0, 4.0])
def test_two_balls_that_overlap(tolerance):
    """Points within t of the other surface have √(d² + r² + 2 d r u) from r − t to r + t, u uniform in ±1.

    Dice is the volume of the lens divided by that of the ball, 1 − 3d/4r + d³/16r³.
    """
    r, d, spacing = 16.0, 10.0, (0.8, 0.8, 0.8)
    shape = [round(length / s) for length, s in zip((38, 38, 48), spacing, strict=True)]
    a, b = (ball((19.0, 18.7, z), r, spacing, shape) for z in (18.0, 18.0 + d))
    low, high = (((r + t) ** 2 - d**2 - r**2) / (2 * d * r) for t in (-tolerance, tolerance))
    found = scores(a, b, spacing, tolerance)
    assert found["dice"] == pytest.approx(1 - 3 * d / (4 * r) + d**3 / (16 * r**3), abs=0.005)
    assert found["nsd"] == pytest.approx((min(high, 1) - max(low, -1)) / 2, abs=0.04)


# --- laws -------------------------------------------------------------------------------------------------


def same(a: dict, b: dict, rel: float = 1e-6) -> bool:
    return a == {metric: pytest.approx(value, rel=rel, abs=1e-6) for metric, value in b.items()}


@quick
@given(seed=seeds, shape=shapes, spacing=spacings)
def test_prediction_and_truth_can_be_swapped(seed, shape, spacing):
    a, b = masks(seed, shape)
    assert same(scores(a, b, spacing), scores(b, a, spacing))


@quick
@given(seed=seeds, shape=shapes, spacing=spacings, tolerance=st.floats(0.1, 10))
def test_bounds(seed, shape, spacing, tolerance):
    a, b = masks(seed, shape)
    found = scores(a, b, spacing, tolerance)
    assert 0 <= found["dice"] <= 1 and 0 <= found["nsd"] <= 1
    assert 0 <= found["hd95_mm"] <= np.linalg.norm((np.array(shape) - 1) * spacing) * (1 + 1e-6)
    assert scores(a, b, spacing, tolerance * 2)["nsd"] >= found["nsd"]


@quick
@given(seed=seeds, shape=shapes, spacing=spacings, tolerance=st.floats(0.01, 10))
def test_equal_masks(seed, shape, spacing, tolerance):
    a, _ = masks(seed, shape)
    assert scores(a, a, spacing, tolerance) == {"dice": 1.0, "hd95_mm": 0.0, "nsd": 1.0}


@quick
@given(seed=seeds, shape=shapes, spacing=spacings, before=st.tuples(*[st.integers(0, 5)] * 3))
def test_position_in_the_volume_does_not_matter(seed, shape, spacing, before):
    """Nor the amount of background: a mask at the border scores as one with background beyond it."""
    a, b = masks(seed, shape)
    width = [(n, 5 - n) for n in before]
    assert scores(np.pad(a, width), np.pad(b, width), spacing) == scores(a, b, spacing)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    shape=shapes,
    spacing=spacings,
    order=st.permutations(range(3)),
    steps=st.tuples(*[st.sampled_from((1, -1))] * 3),
)
def test_axes_can_be_permuted_with_their_spacing_and_flipped(seed, shape, spacing, order, steps):
    a, b = masks(seed, shape)
    flip = tuple(slice(None, None, step) for step in steps)
    turned = [mask.transpose(order)[flip] for mask in (a, b)]
    assert same(scores(*turned, [spacing[axis] for axis in order]), scores(a, b, spacing))


@quick
@given(seed=seeds, shape=shapes, spacing=spacings, power=st.integers(-3, 4))
def test_millimetres_scale_with_the_spacing(seed, shape, spacing, power):
    """Scaled by powers of two, so that rounding is the same and a distance at the tolerance stays there."""
    a, b = masks(seed, shape)
    scale = 2.0**power
    once, scaled = scores(a, b, spacing, 1.5), scores(a, b, [s * scale for s in spacing], 1.5 * scale)
    assert scaled == once | {"hd95_mm": pytest.approx(once["hd95_mm"] * scale)}


@settings(max_examples=8, deadline=None)
@given(seed=seeds, spacing=spacings)
def test_a_class_is_scored_independently_of_the_others(seed, spacing):
    rng = np.random.default_rng(seed)
    labels, truth = (torch.from_numpy(rng.integers(0, 4, (1, 6, 5, 7)).astype(np.uint8)) for _ in range(2))
    together = {(s.class_name, s.metric): s.value for s in score_case(labels, truth, SPEC, spacing)}
    assert len(together) == 9
    for index, c in enumerate(SPEC.classes[:3], start=1):
        alone = scores(labels[0].numpy() == index, truth[0].numpy() == index, spacing)
        assert {m: together[c.name, m] for m in alone} == alone
