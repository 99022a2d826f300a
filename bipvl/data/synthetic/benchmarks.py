"""The four imitated benchmarks: their folders and files, and how one case of each is generated."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bipvl.data.synthetic.abdomen import CODES, abdomen
from bipvl.data.synthetic.brain import BRAIN_CENTRE, CHANNELS, brain
from bipvl.data.synthetic.heart import HEART_CENTRE, chest
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
    grid = {"extent": (370, 300, high - low), "centre": (0, -3, (low + high) / 2)}
    scan = Acquisition.draw(rng, size=size, **grid, shift=14, degrees=8, thick=0.15, orientations=AXIAL)
    anatomy, scanner = rng.spawn(2)
    image, label = render(abdomen(anatomy, scan.pose), scan.affine, scan.size)
    return scan, (ct(image, scanner), label.astype(np.uint8))


def _heart(modality: str, rng: np.random.Generator, size: Size) -> tuple[Acquisition, Volumes]:
    axes = AXIAL if modality == "ct" else ANY_AXES
    grid = {"extent": (205, 205, rng.uniform(175, 205)), "centre": np.add(HEART_CENTRE, (4, -14, 12))}
    scan = Acquisition.draw(rng, size=size, **grid, shift=10, degrees=6, thick=0.1, orientations=axes)
    anatomy, scanner = rng.spawn(2)
    image, label = render(chest(anatomy, scan.pose, modality), scan.affine, scan.size)
    image = ct(image, scanner) if modality == "ct" else mr(image, scan.affine, scanner)
    return scan, (image, label)


def _brain(rng: np.random.Generator, size: Size) -> tuple[Acquisition, Volumes]:
    scan = Acquisition.draw(
        rng, size=size, extent=(182, 218, 182), centre=BRAIN_CENTRE, shift=8, degrees=9, thick=0.1
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


def _mmwhs_rows(modality: str, cases: int) -> list[Row]:
    names = [(k, f"{modality}_train_{1000 + k}") for k in range(1, cases + 1)]
    return [Row(k, "training", f"{name}_image.nii.gz", f"{name}_label.nii.gz") for k, name in names]


def _msd_rows(cases: int) -> list[Row]:
    names = [(k, f"BRATS_{k:03d}.nii.gz") for k in range(1, cases + 1)]
    return [Row(k, "training", f"imagesTr/{name}", f"labelsTr/{name}") for k, name in names]


def _index(
    rows: list[Row], sections: Sequence[str], channels: Sequence[str], labels: Iterable[str], **about: str
) -> dict[str, Any]:
    """The content of dataset.json; `about` is its name, description and tensorImageSize."""
    listed = {
        section: [{"image": f"./{r.image}", "label": f"./{r.label}"} for r in rows if r.section == section]
        for section in sections
    }
    return {
        **about,
        "modality": {str(i): name for i, name in enumerate(channels)},
        "labels": {str(code): name for code, name in enumerate(["background", *labels])},
        **{f"num{section.capitalize()}": len(entries) for section, entries in listed.items()},
        **listed,
    }


def _amos_index(rows: list[Row]) -> dict[str, Any]:
    return _index(
        rows,
        ("training", "validation", "test"),
        ("CT",),
        CODES,
        name="AMOS",
        description="Synthetic abdominal CT in the layout of AMOS22",
        tensorImageSize="3D",
    )


def _msd_index(rows: list[Row]) -> dict[str, Any]:
    return _index(
        rows,
        ("training", "test"),
        CHANNELS,
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        name="BRATS",
        description="Synthetic gliomas in the layout of the Medical Segmentation Decathlon's Task01",
        tensorImageSize="4D",
    )


BENCHMARKS = {
    "amos22": Benchmark("amos22", _abdomen, 19, _amos_rows, _amos_index),
    "mmwhs_ct": Benchmark("mmwhs/ct_train", partial(_heart, "ct"), 20, partial(_mmwhs_rows, "ct")),
    "mmwhs_mr": Benchmark("mmwhs/mr_train", partial(_heart, "mr"), 20, partial(_mmwhs_rows, "mr")),
    "msd_brain": Benchmark("Task01_BrainTumour", _brain, 20, _msd_rows, _msd_index),
}
