"""Organs as implicit shapes: functions from points (mm) to a signed distance (mm, negative inside).

Points are float32 arrays (3 x ...) in patient axes: x to the patient's right, y to the front, z to the head.
The distances are first-order approximations near the surface, which is enough for partial volume and labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial.transform import Rotation

EVERYWHERE = np.array([[-np.inf] * 3, [np.inf] * 3])
ZERO = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Shape:
    """A bounding box (2 x 3, mm) and a function from points (3 x ..., mm) to the signed distance (mm)."""

    bounds: np.ndarray
    distance: Callable[[np.ndarray], np.ndarray]


def padded(bounds: np.ndarray, margin: float) -> np.ndarray:
    """A bounding box that is larger by `margin` mm on each side."""
    return bounds + np.array([[-1.0], [1.0]]) * margin


def corners(bounds: np.ndarray) -> np.ndarray:
    """The eight corners (8 x 3) of a bounding box."""
    return np.array(list(product(*bounds.T)))


def rotation(degrees: ArrayLike) -> np.ndarray:
    """Rotation matrix (3 x 3) from angles about x, y and z."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def _column(vector: ArrayLike, like: np.ndarray) -> np.ndarray:
    return np.asarray(vector, dtype=np.float32).reshape((3,) + (1,) * (like.ndim - 1))


