"""Masks as lit surfaces: from each pixel a ray into the volume, to the first surface that it meets."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from bipvl.figures import style

AZIMUTH, ELEVATION = np.radians(25), np.radians(20)
"""The viewer: before the patient, gone round towards the patient's left, and above."""
RAYS, STEP = 300, 0.125
"""Rays along a picture's longer side; the shortest step of a ray, voxels."""
SMOOTHING, KEPT = 0.9, 0.7
"""Standard deviation (voxels) of the Gaussian over a mask before its surface (0.5) is taken; what a voxel of
the mask has after it at least, so that thin parts stay."""
VEIL = 0.35
"""Opacity of a class around others."""


def _view() -> np.ndarray:
    """Unit vectors (to right, front, head) towards the picture's right, its top, and the viewer."""
    side, front = np.sin(AZIMUTH) * np.cos(ELEVATION), np.cos(AZIMUTH) * np.cos(ELEVATION)
    viewer = np.array([-side, front, np.sin(ELEVATION)])
    right = np.cross([0, 0, 1], viewer)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(viewer, right), viewer])


VIEW = _view()
LIGHT = np.array([-0.4, 0.6, 0.7]) @ VIEW / np.linalg.norm([-0.4, 0.6, 0.7])


def render(mask: np.ndarray, see_through: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (to right × front × head, cubes) as lit surfaces, seen along VIEW.

    Args:
        see_through: numbers of classes through which others are seen.

    Returns:
        rows × columns × RGBA; and the class that each pixel shows, 0 none.
    """
    outer = np.isin(mask, see_through)
    picture, numbers, depth = _surface(np.where(outer, 0, mask))
    if not outer.any():
        return picture, numbers
    veil, outer_numbers, outer_depth = _surface(np.where(outer, mask, 0))
    before = outer_depth < depth
    top = veil * np.where(before[..., None], [1, 1, 1, VEIL], 0)
    return _over(top, picture), np.where((numbers == 0) & before, outer_numbers, numbers)


def _frame(shape: Sequence[int]) -> np.ndarray:
    """Width, height and length along VIEW of a volume with its surfaces, voxels."""
    return np.abs(VIEW) @ (np.array(shape) + 1)


def pitch(shape: Sequence[int]) -> float:
    """From ray to ray of ``render``, voxels."""
    return _frame(shape)[:2].max() / RAYS


def _over(top: np.ndarray, below: np.ndarray) -> np.ndarray:
    """One RGBA picture over another."""
    rest = below[..., 3:] * (1 - top[..., 3:])
    alpha = top[..., 3:] + rest
    colour = top[..., :3] * top[..., 3:] + below[..., :3] * rest
    return np.concatenate([colour / np.where(alpha > 0, alpha, 1), alpha], axis=-1)


def _surface(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each ray meets first: RGBA, its class (0 none), its depth (voxels, inf where there is none)."""
    mask = np.pad(mask, 2)
    field = _soft(mask > 0)
    width, height, length = _frame(np.array(mask.shape) - 4)
    step = pitch(np.array(mask.shape) - 4)
    y, x = np.mgrid[height / 2 : -height / 2 : -step, -width / 2 : width / 2 : step]
    middle = (np.array(mask.shape) - 1) / 2
    starts = middle[:, None] + VIEW.T @ np.stack([x.ravel(), y.ravel(), np.full(x.size, length / 2)])
    depth = _march(field, starts, length)
    met = np.isfinite(depth)
    points = starts[:, met] - VIEW[2][:, None] * depth[met]
    numbers, picture = np.zeros(x.size, np.uint8), np.zeros((x.size, 4))
    numbers[met] = _classes_at(mask, points)
    picture[met] = _lit(numbers[met], _normals(field, points))
    return picture.reshape(*x.shape, 4), numbers.reshape(x.shape), depth.reshape(x.shape)


def _march(field: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """How far from its start (3 × P) each ray meets the field's surface, voxels; inf where not in ``length``.

    A ray goes on by its distance to the nearest voxel inside, less √3: so far before it a surface may lie.
    """
    depth = np.full(starts.shape[1], np.inf)
    if not (field >= 0.5).any():
        return depth
    free = distance_transform_edt(field < 0.5).astype(np.float32) - 3**0.5
    going, gone = np.arange(depth.size), np.zeros(depth.size)
    while going.size:
        points = starts[:, going] - VIEW[2][:, None] * gone
        way = map_coordinates(free, points, order=1, mode="nearest")
        met = way <= 0
        met[met] = map_coordinates(field, points[:, met], order=1) >= 0.5
        depth[going[met]] = gone[met]
        gone = gone + np.maximum(way, STEP)
        on = ~met & (gone < length)
        going, gone = going[on], gone[on]
    return depth


def _soft(inside: np.ndarray) -> np.ndarray:
    """A mask as a smooth field, its surface at 0.5."""
    return np.maximum(gaussian_filter(inside.astype(np.float32), SMOOTHING, mode="constant"), KEPT * inside)


def _classes_at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The class that is nearest to each point (3 × P)."""
    present = np.unique(mask[mask > 0])
    if not len(present):
        return np.zeros(points.shape[1], np.uint8)
    near = [map_coordinates(_soft(mask == number), points, order=1) for number in present]
    return present[np.argmax(near, axis=0)]


def _normals(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unit vectors out of a field's surface at points (3 × P), P × 3."""
    slopes = np.gradient(gaussian_filter(field, 0.7))
    normals = -np.stack([map_coordinates(slope, points, order=1) for slope in slopes], axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)


def _lit(numbers: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Class colours (P × RGBA) under a light at the upper left, darker where the surface turns away."""
    palette = [to_rgb(style.class_colour(n - 1)) for n in range(numbers.max(initial=0) + 1)]
    colours = np.array(palette)[numbers]
    facing = np.clip(normals @ VIEW[2], 0, 1)
    light = (0.5 + 0.55 * np.clip(normals @ LIGHT, 0, 1)) * (0.65 + 0.35 * facing)
    halfway = (LIGHT + VIEW[2]) / np.linalg.norm(LIGHT + VIEW[2])
    gloss = 0.2 * np.clip(normals @ halfway, 0, 1) ** 24
    lit = np.clip(colours * light[:, None] + gloss[:, None], 0, 1)
    return np.concatenate([lit, np.ones((len(lit), 1))], axis=1)
