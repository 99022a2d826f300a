"""The four imitated benchmarks: their folders and files, and how one case of each is generated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bipvl.data.synthetic.abdomen import CODES, abdomen
from bipvl.data.synthetic.brain import CENTRE as BRAIN_CENTRE
from bipvl.data.synthetic.brain import brain
from bipvl.data.synthetic.heart import CENTRE as HEART_CENTRE
from bipvl.data.synthetic.heart import chest
from bipvl.data.synthetic.rendering import render
from bipvl.data.synthetic.scanner import ANY_AXES, AXIAL, Acquisition, ct, mr

Size = tuple[int, int, int]
Volumes = tuple[np.ndarray, np.ndarray]  # image (x y z, or x y z channels), label (x y z)
Maker = Callable[[np.random.Generator, Size], tuple[Acquisition, Volumes]]


class Row(NamedTuple):
    """One case: the index that seeds it, its section, and its files relative to the benchmark's folder."""

    index: int
    section: str
    image: str
    label: str


@dataclass(frozen=True)
class Benchmark:
    """One imitated benchmark."""

    folder: str  # relative to the data root
    make: Maker
    cases: int  # default number
    rows: Callable[[int], list[Row]]  # number of cases → their files
    index: Callable[[list[Row]], dict[str, Any]] | None = None  # the content of dataset.json


def _abdomen(rng: np.random.Generator, size: Size) -> tuple[Acquisition, Volumes]:
    low, high = rng.uniform(-236, -212), rng.uniform(118, 158)
    if rng.random() < 0.1:
        low = rng.uniform(-150, -120)  # a scan of the upper abdomen alone
    scan = Acquisition.draw(
        rng,
        size=size,
        extent=(370, 300, high - low),
        centre=(0, -3, (low + high) / 2),
        shift=14,
        degrees=8,
        thick=0.15,
        orientations=AXIAL,
    )
    anatomy, scanner = rng.spawn(2)
    image, label = render(abdomen(anatomy, scan.pose), scan.affine, scan.size)
    return scan, (ct(image, scanner), label.astype(np.uint8))


def _heart(modality: str) -> Maker:
    def make(rng: np.random.Generator, size: Size) -> tuple[Acquisition, Volumes]:
        scan = Acquisition.draw(
            rng,
            size=size,
            extent=(205, 205, rng.uniform(175, 205)),
            centre=(HEART_CENTRE[0] + 4, HEART_CENTRE[1] - 14, HEART_CENTRE[2] + 12),
            shift=10,
            degrees=6,
            thick=0.1,
            orientations=AXIAL if modality == "ct" else ANY_AXES,
        )
        anatomy, scanner = rng.spawn(2)
        image, label = render(chest(anatomy, scan.pose, modality), scan.affine, scan.size)
        image = ct(image, scanner) if modality == "ct" else mr(image, scan.affine, scanner)
        return scan, (image, label)

    return make


def _brain(rng: np.random.Generator, size: Size) -> tuple[Acquisition, Volumes]:
    scan = Acquisition.draw(
        rng,
        size=size,
        extent=(182, 218, 182),
        centre=BRAIN_CENTRE,
        shift=8,
        degrees=9,
        thick=0.1,
        orientations=ANY_AXES,
    )
    image, label = brain(rng, scan)
    return scan, (image, label.astype(np.uint8))


def _amos_rows(cases: int) -> list[Row]:
    """About a quarter of the cases form the validation section, with ids from 401 (CT ids are 1 to 500)."""
    held_out = max(1, round(cases * 5 / 19))
    ids = [(k, "training", "Tr") for k in range(1, cases - held_out + 1)]
    ids += [(400 + k, "validation", "Va") for k in range(1, held_out + 1)]
    return [
        Row(k, section, f"images{end}/amos_{k:04d}.nii.gz", f"labels{end}/amos_{k:04d}.nii.gz")
        for k, section, end in ids
    ]


def _mmwhs_rows(modality: str) -> Callable[[int], list[Row]]:
    def rows(cases: int) -> list[Row]:
        names = [(k, f"{modality}_train_{1000 + k}") for k in range(1, cases + 1)]
        return [Row(k, "training", f"{name}_image.nii.gz", f"{name}_label.nii.gz") for k, name in names]

    return rows


def _msd_rows(cases: int) -> list[Row]:
    names = [(k, f"BRATS_{k:03d}.nii.gz") for k in range(1, cases + 1)]
    return [Row(k, "training", f"imagesTr/{name}", f"labelsTr/{name}") for k, name in names]


def _listed(rows: list[Row], section: str) -> list[dict[str, str]]:
    return [{"image": f"./{row.image}", "label": f"./{row.label}"} for row in rows if row.section == section]


def _amos_index(rows: list[Row]) -> dict[str, Any]:
    training, validation = _listed(rows, "training"), _listed(rows, "validation")
    return {
        "name": "AMOS",
        "description": "Synthetic abdominal CT in the layout of AMOS22",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | {str(code): name for name, code in CODES.items()},
        "numTraining": len(training),
        "numValidation": len(validation),
        "numTest": 0,
        "training": training,
        "validation": validation,
        "test": [],
    }


def _msd_index(rows: list[Row]) -> dict[str, Any]:
    training = _listed(rows, "training")
    return {
        "name": "BRATS",
        "description": "Synthetic gliomas in the layout of the Medical Segmentation Decathlon's Task01",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": len(training),
        "numTest": 0,
        "training": training,
        "test": [],
    }


BENCHMARKS = {
    "amos22": Benchmark("amos22", _abdomen, 19, _amos_rows, _amos_index),
    "mmwhs_ct": Benchmark("mmwhs/ct_train", _heart("ct"), 20, _mmwhs_rows("ct")),
    "mmwhs_mr": Benchmark("mmwhs/mr_train", _heart("mr"), 20, _mmwhs_rows("mr")),
    "msd_brain": Benchmark("Task01_BrainTumour", _brain, 20, _msd_rows, _msd_index),
}
