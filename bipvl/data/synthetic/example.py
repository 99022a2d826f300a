"""A dataset to practise with as if it were one's own: small scans of a ball and a rod, in nnU-Net's form."""

from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm.auto import trange

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json
from bipvl.data.synthetic.writers import write_nifti

SIDE = 32
"""Voxels, of 2 mm."""
LABELS = {"background": 0, "ball": 1, "rod": 2}
GREY, NOISE = np.array([100, 180, 30]), 12.0
"""Mean of background, ball and rod, and the deviation around it, in arbitrary units, as an MR's are."""


def write_example(root: str | Path, *, cases: int = 10, seed: int = 0, progress: bool = True) -> Path:
    """Write the dataset below a data root that is then marked as synthetic; returns its folder, ``shapes``.

    Raises:
        BipvlError: the folder is there already.
    """
    folder = Path(root) / "shapes"
    if folder.exists():
        raise BipvlError(f"{folder} is there already; give another data root, or delete it.")
    with atomic_path(folder) as partial:
        for i in trange(cases, desc="example", unit="case", disable=not progress):
            image, label = _scan(np.random.default_rng([seed, i]))
            write_nifti(partial / f"imagesTr/shapes_{i + 1:03}_0000.nii.gz", _stored(image))
            write_nifti(partial / f"labelsTr/shapes_{i + 1:03}.nii.gz", _stored(label))
        write_json(partial / "dataset.json", _index(cases))
    write_json(Path(root) / "cohort.json", {"cohort": "synthetic"})
    return folder


def _scan(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map: the ball in the patient's left half, the rod, upright, in the right."""
    x, y, z = np.indices((SIDE, SIDE, SIDE)) - SIDE / 2 + 0.5
    ball, rod = rng.uniform(-2, 2, 3) - (8, 0, 0), rng.uniform(-2, 2, 3) + (8, 0, 0)
    round_it = np.hypot(np.hypot(x - ball[0], y - ball[1]), z - ball[2])
    label = np.zeros((SIDE, SIDE, SIDE), np.int16)
    label[round_it < rng.uniform(5, 7)] = LABELS["ball"]
    upright = (np.hypot(x - rod[0], y - rod[1]) < rng.uniform(2.5, 3.5)) & (np.abs(z - rod[2]) < 10)
    label[upright] = LABELS["rod"]
    return (GREY[label] + rng.normal(0, NOISE, label.shape)).round().astype(np.int16), label


def _stored(voxels: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1]))


def _index(cases: int) -> dict:
    """nnU-Net v2's dataset.json."""
    return {
        "channel_names": {"0": "MR"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
