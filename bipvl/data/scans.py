"""Read one NIfTI scan to its last byte, and check its values, its header and its grid."""

import gzip
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import SpatialImage

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec

AFFINE_TOLERANCE = 1e-3
"""Largest difference between entries of an image's and its label's affine (mm): rounding of a quaternion."""
FORM_TOLERANCE = 0.1
"""Largest distance of a scan's corners by sform and by qform (mm): above rounding, below a voxel."""
INFLATION = 1032
"""Largest factor by which gzip can compress (zlib's technical notes)."""
Grid = tuple[Sequence[int], np.ndarray]
"""Spatial shape and affine."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Voxels as stored (H × W × D, channels last) and the header's scaling and geometry.

    Attributes:
        slope, inter: a voxel's value is stored * slope + inter.
        forms: the header's sform and qform, 4 × 4; None where it has none.
    """

    stored: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    forms: tuple[np.ndarray | None, np.ndarray | None]

    @property
    def channels_first(self) -> tuple[int, ...]:
        """The shape in a network's order, M × H × W × D."""
        shape = self.stored.shape
        return (*shape[3:], *shape[:3]) if len(shape) > 3 else (1, *shape)

    @property
    def grid(self) -> Grid | None:
        """Spatial shape and affine; None unless the scan has three spatial axes."""
        return (self.stored.shape[:3], self.affine) if len(self.channels_first) == 4 else None

    @property
    def planes(self) -> Iterator[np.ndarray]:
        """The values W × H of each slice, one channel after another."""
        scaled = (self.slope, self.inter) != (1, 0)
        for plane in self.stored.reshape(*self.stored.shape[:2], -1, order="F").T:
            yield plane * self.slope + self.inter if scaled else plane


def read_scan(path: Path) -> Scan:
    """Read a NIfTI file to its end, so that its checksum reveals any damage; drop a fourth axis of size 1.

    Raises:
        BipvlError: the file is missing, empty, truncated, damaged or no NIfTI, or its header claims more
            voxels than the file can hold.
    """
    check_exists(path)
    if not path.stat().st_size:
        raise BipvlError("the file is empty (0 bytes)", "download or export it again", path)
    try:
        with LoggingOutputSuppressor():
            return _read(path)
    except Exception as error:
        raise unreadable(path, error) from error


def open_scan(path: Path) -> SpatialImage:
    """Open a NIfTI file by its header; voxels are read on access.

    Raises:
        BipvlError: the file is missing, or its header is no NIfTI header.
    """
    check_exists(path)
    try:
        return nib.load(path)
    except Exception as error:
        raise unreadable(path, error) from error


def check_exists(path: Path) -> None:
    """Raise a BipvlError if there is no such file."""
    if not os.path.isfile(path):  # unlike Path.is_file, no error where its folder is not accessible
        raise BipvlError("file not found", "copy it there, or check the path", path)


def unreadable(path: Path, error: Exception) -> BipvlError:
    """The error for a broken file: nibabel, gzip, zlib and MONAI each raise their own."""
    reason = textwrap.shorten(str(error) or type(error).__name__, 200)
    return BipvlError(f"not readable as NIfTI ({reason})", "download or export it again", path)


def image_issue(spec: DatasetSpec, shape: Sequence[int], affine: np.ndarray) -> BipvlError | None:
    """What is wrong with an image of this shape (channels first) and affine, if anything."""
    if len(shape) != 4:
        return BipvlError(f"has {len(shape) - 1} spatial axes, but a scan has three", "give one 3D volume")
    if shape[0] != len(spec.channels):
        expected = f"{len(spec.channels)} ({', '.join(spec.channels)})"
        fix = "stack the channels in this order"
        return BipvlError(f"has {shape[0]} channels, but {spec.title} has {expected}", fix)
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9):
        fix = "restore its header from the original scan"
        return BipvlError("has an affine that cannot be inverted", fix)
    return None


def kind_issue(scan: Scan) -> BipvlError | None:
    """What is wrong with the type or the number of the values, if anything."""
    if scan.stored.dtype.kind not in "biuf":
        fix = "export it with one real number per voxel"
        return BipvlError(f"holds values of type {scan.stored.dtype}", fix)
    if not scan.stored.size:
        return BipvlError(f"holds no voxels ({_times(scan.stored.shape)})", "export it again")
    return None


def form_issue(scan: Scan) -> BipvlError | None:
    """Whether sform and qform, if both are set, disagree: tools differ in which one they read."""
    sform, qform = scan.forms
    if sform is None or qform is None or scan.stored.ndim < 3:
        return None
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*scan.stored.shape[:3], 1)
    distance = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
    if distance <= FORM_TOLERANCE:
        return None
    fix = "find out which is right, and copy it to the other"
    return BipvlError(f"has an sform and a qform that put its corners up to {distance:.3g} mm apart", fix)


def grid_issue(image: Grid, label: Grid, *, reference: str = "image") -> BipvlError | None:
    """How a label map's grid differs from its image's, if it does; `reference`: how to call the image."""
    (image_shape, image_affine), (label_shape, label_affine) = image, label
    if tuple(image_shape) != tuple(label_shape):
        found, expected = _times(label_shape), _times(image_shape)
        fix = f"resample it onto the {reference}"
        return BipvlError(f"has {found} voxels, but its {reference} has {expected}", fix)
    offset = np.abs(np.subtract(image_affine, label_affine)).max()
    if offset <= AFFINE_TOLERANCE:
        return None
    how = ", ".join(_differences(image_affine, label_affine)) or f"affines differ by up to {offset:.3g} mm"
    fix = f"resample it onto the {reference} or, if only the header is wrong, copy the {reference}'s affine"
    return BipvlError(f"is not on the grid of its {reference} ({how})", fix)


def _read(path: Path) -> Scan:
    kind = type(nib.load(path))
    if not issubclass(kind, nib.Nifti1Image):
        raise ValueError(f"it is a {kind.__name__}")
    packed = path.name.lower().endswith(".gz")
    with (gzip.open if packed else open)(path, "rb") as stream:
        file = kind.from_stream(stream)
        claimed = math.prod(file.shape) * file.get_data_dtype().itemsize
        if claimed > path.stat().st_size * (INFLATION if packed else 1):
            raise ValueError(f"its header claims {claimed} bytes of voxels, more than the file can hold")
        stored = np.asanyarray(file.dataobj.get_unscaled())
        while stream.read(2**20):  # gzip's checksum follows the voxels
            pass
    return Scan(
        stored=stored[..., 0] if stored.shape[3:] == (1,) else stored,
        slope=file.dataobj.slope,
        inter=file.dataobj.inter,
        affine=file.affine,
        forms=(file.get_sform(coded=True)[0], file.get_qform(coded=True)[0]),
    )


def _differences(image: np.ndarray, label: np.ndarray) -> Iterator[str]:
    """How two affines differ: spacing, origin, direction of the axes."""
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (image, label)]
    if np.abs(np.subtract(*spacings)).max() > AFFINE_TOLERANCE:
        found, expected = (_times(np.round(spacing, 4)) for spacing in reversed(spacings))
        yield f"spacing {found} mm instead of {expected}"
    if (off := np.linalg.norm(image[:3, 3] - label[:3, 3])) > AFFINE_TOLERANCE:
        yield f"origin {off:.3g} mm off"
    if all(spacing.all() for spacing in spacings):
        cosines = (image[:3, :3] / spacings[0] * (label[:3, :3] / spacings[1])).sum(0)
        if (turn := math.degrees(math.acos(np.clip(cosines.min(), -1, 1)))) > 0.05:
            yield f"axes turned by {turn:.3g} degrees"


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
