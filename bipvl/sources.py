"""What there is to segment at a path, and where each result goes: told before anything is read or written."""

from collections.abc import Sequence
from pathlib import Path

from bipvl.errors import BipvlError

NIFTI = (".nii.gz", ".nii")
"""How the name of a NIfTI file ends."""


def scans_at(image: str | Path) -> list[Path]:
    """The scans at a path: the file, the NIfTI files right in a folder by name, or the folder of a series.

    Raises:
        BipvlError: nothing is there, a file that is no NIfTI by its name, a folder without files.
    """
    image = Path(image)
    if image.is_file():
        if image.name.lower().endswith(NIFTI):
            return [image]
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
    return [file for file in files if file.name.lower().endswith(NIFTI)] or [image]


def left_out(image: str | Path, scans: Sequence[Path]) -> list[Path]:
    """The other files of a folder of NIfTI scans, which are not read."""
    image = Path(image)
    return [] if image in scans else [file for file in visible_files(image) if file not in scans]


def visible_files(folder: Path) -> list[Path]:
    """The files right in a folder, by name, without those that a dot hides."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def stem(path: Path) -> str:
    """A file's name without .nii or .nii.gz; of a folder its whole name."""
    name = path.name
    ending = next((end for end in NIFTI if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def targets_of(image: str | Path, scans: Sequence[Path], output: str | Path) -> list[Path]:
    """The label map of each scan of ``scans_at(image)``: the output, or below it under the scan's name.

    Raises:
        BipvlError: the output is of the wrong kind or in the way of a scan, or two scans have one name.
    """
    image, output = Path(image), Path(output)
    if image in scans:
        targets = [output]
        if not output.name.endswith(NIFTI) or output.is_dir():
            raise BipvlError(f"{output} cannot be written: give a name that ends in .nii.gz or .nii")
    else:
        targets = [output / f"{stem(scan)}.nii.gz" for scan in scans]
        if output.name.endswith(NIFTI) or output.is_file():
            raise BipvlError(f"{output} is a file's name, but {image} is a folder of scans; give a folder")
    for number, (scan, target) in enumerate(zip(scans, targets, strict=True)):
        _check_place(scan, target)
        if target in targets[:number]:
            first = scans[targets.index(target)]
            raise BipvlError(f"{first} and {scan} would both become {target}; rename one of them")
    return targets


def _check_place(scan: Path, target: Path) -> None:
    """A result must not lie in the way of its scan, nor its sidecar in that of the scan's own."""
    if scan.is_dir() and target.resolve().is_relative_to(scan.resolve()):
        raise BipvlError(f"{target} lies in the folder of the series itself; give another place")
    if (scan.resolve().parent, stem(scan)) == (target.resolve().parent, stem(target)):
        raise BipvlError(f"{target} bears the name of the scan itself; give another name or folder")
