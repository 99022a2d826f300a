"""OpenKBP: convert a patient's CSV files, as the challenge distributes them, to an image and a label map.

A CSV lists voxels by their index into 128 × 128 × 128 voxels (C order). Axis 0 runs from anterior to
posterior, axis 1 from right to left, axis 2 from superior to inferior. ct.csv holds HU + 1000 and leaves out
the voxels outside the body.
"""

import csv
import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.nifti1 import Nifti1Image

from bipvl.common.errors import BipvlError
from bipvl.data.scans import check_exists
from bipvl.data.spec import DatasetSpec

SHAPE = (128, 128, 128)
ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Mandible")
"""The organs' files in the order of their label codes 1, 2, …; where contours overlap, the later one wins."""
FILES = ("ct.csv", "voxel_dimensions.csv", *(f"{organ}.csv" for organ in ORGANS))
FOLDERS = {"train": "train-pats", "val": "validation-pats", "test": "test-pats"}
"""The challenge's folder of each part of its split."""
AIR, OFFSET = -1000, 1000
"""HU outside the body; what ct.csv adds to HU."""
_AGAIN = "delete it, and download it again"


@dataclass(frozen=True)
class Patient:
    """A line of the data set's split: case id, part, and `checksum` of the converted scans."""

    case: str
    part: str
    sha256: str

    @property
    def folder(self) -> str:
        """The patient's folder below the challenge's provided-data."""
        return f"{FOLDERS[self.part]}/pt_{int(self.case.removeprefix('pt_'))}"


def listed_patients(path: Path) -> list[Patient]:
    """The patients of the split's CSV, with the columns case, part and sha256."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Patient(**row) for row in csv.DictReader(file)]


def read_patient(folder: Path) -> tuple[Nifti1Image, Nifti1Image]:
    """Convert a patient's CSV files to an image (HU, int16) and a label map (uint8), both 128 × 128 × 128.

    The affine centres the grid at 0, as the files hold no position.

    Raises:
        BipvlError: a file is missing, not readable or empty, lists voxels outside the grid or one twice, or
            holds other values than expected.
    """
    for file in FILES:
        check_exists(folder / file)
    hu, labels = np.full(SHAPE, AIR, np.int16), np.zeros(SHAPE, np.uint8)
    ct = _read_voxels(folder / "ct.csv")
    values = pd.to_numeric(ct, errors="coerce")
    if not (values.between(0, np.iinfo(np.int16).max) & (values % 1 == 0)).all():
        raise BipvlError("holds values that are not whole numbers from 0 to 32767", _AGAIN, folder / "ct.csv")
    hu.flat[ct.index] = values - OFFSET
    for code, organ in enumerate(ORGANS, start=1):
        labels.flat[_read_voxels(folder / f"{organ}.csv").index] = code
    affine = _affine(_read_spacing(folder / "voxel_dimensions.csv"))
    return _as_nifti(hu, affine), _as_nifti(labels, affine)


def checksum(image: Nifti1Image, label: Nifti1Image) -> str:
    """SHA-256 of the voxels and the affine, whatever the compression of the files."""
    parts = ((image.dataobj, "<i2"), (label.dataobj, "<u1"), (image.affine, "<f4"))
    content = b"".join(np.ascontiguousarray(part, dtype).tobytes() for part, dtype in parts)
    return hashlib.sha256(content).hexdigest()


def dataset_json(spec: DatasetSpec, cases: list[str]) -> dict[str, Any]:
    """The content of dataset.json, in the layout of the Medical Segmentation Decathlon."""
    pairs = [{kind: f"./{kind}sTr/{case}.nii.gz" for kind in ("image", "label")} for case in cases]
    names = {str(c.codes[0]): c.name for c in spec.classes}
    return {
        "name": spec.title,
        "description": "Converted from the CSV files of the OpenKBP challenge, github.com/ababier/open-kbp",
        "reference": "Babier et al., Medical Physics 48:5549-5561, 2021",
        "licence": "MIT",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | names,
        "numTraining": len(cases),
        "numTest": 0,
        "training": pairs,
        "test": [],
    }


def _read_voxels(path: Path) -> "pd.Series[float]":
    """A CSV's values by voxel index; masks have no values."""
    try:
        values = pd.read_csv(path, index_col=0)["data"]
    except KeyError as error:
        raise BipvlError("has no column 'data'", _AGAIN, path) from error
    except (OSError, ValueError) as error:
        raise BipvlError(f"not readable as CSV ({error})", _AGAIN, path) from error
    voxels = values.index
    if not len(voxels):
        raise BipvlError("lists no voxel", _AGAIN, path)
    if not pd.api.types.is_integer_dtype(voxels) or voxels.min() < 0 or voxels.max() >= prod(SHAPE):
        raise BipvlError(f"lists voxels that are not whole numbers below {prod(SHAPE)}", _AGAIN, path)
    if voxels.has_duplicates:
        raise BipvlError(f"lists the voxel {voxels[voxels.duplicated()][0]} twice", _AGAIN, path)
    return values


def _read_spacing(path: Path) -> np.ndarray:
    """The three sides of a voxel, mm."""
    try:
        spacing = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise BipvlError(f"does not hold numbers ({error})", _AGAIN, path) from error
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise BipvlError("does not hold three positive numbers", _AGAIN, path)
    return spacing


def _affine(spacing: np.ndarray) -> np.ndarray:
    """4 × 4, voxel to mm (right, anterior, superior); each axis runs against one of these."""
    depth, width, height = spacing
    affine = np.array([[0, -width, 0, 0], [-depth, 0, 0, 0], [0, 0, -height, 0], [0, 0, 0, 1]])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return affine


def _as_nifti(voxels: np.ndarray, affine: np.ndarray) -> Nifti1Image:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return image
