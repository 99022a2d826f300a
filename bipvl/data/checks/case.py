"""Check one case: its image, its label map, and whether the two fit together."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.data.labels import code_issue, distinct_values, value_issue
from bipvl.data.layouts import Case
from bipvl.data.scans import Grid, Scan, form_issue, grid_issue, image_issue, kind_issue, read_scan
from bipvl.data.spec import DatasetSpec

CT_RANGE = (-33792, 32767)
"""Possible HU of a CT: 16 bits and an intercept of -1024. Padding is often -3024, metal up to 30000."""
CT_SPAN = 40
"""Smallest range of a CT in HU; a scan scaled to 0…1 or standardised has a smaller one."""


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """The findings on one file, kept after its voxels have left memory; None for what could not be read.

    Attributes:
        checksum: SHA-256 of shape and values, independent of their type on disk, compression and header.
        codes: the codes of a label map, without 0.
    """

    issues: tuple[BipvlError, ...]
    grid: Grid | None = None
    checksum: str | None = None
    codes: frozenset[int] | None = None


@dataclass(frozen=True)
class CaseReport:
    """The findings on a case's image and label map, and all issues of the case."""

    image: FileReport
    label: FileReport
    issues: tuple[BipvlError, ...]


def check_case(spec: DatasetSpec, case: Case) -> CaseReport:
    """Read a case's image and then its label map completely, with one file in memory at a time."""
    image, label = _check_images(spec, case.images), _check_label(spec, case.label)
    mismatch = grid_issue(image.grid, label.grid) if image.grid and label.grid else None
    return CaseReport(image, label, (*image.issues, *label.issues, *_about(case.label, [mismatch])))


def _check_images(spec: DatasetSpec, paths: Sequence[Path]) -> FileReport:
    """Check one file with all channels, or one file per channel, which must share the first one's grid."""
    if len(paths) == 1:
        return _check_image(spec, paths[0])
    reports = [
        _check_image(spec.model_copy(update={"channels": (name,)}), path)
        for path, name in zip(paths, spec.channels, strict=True)
    ]
    issues = [issue for report in reports for issue in report.issues]
    first, *others = reports
    for path, other in zip(paths[1:], others, strict=True):
        if first.grid and other.grid:
            issues += _about(path, [grid_issue(first.grid, other.grid, reference="first channel")])
    checksums = [report.checksum or "" for report in reports]
    checksum = hashlib.sha256(" ".join(checksums).encode()).hexdigest() if all(checksums) else None
    return FileReport(issues=tuple(issues), grid=first.grid, checksum=checksum)


def _check_image(spec: DatasetSpec, path: Path) -> FileReport:
    try:
        scan = read_scan(path)
    except BipvlError as error:
        return FileReport(issues=(error,))
    kind, checksum = kind_issue(scan), None
    issues = [image_issue(spec, scan.channels_first, scan.affine), form_issue(scan), kind]
    if scan.grid and not kind:
        values = _summarise(scan)
        checksum = values.checksum
        issues += _value_issues(spec, values)
    return FileReport(issues=_about(path, issues), grid=scan.grid, checksum=checksum)


def _check_label(spec: DatasetSpec, path: Path) -> FileReport:
    try:
        scan = read_scan(path)
    except BipvlError as error:
        return FileReport(issues=(error,))
    issues = [form_issue(scan), kind := kind_issue(scan)]
    if scan.stored.ndim != 3:
        return FileReport(issues=_about(path, [*issues, code_issue(spec, scan.stored)]))
    if kind:
        return FileReport(issues=_about(path, issues))
    values = distinct_values(scan.planes)
    codes = frozenset(int(value) for value in values if value and np.isfinite(value))
    empty = None if codes else BipvlError("holds background only", "label the case, or leave it out")
    issues.append(value_issue(values, spec.known_codes) or empty)
    checksum = _summarise(scan).checksum
    return FileReport(issues=_about(path, issues), grid=scan.grid, checksum=checksum, codes=codes)


@dataclass(frozen=True)
class _Summary:
    """A volume's checksum, each channel's lowest and highest finite value, and the count of other values."""

    checksum: str
    ranges: list[tuple[float, float]]
    not_finite: int


def _summarise(scan: Scan) -> _Summary:
    """Go through a volume slice by slice, without a second copy in memory."""
    sha = hashlib.sha256(repr(scan.stored.shape).encode())
    lows, highs, not_finite = [], [], 0
    for plane in scan.planes:
        plane = np.ascontiguousarray(plane, np.float32)
        sha.update(plane)
        finite = np.isfinite(plane)
        not_finite += finite.size - int(finite.sum())
        lows.append(plane.min(where=finite, initial=np.inf))
        highs.append(plane.max(where=finite, initial=-np.inf))
    lows, highs = (np.reshape(ends, (-1, scan.stored.shape[2])) for ends in (lows, highs))
    ranges = [*zip(lows.min(1).tolist(), highs.max(1).tolist(), strict=True)]
    return _Summary(sha.hexdigest(), ranges, not_finite)


def _value_issues(spec: DatasetSpec, values: _Summary) -> Iterator[BipvlError]:
    """All issues of an image's values, channel by channel."""
    if values.not_finite:
        fix = "replace them by the background"
        yield BipvlError(f"holds {values.not_finite} voxels that are not finite", fix)
    channels = len(values.ranges)
    names = spec.channels if len(spec.channels) == channels > 1 else [""] * channels
    for name, (low, high) in zip(names, values.ranges, strict=True):
        where = f" in channel {name}" if name else ""
        found = f"holds values from {low:g} to {high:g}{where}"
        if low == high:
            fix = "download or export it again, or leave out its case"
            yield BipvlError(f"holds only the value {low:g}{where}", fix)
        elif spec.modality != "CT" or low > high:
            continue
        elif low < CT_RANGE[0] or high > CT_RANGE[1]:
            fix = "export it in HU, as signed numbers"
            yield BipvlError(f"{found}, outside the range of a CT in HU", fix)
        elif high - low < CT_SPAN:
            fix = "export it in HU, neither scaled nor standardised"
            yield BipvlError(f"{found}, too small a range for a CT in HU", fix)


def _about(path: Path, issues: Iterable[BipvlError | None]) -> tuple[BipvlError, ...]:
    return tuple(issue.at(path) for issue in issues if issue)
