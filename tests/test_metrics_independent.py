"""The metrics against other ways to compute them: closed forms, brute force, scipy, and laws that must hold.

MONAI's definitions, which ``bipvl.engine.metrics`` takes over, differ from the textbook's in three ways:

- A surface is a set of voxels (those of the mask with a face neighbour outside it, and all at the volume's
  border), each a point at its centre. The textbook's is the boundary itself, half a voxel further out.
- Surface Dice counts those voxels. The textbook's (Nikolov et al. 2018) measures area, so that in a scan with
  thick slices the large faces between slices weigh more.
- HD95 is the larger of the two directions' 95th percentiles, each interpolated between voxels. Others take
  the percentile of both directions together, or weigh by area.
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
    """Metric → value of two masks H × W × D that both hold something."""
    labels = [torch.from_numpy(mask.astype(np.uint8))[None] for mask in (predicted, truth)]
    found = list(score_case(*labels, SPEC.model_copy(update={"nsd_tolerance": tolerance}), spacing))
    assert {(s.class_name, s.flag) for s in found} == {(SPEC.classes[0].name, "")}
    return {s.metric: s.value for s in found}


def masks(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two masks, from single voxels to full volumes, holes and the volume's border included."""
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
    """From each surface voxel of either mask to the nearest of the other, mm: every pair is measured."""
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
    """Voxels whose centres lie within ``radius`` mm of ``centre`` (mm from the first voxel)."""
    at = np.moveaxis(np.indices(shape), 0, -1) * spacing
    return ((at - centre) ** 2).sum(-1) <= radius**2