def _smooth_min(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Minimum, smoothed over about `blend` mm where both are equal."""
    if blend <= 0:
        return np.minimum(a, b)
    bump = np.maximum(blend - np.abs(a - b), 0)
    return np.minimum(a, b) - bump * bump * (0.25 / blend)


def ellipsoid(centre: ArrayLike, radii: ArrayLike, degrees: ArrayLike = ZERO) -> Shape:
    """An ellipsoid with half-axes `radii` (mm), rotated by `degrees` about x, y and z."""
    matrix = rotation(degrees)
    reach = np.sqrt(((matrix * np.asarray(radii)) ** 2).sum(1))

    def distance(points: np.ndarray) -> np.ndarray:
        local = points - _column(centre, points)
        if np.any(degrees):
            local = np.tensordot(matrix.T.astype(np.float32), local, axes=1)
        local /= _column(radii, points)
        unit = np.sqrt(np.einsum("i...,i...->...", local, local))
        local /= _column(radii, points)
        slope = np.sqrt(np.einsum("i...,i...->...", local, local))
        return unit * (unit - 1) / np.maximum(slope, 1e-4)

    return Shape(padded(np.asarray(centre), reach), distance)


def tube(path: ArrayLike, radii: ArrayLike, pieces: int = 16) -> Shape:
    """A tapered tube along a smooth curve through `path` (k x 3, mm) with `radii` (k, mm) at its points."""
    path = np.asarray(path, float)
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    steps = np.linspace(0, at[-1], pieces + 1)
    nodes, widths = CubicSpline(at, path)(steps), PchipInterpolator(at, np.asarray(radii, float))(steps)

    def distance(points: np.ndarray) -> np.ndarray:
        nearest = np.full(points.shape[1:], np.inf, np.float32)
        for start, end, r0, r1 in zip(nodes[:-1], nodes[1:], widths[:-1], widths[1:], strict=True):
            along = (end - start).astype(np.float32)
            local = points - _column(start, points)
            share = np.tensordot(along / float(along @ along), local, axes=1)
            np.clip(share, 0, 1, out=share)
            for axis in range(3):
                local[axis] -= along[axis] * share
            to_axis = np.sqrt(np.einsum("i...,i...->...", local, local))
            share *= np.float32(r1 - r0)
            to_axis -= share
            to_axis -= np.float32(r0)
            np.minimum(nearest, to_axis, out=nearest)
        return nearest

    bounds = np.stack([(nodes - widths[:, None]).min(0), (nodes + widths[:, None]).max(0)])
    return Shape(bounds, distance)


def torso(levels: ArrayLike, half_x: np.ndarray, half_y: np.ndarray, centre_y: float = 0.0) -> Shape:
    """A rounded torso around the z axis; its half-widths (mm) are interpolated between `levels` (z, mm)."""
    fine = np.linspace(levels[0], levels[-1], 128)
    tables = [PchipInterpolator(levels, half)(fine) for half in (half_x, half_y)]

    def distance(points: np.ndarray) -> np.ndarray:
        a, b = (np.interp(points[2], fine, table).astype(np.float32) for table in tables)
        x, y = np.abs(points[0]) / a, np.abs(points[1] - np.float32(centre_y)) / b
        # A superellipse of exponent 2.5: more rectangular than an ellipse, as a lying body is.
        x_slope, y_slope = x * np.sqrt(x), y * np.sqrt(y)
        unit = np.maximum((x * x_slope + y * y_slope) ** np.float32(0.4), 1e-3)
        slope = np.sqrt((x_slope / a) ** 2 + (y_slope / b) ** 2) / (unit * np.sqrt(unit))
        return (unit - 1) / np.maximum(slope, 1e-4)

    x, y = half_x.max(), half_y.max()
    return Shape(np.array([[-x, centre_y - y, -np.inf], [x, centre_y + y, np.inf]]), distance)


def half_space(point: ArrayLike, normal: ArrayLike) -> Shape:
    """The half-space behind the plane through `point`: `normal` points outwards."""
    unit = np.asarray(normal, np.float32) / np.float32(np.linalg.norm(normal))
    return Shape(EVERYWHERE, lambda points: np.tensordot(unit, points - _column(point, points), axes=1))


def union(shapes: Sequence[Shape], blend: float = 0.0) -> Shape:
    """All of `shapes`, joined smoothly over about `blend` mm."""

    def distance(points: np.ndarray) -> np.ndarray:
        joined = shapes[0].distance(points)
        for shape in shapes[1:]:
            joined = _smooth_min(joined, shape.distance(points), blend)
        return joined

    boxes = np.stack([shape.bounds for shape in shapes])
    return Shape(padded(np.stack([boxes[:, 0].min(0), boxes[:, 1].max(0)]), blend / 4), distance)


def minus(shape: Shape, cut: Shape, blend: float = 0.0, gap: float = 0.0) -> Shape:
    """`shape` minus `cut`, after growing `cut` by `gap` mm."""

    def distance(points: np.ndarray) -> np.ndarray:
        return -_smooth_min(-shape.distance(points), cut.distance(points) - np.float32(gap), blend)

    return Shape(shape.bounds, distance)


def within(shape: Shape, limit: Shape, blend: float = 0.0, gap: float = 0.0) -> Shape:
    """The part of `shape` inside `limit`, after shrinking `limit` by `gap` mm."""
    low, high = np.maximum(shape.bounds[0], limit.bounds[0]), np.minimum(shape.bounds[1], limit.bounds[1])

    def distance(points: np.ndarray) -> np.ndarray:
        return -_smooth_min(-shape.distance(points), -limit.distance(points) - np.float32(gap), blend)

    return Shape(np.stack([low, high]), distance)


def grown(shape: Shape, margin: float) -> Shape:
    """`shape` grown outwards by `margin` mm."""
    return Shape(padded(shape.bounds, margin), lambda points: shape.distance(points) - np.float32(margin))


def stacked(shape: Shape, pitch: float, phase: float, low: float, high: float) -> Shape:
    """`shape`, centred at z = 0, repeated every `pitch` mm from z = `low` to `high` (vertebrae)."""

    def distance(points: np.ndarray) -> np.ndarray:
        local = points.copy()
        local[2] = np.mod(points[2] - np.float32(phase - pitch / 2), np.float32(pitch))
        local[2] -= np.float32(pitch / 2)
        return shape.distance(local)

    bounds = shape.bounds.copy()
    bounds[:, 2] = low, high
    return Shape(bounds, distance)


def placed(
    shape: Shape, matrix: np.ndarray, *, scale: float = 1.0, pivot: ArrayLike = ZERO, shift: ArrayLike = ZERO
) -> Shape:
    """`shape`, rotated by `matrix` and scaled about `pivot` (mm), then shifted (mm)."""
    moved = (corners(shape.bounds) - pivot) @ (matrix.T * scale) + np.add(pivot, shift)

    def distance(points: np.ndarray) -> np.ndarray:
        local = points - _column(np.add(pivot, shift), points)
        local = np.tensordot((matrix.T / scale).astype(np.float32), local, axes=1)
        local += _column(pivot, points)
        return shape.distance(local) * np.float32(scale)

    return Shape(np.stack([moved.min(0), moved.max(0)]), distance)


class Ripples:
    """A smooth random field (mm): a sum of plane waves with random directions and wavelengths.

    Args:
        height: typical size of the field, mm.
        lengths: shortest and longest wavelength, mm.
        count: number of waves.
    """

    def __init__(
        self, rng: np.random.Generator, height: float, lengths: tuple[float, float], count: int = 4
    ) -> None:
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self.waves = directions * (2 * np.pi / rng.uniform(*lengths, (count, 1)))  # radians per mm
        self.heights = rng.uniform(0.5, 1.0, count) * height / np.sqrt(count)
        self.phases = rng.uniform(0, 2 * np.pi, count)
        self.reach = float(np.abs(self.heights).sum())

    def __call__(self, points: np.ndarray) -> np.ndarray:
        total = np.zeros(points.shape[1:], np.float32)
        for wave, phase, height in zip(self.waves, self.phases, self.heights, strict=True):
            angle = np.tensordot(wave.astype(np.float32), points, axes=1)
            total += np.float32(height) * np.sin(angle + np.float32(phase))
        return total


def wavy(shape: Shape, ripples: Ripples) -> Shape:
    """`shape` with an uneven surface: `ripples` (mm) are added to the distance."""
    bounds = padded(shape.bounds, ripples.reach)
    return Shape(bounds, lambda points: shape.distance(points) + ripples(points))
