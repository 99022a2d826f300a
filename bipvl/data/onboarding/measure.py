"""Measure the files of a data set, to suggest its settings: grids, codes, intensities."""

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

MAX_IMAGES = 20
"""Images to read, evenly distributed over the cases: enough for intensities. All label maps are read."""
MAX_VOXELS = 20_000
"""Foreground voxels to sample per image."""
MAX_CODES = 256
"""Codes including the background, since class indices are stored with 8 bits."""


@dataclass
class Measurements:
    """Measurements of n cases; axes to the right, front and head, as in the working grid.

    Attributes:
        spacings, extents: mm, n × 3.
        volumes: code → ml in each case that has it.
        lowest: lowest finite value in the first channel of each image.
        foreground: values of the first channel at labelled voxels.
        channels: number of channels → number of images.
    """

    spacings: list[np.ndarray] = field(default_factory=list)
    extents: list[np.ndarray] = field(default_factory=list)
    volumes: dict[int, list[float]] = field(default_factory=dict)
    lowest: list[float] = field(default_factory=list)
    foreground: list[np.ndarray] = field(default_factory=list)
    channels: Counter[int] = field(default_factory=Counter)


def measure(cases: Sequence[Case], *, progress: bool = True) -> Measurements:
    """Read every label map, and the images of MAX_IMAGES cases.

    Raises:
        BipvlError: a file is unreadable, is not a volume, holds no codes, or is on a different grid.
    """
    measured = Measurements()
    chosen = {int(i) for i in np.linspace(0, len(cases) - 1, min(MAX_IMAGES, len(cases)))}
    for i, case in enumerate(tqdm(cases, "reading", unit="case", disable=None if progress else True)):
        label = _read(case.label)
        _measure_label(label, case.label, measured)
        if i in chosen:
            _measure_image(case, label, measured)
    return measured


def _measure_label(scan: Scan, path: Path, measured: Measurements) -> None:
    if scan.stored.ndim != 3:
        problem = f"has {scan.stored.ndim} axes, but a label map has three"
        raise BipvlError(problem, "keep one volume of codes", path)
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
        problem = f"holds {wrong[0]:g}, but a label map holds whole numbers from 0 to 32767"
        raise BipvlError(problem, "export it without interpolation", path)
    if len(values) > MAX_CODES:
        problem = f"holds {len(values)} different values, too many for a label map"
        raise BipvlError(problem, "rename it if it is an image", path)


def _measure_image(case: Case, label: Scan, measured: Measurements) -> None:
    for path in reversed(case.images):
        scan = _read(path)
        if scan.grid is None:
            problem = f"has {scan.stored.ndim} axes, but a scan has three"
            raise BipvlError(problem, "give one 3D volume", path)
        if issue := grid_issue(scan.grid, label.grid):
            raise issue.at(case.label)
    first = scan.stored.reshape(*scan.stored.shape[:3], -1)[..., 0] * scan.slope + scan.inter
    labelled = first[label.stored * label.slope + label.inter != 0]
    measured.channels[scan.channels_first[0] * len(case.images)] += 1
    measured.lowest.append(float(first.min(where=np.isfinite(first), initial=np.inf)))
    measured.foreground.append(labelled[:: max(1, len(labelled) // MAX_VOXELS)])


def _read(path: Path) -> Scan:
    scan = read_scan(path)
    if issue := kind_issue(scan):
        raise issue.at(path)
    return scan
