"""Write a synthetic cohort below a data root, atomically."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json
from bipvl.common.lookup import choose
from bipvl.data.spec import dataset_names
from bipvl.data.synthetic.benchmarks import BENCHMARKS, Benchmark, Size

GENERATOR_VERSION = 1


def synthesize(
    dataset: str,
    root: Path | str,
    *,
    cases: int | None = None,
    size: Size = (64, 64, 64),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write the synthetic cohort of `dataset` below `root` and return `root`.

    `size` is the number of voxels to the right, front and head; the field of view does not depend on it.
    The same arguments give the same bytes, and a case does not depend on the number of cases.
    A complete cohort with the same arguments is kept. `cohort.json` records the arguments.

    Raises:
        BipvlError: an unknown `dataset`, too few cases or voxels, a negative seed, or a `root` that holds
            another cohort or real data of this data set.
    """
    root = Path(root)
    benchmark = _check_arguments(dataset, cases, size, seed)
    wanted = {"seed": seed, "size": [int(n) for n in size], "cases": cases or benchmark.cases}
    folder = root / benchmark.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{dataset}.lock"):  # parallel runs that need the same cohort make it once
        if not _exists(root, folder, dataset, wanted):
            _make(benchmark, root, dataset, wanted, progress)
        elif progress:
            tqdm.write(f"{folder} already holds this synthetic cohort")
    return root


def _make(benchmark: Benchmark, root: Path, dataset: str, wanted: dict[str, Any], progress: bool) -> None:
    rows = benchmark.rows(wanted["cases"])
    with atomic_path(root / benchmark.folder) as partial:
        for row in tqdm(rows, desc=f"synthetic {dataset}", unit="case", disable=not progress):
            rng = np.random.default_rng([wanted["seed"], zlib.crc32(dataset.encode()), row.index])
            scan, (image, label) = benchmark.make(rng, tuple(wanted["size"]))
            write_nifti(partial / row.image, scan.as_nifti(image))
            write_nifti(partial / row.label, scan.as_nifti(label))
        if benchmark.index:
            write_json(partial / "dataset.json", benchmark.index(rows))
        _record(root, dataset, wanted)  # before the folder: a recorded cohort without one is made again


def _check_arguments(dataset: str, cases: int | None, size: Size, seed: int) -> Benchmark:
    if dataset in dataset_names() and dataset not in BENCHMARKS:
        fix = f"download its scans with `bipvl fetch {dataset} --data-root data`, then use --data-root data"
        raise BipvlError(f"{dataset} has no synthetic cohort", fix)
    benchmark = choose("synthetic cohort", dataset, BENCHMARKS)
    if cases is not None and cases < 2:
        raise BipvlError(f"a synthetic cohort of {cases} cases cannot be split", "ask for at least 2")
    if len(size) != 3 or min(size) < 16:
        problem = f"size {tuple(size)} is too small for organs, or not three numbers"
        raise BipvlError(problem, "give three numbers of voxels, each at least 16")
    if seed < 0:
        raise BipvlError(f"seed {seed} is negative", "give 0 or more")
    return benchmark


def _exists(root: Path, folder: Path, dataset: str, wanted: dict[str, Any]) -> bool:
    """Whether `folder` already holds exactly the wanted cohort; raises BipvlError if it holds another."""
    recorded = _recorded(root)
    if not folder.exists():
        return False
    if dataset not in recorded:
        problem = "holds data that bipvl has not synthesized"
        raise BipvlError(problem, "choose another data root, or move this folder away", folder)
    if recorded[dataset] != wanted:
        problem = f"holds a synthetic cohort of {recorded[dataset]}, not of {wanted}"
        raise BipvlError(problem, "choose another data root, or delete this folder", folder)
    return True


def _recorded(root: Path) -> dict[str, Any]:
    """The data sets that `cohort.json` records, none if there is no such file."""
    path = root / "cohort.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, datasets = content["generator_version"], dict(content["datasets"])
    except (ValueError, KeyError, TypeError) as error:
        problem = "is not the record of a synthetic cohort"
        raise BipvlError(problem, "choose another data root, or delete this file", path) from error
    if version != GENERATOR_VERSION:
        problem = f"is from generator version {version}, not {GENERATOR_VERSION}"
        raise BipvlError(problem, "choose another data root, or delete the synthetic cohorts there", path)
    return datasets


def _record(root: Path, dataset: str, wanted: dict[str, Any]) -> None:
    with FileLock(root / ".cohort.lock"):  # other data sets may be recorded at the same time
        datasets = dict(sorted((_recorded(root) | {dataset: wanted}).items()))
        record = {"cohort": "synthetic", "generator_version": GENERATOR_VERSION, "datasets": datasets}
        write_json(root / "cohort.json", record)


def write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write a `.nii.gz` without time and name in its header, so that equal volumes give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=2) as file,
    ):
        image.to_stream(file)
