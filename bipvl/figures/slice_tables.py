"""Tables of pixels, so that a slice with its masks can be drawn without the scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
"""Pixels of a drawn slice; of a larger one every second, third … is taken."""
PLANES = {"axial": 2, "coronal": 1}
LIST = "|"
"""Between the names in a cell that holds several."""


@dataclass(frozen=True)
class Slice:
    """A slice read back: what its table says of it, grey values 0…255, and class numbers by layer."""

    facts: dict[str, str | float]
    image: np.ndarray
    masks: dict[str, np.ndarray]

    @property
    def size(self) -> tuple[float, float]:
        """Height and width, mm."""
        height, width = self.image.shape
        return height * self.facts["pixel_height_mm"], width * self.facts["pixel_width_mm"]

    def texts(self, fact: str) -> list[str]:
        """A fact that holds several names."""
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
    """The slice of a case on which the truth covers most voxels, one pixel a row.

    Columns: what is said of the slice; ``row`` (from the patient's front or head); ``pixel`` (from the
    patient's right); ``image`` (0…255); ``truth`` and each prediction (number of the class, 0 background, of
    nested classes the innermost). What is said of the slice stands in its first row alone.

    Args:
        origin: columns that go before: cohort, profile, cases (their number), and what the caption needs.
        predictions: by variant, label maps on the scan's grid, in native codes where a path alone is given.
        dice: by variant, the case's mean Dice, as columns ``dice_…``.
        worst_of: a variant; then the slice on which most voxels of its prediction are wrong, where any are.

    Raises:
        BipvlError: a prediction that has not its scan's shape.
    """
    axis = PLANES[plane]
    masks, zooms = read_masks(spec, case, predictions or {})
    truth, spacing = masks["truth"], np.delete(zooms, axis)
    counted = [truth > 0] if worst_of is None else [error_kinds(truth, masks[worst_of]) > 0, truth > 0]
    counts = zip(*(np.moveaxis(voxels, axis, 0).sum((1, 2)) for voxels in counted), strict=True)
    index, _ = max(enumerate(counts), key=lambda slice_: slice_[1])
    step = -(-max(np.delete(truth.shape, axis)) // LONGEST_SIDE)

    def picture(volume: np.ndarray) -> np.ndarray:
        """Axes to the right and the front or head → rows from the front or head, pixels from the right."""
        return np.flip(volume.take(index, axis).T)[::step, ::step]

    image = np.asarray(_canonical(case.image).dataobj, np.float32).reshape(*truth.shape, -1)[..., 0]
    grey = picture(grey_values(spec, image))
    layers = {"image": grey} | {name: picture(mask) for name, mask in masks.items()}
    box = _content(np.max([grey, *(255 * (layers[name] > 0) for name in masks)], axis=0))
    layers = {name: layer[box] for name, layer in layers.items()}
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
    row, pixel = (grid.ravel() for grid in np.indices(layers["image"].shape))
    pixels = pd.DataFrame({"row": row, "pixel": pixel} | {name: v.ravel() for name, v in layers.items()})
    return pd.concat([pd.DataFrame(facts, index=[0]), pixels], axis=1)


def qualitative_table(folders: Mapping[str, Sequence[Path]], data_root: str | Path) -> pd.DataFrame:
    """Of each dataset the test case with the median Dice of its first variant, and all variants' predictions.

    Args:
        folders: run folders by dataset; of each variant its first seed is taken.

    Raises:
        BipvlError: the data lack the case, or a prediction is missing or does not fit it.
    """
    return _slices(median_cases(folders, data_root))


def failures_table(
    folders: Mapping[str, Sequence[Path]], data_root: str | Path, count: int = 5
) -> pd.DataFrame:
    """The ``count`` worst test cases of the first variant (``worst_cases``), each where most of it is wrong.

    Args and Raises: as of ``qualitative_table``.
    """
    return _slices(worst_cases(folders, data_root, count), worst=True)


def _slices(cases: Sequence[ShownCase], *, worst: bool = False) -> pd.DataFrame:
    parts = [
        slice_table(
            c.spec,
            c.case,
            origin=c.origin,
            predictions=c.predictions,
            dice=c.dice,
            worst_of=next(iter(c.predictions)) if worst else None,
        )
        for c in cases
    ]
    return pd.concat(parts, ignore_index=True)


def samples_table(
    spec: DatasetSpec, data_root: str | Path, split: Split, profile: str, count: int = 4
) -> pd.DataFrame:
    """An axial and a coronal slice of the first training cases."""
    cases = {case.id: case for case in list_cases(spec, data_root)}
    sizes = f"{len(split.train)} training, {len(split.val)} validation and {len(split.test)} test cases"
    origin = {"cohort": cohort_of(data_root), "profile": profile, "cases": sizes}
    parts = [
        slice_table(spec, cases[case_id], origin=origin, plane=plane)
        for case_id in split.train[:count]
        for plane in PLANES
    ]
    return pd.concat(parts, ignore_index=True)


def read_masks(
    spec: DatasetSpec, case: Case, predictions: Mapping[str, Path | Prediction]
) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    """Truth and predictions as class numbers (axes to the right, the front and the head), and mm a voxel.

    Raises:
        BipvlError: a prediction that has not its scan's shape.
    """
    truth = _canonical(case.label)
    masks = {"truth": class_numbers(spec, np.asarray(truth.dataobj))}
    for variant, given in predictions.items():
        prediction = given if isinstance(given, Prediction) else Prediction(path=given)
        volume = _canonical(prediction.path)
        if volume.shape != truth.shape:
            raise BipvlError(f"{prediction.path} has not the shape of {case.label}; evaluate its run anew.")
        masks[variant] = class_numbers(spec, np.asarray(volume.dataobj), prediction.codes)
    return masks, tuple(map(float, truth.header.get_zooms()[:3]))


def error_kinds(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Class numbers of truth and prediction → 0 where they agree, else 1 + the place in ``style.ERRORS``.

    That is 1 missed (in the truth alone), 2 false (in the prediction alone), 3 another class (in both).
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    kinds = np.select([prediction == 0, truth == 0], [1, 2], 3)
    return np.where(truth == prediction, 0, kinds).astype(np.uint8)


def read_slices(table: pd.DataFrame) -> list[Slice]:
    """The slices of one or more of ``slice_table``'s tables."""
    first = table.columns.get_loc("row")
    slices = []
    for _, part in table.groupby(table["dataset"].notna().cumsum(), sort=False):
        shape = int(part["row"].max()) + 1, int(part["pixel"].max()) + 1
        layers = part.iloc[:, first + 2 :].dropna(axis=1)  # a variant without a run on this dataset
        pictures = {name: layer.to_numpy(int).reshape(shape) for name, layer in layers.items()}
        facts = part.iloc[0, :first].dropna().to_dict()
        slices.append(Slice(facts, pictures.pop("image"), pictures))
    return slices


