"""A scan and what lies over it, read for showing: grey values, classes' numbers, attention, on one grid."""

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

Scan = str | Path | nib.Nifti1Image
"""A NIfTI file, or what nibabel made of one."""

LONGEST_SIDE = 256
"""Voxels of a side that are shown; of a longer one every second, third … is taken."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What lies over an image: numbers H × W × D (uint8), and of each number its colour and its name.

    ``colours`` are rows of red, green, blue and opacity, 0…255. ``classes`` tells numbers of classes (from 1,
    0 is see-through) from steps of a scale.
    """

    title: str
    numbers: np.ndarray
    colours: np.ndarray
    names: tuple[str, ...]
    classes: bool

    @property
    def outlines(self) -> np.ndarray:
        """The numbers at the classes' surfaces alone: what has a neighbour of another number."""
        cross = {"footprint": generate_binary_structure(3, 1), "mode": "nearest"}
        differs = maximum_filter(self.numbers, **cross) != minimum_filter(self.numbers, **cross)
        return self.numbers * differs


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scan's first channel as grey values H × W × D (0…255; axes to the right, the front and the head),
    the affine from its voxels to mm, and the layers over it, on the same grid."""

    grey: np.ndarray
    affine: np.ndarray
    layers: tuple[Layer, ...]


def read_scene(
    image: Scan,
    truth: Scan | None = None,
    prediction: Scan | None = None,
    attention: Scan | None = None,
    *,
    spec: DatasetSpec,
) -> Scene:
    """The scan and its layers on one grid.

    Args:
        image: of any orientation; of several channels the first is shown, and may be given alone.
        truth, prediction: label maps on the image's grid, in the dataset's own codes.
        attention: on any grid, as multiples of an even one (``Lab.attention_image``).
        spec: tells the classes, their codes, and how image values become grey.

    Raises:
        BipvlError: a file that cannot be read, or does not fit the image or the dataset.
    """
    scan = _open(image)
    channels = np.asarray(scan.dataobj, np.float32).reshape(*scan.shape[:3], -1)
    found = channels.shape[-1] if channels.shape[-1] > 1 else len(spec.channels)  # the first alone will do
    if issue := image_issue(spec, (found, *scan.shape[:3]), scan.affine):
        raise issue.at(_name(image))
    step = -(-max(scan.shape[:3]) // LONGEST_SIDE)
    affine = scan.affine @ np.diag([step, step, step, 1])
    thin = (slice(None, None, step),) * 3
    grey = grey_values(spec, channels[..., 0])[thin]
    masks = {"Truth": truth, "Prediction": prediction}
    layers = [
        _classes(title, _codes(mask, scan, spec)[thin], spec)
        for title, mask in masks.items()
        if mask is not None
    ]
    if attention is not None:
        layers.append(_attention(_open(attention), affine, grey.shape))
    return Scene(grey=grey, affine=affine, layers=tuple(layers))


def _open(scan: Scan) -> nib.Nifti1Image:
    """With axes to the right, the front and the head."""
    if isinstance(scan, (str, Path)):
        scan = open_scan(Path(scan))
    if len(scan.shape) not in (3, 4):
        raise BipvlError(
            f"{_name(scan)} has {len(scan.shape)} axes, but a scan has three; give one 3D volume."
        )
    return nib.as_closest_canonical(scan)


def _name(scan: Scan) -> str:
    if isinstance(scan, nib.Nifti1Image):
        return scan.get_filename() or "the volume"
    return str(scan)


def _codes(mask: Scan, image: nib.Nifti1Image, spec: DatasetSpec) -> np.ndarray:
    volume = _open(mask)
    codes = np.asarray(volume.dataobj)
    grids = (image.shape[:3], image.affine, volume.shape[:3], volume.affine)
    if issue := grid_issue(*grids) or code_issue(spec, codes):
        raise issue.at(_name(mask))
    return codes


def _classes(title: str, codes: np.ndarray, spec: DatasetSpec) -> Layer:
    colours = [to_rgba(style.class_colour(row)) for row in range(spec.num_classes)]
    return Layer(
        title=title,
        numbers=class_indices(spec, codes),
        colours=np.rint(255 * np.array([(0, 0, 0, 0), *colours])).astype(np.uint8),
        names=("background", *(c.name for c in spec.classes)),
        classes=True,
    )


def _attention(scan: nib.Nifti1Image, affine: np.ndarray, shape: Sequence[int]) -> Layer:
    """On the image's grid, each position of the attention as the block that it is; even where it has none."""
    ratio = affine_transform(
        np.asarray(scan.dataobj, float),
        np.linalg.inv(scan.affine) @ affine,
        output_shape=tuple(shape),
        order=0,
        mode="grid-constant",
        cval=1.0,
    )
    limit, steps = share_norm(100 * ratio).vmax, np.arange(256) / 255
    share = (1 + np.log(np.clip(ratio, 1 / limit, limit)) / np.log(limit)) / 2  # an even one in the middle
    return Layer(
        title="Attention",
        numbers=np.rint(255 * share).astype(np.uint8),
        colours=np.rint(255 * TINT(steps)).astype(np.uint8),
        names=tuple(f"×{multiple:.2f}" for multiple in limit ** (2 * steps - 1)),
        classes=False,
    )
