"""From logits on the working grid to labels and label codes on the scan's own grid, and to NIfTI files."""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path
from bipvl.data.labels import decode
from bipvl.data.spec import DatasetSpec

SLAB = 2**23
"""The most values that are resampled at once, so that memory does not grow with the scan."""


class ScanLabels(NamedTuple):
    """What a network predicts for one scan.

    Attributes:
        labels: on the scan's grid, as in training: class indices 1 × H × W × D or, where classes overlap,
            binary C × H × W × D; uint8.
        codes: the data set's label codes on the scan's grid, H × W × D, int16.
        probabilities: C × h × w × d on the working grid.
    """

    labels: Tensor
    codes: np.ndarray
    probabilities: Tensor


def label_scan(spec: DatasetSpec, logits: Tensor, prepared: MetaTensor) -> ScanLabels:
    """Turn a network's logits into labels on the scan's own grid: the only way from logits to codes.

    Each channel's probability is resampled linearly, then the class is chosen. Voxels outside the working
    grid are background.

    Args:
        logits: C × h × w × d on the grid of ``prepared``. They are overwritten with the probabilities, so
            that a large scan needs memory for one of the two.
        prepared: the prepared image, which knows the scan's affine and shape.
    """
    probabilities = to_probabilities_(logits.as_subclass(Tensor), overlapping=spec.overlapping)
    affine = torch.as_tensor(prepared.meta["original_affine"])  # as in the file: MONAI corrects some headers
    shape = [int(size) for size in prepared.meta["spatial_shape"]]
    labels = labels_on_grid(probabilities, prepared.affine.cpu(), affine, shape, overlapping=spec.overlapping)
    codes = np.empty(shape, np.int16)
    for rows in _slabs(shape):  # slab by slab, because the look-up needs eight bytes per voxel
        codes[rows] = decode(spec, labels[:, rows].numpy())
    return ScanLabels(labels, codes, probabilities)


@torch.inference_mode()
def to_probabilities_(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Replace logits C × H × W × D with their probabilities, in place."""
    for rows in _slabs(logits[0].shape, channels=len(logits)):
        part = logits[:, rows]
        part.copy_(part.sigmoid() if overlapping else part.softmax(0))
    return logits


def labels_on_grid(
    probabilities: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int], *, overlapping: bool
) -> Tensor:
    """Probabilities C × h × w × d → labels on another grid: 1 × H × W × D, or binary C × H × W × D, uint8."""
    labels = torch.empty(len(probabilities) if overlapping else 1, *shape, dtype=torch.uint8)
    for rows, p in _resampled_slabs(probabilities, affine, target_affine, shape):
        labels[:, rows] = p > 0.5 if overlapping else p.argmax(0, keepdim=True)
    return labels


def channel_on_grid(
    probability: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int]
) -> Tensor:
    """One channel's probabilities h × w × d on another grid, H × W × D; 0 outside the working grid."""
    out = torch.empty(*shape)
    for rows, p in _resampled_slabs(probability[None], affine, target_affine, shape):
        out[rows] = p[0]
    return out


def _resampled_slabs(
    volume: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int]
) -> Iterator[tuple[slice, Tensor]]:
    """A volume C × h × w × d on another grid, in slabs of its first axis: their rows and values."""
    for rows in _slabs(shape, channels=len(volume)):
        shift = torch.eye(4, dtype=target_affine.dtype)
        shift[0, 3] = rows.start
        yield rows, resampled(volume, affine, target_affine @ shift, (rows.stop - rows.start, *shape[1:]))


def resampled(volume: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int]) -> Tensor:
    """A volume C × h × w × d on another grid, by linear interpolation; 0 outside."""
    resample = SpatialResample(
        mode="bilinear", padding_mode="zeros", align_corners=False, dtype=torch.float32
    )
    moved = MetaTensor(volume, affine=affine)
    return resample(moved, dst_affine=target_affine, spatial_size=tuple(shape)).as_subclass(Tensor)


def _slabs(shape: Sequence[int], channels: int = 1) -> Iterator[slice]:
    """Consecutive slices of the first axis, at most SLAB values each over all channels (at least one row)."""
    rows = max(SLAB // (channels * prod(shape[1:])), 1)
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


# The header fields that place a NIfTI image: both transforms, their codes, and the units.
_PLACE = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
_PLACE += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")


def on_grid_of(values: np.ndarray, grid: np.ndarray | SpatialImage) -> nib.Nifti1Image:
    """Values H × W × D as an image on a scan's grid.

    ``grid``: the scan, whose placement is copied bit for bit, or an affine (mm).
    """
    if isinstance(grid, np.ndarray):
        image = nib.Nifti1Image(values, grid)
        image.header.set_xyzt_units("mm")
        return image
    scan = nib.Nifti1Image.from_image(grid)
    image = nib.Nifti1Image(values, scan.affine)
    for field in _PLACE:
        image.header[field] = scan.header[field]
    return image


def save_image(image: nib.Nifti1Image, path: str | Path) -> None:
    """Write a NIfTI file atomically."""
    check_nifti_name(path)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def check_nifti_name(path: str | Path) -> None:
    """Raise a BipvlError if an image cannot be written under this name."""
    if not str(path).endswith((".nii", ".nii.gz")):
        raise BipvlError("cannot be written as NIfTI", "give a name that ends in .nii.gz or .nii", path)


def save_labels(codes: np.ndarray, affine: np.ndarray, path: str | Path) -> None:
    """Write label codes H × W × D as a NIfTI file on the grid of this affine (mm)."""
    save_image(on_grid_of(codes.astype(np.int16), affine), path)
