"""Scores of a trained run on its test cases: ``metrics.csv`` and the predictions themselves."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from monai.data.utils import affine_to_spacing
from torch import Tensor
from tqdm.auto import tqdm

from bipvl.data.labels import decode, encode
from bipvl.data.layouts import Case, list_cases
from bipvl.data.splits import read_split
from bipvl.data.transforms import load_native
from bipvl.errors import BipvlError
from bipvl.files import write_csv
from bipvl.infer import Segmenter, save_labels, to_labels
from bipvl.metrics import score_case
from bipvl.runs import Run

COLUMNS = ["case", "class", "metric", "grid", "value", "flag"]


def evaluate(run: Run, data_root: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """Score the test cases on the scan's own grid and on the working grid; writes metrics.csv, predictions/.

    Raises:
        BipvlError: the run is not trained, or a test case cannot be read.
    """
    with run.recorded("evaluate"):
        segmenter = Segmenter(run=run)
        title = f"{run.spec.name} · {run.variant.title} · test"
        rows = []
        for case in tqdm(test_cases(run, data_root), title, unit="case", disable=not progress):
            rows += _score(segmenter, case, run.directory / "predictions" / f"{case.id}.nii.gz")
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_csv(run.directory / "metrics.csv", table)
    return table


def test_cases(run: Run, data_root: str | Path) -> list[Case]:
    """The test cases of a run's split."""
    cases = {case.id: case for case in list_cases(run.spec, data_root)}
    if not run.split_path.is_file():
        raise BipvlError(f"{run.split_path} is missing; prepare the dataset first, which writes its split")
    return [cases[i] for i in read_split(run.split_path, list(cases.values())).test]


def _score(segmenter: Segmenter, case: Case, output: Path) -> Iterator[tuple]:
    spec = segmenter.spec
    native = load_native(case)["label"]
    truth = torch.from_numpy(encode(spec, native[0].numpy(), str(case.label)))
    logits = segmenter.logits(case.image)
    labels = segmenter.on_scan(logits, native.affine, native.shape[1:])
    save_labels(decode(spec, labels.numpy()), native.affine.numpy(), output)
    working = segmenter.prepare({"image": str(case.image), "label": str(case.label)})["label"]
    grids = {
        "scan": (labels, truth, native.affine),
        "working": (
            to_labels(logits.as_subclass(Tensor), overlapping=spec.overlapping),
            working.as_subclass(Tensor),
            working.affine,
        ),
    }
    for grid, (predicted, true, affine) in grids.items():
        for s in score_case(predicted, true, spec, affine_to_spacing(affine).tolist()):
            yield case.id, s.class_name, s.metric, grid, s.value, s.flag
