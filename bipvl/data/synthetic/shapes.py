"""Organs as implicit shapes: functions from points (mm) to a signed distance (mm, negative inside).

Points are float32 arrays (3 x ...) in patient axes: x to the patient's right, y to the front, z to the head.
The distances are first-order approximations near the surface, which is enough for partial volume and labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial.transform import Rotation

EVERYWHERE = np.array([[-np.inf] * 3, [np.inf] * 3])


class Shape(Protocol):
    """Anything with a bounding box (2 x 3, mm) and a signed distance (mm) at points (3 x ..., mm)."""

    @property
    def bounds(self) -> np.ndarray: ...

    def __call__(self, points: np.ndarray) -> np.ndarray: ...


def _column(vector: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.asarray(vector, dtype=np.float32).reshape((3,) + (1,) * (like.ndim - 1))


def _corners(bounds: np.ndarray) -> np.ndarray:
    return np.array(list(product(*bounds.T)))


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix (3 x 3) from angles about x, y and z."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def smooth_min(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Minimum, smoothed over about `blend` mm where both are equal."""
    if blend <= 0:
        return np.minimum(a, b)
    bump = np.maximum(blend - np.abs(a - b), 0)
    return np.minimum(a, b) - bump * bump * (0.25 / blend)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with half-axes `radii` (mm), rotated by `degrees` about x, y and z."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @cached_property
    def bounds(self) -> np.ndarray:
        reach = np.sqrt(((rotation(self.degrees) * np.asarray(self.radii)) ** 2).sum(1))
        return np.asarray(self.centre) + np.stack([-reach, reach])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        local = points - _column(self.centre, points)
        if any(self.degrees):
            local = np.tensordot(rotation(self.degrees).T.astype(np.float32), local, axes=1)
        local /= _column(self.radii, points)
        unit = np.sqrt(np.einsum("i...,i...->...", local, local))
        local /= _column(self.radii, points)
        slope = np.sqrt(np.einsum("i...,i...->...", local, local))
        return unit * (unit - 1) / np.maximum(slope, 1e-4)


@dataclass(frozen=True)
class Tube:
    """A tapered tube along a smooth curve through `path` (k x 3, mm) with `radii` (k, mm) at its points."""

    path: np.ndarray
    radii: np.ndarray
    pieces: int = 16

    @cached_property
    def _line(self) -> tuple[np.ndarray, np.ndarray]:
        path, radii = np.asarray(self.path, float), np.asarray(self.radii, float)
        at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
        steps = np.linspace(0, at[-1], self.pieces + 1)
        return CubicSpline(at, path)(steps), PchipInterpolator(at, radii)(steps)

    @cached_property
    def bounds(self) -> np.ndarray:
        nodes, radii = self._line
        return np.stack([(nodes - radii[:, None]).min(0), (nodes + radii[:, None]).max(0)])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        nodes, radii = self._line
        nearest = np.full(points.shape[1:], np.inf, np.float32)
        for start, end, r0, r1 in zip(nodes[:-1], nodes[1:], radii[:-1], radii[1:], strict=True):
            along = (end - start).astype(np.float32)
            local = points - _column(start, points)
            share = np.tensordot(along / float(along @ along), local, axes=1)
            np.clip(share, 0, 1, out=share)
            for axis in range(3):
                local[axis] -= along[axis] * share
            distance = np.sqrt(np.einsum("i...,i...->...", local, local))
            share *= np.float32(r1 - r0)
            distance -= share
            distance -= np.float32(r0)
            np.minimum(nearest, distance, out=nearest)
        return nearest


@dataclass(frozen=True)
class Trunk:
    """A rounded torso around the z axis; its half-widths (mm) are interpolated between `levels` (z, mm)."""

    levels: tuple[float, ...]
    half_x: tuple[float, ...]
    half_y: tuple[float, ...]
    centre_y: float = 0.0

    @cached_property
    def bounds(self) -> np.ndarray:
        x, y = max(self.half_x), max(self.half_y)
        return np.array([[-x, self.centre_y - y, -np.inf], [x, self.centre_y + y, np.inf]])

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        fine = np.linspace(self.levels[0], self.levels[-1], 128)
        x, y = (PchipInterpolator(self.levels, half)(fine) for half in (self.half_x, self.half_y))
        return fine, x, y

    def __call__(self, points: np.ndarray) -> np.ndarray:
        fine, *tables = self._tables
        a, b = (np.interp(points[2], fine, table).astype(np.float32) for table in tables)
        x, y = np.abs(points[0]) / a, np.abs(points[1] - np.float32(self.centre_y)) / b
        # A superellipse of exponent 2.5: more rectangular than an ellipse, as a lying body is.
        x_slope, y_slope = x * np.sqrt(x), y * np.sqrt(y)
        unit = np.maximum((x * x_slope + y * y_slope) ** np.float32(0.4), 1e-3)
        slope = np.sqrt((x_slope / a) ** 2 + (y_slope / b) ** 2) / (unit * np.sqrt(unit))
        return (unit - 1) / np.maximum(slope, 1e-4)


@dataclass(frozen=True)
class Below:
    """Everything under the surface z = height(x, y)."""

    height: Callable[[np.ndarray, np.ndarray], np.ndarray]
    bounds: np.ndarray = field(default_factory=lambda: EVERYWHERE)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return (points[2] - self.height(points[0], points[1])) * np.float32(0.8)


