"""Read a DICOM series as one volume with SimpleITK (GDCM), after checking that its slices fit together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.common.extras import missing_extra_explained
from bipvl.deploy.inputs import visible_files
from bipvl.engine.scan_grid import on_grid_of

RAS = np.diag((-1.0, -1.0, 1.0))
"""From DICOM's axes (left, posterior, superior) to NIfTI's (right, anterior, superior)."""
TOLERANCE = 0.1
"""How far a slice may be from its position in the volume, in voxels: headers hold rounded positions."""


@dataclass(frozen=True, kw_only=True)
class DicomSlice:
    """The header of one DICOM file, in mm on DICOM's axes.

    Attributes:
        size: columns, rows and frames.
        values: per voxel; more than one in a colour image.
        axes: 3 × 3; its columns are the directions of a row, of a column, and the normal.
    """

    file: Path
    size: tuple[int, ...]
    values: int
    spacing: tuple[float, float]
    origin: np.ndarray
    axes: np.ndarray


def series_slices(folder: Path) -> list[DicomSlice]:
    """The slices of the one series in a folder, in order along their normal.

    Raises:
        BipvlError: no series, several, or other files beside it; slices that are missing, duplicated, tilted
            or of different sizes or orientations; SimpleITK is not installed.
    """
    reader, itk = _simpleitk().ImageSeriesReader, _simpleitk().ProcessObject
    warns = itk.GetGlobalWarningDisplay()
    itk.SetGlobalWarningDisplay(False)  # GDCM warns about every file that is not DICOM
    try:
        series = reader.GetGDCMSeriesIDs(str(folder))
    finally:
        itk.SetGlobalWarningDisplay(warns)
    if not series:
        fix = "give the folder that holds the scans; subfolders are not searched"
        raise BipvlError("no scan in this folder, neither NIfTI files nor a DICOM series", fix, folder)
    if len(series) > 1:
        raise BipvlError(f"holds {len(series)} DICOM series", "put each series into its own folder", folder)
    files = [*map(Path, reader.GetGDCMSeriesFileNames(str(folder), series[0]))]
    names = {file.name for file in files}
    if others := [file.name for file in visible_files(folder) if file.name not in names]:
        problem = f"some files cannot be read as slices of the DICOM series ({_listed(others)})"
        raise BipvlError(problem, "export them again, or move them elsewhere", folder)
    slices = [_header(file) for file in files]
    if issue := _format_issue(slices) or _position_issue(slices):
        raise issue.at(folder)
    return slices


def series_affine(slices: Sequence[DicomSlice]) -> np.ndarray:
    """From voxel indices (column, row, slice) to mm on NIfTI's axes, 4 × 4."""
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, :2] = RAS @ first.axes[:, :2] * first.spacing
    affine[:3, 2] = RAS @ (last.origin - first.origin) / (len(slices) - 1)
    affine[:3, 3] = RAS @ first.origin
    return affine


def read_series(folder: Path) -> nib.Nifti1Image:
    """The series in a folder: columns × rows × slices, float32, with each slice's rescaling (CT: HU).

    Raises:
        BipvlError: as ``series_slices``, or a slice that cannot be read.
    """
    slices = series_slices(folder)
    columns, rows, _ = slices[0].size
    voxels = np.empty((len(slices), rows, columns), np.float32)  # contiguous slices, filled one by one
    sitk = _simpleitk()
    for plane, s in zip(voxels, slices, strict=True):
        try:
            image = sitk.ReadImage(str(s.file), sitk.sitkFloat32, "GDCMImageIO")
        except RuntimeError as error:
            raise _unreadable(s.file) from error
        plane[:] = sitk.GetArrayFromImage(image)[0]
    affine = series_affine(slices)
    scan = on_grid_of(voxels.T, affine)
    scan.set_qform(affine, 1)  # code 1: scanner coordinates
    scan.set_sform(affine, 1)
    return scan


def _header(file: Path) -> DicomSlice:
    reader = _simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(file) from error
    # ImagePositionPatient and ImageOrientationPatient
    if not (reader.HasMetaDataKey("0020|0032") and reader.HasMetaDataKey("0020|0037")):
        raise BipvlError("the slice has no position or orientation", "export it with both", file)
    dimension = reader.GetDimension()
    return DicomSlice(
        file=file,
        size=(*reader.GetSize(), 1)[:3],
        values=reader.GetNumberOfComponents(),
        spacing=reader.GetSpacing()[:2],
        origin=np.array(reader.GetOrigin()),
        axes=np.reshape(reader.GetDirection(), (dimension, dimension)),
    )


def _unreadable(file: Path) -> BipvlError:
    return BipvlError("not readable as a DICOM image", "export the series again", file)


def _format_issue(slices: Sequence[DicomSlice]) -> BipvlError | None:
    """Why the slices are not one stack of images of the same kind, if they are not."""
    first = slices[0]
    if len(slices) == 1:
        if first.size[2] == 1:
            return BipvlError("holds a single slice", "give a folder with all slices of the series")
        fix = "convert it to NIfTI, for example by dcm2niix"
        return BipvlError("holds one file of several frames (enhanced DICOM)", fix)
    for s in slices:
        differ, fix = f"({first.file.name} and {s.file.name} differ)", "put each kind into its own folder"
        if s.values != 1:
            problem = f"{s.file.name} is a colour image, with {s.values} values per voxel"
            return BipvlError(problem, "give a scan with one value per voxel")
        if s.size != first.size or not np.allclose(s.spacing, first.spacing, rtol=1e-3):
            return BipvlError(f"holds slices of several sizes {differ}", fix)
        if not np.allclose(s.axes, first.axes, atol=1e-3):
            return BipvlError(f"holds slices of several orientations {differ}", fix)
    return None


def _position_issue(slices: Sequence[DicomSlice]) -> BipvlError | None:
    """Why the slices are not evenly spaced on one line along their normal, if they are not."""
    normal = slices[0].axes[:, 2]
    origins = np.array([s.origin for s in slices]) - slices[0].origin
    heights = origins @ normal
    steps = np.diff(heights)
    usual = np.median(steps)
    if steps.min() < TOLERANCE * usual or usual <= 0:
        problem = f"holds two slices at one position ({_pair(slices, steps.argmin())})"
        return BipvlError(problem, "keep one time point, or one of the copies")
    mean = steps.mean()
    if np.abs(heights - mean * np.arange(len(slices))).max() > TOLERANCE * mean:
        at = np.abs(steps - usual).argmax()
        gap = f"{_pair(slices, at)} are {steps[at]:.4g} mm apart, others {usual:.4g} mm"
        fix = "add the missing slices, or resample the scan evenly and give it as NIfTI"
        return BipvlError(f"slices are missing or unevenly spaced ({gap})", fix)
    aside = np.linalg.norm(origins - np.outer(heights, normal), axis=1).max()
    if aside > TOLERANCE * min(slices[0].spacing):
        tilt = math.degrees(math.atan2(aside, heights[-1]))
        fix = "resample it without the tilt and give it as NIfTI"
        return BipvlError(f"was taken with a tilted gantry ({tilt:.2g} degrees)", fix)
    return None


def _pair(slices: Sequence[DicomSlice], at: int) -> str:
    return f"{slices[at].file.name} and {slices[at + 1].file.name}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _simpleitk() -> ModuleType:
    with missing_extra_explained():
        import SimpleITK
    return SimpleITK
