"""One case: what can be wrong with its image, with its label map, and between the two."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.data.issues import Fault
from bipvl.data.labels import code_fault, distinct_values, value_fault
from bipvl.data.layouts import Case
from bipvl.data.scans import Scan, Told, form_fault, grid_fault, image_fault, kind_fault, read_scan
from bipvl.data.spec import DatasetSpec

CT_RANGE = (-33792, 32767)
"""HU that a CT may hold: 16 bits and an intercept of -1024. Padding is often -3024, metal up to 30000."""
CT_SPAN = 40
"""HU at least from a CT's darkest voxel to its brightest: fewer are left once scaled to 0…1 or z-scored."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is left of one file once its voxels are out of memory; None for what could not be had.

    Attributes:
        grid: spatial shape and affine.
        digest: SHA-256 of shape and values, whatever their type on disk, the compression and the header.
        codes: of a label map, 0 left out.
    """

    faults: tuple[Fault, ...]
    grid: tuple[tuple[int, ...], np.ndarray] | None = None
    digest: str | None = None
    codes: frozenset[int] | None = None


@dataclass(frozen=True)
class Finding:
    """Both files of a case, and all that is wrong with them."""

    image: Look
    label: Look
    faults: tuple[Fault, ...]


def check_case(spec: DatasetSpec, case: Case) -> Finding:
    """Read a case's image and then its label map, each to its last byte, one file in memory at a time."""
    image, label = _look_at_images(spec, case.images), _look_at_label(spec, case.label)
    apart = grid_fault(*image.grid, *label.grid) if image.grid and label.grid else None
    return Finding(image, label, (*image.faults, *label.faults, *_faults(case.label, [apart])))


def _look_at_images(spec: DatasetSpec, paths: Sequence[Path]) -> Look:
    """One file or, with a file a channel, each by itself; then all must lie on the first one's grid."""
    if len(paths) == 1:
        return _look_at_image(spec, paths[0])
    names = zip(paths, spec.channels, strict=True)
    looks = [_look_at_image(replace(spec, channels=(name,)), path) for path, name in names]
    faults = [fault for look in looks for fault in look.faults]
    first, *others = looks
    for path, other in zip(paths[1:], others, strict=True):
        if first.grid and other.grid:
            faults += _faults(path, [grid_fault(*first.grid, *other.grid, beside="first channel")])
    digests = [look.digest or "" for look in looks]
    digest = hashlib.sha256(" ".join(digests).encode()).hexdigest() if all(digests) else None
    return Look(faults=tuple(faults), grid=first.grid, digest=digest)


def _look_at_image(spec: DatasetSpec, path: Path) -> Look:
    try:
        scan = read_scan(path)
    except BipvlError as error:
        return Look(faults=(Fault.told(path, error),))
    told = [image_fault(spec, scan.channels_first, scan.affine), form_fault(scan), kind_fault(scan)]
    digest = None
    if scan.grid and not told[-1]:
        values = _survey(scan)
        digest = values.digest
        told += _image_faults(spec, values)
    return Look(faults=_faults(path, told), grid=scan.grid, digest=digest)


def _look_at_label(spec: DatasetSpec, path: Path) -> Look:
    try:
        scan = read_scan(path)
    except BipvlError as error:
        return Look(faults=(Fault.told(path, error),))
    told = [form_fault(scan), kind_fault(scan)]
    if scan.stored.ndim != 3 or told[-1]:
        told += [code_fault(spec, scan.stored)] if scan.stored.ndim != 3 else []
        return Look(faults=_faults(path, told))
    values = distinct_values(scan.planes)
    codes = frozenset(int(value) for value in values if value and np.isfinite(value))
    empty = None if codes else ("holds background only", "label the case or leave it out")
    told.append(value_fault(spec, values) or empty)
    return Look(faults=_faults(path, told), grid=scan.grid, digest=_survey(scan).digest, codes=codes)


@dataclass(frozen=True)
class _Survey:
    """A volume's digest, the lowest and highest finite value of each channel, and how many are not finite."""

    digest: str
    ends: list[tuple[float, float]]
    broken: int


def _survey(scan: Scan) -> _Survey:
    """One slice at a time, so that no second volume comes to be."""
    sha = hashlib.sha256(repr(scan.stored.shape).encode())
    lows, highs, broken = [], [], 0
    for plane in scan.planes:
        plane = np.ascontiguousarray(plane, np.float32)
        sha.update(plane)
        finite = np.isfinite(plane)
        broken += finite.size - int(finite.sum())
        lows.append(plane.min(where=finite, initial=np.inf))
        highs.append(plane.max(where=finite, initial=-np.inf))
    lows, highs = (np.reshape(ends, (-1, scan.stored.shape[2])) for ends in (lows, highs))
    ends = [*zip(lows.min(1).tolist(), highs.max(1).tolist(), strict=True)]
    return _Survey(sha.hexdigest(), ends, broken)


def _image_faults(spec: DatasetSpec, values: _Survey) -> Iterator[Told]:
    """What is wrong with an image's values, channel by channel."""
    if values.broken:
        yield f"holds {values.broken} voxels that are not finite", "replace them by the background"
    names = spec.channels if len(spec.channels) == len(values.ends) > 1 else [""] * len(values.ends)
    for name, (low, high) in zip(names, values.ends, strict=True):
        where = f" in its channel {name}" if name else ""
        if low == high:
            yield f"holds the value {low:g} alone{where}", "fetch or export it again, or take its case out"
        elif spec.modality == "CT" and low < high and (told := _hounsfield_fault(low, high)):
            yield f"holds values from {low:g} to {high:g}{where}, {told[0]}", told[1]


def _hounsfield_fault(low: float, high: float) -> Told | None:
    """Whether these can be the lowest and the highest HU of a CT."""
    if low < CT_RANGE[0] or high > CT_RANGE[1]:
        return "outside of what a CT holds in HU", "export it in HU, as signed numbers"
    if high - low < CT_SPAN:
        return "too few for a CT in HU", "export it in HU, neither scaled nor standardised"
    return None


def _faults(path: Path, told: list[Told | None]) -> tuple[Fault, ...]:
    return tuple(Fault(str(path), *parts) for parts in told if parts)