def _canonical(path: Path) -> nib.Nifti1Image:
    """A scan with axes to the right, the front and the head."""
    return nib.as_closest_canonical(nib.load(path))


def grey_values(spec: DatasetSpec, volume: np.ndarray) -> np.ndarray:
    """The dataset's own window, or the 1st to 99.5th percentile of what is above zero, as 0…255."""
    if "window" in spec.intensity:
        low, high = spec.intensity["window"]
    else:
        low, high = np.percentile(volume[volume > 0], [1, 99.5])
    return np.rint(255 * (np.clip(volume, low, high) - low) / (high - low)).astype(np.uint8)


def class_numbers(
    spec: DatasetSpec, codes: np.ndarray, native: Mapping[int, int] | None = None
) -> np.ndarray:
    """Codes (``native``: the dataset's own for each) to the class's number, from 1; nested, the innermost."""
    if native:
        table = np.zeros(2**15, np.int16)  # as many as there may be codes
        table[[*native]] = [*native.values()]
        codes = table[codes.astype(np.int16)]
    return class_indices(spec, codes)


def _content(picture: np.ndarray) -> tuple[slice, slice]:
    """The box around all that is not nearly black, with a margin; the whole picture where all is."""
    lit = (np.flatnonzero((picture > 16).any(axis)) for axis in (1, 0))
    rows, pixels = (
        slice(max(0, where[0] - 3), where[-1] + 4) if where.size else slice(None) for where in lit
    )
    return rows, pixels