# --- two other ways to compute them -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=seeds, shape=shapes, spacing=spacings, tolerance=st.floats(0.2, 8.0))
def test_any_two_masks_by_brute_force_and_by_distance_transform(seed, shape, spacing, tolerance):
    a, b = masks(seed, shape)
    found = scores(a, b, spacing, tolerance)
    assert found["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    for distances in (by_brute_force(a, b, spacing), by_distance_transform(a, b, spacing)):
        both = np.concatenate(distances)
        assume((np.abs(both - tolerance) > 1e-4).all())  # else rounding decides what is within
        assert found["hd95_mm"] == pytest.approx(max(np.percentile(d, 95) for d in distances), abs=1e-4)
        assert found["nsd"] == pytest.approx((both <= tolerance).mean(), abs=1e-6)


# --- boxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [1, 3])
def test_a_cube_that_is_moved_along_one_axis(axis, voxels):
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
    """2 of 12 layers too many, of 8 × 8 voxels: 64 + 28 of the longer one's 2 · 64 + 10 · 28 surface voxels
    lie beyond, the end face at two layers and the ring of the layer before it at one."""
    truth, predicted = box((4, 4, 4), (12, 12, 14)), box((4, 4, 4), (12, 12, 16))
    found = scores(predicted, truth, spacing=(1.0, 1.0, 3.0), tolerance=0.9)
    assert found["dice"] == pytest.approx(20 / 22)
    assert found["hd95_mm"] == pytest.approx(6.0)
    beyond = 64 + 28 + 36  # those two, and of the truth's end face the 6 × 6 voxels now inside
    assert found["nsd"] == pytest.approx(1 - beyond / (2 * 64 + 10 * 28 + 2 * 64 + 8 * 28))


def test_one_voxel_and_another():
    """Both are their own surface, so all is the way from one to the other: √(3² + 8² + 15²)."""
    found = scores(box((2, 2, 2), (3, 3, 3)), box((5, 6, 7), (6, 7, 8)), spacing=(1.0, 2.0, 3.0))
    assert found == {"dice": 0.0, "hd95_mm": pytest.approx(298**0.5), "nsd": 0.0}


@pytest.mark.parametrize("side, expected", [(1, 0.0), (3, 20.0)])
def test_hd95_passes_over_a_stray_voxel_but_not_over_five_in_a_hundred(side, expected):
    """Beside 152 surface voxels that agree 1 is passed over and 9 are not."""
    truth = box((2, 2, 2), (8, 8, 8), (8, 8, 40))
    predicted = truth.copy()
    predicted[2 : 2 + side, 2 : 2 + side, 27] = True
    assert scores(predicted, truth)["hd95_mm"] == pytest.approx(expected)


def test_the_tolerance_itself_is_within_it():
    truth, predicted = box((4, 4, 4), (14, 14, 14)), box((4, 4, 5), (14, 14, 15))
    spacing = (1.0, 1.0, 2.5)
    assert scores(predicted, truth, spacing, tolerance=2.5)["nsd"] == 1
    assert scores(predicted, truth, spacing, tolerance=2.49)["nsd"] < 1


def test_surface_dice_counts_voxels_where_the_textbook_measures_area():
    """A box of 10³ voxels of 1 × 1 × 5 mm, a slice too high. Of the surface voxels 324 of 488 stay
    (0.66); of the area the four sides less a slice do, 1800 of 2200 mm² (0.82)."""
    truth, predicted = box((4, 4, 4), (14, 14, 14)), box((4, 4, 5), (14, 14, 15))
    found = scores(predicted, truth, spacing=(1.0, 1.0, 5.0), tolerance=0.5)["nsd"]
    assert found == pytest.approx(324 / 488)


def test_hd95_is_the_worse_direction_not_the_percentile_of_both_together():
    """A small truth inside a large prediction: pooled, the truth's few voxels would dilute the distances."""
    truth, predicted = box((10, 10, 10), (13, 13, 13)), box((2, 2, 2), (20, 20, 20))
    there, back = by_brute_force(predicted, truth, (1.0, 1.0, 1.0))
    found = scores(predicted, truth)["hd95_mm"]
    assert found == pytest.approx(np.percentile(there, 95)) and np.percentile(back, 95) < found
    assert found > np.percentile(np.concatenate([there, back]), 95)


# --- balls ------------------------------------------------------------------------------------------------
# A surface of voxel centres lies within a voxel's diagonal of the ball's own, so that is the error allowed.

FINE, FLAT = (0.8, 0.8, 0.8), (0.6, 0.9, 1.8)


@pytest.mark.parametrize("spacing", [FINE, FLAT])
def test_a_ball_in_a_ball(spacing):
    """Radii r < R about one centre: Dice 2r³/(r³ + R³), every distance R − r."""
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
    """Radius r, d apart. A point of one at angle θ from the axis (cos θ even over the area) lies at
    √(d² + r² + 2 d r cos θ) − r from the other; 95 % of the area has cos θ ≤ 0.9.
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
    """Within t of the other's surface: the zone of √(d² + r² + 2 d r u) from r − t to r + t, u even in ±1.

    Dice is the lens over the ball, 1 − 3d/4r + d³/16r³.
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
def test_prediction_and_truth_may_change_places(seed, shape, spacing):
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
def test_where_in_the_volume_does_not_matter(seed, shape, spacing, before):
    """Nor how much background is around: a mask at the border is one with background beyond."""
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
def test_axes_may_change_places_with_their_spacing_and_be_flipped(seed, shape, spacing, order, steps):
    a, b = masks(seed, shape)
    flip = tuple(slice(None, None, step) for step in steps)
    turned = [mask.transpose(order)[flip] for mask in (a, b)]
    assert same(scores(*turned, [spacing[axis] for axis in order]), scores(a, b, spacing))


@quick
@given(seed=seeds, shape=shapes, spacing=spacings, power=st.integers(-3, 4))
def test_millimetres_scale_with_the_spacing(seed, shape, spacing, power):
    """By a power of two, so that rounding is the same: a distance at the tolerance stays there."""
    a, b = masks(seed, shape)
    scale = 2.0**power
    once, scaled = scores(a, b, spacing, 1.5), scores(a, b, [s * scale for s in spacing], 1.5 * scale)
    assert scaled == once | {"hd95_mm": pytest.approx(once["hd95_mm"] * scale)}


@settings(max_examples=8, deadline=None)
@given(seed=seeds, spacing=spacings)
def test_a_class_is_scored_as_if_it_were_alone(seed, spacing):
    rng = np.random.default_rng(seed)
    labels, truth = (torch.from_numpy(rng.integers(0, 4, (1, 6, 5, 7)).astype(np.uint8)) for _ in range(2))
    together = {(s.class_name, s.metric): s.value for s in score_case(labels, truth, SPEC, spacing)}
    assert len(together) == 9
    for index, c in enumerate(SPEC.classes[:3], start=1):
        alone = scores(labels[0].numpy() == index, truth[0].numpy() == index, spacing)
        assert {m: together[c.name, m] for m in alone} == alone
