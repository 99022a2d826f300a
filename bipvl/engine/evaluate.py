"""Score the test cases, on the scan's grid and on the working grid: ``metrics.csv``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import gather_object
from monai.data.utils import affine_to_spacing
from torch import Tensor
from tqdm.auto import tqdm

from bipvl.common.files import write_csv
from bipvl.data.labels import encode
from bipvl.data.layouts import Case
from bipvl.data.spec import DatasetSpec
from bipvl.data.splits import split_cases
from bipvl.data.transforms import load_native, prepare_transform
from bipvl.engine.lock import locked, process_group
from bipvl.engine.manifest import recorded
from bipvl.engine.metrics import score_case
from bipvl.engine.predict import Segmenter, to_labels
from bipvl.engine.run import Run
from bipvl.engine.scan_grid import label_scan, save_labels

COLUMNS = ["case", "class", "metric", "grid", "value", "flag"]


def evaluate(run: Run, data_root: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """Score a trained run; writes metrics.csv and predictions/ (label codes on the scans' grids).

    Several processes share the cases; each returns the table of all cases.

    Raises:
        BipvlError: the run is not trained, or a test case is not readable.
    """
    run.check_trained()
    cases, processes = test_cases(run, data_root), process_group()
    with locked(run), recorded(run, "evaluate", cases):
        segmenter = Segmenter(run=run)
        with processes.split_between_processes(cases) as mine:
            own = score_cases(
                mine,
                run.spec,
                run.config["spacing"],
                segmenter.predict,
                predictions=run.directory / "predictions",
                title=f"{run.spec.name} · {run.variant.title} · test",
                progress=progress and processes.is_main_process,
            )
        table = pd.DataFrame(gather_object(own.to_dict("records")), columns=COLUMNS)
        if processes.is_main_process:
            write_csv(run.directory / "metrics.csv", table)
    return table


def test_cases(run: Run, data_root: str | Path) -> list[Case]:
    """The test cases of a run's split."""
    return split_cases(run.split_path, run.spec, data_root)[2]


def score_cases(
    cases: Sequence[Case],
    spec: DatasetSpec,
    spacing: Sequence[float],
    predict: Callable[[Tensor], Tensor],
    *,
    title: str,
    predictions: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score any function from a prepared image (M × h × w × d) to logits (C × h × w × d).

    Args:
        spacing: of the working grid, mm.
        predictions: folder for the predicted label maps; None: they are not written.
    """
    rows = []
    for case in tqdm(cases, title, unit="case", disable=not progress):
        output = predictions / f"{case.id}.nii.gz" if predictions else None
        rows += _score(case, spec, spacing, predict, output)
    return pd.DataFrame(rows, columns=COLUMNS)


def _score(
    case: Case,
    spec: DatasetSpec,
    spacing: Sequence[float],
    predict: Callable[[Tensor], Tensor],
    output: Path | None,
) -> Iterator[tuple]:
    native = load_native(case)["label"]
    truth = torch.from_numpy(encode(spec, native[0].numpy(), str(case.label)))
    working = prepare_transform(spec, spacing)(case.paths)
    logits = predict(working["image"])
    on_working_grid = to_labels(logits, overlapping=spec.overlapping)  # before the logits are overwritten
    labels, codes, _ = label_scan(spec, logits, working["image"])
    if output:
        save_labels(codes, native.affine.numpy(), output)
    grids = {
        "scan": (labels, truth, native.affine),
        "working": (on_working_grid, working["label"], working["image"].affine),
    }
    yield from score_grids(case.id, grids, spec)


def score_grids(
    case_id: str, grids: Mapping[str, tuple[Tensor, Tensor, Tensor]], spec: DatasetSpec
) -> Iterator[tuple]:
    """Rows (COLUMNS) of a case, from labels, truth (both as in training) and affine on each grid."""
    for grid, (predicted, true, affine) in grids.items():
        mm = affine_to_spacing(affine).tolist()
        for s in score_case(predicted.as_subclass(Tensor), true.as_subclass(Tensor), spec, mm):
            yield case_id, s.class_name, s.metric, grid, s.value, s.flag
