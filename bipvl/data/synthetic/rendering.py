"""Paint a scene of implicit shapes onto a voxel grid: intensities with partial volume, and labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from bipvl.data.synthetic.shapes import Ripples, Shape, corners, padded

SLAB_VOXELS = 2_000_000  # limits the memory for one slab of a clinical volume
GRAIN_MM = 3.0  # size of the grains of a texture


@dataclass(frozen=True)
class Layer:
    """One structure, painted over the previous layers.

    `coats` are pairs (depth in mm, intensity) from the surface inwards; `code` is the label of its voxels
    (None: unchanged); `grain` is the standard deviation of its texture. A `wall` (thickness in mm,
    intensity) surrounds it and has no label, so that hollow neighbours stay separate.
    """

    shape: Shape
    coats: tuple[tuple[float, float], ...]
    code: int | None = None
    grain: float = 0.0
    wall: tuple[float, float] | None = None


class Warp:
    """A smooth deformation that makes patients differ (mm, one field per axis)."""

    def __init__(self, rng: np.random.Generator, height: float, lengths: tuple[float, float]) -> None:
        self.fields = [Ripples(rng, height, lengths, count=3) for _ in range(3)]
        self.reach = max(part.reach for part in self.fields)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points + np.stack([part(points) for part in self.fields])


@dataclass(frozen=True)
class Scene:
    """A patient: layers in patient axes (mm), the background intensity, and the position in the scanner.

    `pose` (4 x 4) maps patient axes to scanner (RAS+ world) coordinates.
    """

    layers: list[Layer]
    background: float
    pose: np.ndarray
    warp: Warp
    grain_seed: int

    @cached_property
    def lattice(self) -> np.ndarray:
        noise = np.random.default_rng(self.grain_seed).standard_normal((48, 48, 48), dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, 0.8, mode="wrap")
        return noise / noise.std()

    def grain(self, points: np.ndarray) -> np.ndarray:
        """Texture of unit variance at points (3 x ..., mm)."""
        return ndimage.map_coordinates(self.lattice, points / GRAIN_MM, order=1, mode="grid-wrap")


def render(scene: Scene, affine: np.ndarray, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Paint `scene` on a grid of `size` voxels with `affine` (voxel to scanner).

    Returns the image (float32, x y z) and the label (int16, x y z): the label is that of the structure at
    the voxel's centre, the intensity is a mixture of all structures in the voxel (partial volume).
    """
    image = np.full(size, scene.background, np.float32)
    label = np.zeros(size, np.int16)
    to_patient = np.linalg.inv(scene.pose) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    blur = float(np.sqrt(np.mean(spacing**2)))
    for start, stop in slabs(size):
        points = scene.warp(voxel_points(to_patient, size, start, stop))
        for layer in scene.layers:
            pad = scene.warp.reach + blur + (layer.wall[0] if layer.wall else 0)
            box = _box(layer.shape.bounds, to_patient, pad, size, start, stop)
            if box is None:
                continue
            inner = (*box[:2], slice(box[2].start - start, box[2].stop - start))
            _paint(layer, scene, points[(slice(None), *inner)], image[box], label[box], blur)
    return image, label


def _paint(
    layer: Layer, scene: Scene, points: np.ndarray, image: np.ndarray, label: np.ndarray, blur: float
) -> None:
    distance = layer.shape.distance(points)
    coats = layer.coats
    if layer.wall is not None:
        label[distance < layer.wall[0]] = 0
        coats = ((-layer.wall[0], layer.wall[1]), *coats)
    if layer.code is not None:
        label[distance < 0] = layer.code
    near = distance < -coats[0][0] + blur / 2  # skip the voxels outside, which are most of the box
    distance, mixed = distance[near], image[near]
    grain = layer.grain * scene.grain(points[:, near]) if layer.grain else 0.0
    for depth, value in coats:
        cover = np.clip(0.5 - (distance + np.float32(depth)) / np.float32(blur), 0, 1)
        mixed += cover * (np.float32(value) + grain - mixed)
    image[near] = mixed


def slabs(size: tuple[int, int, int]) -> Iterator[tuple[int, int]]:
    """Start and stop (z) of consecutive slabs with at most SLAB_VOXELS voxels each."""
    thick = max(1, SLAB_VOXELS // (size[0] * size[1]))
    for start in range(0, size[2], thick):
        yield start, min(start + thick, size[2])


def voxel_points(affine: np.ndarray, size: tuple[int, int, int], start: int, stop: int) -> np.ndarray:
    """The points (3 x X x Y x slices, float32) that `affine` assigns to the voxels of a slab."""
    axes = (np.arange(size[0]), np.arange(size[1]), np.arange(start, stop))
    i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
    i, j, k = (axis.astype(np.float32) for axis in (i, j, k))
    return np.stack([a * i + b * j + c * k + d for a, b, c, d in affine[:3].astype(np.float32)])


def _box(
    bounds: np.ndarray, to_patient: np.ndarray, pad: float, size: tuple[int, int, int], start: int, stop: int
) -> tuple[slice, slice, slice] | None:
    """The voxels of the slab that a shape within `bounds` (patient axes, mm) can touch; None if none."""
    bounds = np.clip(padded(bounds, pad), -2000, 2000)
    voxels = (corners(bounds) - to_patient[:3, 3]) @ np.linalg.inv(to_patient[:3, :3]).T
    low = np.maximum(np.floor(voxels.min(0)).astype(int), [0, 0, start])
    high = np.minimum(np.ceil(voxels.max(0)).astype(int) + 1, [size[0], size[1], stop])
    if (low >= high).any():
        return None
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))
