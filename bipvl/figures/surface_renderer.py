"""Masks as lit surfaces: marching cubes gives triangles, which are drawn from back to front."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import TriMesh
from matplotlib.colors import to_rgb
from matplotlib.tri import Triangulation
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.measure import marching_cubes

from bipvl.figures import style

AZIMUTH, ELEVATION = np.radians(25), np.radians(20)
"""Direction of the viewer: in front of the patient, turned towards the patient's left, and above."""
SMOOTHING, KEPT = 0.9, 0.7
"""Standard deviation (voxels) of the Gaussian that smooths a mask before its surface is taken at 0.5, and the
smallest value that a voxel of the mask keeps, so that thin parts do not vanish."""
VEIL = 0.35
"""Opacity of a see-through class."""


def _view() -> np.ndarray:
    """Unit vectors (to right, front, head) towards the picture's right, its top, and the viewer."""
    side, front = np.sin(AZIMUTH) * np.cos(ELEVATION), np.cos(AZIMUTH) * np.cos(ELEVATION)
    viewer = np.array([-side, front, np.sin(ELEVATION)])
    right = np.cross([0, 0, 1], viewer)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(viewer, right), viewer])


VIEW = _view()
LIGHT = np.array([-0.4, 0.6, 0.7]) / np.linalg.norm([-0.4, 0.6, 0.7])


@dataclass(frozen=True)
class Surface:
    """The triangles of a surface that face the viewer, the farthest first.

    ``points`` P × 3, along VIEW, mm; ``triangles`` T × 3, indices of points; ``numbers`` P, classes;
    ``colours`` P × RGBA; ``opacity`` of the whole surface.
    """

    points: np.ndarray
    triangles: np.ndarray
    numbers: np.ndarray
    colours: np.ndarray
    opacity: float


def surfaces(mask: np.ndarray, see_through: Sequence[int] = (), voxel_mm: float = 1.0) -> list[Surface]:
    """The surfaces of class numbers (right × front × head, cubic voxels), in the order of drawing.

    Args:
        see_through: numbers of the classes that surround the others; they are drawn last, see-through.
    """
    outer = np.isin(mask, see_through)
    parts = [(np.where(outer, 0, mask), 1.0), (np.where(outer, mask, 0), VEIL)]
    return [_surface(part, voxel_mm, opacity) for part, opacity in parts if part.any()]


def draw(axes: Axes, surface: Surface) -> None:
    """Draw a surface into axes in mm, over what is there already."""
    x, y, _ = surface.points.T
    mesh = TriMesh(Triangulation(x, y, surface.triangles), rasterized=True, zorder=2)
    mesh.set_facecolor(surface.colours)
    if surface.opacity < 1:  # filter the drawn picture: opacities of overlapping triangles would add up
        mesh.set_agg_filter(lambda picture, dpi: (picture * [1, 1, 1, surface.opacity], 0, 0))
    axes.add_collection(mesh, autolim=False)


def visible_classes(parts: Sequence[Surface], low: np.ndarray, high: np.ndarray, pitch: float) -> np.ndarray:
    """The class in each square of a picture from ``low`` to ``high`` (x, y; mm), rows upwards; 0 none.

    A see-through class is visible only where no other is.
    """
    picture = np.zeros(np.ceil((high - low) / pitch).astype(int)[::-1] + 1, np.uint8)
    near = np.vstack([(1 + np.eye(3)) / 4, (1 - np.eye(3)) / 2])  # six samples per triangle leave no gaps
    for surface in sorted(parts, key=lambda part: part.opacity):
        samples = (near @ surface.points[surface.triangles]).reshape(-1, 3)
        numbers = surface.numbers[surface.triangles[:, [0, 1, 2, 1, 2, 0]]].ravel()
        order = np.argsort(samples[:, 2], kind="stable")
        column, row = ((samples[order, :2] - low) / pitch).astype(int).T
        picture[row, column] = numbers[order]
    return picture


def _surface(mask: np.ndarray, voxel_mm: float, opacity: float) -> Surface:
    middle, mask = (np.array(mask.shape) - 1) / 2 + 2, np.pad(mask, 2)
    field = _soft(mask > 0)
    points, triangles, _, _ = marching_cubes(field, 0.5)
    numbers, normals = _nearest_classes(mask, points), _normals(field, points) @ VIEW.T
    seen = (points - middle) @ VIEW.T * voxel_mm
    triangles = triangles[(normals[triangles, 2] > 0).any(1)]
    triangles = triangles[np.argsort(seen[triangles, 2].mean(1), kind="stable")]
    return Surface(seen, triangles, numbers, _lit(numbers, normals), opacity)


def _soft(inside: np.ndarray) -> np.ndarray:
    """A mask as a smooth field with its surface at 0.5."""
    return np.maximum(gaussian_filter(inside.astype(np.float32), SMOOTHING, mode="constant"), KEPT * inside)


def _nearest_classes(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The class nearest to each point (P × 3)."""
    present = np.unique(mask[mask > 0])
    near = [map_coordinates(_soft(mask == number), points.T, order=1) for number in present]
    return present[np.argmax(near, axis=0)]


def _normals(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unit vectors out of a field's surface (P × 3), smoother than those of ``marching_cubes``."""
    slopes = np.gradient(gaussian_filter(field, 0.7))
    normals = -np.stack([map_coordinates(slope, points.T, order=1) for slope in slopes], axis=1)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)


def _lit(numbers: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Class colours (P × RGBA) under a light from the upper left, darker where the surface turns away."""
    palette = np.array([to_rgb(style.class_colour(n - 1)) for n in range(numbers.max() + 1)])
    light, viewer = VIEW @ LIGHT, np.array([0, 0, 1])
    halfway = (light + viewer) / np.linalg.norm(light + viewer)
    shade = (0.5 + 0.55 * np.clip(normals @ light, 0, 1)) * (0.65 + 0.35 * np.clip(normals[:, 2], 0, 1))
    gloss = 0.2 * np.clip(normals @ halfway, 0, 1) ** 24
    lit = np.clip(palette[numbers] * shade[:, None] + gloss[:, None], 0, 1)
    return np.hstack([lit, np.ones((len(lit), 1))])
