"""A DICOM series as one volume: read by SimpleITK (its GDCM), its slices held against each other first."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.common.extras import missing_extra_explained
from bipvl.deploy.inputs import visible_files

RAS = np.diag((-1.0, -1.0, 1.0))
"""From DICOM's axes (left, posterior, superior) to NIfTI's (right, anterior, superior)."""
PLACE = ("0020|0032", "0020|0037")
"""The tags of a slice's position and of its orientation."""
TOLERANCE = 0.1
"""How far a slice may lie from its place in the volume, in voxels: positions are written rounded."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What the header of one file says: in mm, on DICOM's axes.

    Attributes:
        size: columns, rows and frames.
        axes: 3 × 3; its columns are the directions of a row, of a column and the normal.
    """

    file: Path
    size: tuple[int, ...]
    values: int
    spacing: tuple[float, float]
    origin: np.ndarray
    axes: np.ndarray


def series_slices(folder: Path) -> list[Slice]:
    """The slices of a folder's one series, in order along their normal.

    Raises:
        BipvlError: no series, several, other files beside it, slices that are missing, twice there, tilted
            or of several sizes or orientations; SimpleITK is not installed.
    """
    reader = _simpleitk().ImageSeriesReader
    with _quiet():  # it tells of each file that is none
        series = reader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise BipvlError(
            f"{folder} holds no scan, neither NIfTI files nor a DICOM series "
            "(folders inside it are not searched); give the scans' own folder"
        )
    if len(series) > 1:
        raise BipvlError(f"{folder} holds {len(series)} DICOM series; give each a folder of its own")
    files = [*map(Path, reader.GetGDCMSeriesFileNames(str(folder), series[0]))]
    names = {file.name for file in files}
    if others := [file.name for file in visible_files(folder) if file.name not in names]:
        raise BipvlError(
            f"{folder} holds files that cannot be read as slices of its DICOM series ({_listed(others)}); "
            "export them again, or take them out"
        )
    slices = [_header(file) for file in files]
    for told, fix in _faults(slices):
        raise BipvlError(f"{folder} {told}; {fix}")
    return slices


def series_affine(slices: Sequence[Slice]) -> np.ndarray:
    """From voxel numbers (column, row, slice) to mm on NIfTI's axes, 4 × 4."""
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, :2] = RAS @ first.axes[:, :2] * first.spacing
    affine[:3, 2] = RAS @ (last.origin - first.origin) / (len(slices) - 1)
    affine[:3, 3] = RAS @ first.origin
    return affine


def read_series(folder: Path) -> nib.Nifti1Image:
    """A folder's one series: columns × rows × slices, float32, rescaled as each slice says (CT: HU).

    Raises:
        BipvlError: as ``series_slices``, or a slice that cannot be read.
    """
    slices = series_slices(folder)
    columns, rows, _ = slices[0].size
    voxels = np.empty((len(slices), rows, columns), np.float32)  # slices one after another in memory
    for plane, s in zip(voxels, slices, strict=True):
        plane[:] = _plane(s.file)
    affine = series_affine(slices)
    image = nib.Nifti1Image(voxels.T, affine)
    image.set_qform(affine, 1)  # 1: the scanner's own axes
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def _header(file: Path) -> Slice:
    reader = _simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise BipvlError(f"{file} cannot be read as a DICOM image; export the series again") from error
    if not all(reader.HasMetaDataKey(tag) for tag in PLACE):
        raise BipvlError(f"{file} does not say where its slice lies; export the series with its positions")
    size = (*reader.GetSize(), 1)[:3]
    dimension = reader.GetDimension()
    axes = np.reshape(reader.GetDirection(), (dimension, dimension))
    return Slice(
        file=file,
        size=size,
        values=reader.GetNumberOfComponents(),
        spacing=reader.GetSpacing()[:2],
        origin=np.array(reader.GetOrigin()),
        axes=axes,
    )


def _plane(file: Path) -> np.ndarray:
    """Rows × columns."""
    sitk = _simpleitk()
    try:
        image = sitk.ReadImage(str(file), sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        raise BipvlError(f"{file} cannot be read as a DICOM image; export the series again") from error
    return sitk.GetArrayFromImage(image)[0]


def _faults(slices: Sequence[Slice]) -> Iterator[tuple[str, str]]:
    """What keeps slices from being one volume, and how to mend it."""
    first = slices[0]
    if first.size[2] > 1 and len(slices) == 1:
        yield "holds one file of many frames (enhanced DICOM)", "convert it to NIfTI, by dcm2niix for example"
        return
    if len(slices) == 1:
        yield "holds a single slice", "give a folder with all slices of the series"
        return
    for s in slices:
        if s.values != 1:
            yield f"holds {s.file.name} with {s.values} values a voxel, a colour picture", "give a scan"
        if s.size != first.size or not np.allclose(s.spacing, first.spacing, rtol=1e-3):
            told = f"holds slices of several sizes ({first.file.name} and {s.file.name} differ)"
            yield told, "give each size a folder of its own"
        if not np.allclose(s.axes, first.axes, atol=1e-3):
            told = f"holds slices of several orientations ({first.file.name} and {s.file.name} differ)"
            yield told, "give each orientation a folder of its own"
    yield from _place_faults(slices)


def _place_faults(slices: Sequence[Slice]) -> Iterator[tuple[str, str]]:
    """Slices must stand on one line along their normal, equally far apart."""
    normal = slices[0].axes[:, 2]
    origins = np.array([s.origin for s in slices]) - slices[0].origin
    heights = origins @ normal
    steps = np.diff(heights)
    usual = np.median(steps)
    if steps.min() < TOLERANCE * usual or usual <= 0:
        told = f"holds two slices at one place ({_pair(slices, steps.argmin())})"
        yield told, "keep one time point, or one of the copies"
        return
    mean = steps.mean()
    if np.abs(heights - mean * np.arange(len(slices))).max() > TOLERANCE * mean:
        at = np.abs(steps - usual).argmax()
        told = f"lacks slices or is spaced unevenly: between {_pair(slices, at)} lie {steps[at]:.4g} mm"
        fix = f"elsewhere {usual:.4g} mm; add what is missing, or resample it evenly and give it as NIfTI"
        yield told, fix
    aside = np.linalg.norm(origins - np.outer(heights, normal), axis=1).max()
    if aside > TOLERANCE * min(slices[0].spacing):
        tilt = math.degrees(math.atan2(aside, heights[-1]))
        told = f"was taken with a tilted gantry ({tilt:.2g} degrees)"
        yield told, "resample it upright and give it as NIfTI"


def _pair(slices: Sequence[Slice], at: int) -> str:
    return f"{slices[at].file.name} and {slices[at + 1].file.name}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ITK's warnings in the block."""
    switch = _simpleitk().ProcessObject
    before = switch.GetGlobalWarningDisplay()
    switch.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        switch.SetGlobalWarningDisplay(before)


def _simpleitk() -> ModuleType:
    with missing_extra_explained():
        import SimpleITK
    return SimpleITK
