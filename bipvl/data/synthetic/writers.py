"""Scans that come out the same, byte for byte, whenever they are written."""

import gzip
from pathlib import Path

import nibabel as nib


def write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write `.nii.gz` without time or name in its head, so that the same volume gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=2) as file,
    ):
        image.to_stream(file)
