"""Tables of pixels, so that a slice with its masks can be drawn without the scan."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from bipvl.common.errors import BipvlError
from bipvl.data.labels import class_indices
from bipvl.data.layouts import Case, cohort_of, list_cases
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.data.splits import Split
from bipvl.figures.case_selection import Prediction, ShownCase, median_cases, worst_cases

LONGEST_SIDE = 192
"""Longest side of a drawn slice, pixels; a larger one is subsampled."""
PLANES = {"axial": 2, "coronal": 1}
LIST = "|"
"""Separates the names in a cell that holds several."""


@dataclass(frozen=True)
class SliceData:
    """A slice read back from its table: facts, grey values 0…255, and class numbers by layer."""

    facts: dict[str, str | float]
    image: np.ndarray
    masks: dict[str, np.ndarray]

    @property
    def size(self) -> tuple[float, float]:
        """Height and width, mm."""
        height, width = self.image.shape
        return height * self.facts["pixel_height_mm"], width * self.facts["pixel_width_mm"]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top, mm from the centre, as ``imshow`` takes them."""
        height, width = self.size
        return -width / 2, width / 2, height / 2, -height / 2

    def texts(self, fact: str) -> list[str]:
        """Split a fact that holds several names."""
        return self.facts[fact].split(LIST)


