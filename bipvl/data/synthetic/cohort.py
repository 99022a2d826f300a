"""Write a synthetic cohort under a data root, whole or not at all."""

import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.synthetic.benchmarks import BENCHMARKS, Benchmark, Size
from bipvl.data.synthetic.writers import write_nifti

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
    """Write the synthetic cohort of `dataset` under `root` and return `root`.

    `size` is the number of voxels to the right, front and head; the field of view is the same at any size.
    The same arguments give the same bytes, and a case does not depend on how many others there are.
    A complete cohort made with the same arguments is left as it is. `cohort.json` notes what was made.

    Raises:
        BipvlError: unknown `dataset`, too few cases or voxels, a negative seed, or a `root` that holds
            another cohort or real data of this dataset.
    """
    root = Path(root)
    benchmark = _checked(dataset, cases, size, seed)
    wanted = {"seed": seed, "size": [int(n) for n in size], "cases": cases or benchmark.cases}
    folder = root / benchmark.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{dataset}.lock"):  # parallel runs that want one cohort make it once
        if not _is_made(root, folder, dataset, wanted):
            _make(benchmark, root, dataset, wanted, progress)
        elif progress:
            tqdm.write(f"{folder} already holds this synthetic cohort; left as it is.")
    return root


def _make(benchmark: Benchmark, root: Path, dataset: str, wanted: dict[str, Any], progress: bool) -> None:
    folder = root / benchmark.folder
    rows = benchmark.rows(wanted["cases"])
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        for row in tqdm(rows, desc=f"synthetic {dataset}", unit="case", disable=not progress):
            rng = np.random.default_rng([wanted["seed"], zlib.crc32(dataset.encode()), row.index])
            scan, (image, label) = benchmark.make(rng, tuple(wanted["size"]))
            write_nifti(partial / row.image, scan.stored(image))
            write_nifti(partial / row.label, scan.stored(label))
        if benchmark.index:
            write_json(partial / "dataset.json", benchmark.index(rows))
        partial.chmod(0o755)
        _note(root, dataset, wanted)  # first: a noted cohort without its folder is merely made again
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _checked(dataset: str, cases: int | None, size: Size, seed: int) -> Benchmark:
    if dataset not in BENCHMARKS:
        raise BipvlError(
            f"No synthetic cohort for dataset '{dataset}'; choose one of {', '.join(BENCHMARKS)}."
        )
    if cases is not None and cases < 2:
        raise BipvlError(f"A synthetic cohort of {cases} cases cannot be split; ask for at least 2.")
    if len(size) != 3 or min(size) < 16:
        raise BipvlError(f"Size {tuple(size)} holds no organs; give three numbers of voxels of at least 16.")
    if seed < 0:
        raise BipvlError(f"Seed {seed} is negative; give 0 or more.")
    return BENCHMARKS[dataset]


def _is_made(root: Path, folder: Path, dataset: str, wanted: dict[str, Any]) -> bool:
    """Whether `folder` already holds exactly the wanted cohort; raises BipvlError if it holds another."""
    noted = _noted(root)
    if not folder.exists():
        return False
    if dataset not in noted:
        raise BipvlError(
            f"{folder} holds data that were not synthesized; choose another root, or move that folder away."
        )
    if noted[dataset] != wanted:
        raise BipvlError(
            f"{folder} holds a synthetic cohort of {noted[dataset]}, but {wanted} was asked for; "
            "choose another root, or delete that folder."
        )
    return True


def _noted(root: Path) -> dict[str, Any]:
    """The datasets that `cohort.json` notes, none if there is no such file."""
    path = root / "cohort.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, datasets = content["generator_version"], dict(content["datasets"])
    except (ValueError, KeyError, TypeError) as error:
        raise BipvlError(
            f"{path} is not the note of a synthetic cohort; choose another root, or delete it."
        ) from error
    if version != GENERATOR_VERSION:
        raise BipvlError(
            f"{path} is of generator version {version}, this is version {GENERATOR_VERSION}; "
            "choose another root, or delete the synthetic cohorts there."
        )
    return datasets


def _note(root: Path, dataset: str, wanted: dict[str, Any]) -> None:
    with FileLock(root / ".cohort.lock"):  # other datasets may be noted at the same time
        datasets = dict(sorted((_noted(root) | {dataset: wanted}).items()))
        note = {"cohort": "synthetic", "generator_version": GENERATOR_VERSION, "datasets": datasets}
        write_json(root / "cohort.json", note)
