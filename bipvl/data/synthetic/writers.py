"""Write NIfTI files reproducibly, byte for byte."""

import gzip
from pathlib import Path

import nibabel as nib


def write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write a `.nii.gz` without time and name in its header, so that equal volumes give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=2) as file,
    ):
        image.to_stream(file)
