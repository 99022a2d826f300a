"""Find the scans at a path and the file that each result goes to, before anything is read or written."""

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib

from bipvl.common.errors import BipvlError

ScanFiles = Path | tuple[Path, ...]
"""A scan on disk: a NIfTI file, the folder of a DICOM series, or one NIfTI file per channel, in order."""

NIFTI = (".nii.gz", ".nii")
"""File name endings of NIfTI."""


def scans_at(image: str | Path, channels: int = 1) -> list[ScanFiles]:
    """The scans at a path: a NIfTI file, the NIfTI files in a folder by name, or the folder of a series.

    With several channels, nnU-Net's files NAME_0000.nii.gz, NAME_0001.nii.gz, … (3D) are one scan; the path
    may be any of them.

    Raises:
        BipvlError: nothing there, a file that is not NIfTI, a folder without files, or a missing channel.
    """
    image = Path(image)
    if image.is_file():
        if image.name.lower().endswith(NIFTI):
            return [_scan_of(image, channels)]
        fix = "give a .nii.gz or .nii file; for a DICOM series give its folder"
        raise BipvlError("not a NIfTI file by its name", fix, image)
    if not image.is_dir():
        fix = "give a NIfTI file, a folder of them, or the folder of a DICOM series"
        raise BipvlError("file not found", fix, image)
    if not (files := visible_files(image)):
        fix = "give the folder that holds the scans; subfolders are not searched"
        raise BipvlError("no scan in this folder", fix, image)
    scans = [_scan_of(file, channels) for file in files if file.name.lower().endswith(NIFTI)]
    return [*dict.fromkeys(scans)] or [image]


def _scan_of(file: Path, channels: int) -> ScanFiles:
    """The file, or all files of its scan if it holds one of several channels."""
    name = re.fullmatch(r"(.+_)\d{4}", stem(file))
    if channels == 1 or not name or not _is_volume(file):
        return file
    ending = file.name[len(stem(file)) :]
    files = tuple(file.with_name(f"{name[1]}{channel:04}{ending}") for channel in range(channels))
    if file not in files:
        return file
    for path in files:
        if not path.is_file():
            problem = f"file not found, but {file.name} holds one of {channels} channels"
            raise BipvlError(problem, "copy the other channels beside it", path)
    return files


def _is_volume(file: Path) -> bool:
    try:
        return len(nib.load(file).shape) == 3
    except Exception:  # nibabel, gzip and zlib have their own errors; reported when the scan is opened
        return False


def files_of(scan: ScanFiles) -> tuple[Path, ...]:
    """A scan's file, files or folder."""
    return (scan,) if isinstance(scan, Path) else scan


def is_alone(image: str | Path, scans: Sequence[ScanFiles]) -> bool:
    """Whether the path is a scan itself or one of its files, not a folder of scans."""
    return Path(image) in files_of(scans[0])


def left_out(image: str | Path, scans: Sequence[ScanFiles]) -> list[Path]:
    """The files in a folder of NIfTI scans that belong to no scan."""
    if is_alone(image, scans):
        return []
    read = {file for scan in scans for file in files_of(scan)}
    return [file for file in visible_files(Path(image)) if file not in read]


def visible_files(folder: Path) -> list[Path]:
    """The files directly in a folder, by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def name_of(scan: ScanFiles) -> str:
    """A scan's name in results: the file's stem; with one file per channel, without the channel number."""
    return stem(scan) if isinstance(scan, Path) else re.sub(r"_\d{4}$", "", stem(scan[0]))


def stem(path: Path) -> str:
    """A file's name without .nii or .nii.gz; a folder's whole name."""
    return re.sub(r"(?i)\.nii(\.gz)?$", "", path.name)


def targets_of(image: str | Path, scans: Sequence[ScanFiles], output: str | Path) -> list[Path]:
    """The label map of each scan of ``scans_at(image, …)``: the output, or a file of the scan's name in it.

    Raises:
        BipvlError: the output is of the wrong kind or would overwrite a scan, or two scans share a name.
    """
    image, output = Path(image), Path(output)
    if is_alone(image, scans):
        targets = [output]
        if not output.name.endswith(NIFTI) or output.is_dir():
            raise BipvlError("cannot be written as NIfTI", "give a name that ends in .nii.gz or .nii", output)
    else:
        targets = [output / f"{name_of(scan)}.nii.gz" for scan in scans]
        if output.name.endswith(NIFTI) or output.is_file():
            raise BipvlError(f"a file's name, but {image} is a folder of scans", "give a folder", output)
    for number, (scan, target) in enumerate(zip(scans, targets, strict=True)):
        _check_target(scan, target)
        if target in targets[:number]:
            first, second = (files_of(other)[0] for other in (scans[targets.index(target)], scan))
            raise BipvlError(f"{first} and {second} would both be written here", "rename one of them", target)
    return targets


def _check_target(scan: ScanFiles, target: Path) -> None:
    """A result must not overwrite its scan, nor the result's .json a file beside the scan."""
    for file in files_of(scan):
        if file.is_dir() and target.resolve().is_relative_to(file.resolve()):
            raise BipvlError("inside the folder of the series itself", "give another folder", target)
        if (file.resolve().parent, stem(file)) == (target.resolve().parent, stem(target)):
            raise BipvlError("has the name of the scan itself", "give another name or folder", target)
