"""Tiny valid cohorts to corrupt, and the catalogue in which each corruption is registered."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bipvl.data.spec import DatasetSpec

KNEE = {
    "name": "knee",
    "title": "Knees",
    "modality": "MR",
    "channels": ["PD"],
    "folder": "knee",
    "layout": "dataset_json",
    "classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [2]}],
    "spacing": [1, 1, 1],
    "intensity": {"zscore": "nonzero"},
    "split": {"test": "validation", "val": 0.3},
    "prompts": "knee.csv",
    "nsd_tolerance": 1,
    "patient": r"(P\d+)_",
}
SECTIONS = {
    "amos22": {"training": ["amos_0001", "amos_0002", "amos_0003"], "validation": ["amos_0401", "amos_0402"]},
    "mmwhs_ct": {"training": ["ct_train_1001", "ct_train_1002", "ct_train_1003"]},
    "mmwhs_mr": {"training": ["mr_train_1001", "mr_train_1002", "mr_train_1003"]},
    "msd_brain": {"training": ["BRATS_001", "BRATS_002", "BRATS_003"]},
    "knee": {"training": ["P1_left", "P1_right", "P2_left"], "validation": ["P3_left"]},
}


@dataclass(frozen=True)
class Place:
    """A copy of a valid cohort to corrupt; ``dataset`` is the argument on the command line."""

    root: Path
    dataset: str
    spec: DatasetSpec

    @property
    def folder(self) -> Path:
        return self.root / self.spec.folder

    @property
    def prompts(self) -> Path:
        return self.root / "prompts.csv"

    @property
    def yaml(self) -> Path:
        return self.root / "knee.yaml"

    def case(self, number: int = 1) -> tuple[Path, Path]:
        """Image and label map of a training case, counted from 1."""
        i = SECTIONS[self.spec.name]["training"][number - 1]
        if self.spec.layout == "paired_files":
            return self.folder / f"{i}_image.nii.gz", self.folder / f"{i}_label.nii.gz"
        return self.folder / "imagesTr" / f"{i}.nii.gz", self.folder / "labelsTr" / f"{i}.nii.gz"

    def rename_case(self, old: str, new: str, section: str) -> None:
        """Rename a case of a section (Tr or Va): its image, its label map and its entry in dataset.json."""
        for kind in ("images", "labels"):
            scan = self.folder / f"{kind}{section}" / f"{old}.nii.gz"
            scan.rename(scan.with_name(f"{new}.nii.gz"))
        path = self.folder / "dataset.json"
        path.write_text(path.read_text().replace(old, new))

    def edit_json(self, change: Callable[[dict], Any]) -> None:
        content = json.loads((self.folder / "dataset.json").read_text())
        change(content)
        (self.folder / "dataset.json").write_text(json.dumps(content))

    def edit_prompts(self, change: Callable[[list[str]], list[str]]) -> None:
        self.prompts.write_text("\n".join(change(self.prompts.read_text().splitlines())))

    def edit_header(self, path: Path, change: Callable[[nib.Nifti1Image], Any]) -> None:
        """Change an image with nibabel and write it back."""
        read = nib.load(path)
        scan = nib.Nifti1Image(np.asanyarray(read.dataobj), read.affine, read.header)
        change(scan)
        nib.save(scan, path)

    def edit_bytes(self, path: Path, offset: int, value: bytes) -> None:
        """Overwrite bytes of a compressed file's content."""
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[offset : offset + len(value)] = value
        path.write_bytes(gzip.compress(bytes(raw)))


def moved(**entries: float) -> np.ndarray:
    """The unit affine with changed entries, such as x3=5: row x, column 3."""
    affine = np.eye(4)
    for place, value in entries.items():
        affine["xyz".index(place[0]), int(place[1])] = value
    return affine


CATALOGUE: list[Any] = []


def corruption(name: str, *expected: tuple[str, str], options: tuple[str, ...] = ()) -> Callable:
    """Register a function that corrupts a copy of the cohort ``name``.

    Args:
        expected: for each issue that the check must report, in order, the file and a part of the sentence.
        options: further options of the command line.
    """

    def register(corrupt: Callable[[Place], Any]) -> Callable[[Place], Any]:
        CATALOGUE.append(pytest.param(name, corrupt, expected, options, id=corrupt.__name__))
        return corrupt

    return register
