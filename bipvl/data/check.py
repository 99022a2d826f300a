"""The data check: every fault of every case, found before hours are spent on training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from bipvl.data.labels import code_fault
from bipvl.data.layouts import Case, declared_cases
from bipvl.data.prompts import read_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.errors import BipvlError

AFFINE_TOLERANCE = 1e-3  # mm, the rounding of a header's quaternion


@dataclass(frozen=True)
class Fault:
    """What is wrong with which file, and what to do."""

    file: str
    fault: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file} {self.fault}; {self.fix}."


def check_dataset(spec: DatasetSpec, data_root: str | Path, prompts: str | Path | None = None) -> list[Fault]:
    """All faults of a dataset and its prompts (the YAML's, unless others are given); empty where all is well.

    Reads every voxel, so that files cut short are found.
    """
    faults = []
    try:
        read_prompts(prompts or spec.prompts, spec)
    except BipvlError as error:
        faults.append(_as_fault(prompts or spec.prompts, error))
    try:
        cases = declared_cases(spec, data_root)
    except BipvlError as error:
        return [*faults, _as_fault(Path(data_root) / spec.folder, error)]
    for case in tqdm(cases, desc=f"checking {spec.name}", disable=None):
        faults.extend(_check_case(spec, case))
    return faults


def image_fault(spec: DatasetSpec, shape: Sequence[int], affine: np.ndarray) -> tuple[str, str] | None:
    """What is wrong with an image of this shape (channels first) and affine, and how to mend it."""
    if len(shape) != 4:
        return f"has {len(shape) - 1} spatial axes, but a scan has three", "give one 3D volume"
    if shape[0] != len(spec.channels):
        wanted = f"{len(spec.channels)} ({', '.join(spec.channels)})"
        return f"has {shape[0]} channels, but {spec.title} has {wanted}", "stack the channels in this order"
    if not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9):
        return "has an affine that cannot be inverted", "restore its header from the original scan"
    return None


def grid_fault(
    image_shape: Sequence[int], image_affine: np.ndarray, label_shape: Sequence[int], label_affine: np.ndarray
) -> tuple[str, str] | None:
    """What is wrong with a label map on this grid beside an image on that one (spatial shapes, affines)."""
    if tuple(image_shape) != tuple(label_shape):
        found, wanted = (" x ".join(map(str, shape)) for shape in (label_shape, image_shape))
        return f"is {found} voxels, but its image is {wanted}", "resample the label onto the image"
    if not (apart := np.abs(np.subtract(image_affine, label_affine)).max()) <= AFFINE_TOLERANCE:
        return (
            f"lies elsewhere than its image (affines differ by up to {apart:.3g} mm)",
            "resample it onto the image or, where only the header is wrong, copy the image's affine",
        )
    return None


def _check_case(spec: DatasetSpec, case: Case) -> Iterator[Fault]:
    image = label = None
    try:
        image, affine = _read(case.image)
        channels_first = (1, *image.shape) if image.ndim < 4 else (*image.shape[3:], *image.shape[:3])
        if fault := image_fault(spec, channels_first, affine):
            yield Fault(str(case.image), *fault)
        if not np.isfinite(image).all():
            yield Fault(str(case.image), "holds voxels that are not finite", "replace them by the background")
    except BipvlError as error:
        yield _as_fault(case.image, error)
    try:
        label, label_affine = _read(case.label)
        if fault := code_fault(spec, label):
            yield Fault(str(case.label), *fault)
        elif not label.any():
            yield Fault(str(case.label), "holds background only", "label the case or leave it out")
    except BipvlError as error:
        yield _as_fault(case.label, error)
    if image is None or label is None:
        return
    if fault := grid_fault(image.shape[:3], affine, label.shape[:3], label_affine):
        yield Fault(str(case.label), *fault)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise BipvlError(f"{path} is missing; copy it there, or take its case out of the dataset.")
    try:
        scan = nib.load(path)
        data = np.asanyarray(scan.dataobj)
    except Exception as error:  # nibabel, gzip and zlib each raise their own for a broken file
        raise BipvlError(f"{path} cannot be read as NIfTI ({error}); fetch or export it again.") from error
    return (data[..., 0] if data.shape[3:] == (1,) else data), scan.affine


def _as_fault(file: str | Path, error: BipvlError) -> Fault:
    """A BipvlError's sentence, "<file> <fault>; <fix>.", in its parts."""
    fault, _, fix = str(error).rstrip(".").partition("; ")
    return Fault(str(file), fault.removeprefix(str(file)).lstrip(": "), fix or "correct it")
