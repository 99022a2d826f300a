"""An example of a user's data set: small scans of a ball and a rod, in nnU-Net's layout."""

from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm.auto import trange

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json
from bipvl.data.synthetic.cohort import write_nifti

SIDE = 32
"""Voxels per side, of 2 mm."""
LABELS = {"background": 0, "ball": 1, "rod": 2}
GREY, NOISE = np.array([100, 180, 30]), 12.0
"""Mean intensity of background, ball and rod, and the standard deviation of the noise (arbitrary units)."""


def write_example(root: str | Path, *, cases: int = 10, seed: int = 0, progress: bool = True) -> Path:
    """Write the data set below ``root``, which is marked as synthetic; returns its folder, ``shapes``.

    Raises:
        BipvlError: the folder exists already.
    """
    folder = Path(root) / "shapes"
    if folder.exists():
        raise BipvlError("exists already", "give another data root, or delete this folder", folder)
    with atomic_path(folder) as partial:
        for i in trange(cases, desc="example", unit="case", disable=not progress):
            image, label = _scan(np.random.default_rng([seed, i]))
            write_nifti(partial / f"imagesTr/shapes_{i + 1:03}_0000.nii.gz", _as_nifti(image))
            write_nifti(partial / f"labelsTr/shapes_{i + 1:03}.nii.gz", _as_nifti(label))
        about = {"channel_names": {"0": "MR"}, "labels": LABELS, "numTraining": cases}
        write_json(partial / "dataset.json", about | {"file_ending": ".nii.gz"})
    write_json(Path(root) / "cohort.json", {"cohort": "synthetic"})
    return folder


def _scan(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map: a ball in the patient's left half, an upright rod in the right half."""
    x, y, z = np.indices((SIDE, SIDE, SIDE)) - SIDE / 2 + 0.5
    ball, rod = rng.uniform(-2, 2, 3) - (8, 0, 0), rng.uniform(-2, 2, 3) + (8, 0, 0)
    distance = np.hypot(np.hypot(x - ball[0], y - ball[1]), z - ball[2])
    label = np.zeros((SIDE, SIDE, SIDE), np.int16)
    label[distance < rng.uniform(5, 7)] = LABELS["ball"]
    inside = (np.hypot(x - rod[0], y - rod[1]) < rng.uniform(2.5, 3.5)) & (np.abs(z - rod[2]) < 10)
    label[inside] = LABELS["rod"]
    return (GREY[label] + rng.normal(0, NOISE, label.shape)).round().astype(np.int16), label


def _as_nifti(voxels: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1]))
