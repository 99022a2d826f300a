"""Tables of voxels, so that a case's masks can be drawn in 3D without the scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bipvl.data.spec import DatasetSpec
from bipvl.figures.case_selection import ShownCase, median_cases
from bipvl.figures.slice_tables import LIST, read_masks, read_parts

LONGEST_SIDE = 56
"""Longest side of a drawn volume, voxels; a larger one is subsampled."""
SIZE = ["size_right", "size_front", "size_head"]


@dataclass(frozen=True)
class Volume:
    """A case read back from its table: facts, and class numbers by layer (right × front × head)."""

    facts: dict[str, str | float]
    masks: dict[str, np.ndarray]

    def texts(self, fact: str) -> list[str]:
        """Split a fact that holds several names."""
        return self.facts[fact].split(LIST) if fact in self.facts else []


def surfaces_table(folders: Mapping[str, Sequence[Path]], data_root: str | Path) -> pd.DataFrame:
    """Truth and predictions of the cases in ``qualitative_table``; same arguments and errors."""
    return pd.concat([volume_table(case) for case in median_cases(folders, data_root)], ignore_index=True)


def volume_table(shown: ShownCase) -> pd.DataFrame:
    """A case's masks as runs of equal voxels towards the head, one row per run.

    Columns: facts (in the first row only); ``layer`` (truth or a variant); ``start`` (index of the run's
    first voxel, C order of right × front × head); ``length`` (voxels); ``number`` (of the class). Voxels are
    cubes of ``voxel_mm``, sampled from the nearest voxel of the scan, in the box around all masks.
    """
    spec = shown.spec
    masks, voxel = _cubes(*read_masks(spec, shown.case, shown.predictions))
    size = next(iter(masks.values())).shape
    facts = {
        **{key: str(value) for key, value in shown.origin.items()},
        "dataset": spec.name,
        "case": shown.case.id,
        "classes": LIST.join(c.name for c in spec.classes),
        "around": LIST.join(_around(spec)) or None,
        **dict(zip(SIZE, size, strict=True)),
        "voxel_mm": voxel,
        **{f"dice_{variant}": value for variant, value in shown.dice.items()},
    }
    runs = pd.concat([_runs(mask).assign(layer=name) for name, mask in masks.items()], ignore_index=True)
    runs = runs[["layer", "start", "length", "number"]]
    return pd.concat([pd.DataFrame(facts, index=[0]), runs], axis=1)


def read_volumes(table: pd.DataFrame) -> list[Volume]:
    """The volumes of one or more concatenated ``volume_table``s."""
    volumes = []
    for facts, part in read_parts(table, "layer"):
        size, masks = [int(facts[key]) for key in SIZE], {}
        for name, runs in part.groupby("layer", sort=False):
            flat = np.zeros(np.prod(size), np.uint8)
            for start, length, number in runs[["start", "length", "number"]].astype(int).to_numpy():
                flat[start : start + length] = number
            masks[name] = flat.reshape(size)
        volumes.append(Volume(facts, masks))
    return volumes


def _cubes(masks: Mapping[str, np.ndarray], zooms: Sequence[float]) -> tuple[dict[str, np.ndarray], float]:
    """Masks in the box around all of them, resampled to cubes; returns them and a cube's side, mm."""
    found = np.any([mask > 0 for mask in masks.values()], axis=0)
    low, high = np.zeros(3, int), np.array(found.shape)
    if found.any():
        places = np.argwhere(found)
        low, high = places.min(0), places.max(0) + 1
    extent = (high - low) * np.array(zooms)
    side = float(max(extent.max() / LONGEST_SIDE, min(zooms)))
    picked = [
        (first + (np.arange(np.ceil(mm / side - 1e-6)) + 0.5) * side / zoom).astype(int).clip(first, last - 1)
        for first, last, mm, zoom in zip(low, high, extent, zooms, strict=True)
    ]
    return {name: mask[np.ix_(*picked)] for name, mask in masks.items()}, side


def _runs(mask: np.ndarray) -> pd.DataFrame:
    """Runs of equal foreground voxels; an empty mask gives one run of background."""
    flat = mask.ravel()
    start = np.r_[0, np.flatnonzero(np.diff(flat.astype(int))) + 1]
    runs = pd.DataFrame({"start": start, "length": np.diff(np.r_[start, flat.size]), "number": flat[start]})
    return runs[runs["number"] > 0] if flat.any() else runs


def _around(spec: DatasetSpec) -> list[str]:
    """The outermost of nested classes."""
    sets = {c.name: set(c.codes) for c in spec.classes}
    return [
        name
        for name, codes in sets.items()
        if any(s < codes for s in sets.values()) and not any(codes < s for s in sets.values())
    ]
