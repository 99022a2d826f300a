"""Read a scan and its overlays for display: grey values, class numbers and attention on one grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgba
from scipy.ndimage import affine_transform, generate_binary_structure, maximum_filter, minimum_filter

from bipvl.common.errors import BipvlError
from bipvl.data.labels import class_indices, code_issue
from bipvl.data.scans import grid_issue, image_issue, open_scan
from bipvl.data.spec import DatasetSpec
from bipvl.figures import style
from bipvl.figures.slice_tables import grey_values
from bipvl.figures.word_attention import TINT, share_norm

ScanSource = str | Path | nib.Nifti1Image
"""A NIfTI file, or an image of nibabel."""

LONGEST_SIDE = 256
"""Longest displayed side, voxels; a larger scan is subsampled."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Numbers over an image, with a colour and a name for each number.

    Attributes:
        numbers: H × W × D, uint8.
        colours: one row per number: red, green, blue and opacity, 0…255.
        classes: True if the numbers are classes (0 is background), False if they are steps of a scale.
    """

    title: str
    numbers: np.ndarray
    colours: np.ndarray
    names: tuple[str, ...]
    classes: bool

    @property
    def outlines(self) -> np.ndarray:
        """The numbers at the surfaces of classes only: voxels with a different neighbour."""
        cross = {"footprint": generate_binary_structure(3, 1), "mode": "nearest"}
        differs = maximum_filter(self.numbers, **cross) != minimum_filter(self.numbers, **cross)
        return self.numbers * differs


@dataclass(frozen=True, kw_only=True)
class LayeredScan:
    """A scan with overlays on the same grid.

    Attributes:
        grey: the first channel, H × W × D, 0…255; axes to the right, the front and the head.
        affine: from voxels to mm.
    """

    grey: np.ndarray
    affine: np.ndarray
    overlays: tuple[Overlay, ...]


def read_layers(
    image: ScanSource,
    truth: ScanSource | None = None,
    prediction: ScanSource | None = None,
    attention: ScanSource | None = None,
    *,
    spec: DatasetSpec,
) -> LayeredScan:
    """Read a scan and its overlays on one grid.

    Args:
        image: a scan of any orientation; only its first channel is shown and needed.
        truth, prediction: label maps on the image's grid, with the data set's codes.
        attention: on any grid, in multiples of uniform attention (``Lab.attention_image``).
        spec: the data set, with its classes, codes and intensity window.

    Raises:
        BipvlError: a file is unreadable, or does not fit the image or the data set.
    """
    scan = _open(image)
    channels = np.asarray(scan.dataobj, np.float32).reshape(*scan.shape[:3], -1)
    found = channels.shape[-1] if channels.shape[-1] > 1 else len(spec.channels)  # the first is enough
    if issue := image_issue(spec, (found, *scan.shape[:3]), scan.affine):
        raise issue.at(_name(image))
    step = -(-max(scan.shape[:3]) // LONGEST_SIDE)
    affine = scan.affine @ np.diag([step, step, step, 1])
    sampled = (slice(None, None, step),) * 3
    grey = grey_values(spec, channels[..., 0])[sampled]
    overlays = []
    for title, mask in {"Truth": truth, "Prediction": prediction}.items():
        if mask is not None:
            overlays.append(_classes(title, _codes(mask, scan, spec)[sampled], spec))
    if attention is not None:
        overlays.append(_attention(_open(attention), affine, grey.shape))
    return LayeredScan(grey=grey, affine=affine, overlays=tuple(overlays))


def _open(scan: ScanSource) -> nib.Nifti1Image:
    """A scan with axes to the right, the front and the head."""
    if isinstance(scan, (str, Path)):
        scan = open_scan(Path(scan))
    if len(scan.shape) not in (3, 4):
        problem = f"has {len(scan.shape)} axes, but a scan has three"
        raise BipvlError(problem, "give one 3D volume", _name(scan))
    return nib.as_closest_canonical(scan)


def _name(scan: ScanSource) -> str:
    return str(scan) if isinstance(scan, (str, Path)) else scan.get_filename() or "the volume"


def _codes(mask: ScanSource, image: nib.Nifti1Image, spec: DatasetSpec) -> np.ndarray:
    volume = _open(mask)
    codes = np.asarray(volume.dataobj)
    grids = (image.shape[:3], image.affine), (volume.shape[:3], volume.affine)
    if issue := grid_issue(*grids) or code_issue(spec, codes):
        raise issue.at(_name(mask))
    return codes


def _classes(title: str, codes: np.ndarray, spec: DatasetSpec) -> Overlay:
    colours = [to_rgba(style.class_colour(row)) for row in range(spec.num_classes)]
    return Overlay(
        title=title,
        numbers=class_indices(spec, codes),
        colours=np.rint(255 * np.array([(0, 0, 0, 0), *colours])).astype(np.uint8),
        names=("background", *(c.name for c in spec.classes)),
        classes=True,
    )


def _attention(scan: nib.Nifti1Image, affine: np.ndarray, shape: Sequence[int]) -> Overlay:
    """Attention resampled to the image's grid, in blocks; uniform outside its own grid."""
    volume, to_scan = np.asarray(scan.dataobj, float), np.linalg.inv(scan.affine) @ affine
    outside = {"mode": "grid-constant", "cval": 1.0}
    ratio = affine_transform(volume, to_scan, output_shape=tuple(shape), order=0, **outside)
    limit, steps = share_norm(100 * ratio).vmax, np.arange(256) / 255
    share = (1 + np.log(np.clip(ratio, 1 / limit, limit)) / np.log(limit)) / 2  # uniform attention: 0.5
    return Overlay(
        title="Attention",
        numbers=np.rint(255 * share).astype(np.uint8),
        colours=np.rint(255 * TINT(steps)).astype(np.uint8),
        names=tuple(f"×{multiple:.2f}" for multiple in limit ** (2 * steps - 1)),
        classes=False,
    )
