"""Tables of pixels, so that a slice with its masks can be drawn without the scan."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bipvl.data.layouts import Case, cohort_of, list_cases
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.splits import Split
from bipvl.errors import BipvlError
from bipvl.statistics import case_means, median_case, read_runs, variant_title

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
    predictions: Mapping[str, Path] | None = None,
    dice: Mapping[str, float] | None = None,
    plane: str = "axial",
) -> pd.DataFrame:
    """The slice of a case on which the truth covers most voxels, one pixel a row.

    Columns: what is said of the slice; ``row`` (from the patient's front or head); ``pixel`` (from the
    patient's right); ``image`` (0…255); ``truth`` and each prediction (number of the class, 0 background, of
    nested classes the innermost). What is said of the slice stands in its first row alone.

    Args:
        origin: columns that go before: cohort, profile, cases (their number), and what the caption needs.
        predictions: by variant, label maps in native codes on the scan's grid.
        dice: by variant, the case's mean Dice, as columns ``dice_…``.

    Raises:
        BipvlError: a prediction that has not its scan's shape.
    """
    axis = PLANES[plane]
    image, truth = _canonical(case.image), _canonical(case.label)
    spacing = np.delete(truth.header.get_zooms(), axis)
    masks = {"truth": np.asarray(truth.dataobj)}
    for variant, path in (predictions or {}).items():
        masks[variant] = np.asarray(_canonical(path).dataobj)
        if masks[variant].shape != truth.shape:
            raise BipvlError(f"{path} has not the shape of {case.label}; evaluate its run anew.")
    index = int((np.moveaxis(masks["truth"], axis, 0) > 0).sum((1, 2)).argmax())
    step = -(-max(np.delete(truth.shape, axis)) // LONGEST_SIDE)

    def picture(volume: np.ndarray) -> np.ndarray:
        """Axes to the right and the front or head → rows from the front or head, pixels from the right."""
        return np.flip(volume.take(index, axis).T)[::step, ::step]

    grey = picture(_grey(spec, np.asarray(image.dataobj, np.float32).reshape(*truth.shape, -1)[..., 0]))
    layers = {"image": grey} | {name: _numbers(spec, picture(mask)) for name, mask in masks.items()}
    box = _content(np.maximum(grey, 255 * (layers["truth"] > 0)))
    layers = {name: layer[box] for name, layer in layers.items()}
    facts = {
        **{key: str(value) for key, value in origin.items()},
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
        BipvlError: the data lack the case, or a prediction does not fit it.
    """
    parts = []
    for group in folders.values():
        chosen: dict[str, Path] = {}
        for folder in group:
            chosen.setdefault(folder.parent.name, folder)
        config = json.loads((group[0] / "config.json").read_text(encoding="utf-8"))
        spec, first = load_spec(config["dataset"]), next(iter(chosen))
        means = case_means(read_runs({spec.name: list(chosen.values())}))
        ours = means[means["variant"] == first]
        case_id = median_case(ours)
        cases = {case.id: case for case in list_cases(spec, data_root)}
        if case_id not in cases:
            raise BipvlError(
                f"{data_root} lacks the case {case_id} of {spec.title}; give the runs' own data root."
            )
        of_case = means[means["case"] == case_id].set_index("variant")["value"]
        origin = {
            "cohort": config["cohort"],
            "profile": config["profile"],
            "seeds": ours["seeds"].iloc[0],
            "cases": len(ours),
            "rule": f"of each data set the test case with the median Dice of {variant_title(first)}",
        }
        predictions = {v: folder / "predictions" / f"{case_id}.nii.gz" for v, folder in chosen.items()}
        dice = {variant: of_case[variant] for variant in chosen if variant in of_case}
        parts.append(slice_table(spec, cases[case_id], origin=origin, predictions=predictions, dice=dice))
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


def _grey(spec: DatasetSpec, volume: np.ndarray) -> np.ndarray:
    """The dataset's own window, or the 1st to 99.5th percentile of what is above zero, as 0…255."""
    if "window" in spec.intensity:
        low, high = spec.intensity["window"]
    else:
        low, high = np.percentile(volume[volume > 0], [1, 99.5])
    return np.rint(255 * (np.clip(volume, low, high) - low) / (high - low)).astype(np.uint8)


def _numbers(spec: DatasetSpec, codes: np.ndarray) -> np.ndarray:
    """Native codes to the class's number, from 1; of nested classes the innermost."""
    numbers = np.zeros(codes.shape, np.uint8)
    for number, own in enumerate(spec.own_codes, start=1):
        numbers[np.isin(codes, list(own))] = number
    return numbers


def _content(picture: np.ndarray) -> tuple[slice, slice]:
    """The box around all that is not nearly black, with a margin."""
    lit = (np.flatnonzero((picture > 16).any(axis)) for axis in (1, 0))
    rows, pixels = (slice(max(0, where[0] - 3), where[-1] + 4) for where in lit)
    return rows, pixels
