"""One scan on disk: read whole, to its last byte, and what can be wrong with its form and its place."""

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
"""Between any entry of an image's affine and its label's (mm): the rounding of a header's quaternion."""
FORM_TOLERANCE = 0.1
"""Between a scan's corners by sform and by qform (mm): above a quaternion's rounding, below a voxel."""
INFLATION = 1032
"""Bytes that one byte of gzip can unfold to at most (zlib's technical notes)."""

Told = tuple[str, str]
"""What is wrong, and how to mend it."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Voxels as stored (H x W x D, channels last) and what the header says of them.

    Attributes:
        slope, inter: what a stored value is multiplied by, and what is added then.
        forms: the header's sform and qform, 4 x 4, None where it has none.
    """

    stored: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    forms: tuple[np.ndarray | None, np.ndarray | None]

    @property
    def channels_first(self) -> tuple[int, ...]:
        """The shape as networks have it, M x H x W x D."""
        shape = self.stored.shape
        return (*shape[3:], *shape[:3]) if len(shape) > 3 else (1, *shape)

    @property
    def grid(self) -> tuple[tuple[int, ...], np.ndarray] | None:
        """Spatial shape and affine; None where there are not three spatial axes."""
        return (self.stored.shape[:3], self.affine) if len(self.channels_first) == 4 else None

    @property
    def planes(self) -> Iterator[np.ndarray]:
        """The values W x H of each slice, of one channel after another."""
        scaled = (self.slope, self.inter) != (1, 0)
        for plane in self.stored.reshape(*self.stored.shape[:2], -1, order="F").T:
            yield plane * self.slope + self.inter if scaled else plane


def read_scan(path: Path) -> Scan:
    """A NIfTI file, read to its end, so that one cut short or damaged anywhere is found by its checksum.

    A fourth axis of one is left out.

    Raises:
        BipvlError: missing, empty, no NIfTI, cut short, damaged, or a header that claims more than is there.
    """
    check_there(path)
    if not path.stat().st_size:
        raise BipvlError(f"{path} is empty, a file of 0 bytes; fetch or export it again.")
    try:
        with LoggingOutputSuppressor():
            return _read(path)
    except Exception as error:
        raise unreadable(path, error) from error


def open_scan(path: Path) -> SpatialImage:
    """A NIfTI file by its header; voxels are read when they are asked for.

    Raises:
        BipvlError: missing, or no NIfTI by its beginning.
    """
    check_there(path)
    try:
        return nib.load(path)
    except Exception as error:
        raise unreadable(path, error) from error


def check_there(path: Path) -> None:
    """A BipvlError where there is no such file."""
    if not os.path.isfile(path):  # unlike Path.is_file, no error where its folder may not be entered
        raise BipvlError(f"{path} is missing; copy it there, or check the path.")


def unreadable(path: Path, error: Exception) -> BipvlError:
    """What to raise for a broken file: nibabel, gzip, zlib and MONAI each have errors of their own."""
    reason = textwrap.shorten(str(error) or type(error).__name__, 200)
    return BipvlError(f"{path} cannot be read as NIfTI ({reason}); fetch or export it again.")


def image_fault(spec: DatasetSpec, shape: Sequence[int], affine: np.ndarray) -> Told | None:
    """What is wrong with an image of this shape (channels first) and affine, and how to mend it."""
    if len(shape) != 4:
        return f"has {len(shape) - 1} spatial axes, but a scan has three", "give one 3D volume"
    if shape[0] != len(spec.channels):
        wanted = f"{len(spec.channels)} ({', '.join(spec.channels)})"
        return f"has {shape[0]} channels, but {spec.title} has {wanted}", "stack the channels in this order"
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9):
        return "has an affine that cannot be inverted", "restore its header from the original scan"
    return None


def kind_fault(scan: Scan) -> Told | None:
    """What is wrong with the kind or number of the values."""
    if scan.stored.dtype.kind not in "biuf":
        return f"holds values of the kind {scan.stored.dtype}", "export it with one real number a voxel"
    if not scan.stored.size:
        return f"holds no voxel ({_times(scan.stored.shape)})", "export it again"
    return None


def form_fault(scan: Scan) -> Told | None:
    """Whether sform and qform, both set, put the scan in two places: tools differ in which one they read."""
    sform, qform = scan.forms
    if sform is None or qform is None or scan.stored.ndim < 3:
        return None
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*scan.stored.shape[:3], 1)
    apart = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
    if apart <= FORM_TOLERANCE:
        return None
    return (
        f"has an sform and a qform that put its corners up to {apart:.3g} mm apart",
        "find out which is right, and copy it onto the other",
    )


def grid_fault(
    image_shape: Sequence[int],
    image_affine: np.ndarray,
    label_shape: Sequence[int],
    label_affine: np.ndarray,
    *,
    beside: str = "image",
) -> Told | None:
    """What is wrong with a label map on this grid beside an image on that one (spatial shapes, affines).

    ``beside``: what the image is called.
    """
    if tuple(image_shape) != tuple(label_shape):
        found, wanted = _times(label_shape), _times(image_shape)
        return f"is {found} voxels, but its {beside} is {wanted}", f"resample it onto the {beside}"
    if not (apart := np.abs(np.subtract(image_affine, label_affine)).max()) <= AFFINE_TOLERANCE:
        how = ", ".join(_differences(image_affine, label_affine)) or f"affines differ by up to {apart:.3g} mm"
        return (
            f"lies elsewhere than its {beside} ({how})",
            f"resample it onto the {beside} or, where only the header is wrong, copy the {beside}'s affine",
        )
    return None


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
        while stream.read(2**20):  # gzip's checksum stands behind the voxels
            pass
    return Scan(
        stored=stored[..., 0] if stored.shape[3:] == (1,) else stored,
        slope=file.dataobj.slope,
        inter=file.dataobj.inter,
        affine=file.affine,
        forms=(file.get_sform(coded=True)[0], file.get_qform(coded=True)[0]),
    )


def _differences(image: np.ndarray, label: np.ndarray) -> Iterator[str]:
    """In what two affines differ: spacing, origin, direction of the axes."""
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (image, label)]
    if np.abs(np.subtract(*spacings)).max() > AFFINE_TOLERANCE:
        found, wanted = (_times(np.round(spacing, 4)) for spacing in reversed(spacings))
        yield f"spacing {found} mm against {wanted}"
    if (off := np.linalg.norm(image[:3, 3] - label[:3, 3])) > AFFINE_TOLERANCE:
        yield f"origin {off:.3g} mm off"
    if all(spacing.all() for spacing in spacings):
        cosines = (image[:3, :3] / spacings[0] * (label[:3, :3] / spacings[1])).sum(0)
        if (turn := math.degrees(math.acos(np.clip(cosines.min(), -1, 1)))) > 0.05:
            yield f"axes turned by {turn:.3g} degrees"


def _times(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
