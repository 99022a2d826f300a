"""The result of segmenting a scan: label map, volumes and probabilities, and how they are saved."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd
import torch
from torch import Tensor

from bipvl.common.files import atomic_path, write_json
from bipvl.deploy.inputs import stem
from bipvl.engine.scan_grid import channel_on_grid, check_nifti_name, on_grid_of, save_image


class Probabilities(Mapping[str, nib.Nifti1Image]):
    """Class name → the class's probability on the scan's own grid, float32; each is computed on access.

    Without overlapping classes, the rest to 1 is the background's probability.
    """

    def __init__(self, working: Tensor, affine: Tensor, names: list[str], grid: nib.Nifti1Image) -> None:
        self._working, self._affine, self._names, self._grid = working, affine, names, grid

    def __getitem__(self, name: str) -> nib.Nifti1Image:
        background = len(self._working) - len(self._names)
        channel = self._working[background + self._names.index(name)]
        target = torch.as_tensor(self._grid.affine)
        values = channel_on_grid(channel, self._affine, target, self._grid.shape)
        return on_grid_of(values.numpy(), self._grid)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What a network found in a scan.

    Attributes:
        scan: its name.
        labels: label codes H × W × D, int16, on the scan's own grid; where classes overlap, a voxel holds
            the innermost one.
        volumes: one row per class: scan, class, code, voxels, ml, and the run that predicted it. The volume
            of a class includes the classes nested in it.
        facts: the content of the .json file: the meaning of the codes, the run and the prompts.
        probabilities: on the scan's own grid, if requested.
    """

    scan: str
    labels: nib.Nifti1Image
    volumes: pd.DataFrame
    facts: dict[str, Any]
    probabilities: Probabilities | None = None

    def save(self, path: str | Path) -> None:
        """Write the label map, its facts (.json) and, if requested, the probabilities.

        The probabilities go to the folder NAME_probabilities, one file per class. The label map is written
        last: if it exists, everything else does too.

        Raises:
            BipvlError: the name does not end in .nii.gz or .nii; then nothing is written.
        """
        path = Path(path)
        check_nifti_name(path)
        if self.probabilities:
            with atomic_path(path.with_name(f"{stem(path)}_probabilities")) as folder:
                folder.mkdir()
                for (name, image), code in zip(self.probabilities.items(), self.volumes["code"], strict=True):
                    word = re.sub(r"[^\w-]+", "_", name)
                    save_image(image, folder / f"{code:02d}_{word}.nii.gz")
        write_json(path.with_name(f"{stem(path)}.json"), self.facts)
        save_image(self.labels, path)
