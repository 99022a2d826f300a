"""What a network found in a scan: label map, volumes, probabilities, and how they are written."""

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
from bipvl.engine.predict import channel_on_grid, on_grid_of, save_image


class Probabilities(Mapping[str, nib.Nifti1Image]):
    """Class name → the class's probability on the scan's own grid, float32, each made when it is asked for.

    What they lack to 1 is the background's; where classes overlap, each stands alone.
    """

    def __init__(self, working: Tensor, affine: Tensor, names: list[str], grid: nib.Nifti1Image) -> None:
        self._working, self._affine, self._names, self._grid = working, affine, names, grid

    def __getitem__(self, name: str) -> nib.Nifti1Image:
        channel = self._working[len(self._working) - len(self._names) + self._names.index(name)]
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
        labels: codes H × W × D, int16, on the scan's own grid; where classes overlap, a voxel's innermost.
        volumes: a row a class: scan, class, code, voxels, ml, and where the network comes from. A class
            counts whole, with those that lie inside it.
        facts: what is written beside the label map: what its codes mean, the run, the prompts.
        probabilities: on the scan's own grid, where they were asked for.
    """

    scan: str
    labels: nib.Nifti1Image
    volumes: pd.DataFrame
    facts: dict[str, Any]
    probabilities: Probabilities | None = None

    def save(self, path: str | Path) -> None:
        """Write the label map, its facts beside it (.json) and, if there are any, the probabilities.

        These lie in the folder NAME_probabilities, a file a class. The label map comes last: where it is,
        the rest is there too.
        """
        path = Path(path)
        if self.probabilities:
            with atomic_path(path.with_name(f"{stem(path)}_probabilities")) as folder:
                folder.mkdir()
                for (name, image), code in zip(self.probabilities.items(), self.volumes["code"], strict=True):
                    word = re.sub(r"[^\w-]+", "_", name)
                    save_image(image, folder / f"{code:02d}_{word}.nii.gz")
        write_json(path.with_name(f"{stem(path)}.json"), self.facts)
        save_image(self.labels, path)