@dataclass(frozen=True)
class HalfSpace:
    """The half-space behind the plane through `point`: `normal` points outwards."""

    point: tuple[float, float, float]
    normal: tuple[float, float, float]
    bounds: np.ndarray = field(default_factory=lambda: EVERYWHERE)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        normal = np.asarray(self.normal, np.float32) / np.float32(np.linalg.norm(self.normal))
        return np.tensordot(normal, points - _column(self.point, points), axes=1)


@dataclass(frozen=True)
class Union:
    """All of `shapes`, joined smoothly over about `blend` mm."""

    shapes: tuple[Shape, ...]
    blend: float = 0.0

    @cached_property
    def bounds(self) -> np.ndarray:
        boxes = np.stack([shape.bounds for shape in self.shapes])
        pad = self.blend / 4
        return np.stack([boxes[:, 0].min(0) - pad, boxes[:, 1].max(0) + pad])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        distance = self.shapes[0](points)
        for shape in self.shapes[1:]:
            distance = smooth_min(distance, shape(points), self.blend)
        return distance


@dataclass(frozen=True)
class Minus:
    """`shape` minus `cut`, after growing `cut` by `gap` mm."""

    shape: Shape
    cut: Shape
    blend: float = 0.0
    gap: float = 0.0

    @property
    def bounds(self) -> np.ndarray:
        return self.shape.bounds

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return -smooth_min(-self.shape(points), self.cut(points) - np.float32(self.gap), self.blend)


@dataclass(frozen=True)
class Within:
    """The part of `shape` inside `limit`, after shrinking `limit` by `gap` mm."""

    shape: Shape
    limit: Shape
    blend: float = 0.0
    gap: float = 0.0

    @cached_property
    def bounds(self) -> np.ndarray:
        ours, theirs = self.shape.bounds, self.limit.bounds
        return np.stack([np.maximum(ours[0], theirs[0]), np.minimum(ours[1], theirs[1])])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return -smooth_min(-self.shape(points), -self.limit(points) - np.float32(self.gap), self.blend)


@dataclass(frozen=True)
class Grown:
    """`shape` grown outwards by `margin` mm."""

    shape: Shape
    margin: float

    @cached_property
    def bounds(self) -> np.ndarray:
        return self.shape.bounds + np.array([[-1.0], [1.0]]) * self.margin

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.shape(points) - np.float32(self.margin)


@dataclass(frozen=True)
class Stacked:
    """`shape`, centred at z = 0, repeated every `pitch` mm from z = `low` to `high` (vertebrae)."""

    shape: Shape
    pitch: float
    phase: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    @cached_property
    def bounds(self) -> np.ndarray:
        box = self.shape.bounds.copy()
        box[:, 2] = self.low, self.high
        return box

    def __call__(self, points: np.ndarray) -> np.ndarray:
        local = points.copy()
        local[2] = np.mod(points[2] - np.float32(self.phase - self.pitch / 2), np.float32(self.pitch))
        local[2] -= np.float32(self.pitch / 2)
        return self.shape(local)


@dataclass(frozen=True)
class Wavy:
    """`shape` with an uneven surface: `ripples` (mm) are added to the distance."""

    shape: Shape
    ripples: "Ripples"

    @cached_property
    def bounds(self) -> np.ndarray:
        return self.shape.bounds + np.array([[-1.0], [1.0]]) * self.ripples.reach

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.shape(points) + self.ripples(points)


@dataclass(frozen=True)
class Placed:
    """`shape`, rotated and scaled about `pivot` (mm), then shifted (mm)."""

    shape: Shape
    pivot: np.ndarray
    shift: np.ndarray
    matrix: np.ndarray
    scale: float = 1.0

    @cached_property
    def bounds(self) -> np.ndarray:
        corners = (_corners(self.shape.bounds) - self.pivot) @ (self.matrix.T * self.scale)
        corners += self.pivot + self.shift
        return np.stack([corners.min(0), corners.max(0)])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        local = points - _column(self.pivot + self.shift, points)
        local = np.tensordot((self.matrix.T / self.scale).astype(np.float32), local, axes=1)
        local += _column(self.pivot, points)
        return self.shape(local) * np.float32(self.scale)


@dataclass(frozen=True)
class Ripples:
    """A smooth random field (mm): a sum of plane waves with random directions and wavelengths."""

    waves: np.ndarray  # n x 3, radians per mm
    phases: np.ndarray  # n
    heights: np.ndarray  # n, mm

    @classmethod
    def draw(
        cls, rng: np.random.Generator, height: float, lengths: tuple[float, float], count: int = 4
    ) -> "Ripples":
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        waves = directions * (2 * np.pi / rng.uniform(*lengths, (count, 1)))
        heights = rng.uniform(0.5, 1.0, count) * height / np.sqrt(count)
        return cls(waves, rng.uniform(0, 2 * np.pi, count), heights)

    @property
    def reach(self) -> float:
        return float(np.abs(self.heights).sum())

    def __call__(self, points: np.ndarray) -> np.ndarray:
        total = np.zeros(points.shape[1:], np.float32)
        for wave, phase, height in zip(self.waves, self.phases, self.heights, strict=True):
            angle = np.tensordot(wave.astype(np.float32), points, axes=1)
            total += np.float32(height) * np.sin(angle + np.float32(phase))
        return total
