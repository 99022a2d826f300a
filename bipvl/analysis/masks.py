"""Label maps that another tool wrote: all checked, then scored against their cases as a run's are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.data.labels import encode, map_fault
from bipvl.data.layouts import Case
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import load_native, prepare_transform
from bipvl.engine.evaluate import COLUMNS, score_grids
from bipvl.engine.predict import save_labels


def score_masks(
    cases: Sequence[Case],
    masks: Mapping[str, Path],
    codes: Mapping[int, int],
    spec: DatasetSpec,
    spacing: Sequence[float],
    *,
    title: str,
    progress: bool = True,
) -> pd.DataFrame:
    """Scores (columns ``evaluate.COLUMNS``) of a label map a case, all of them checked before the first.

    Args:
        masks: the file of each case id, on its scan's grid (affines to ``scans.AFFINE_TOLERANCE``).
        codes: in these files → the dataset's own, 0 → 0 among them.
        spacing: of the working grid, mm.

    Raises:
        BipvlError: a file that cannot be read, lies on another grid, or holds other codes.
    """
    _check(tqdm(cases, f"{title} · check", unit="case", disable=not progress), masks, codes)
    rows = []
    for case in tqdm(cases, f"{title} · test", unit="case", disable=not progress):
        rows += _score(case, _read(case, masks[case.id], codes), spec, spacing)
    return pd.DataFrame(rows, columns=COLUMNS)


def _check(cases: Iterable[Case], masks: Mapping[str, Path], codes: Mapping[int, int]) -> None:
    faults = []
    for case in cases:
        try:
            _read(case, masks[case.id], codes)
        except BipvlError as error:
            faults.append(str(error).rstrip("."))
    if faults:
        more = f" ({len(faults) - 1} more of the label maps have faults)" if len(faults) > 1 else ""
        raise BipvlError(f"{faults[0]}{more}.")


def _read(case: Case, mask: Path, codes: Mapping[int, int]) -> np.ndarray:
    """A case's label map H × W × D in the dataset's own codes."""
    found = load_native(replace(case, label=mask))["label"].numpy()
    found = found[0] if len(found) == 1 else found
    if fault := map_fault(found, sorted(codes), "name them in the labels, or correct the file"):
        raise BipvlError(f"{mask} {fault[0]}; {fault[1]}.")
    native = np.zeros(max(codes) + 1, np.int16)
    native[[*codes]] = [*codes.values()]
    return native[found.astype(np.int64)]


def _score(case: Case, codes: np.ndarray, spec: DatasetSpec, spacing: Sequence[float]) -> Iterator[tuple]:
    truth = _on_grids(case, spec, spacing)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mask.nii"
        save_labels(codes, truth["scan"].affine.numpy(), path)
        predicted = _on_grids(replace(case, label=path), spec, spacing)
    grids = {grid: (predicted[grid], true, true.affine) for grid, true in truth.items()}
    yield from score_grids(case.id, grids, spec)


def _on_grids(case: Case, spec: DatasetSpec, spacing: Sequence[float]) -> dict[str, MetaTensor]:
    """A case's label map as in training, on the scan's grid and on the working grid.

    Truth and prediction take the same way, so that equal maps stay equal.
    """
    native = load_native(case)["label"]
    scan = torch.from_numpy(encode(spec, native[0].numpy(), str(case.label)))
    working = prepare_transform(spec, spacing)(case.paths)
    return {"scan": MetaTensor(scan, affine=native.affine), "working": working["label"]}