def slice_table(
    spec: DatasetSpec,
    case: Case,
    *,
    origin: Mapping[str, object],
    predictions: Mapping[str, Path | Prediction] | None = None,
    dice: Mapping[str, float] | None = None,
    plane: str = "axial",
    worst_of: str | None = None,
) -> pd.DataFrame:
    """The slice of a case on which the truth covers most voxels, as ``pixel_table``.

    Columns: the facts; ``row``; ``pixel``; ``image`` (0…255); ``truth`` and each prediction (number of the
    class, 0 background; of nested classes the innermost).

    Args:
        origin: facts that go first: cohort, profile, cases (their number), and what the caption needs.
        predictions: by variant, label maps on the scan's grid; a path alone holds the data set's codes.
        dice: by variant, the case's mean Dice, written as facts ``dice_…``.
        worst_of: a variant; if given, the slice with most wrong voxels of its prediction is taken.

    Raises:
        BipvlError: a prediction does not have its scan's shape.
    """
    axis = PLANES[plane]
    masks, zooms = read_masks(spec, case, predictions or {})
    truth, spacing = masks["truth"], np.delete(zooms, axis)
    counted = [truth > 0] if worst_of is None else [error_kinds(truth, masks[worst_of]) > 0, truth > 0]
    counts = zip(*(np.moveaxis(voxels, axis, 0).sum((1, 2)) for voxels in counted), strict=True)
    index, _ = max(enumerate(counts), key=lambda slice_: slice_[1])
    step = -(-max(np.delete(truth.shape, axis)) // LONGEST_SIDE)
    image = np.asarray(_canonical(case.image).dataobj, np.float32).reshape(*truth.shape, -1)[..., 0]
    volumes = {"image": grey_values(spec, image)} | masks
    layers = {name: as_seen(v.take(index, axis))[::step, ::step] for name, v in volumes.items()}
    box = _content(np.max([layers["image"], *(255 * (layers[name] > 0) for name in masks)], axis=0))
    facts = {
        **{key: value if isinstance(value, float) else str(value) for key, value in origin.items()},
        "dataset": spec.name,
        "case": case.id,
        "classes": LIST.join(c.name for c in spec.classes),
        "prompts": LIST.join(row["Title"] for row in default_prompts(spec).rows),
        "channel": spec.channels[0],
        "plane": plane,
        "slice": index,
        "pixel_height_mm": spacing[1] * step,
        "pixel_width_mm": spacing[0] * step,
        **{f"dice_{variant}": value for variant, value in (dice or {}).items()},
    }
    return pixel_table(facts, {name: layer[box] for name, layer in layers.items()})


def as_seen(plane: np.ndarray) -> np.ndarray:
    """A plane of a volume as it is drawn: rows from the patient's front or head, pixels from the right."""
    return np.flip(plane.T)


def pixel_table(facts: Mapping[str, object], layers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per pixel; the facts are in the first row only.

    Columns: the facts; ``row`` (from the patient's front or head); ``pixel`` (from the patient's right); the
    layers (pictures of one shape).
    """
    row, pixel = (grid.ravel() for grid in np.indices(next(iter(layers.values())).shape))
    pixels = {"row": row, "pixel": pixel} | {name: layer.ravel() for name, layer in layers.items()}
    return pd.concat([pd.DataFrame(facts, index=[0]), pd.DataFrame(pixels)], axis=1)


def qualitative_table(folders: Mapping[str, Sequence[Path]], data_root: str | Path) -> pd.DataFrame:
    """For each data set the test case with the median Dice of its first variant, with all predictions.

    Args:
        folders: run folders by data set; the first seed of each variant is taken.

    Raises:
        BipvlError: the data lack the case, or a prediction is missing or does not fit it.
    """
    return pd.concat([_shown_slice(case) for case in median_cases(folders, data_root)], ignore_index=True)


def failures_table(
    folders: Mapping[str, Sequence[Path]], data_root: str | Path, count: int = 5
) -> pd.DataFrame:
    """The ``count`` worst test cases of the first variant, each on its slice with most wrong voxels.

    Args and Raises: as for ``qualitative_table``.
    """
    cases = worst_cases(folders, data_root, count)
    return pd.concat([_shown_slice(case, next(iter(case.predictions))) for case in cases], ignore_index=True)


def _shown_slice(shown: ShownCase, worst_of: str | None = None) -> pd.DataFrame:
    facts = {"origin": shown.origin, "predictions": shown.predictions, "dice": shown.dice}
    return slice_table(shown.spec, shown.case, worst_of=worst_of, **facts)


def samples_table(
    spec: DatasetSpec, data_root: str | Path, split: Split, profile: str, count: int = 4
) -> pd.DataFrame:
    """An axial and a coronal slice of the first training cases."""
    cases = {case.id: case for case in list_cases(spec, data_root)}
    sizes = f"{len(split.train)} training, {len(split.val)} validation and {len(split.test)} test cases"
    origin = {"cohort": cohort_of(data_root), "profile": profile, "cases": sizes}
    shown = itertools.product(split.train[:count], PLANES)
    parts = [slice_table(spec, cases[case_id], origin=origin, plane=plane) for case_id, plane in shown]
    return pd.concat(parts, ignore_index=True)


def read_masks(
    spec: DatasetSpec, case: Case, predictions: Mapping[str, Path | Prediction]
) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    """Truth and predictions as class numbers (right × front × head), and the voxel size in mm.

    Raises:
        BipvlError: a prediction does not have its scan's shape.
    """
    truth = _canonical(case.label)
    masks = {"truth": class_indices(spec, np.asarray(truth.dataobj))}
    for variant, given in predictions.items():
        prediction = given if isinstance(given, Prediction) else Prediction(path=given)
        volume = _canonical(prediction.path)
        if volume.shape != truth.shape:
            problem = f"does not have the shape of {case.label}"
            raise BipvlError(problem, "evaluate its run again", prediction.path)
        codes = np.asarray(volume.dataobj)
        if prediction.codes is not None:
            known = np.zeros(2**15, np.int16)  # one entry per possible code
            known[list(prediction.codes)] = list(prediction.codes.values())
            codes = known[codes.astype(np.int16)]
        masks[variant] = class_indices(spec, codes)
    return masks, tuple(map(float, truth.header.get_zooms()[:3]))


def error_kinds(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Compare class numbers of truth and prediction: 0 equal, otherwise 1 + index in ``style.ERRORS``.

    These are 1 missed (only in the truth), 2 false (only in the prediction), 3 another class (in both).
    """
    kinds = np.select([prediction == 0, truth == 0], [1, 2], 3)
    return np.where(truth == prediction, 0, kinds).astype(np.uint8)


def read_slices(table: pd.DataFrame) -> list[SliceData]:
    """The slices of one or more concatenated ``pixel_table``s."""
    slices = []
    for facts, part in read_parts(table, "row"):
        shape = int(part["row"].max()) + 1, int(part["pixel"].max()) + 1
        layers = part.iloc[:, 2:].dropna(axis=1)  # a variant without a run on this data set
        pictures = {name: layer.to_numpy(int).reshape(shape) for name, layer in layers.items()}
        slices.append(SliceData(facts, pictures.pop("image"), pictures))
    return slices


def read_parts(table: pd.DataFrame, first: str) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Split concatenated tables: the facts in each one's first row, and its columns from ``first`` on."""
    column = table.columns.get_loc(first)
    for _, part in table.groupby(table["dataset"].notna().cumsum(), sort=False):
        yield part.iloc[0, :column].dropna().to_dict(), part.iloc[:, column:]


def _canonical(path: Path) -> nib.Nifti1Image:
    """A scan with axes to the right, the front and the head."""
    return nib.as_closest_canonical(nib.load(path))


def grey_values(spec: DatasetSpec, volume: np.ndarray) -> np.ndarray:
    """The data set's intensity window, or the 1st to 99.5th percentile of positive values, as 0…255."""
    if "window" in spec.intensity:
        low, high = spec.intensity["window"]
    else:
        low, high = np.percentile(volume[volume > 0], [1, 99.5])
    return np.rint(255 * (np.clip(volume, low, high) - low) / (high - low)).astype(np.uint8)


def _content(picture: np.ndarray) -> tuple[slice, slice]:
    """The box around all pixels that are not nearly black, with a margin; the whole picture if none is."""
    lit = [np.flatnonzero((picture > 16).any(axis)) for axis in (1, 0)]
    return tuple(slice(max(0, at[0] - 3), at[-1] + 4) if at.size else slice(None) for at in lit)
