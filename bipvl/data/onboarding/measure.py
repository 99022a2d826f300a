"""What the files of a dataset hold, for the suggestions of its draft: grids, codes, intensities."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case
from bipvl.data.scans import Scan, grid_issue, kind_issue, read_scan

IMAGES = 20
"""Of how many cases the images are read, evenly chosen: intensities need no more. Label maps are all read."""
VOXELS = 20_000
"""Foreground voxels at most that each of them gives."""
LARGEST_COUNT = 256
"""Codes, the background among them, that class indices of 8 bits tell apart."""


@dataclass
class Measured:
    """Of n cases; axes to the right, front and head, as the working grid has them.

    Attributes:
        spacings, extents: mm, n × 3.
        volumes: ml of each code, in the cases that have it.
        lowest: finite value of the first channel of each image that was read.
        foreground: values of the first channel where something is labelled.
        channels: how many images have how many.
    """

    spacings: list[np.ndarray] = field(default_factory=list)
    extents: list[np.ndarray] = field(default_factory=list)
    volumes: dict[int, list[float]] = field(default_factory=dict)
    lowest: list[float] = field(default_factory=list)
    foreground: list[np.ndarray] = field(default_factory=list)
    channels: Counter[int] = field(default_factory=Counter)


def measure(cases: Sequence[Case], *, progress: bool = True) -> Measured:
    """Read every label map, and the images of IMAGES cases.

    Raises:
        BipvlError: a file that cannot be read, is no volume or holds no codes, or lies on another grid.
    """
    measured = Measured()
    chosen = {int(i) for i in np.linspace(0, len(cases) - 1, min(IMAGES, len(cases)))}
    for i, case in enumerate(tqdm(cases, "reading", unit="case", disable=None if progress else True)):
        label = _read(case.label)
        _measure_label(label, case.label, measured)
        if i in chosen:
            _measure_image(case, label, measured)
    return measured


def _measure_label(scan: Scan, path: Path, measured: Measured) -> None:
    if scan.stored.ndim != 3:
        raise BipvlError(
            f"{path} has {scan.stored.ndim} axes, but a label map has three; keep one volume of codes."
        )
    values, counts = np.unique(scan.stored, return_counts=True)
    values = values * scan.slope + scan.inter
    _check_codes(path, values)
    axes = np.argsort(nib.io_orientation(scan.affine)[:, 0])  # the voxels' axes to the right, front and head
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)[axes]
    measured.spacings.append(spacing)
    measured.extents.append(spacing * np.array(scan.stored.shape)[axes])
    for code, count in zip(values.astype(int).tolist(), counts.tolist(), strict=True):
        if code:
            measured.volumes.setdefault(code, []).append(count * float(spacing.prod()) / 1000)


def _check_codes(path: Path, values: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if len(wrong := values[(whole != values) | (whole < 0) | (whole >= 2**15)]):
        raise BipvlError(
            f"{path} holds {wrong[0]:g}, but a label map holds whole numbers from 0 to 32767; export it "
            "without interpolation."
        )
    if len(values) > LARGEST_COUNT:
        raise BipvlError(
            f"{path} holds {len(values)} different values, too many for a label map; rename it if it is an "
            "image."
        )


def _measure_image(case: Case, label: Scan, measured: Measured) -> None:
    for path in reversed(case.images):
        scan = _read(path)
        if scan.grid is None:
            raise BipvlError(f"{path} has {scan.stored.ndim} axes, but a scan has three; give one 3D volume.")
        if issue := grid_issue(*scan.grid, *label.grid):
            raise issue.at(case.label)
    first = scan.stored.reshape(*scan.stored.shape[:3], -1)[..., 0] * scan.slope + scan.inter
    own = first[label.stored * label.slope + label.inter != 0]
    measured.channels[scan.channels_first[0] * len(case.images)] += 1
    measured.lowest.append(float(first.min(where=np.isfinite(first), initial=np.inf)))
    measured.foreground.append(own[:: max(1, len(own) // VOXELS)])


def _read(path: Path) -> Scan:
    scan = read_scan(path)
    if issue := kind_issue(scan):
        raise issue.at(path)
    return scan
