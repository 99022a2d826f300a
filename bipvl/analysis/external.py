"""Predictions of other tools: folders of label maps that are checked and scored like those of a run."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from tqdm.auto import tqdm

from bipvl.analysis.studies import External
from bipvl.common.errors import BipvlError
from bipvl.common.files import write_csv, write_json
from bipvl.data.label_names import LABELS_FORM, native_codes
from bipvl.data.labels import encode, map_issue
from bipvl.data.layouts import Case, cohort_of, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.splits import split_cases
from bipvl.data.transforms import load_native, prepare_transform
from bipvl.engine.checksums import sha256
from bipvl.engine.evaluate import COLUMNS, score_grids
from bipvl.engine.manifest import recorded
from bipvl.engine.profiles import dataset_settings, profile_name
from bipvl.engine.run import Run
from bipvl.engine.scan_grid import save_labels


def evaluate_external(
    external: External,
    *,
    profile: str,
    data_root: str | Path,
    root: str | Path = Path("runs"),
    progress: bool = True,
) -> pd.DataFrame:
    """Score a tool's label maps like a run's predictions, and write metrics.csv and config.json.

    The folder is ``root/profile/dataset/name/seed0``. All label maps are checked before anything is scored or
    written. On the working grid, label maps are resampled like the truth: nearest voxel, cropped to the
    image's content.

    Returns:
        Scores (columns ``evaluate.COLUMNS``).

    Raises:
        BipvlError: no split; no folder; a test case has no label map or two; a label map belongs to no test
            case, is not readable, is on another grid or has codes without a name; labels that are not the
            data set's.
    """
    spec = load_spec(external.dataset)
    run = _run(external, spec, profile, data_root, Path(root))
    _, _, cases = split_cases(run.split_path, spec, data_root)
    masks = _find_masks(external.folder, cases, run.split_path)
    codes = _codes(external, spec)
    with recorded(run, "evaluate", cases):
        bar = partial(tqdm, cases, unit="case", disable=not progress)
        _check(bar(desc=f"{spec.name} · {external.title} · check"), masks, codes)
        rows = []
        for case in bar(desc=f"{spec.name} · {external.title} · test"):
            rows += _score(case, _read(case, masks[case.id], codes), spec, run.config["spacing"])
        table = pd.DataFrame(rows, columns=COLUMNS)
        run.config["external"] = {
            "folder": str(external.folder),
            "labels": {str(c): spec.code_names[own][0] for c, own in sorted(codes.items()) if own},
            "sha256": _sha256(masks.values()),
        }
        # In this order, so that scores are never beside the config of other predictions.
        (run.directory / "metrics.csv").unlink(missing_ok=True)
        write_json(run.directory / "config.json", run.config)
        write_csv(run.directory / "metrics.csv", table)
    return table


def _run(external: External, spec: DatasetSpec, profile: str, data_root: str | Path, root: Path) -> Run:
    """The run that the label maps stand in for."""
    config = {
        "dataset": str(external.dataset),
        "variant": external.name,
        "title": external.title,
        "profile": profile_name(profile),
        "seed": 0,
        "cohort": cohort_of(data_root),
        "spacing": dataset_settings(profile, spec)["spacing"],
    }
    return Run(root / profile_name(profile) / spec.name / external.name / "seed0", config)


def _find_masks(folder: Path, cases: Sequence[Case], split: Path) -> dict[str, Path]:
    """The label map of each test case; the folder must not have any other."""
    if not folder.is_dir():
        raise BipvlError("folder not found", "put the label maps of the test cases there", folder)
    masks: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.is_file() and (match := re.fullmatch(r"(.+)\.nii(\.gz)?", path.name)):
            if match[1] in masks:
                raise BipvlError(f"{path.name} is of the same case", "remove one of them", masks[match[1]])
            masks[match[1]] = path
    ids = [case.id for case in cases]
    if missing := [i for i in ids if i not in masks]:
        raise BipvlError(
            f"{len(missing)} of {len(ids)} test cases have no label map ({_first(missing)})",
            f"add them, named like {missing[0]}.nii.gz",
            folder,
        )
    if extra := [path.name for i, path in masks.items() if i not in ids]:
        problem = f"{_first(extra)} belongs to no test case in {split}"
        raise BipvlError(problem, "move it to another folder", folder)
    return masks


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _codes(external: External, spec: DatasetSpec) -> dict[int, int]:
    """Code in the label maps → the data set's own code, by name: from the labels or dataset.json."""
    path, given = external.folder / "dataset.json", f"'labels' of external '{external.name}'"
    found = []
    if external.labels is not None:
        found.append(native_codes(external.labels, spec, given))
    if path.is_file():
        found.append(native_codes(read_json(path).get("labels"), spec, str(path)))
    if not found:
        raise BipvlError(
            "file not found, and nothing else names the codes of the label maps",
            f'write it with {{"labels": {LABELS_FORM}}}, or add {given}',
            path,
        )
    if found[0] != found[-1]:
        raise BipvlError(f"names the codes differently than {given}", "correct or remove one of them", path)
    return found[0]


def _sha256(paths: Iterable[Path]) -> str:
    """Over names and contents: the output of ``sha256sum *.nii.gz | sha256sum`` in the folder."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check(cases: Iterable[Case], masks: Mapping[str, Path], codes: Mapping[int, int]) -> None:
    """Raise the first issue of the label maps; ``codes``: their code → the data set's own, 0 → 0."""
    issues = []
    for case in cases:
        try:
            _read(case, masks[case.id], codes)
        except BipvlError as error:
            issues.append(error)
    if issues:
        first, more = issues[0], len(issues) - 1
        also = f" ({more} more of the label maps have issues)" if more else ""
        raise BipvlError(first.problem, first.fix + also, first.file)


def _read(case: Case, mask: Path, codes: Mapping[int, int]) -> np.ndarray:
    """A case's label map H × W × D in the data set's own codes."""
    found = load_native(replace(case, label=mask))["label"].numpy()
    found = found[0] if len(found) == 1 else found
    if issue := map_issue(found, sorted(codes), "name them in the labels, or correct the file"):
        raise issue.at(mask)
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

    Truth and prediction are processed in the same way, so that equal maps stay equal.
    """
    native = load_native(case)["label"]
    scan = torch.from_numpy(encode(spec, native[0].numpy(), str(case.label)))
    working = prepare_transform(spec, spacing)(case.paths)
    return {"scan": MetaTensor(scan, affine=native.affine), "working": working["label"]}
