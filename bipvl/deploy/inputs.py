"""What there is to segment at a path, and where each result goes: told before anything is read or written."""

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib

from bipvl.common.errors import BipvlError

Scan = Path | tuple[Path, ...]
"""A NIfTI file, the folder of a DICOM series, or a NIfTI file a channel in the order of the channels."""

NIFTI = (".nii.gz", ".nii")
"""How the name of a NIfTI file ends."""


def scans_at(image: str | Path, channels: int = 1) -> list[Scan]:
    """The scans at a path: the file, the NIfTI files right in a folder by name, or the folder of a series.

    Of several channels, nnU-Net's NAME_0000.nii.gz, NAME_0001.nii.gz, … (3D) are one scan, named by any.

    Raises:
        BipvlError: nothing is there, a file that is no NIfTI by its name, a folder without files, a channel
            that is missing.
    """
    image = Path(image)
    if image.is_file():
        if image.name.lower().endswith(NIFTI):
            return [_scan_of(image, channels)]
        raise BipvlError(
            f"{image} is no NIfTI file by its name (.nii.gz or .nii); of a DICOM series give the folder"
        )
    if not image.is_dir():
        raise BipvlError(
            f"{image} is missing; give a NIfTI file, a folder of them, or a DICOM series' folder"
        )
    files = visible_files(image)
    if not files:
        raise BipvlError(
            f"{image} holds no scan (folders inside it are not searched); give the scans' own folder"
        )
    scans = [_scan_of(file, channels) for file in files if file.name.lower().endswith(NIFTI)]
    return [*dict.fromkeys(scans)] or [image]


def _scan_of(file: Path, channels: int) -> Scan:
    """A file, or where it holds one channel of several, all its scan's files."""
    name = re.fullmatch(r"(.+_)\d{4}", stem(file))
    if channels == 1 or not name or not _is_volume(file):
        return file
    ending = file.name[len(stem(file)) :]
    files = tuple(file.with_name(f"{name[1]}{channel:04}{ending}") for channel in range(channels))
    if file not in files:
        return file
    for path in files:
        if not path.is_file():
            raise BipvlError(
                f"{path} is missing: {file.name} holds one of {channels} channels; copy the others beside it"
            )
    return files


def _is_volume(file: Path) -> bool:
    try:
        return len(nib.load(file).shape) == 3
    except Exception:  # nibabel, gzip and zlib each raise their own; told when the scan is opened
        return False


def files_of(scan: Scan) -> tuple[Path, ...]:
    """A scan's file, files or folder."""
    return (scan,) if isinstance(scan, Path) else scan


def is_alone(image: str | Path, scans: Sequence[Scan]) -> bool:
    """Whether what was given is itself the scan, or one of its files, and not a folder of scans."""
    return Path(image) in files_of(scans[0])


def left_out(image: str | Path, scans: Sequence[Scan]) -> list[Path]:
    """The other files of a folder of NIfTI scans, which are not read."""
    if is_alone(image, scans):
        return []
    read = {file for scan in scans for file in files_of(scan)}
    return [file for file in visible_files(Path(image)) if file not in read]


def visible_files(folder: Path) -> list[Path]:
    """The files right in a folder, by name, without those that a dot hides."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def name_of(scan: Scan) -> str:
    """What results are called: the file's stem, of a file a channel without the channel's number."""
    return stem(scan) if isinstance(scan, Path) else stem(scan[0]).rpartition("_")[0]


def stem(path: Path) -> str:
    """A file's name without .nii or .nii.gz; of a folder its whole name."""
    name = path.name
    ending = next((end for end in NIFTI if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def targets_of(image: str | Path, scans: Sequence[Scan], output: str | Path) -> list[Path]:
    """The label map of each scan of ``scans_at(image, …)``: the output, or below it under the scan's name.

    Raises:
        BipvlError: the output is of the wrong kind or in the way of a scan, or two scans have one name.
    """
    image, output = Path(image), Path(output)
    if is_alone(image, scans):
        targets = [output]
        if not output.name.endswith(NIFTI) or output.is_dir():
            raise BipvlError(f"{output} cannot be written: give a name that ends in .nii.gz or .nii")
    else:
        targets = [output / f"{name_of(scan)}.nii.gz" for scan in scans]
        if output.name.endswith(NIFTI) or output.is_file():
            raise BipvlError(f"{output} is a file's name, but {image} is a folder of scans; give a folder")
    for number, (scan, target) in enumerate(zip(scans, targets, strict=True)):
        _check_place(scan, target)
        if target in targets[:number]:
            first, second = (files_of(other)[0] for other in (scans[targets.index(target)], scan))
            raise BipvlError(f"{first} and {second} would both become {target}; rename one of them")
    return targets


def _check_place(scan: Scan, target: Path) -> None:
    """A result must not lie in the way of its scan, nor its sidecar in that of the scan's own."""
    for file in files_of(scan):
        if file.is_dir() and target.resolve().is_relative_to(file.resolve()):
            raise BipvlError(f"{target} lies in the folder of the series itself; give another place")
        if (file.resolve().parent, stem(file)) == (target.resolve().parent, stem(target)):
            raise BipvlError(f"{target} bears the name of the scan itself; give another name or folder")
