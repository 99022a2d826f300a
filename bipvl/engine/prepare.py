"""What comes before the first run on a data set: check it, draw its split, score the mean atlas."""

from collections.abc import Sequence
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.checks.dataset import check_dataset
from bipvl.data.layouts import Case, list_cases
from bipvl.data.spec import load_spec
from bipvl.data.splits import SPLIT_SEED, Split, make_split, read_split, write_split
from bipvl.engine.checksums import CaseChecksums, case_checksums, read_checksums
from bipvl.engine.data_root import synthetic_cohort
from bipvl.engine.profiles import dataset_settings, profile_name


def prepare(
    *,
    profile: str | Path,
    dataset: str,
    data_root: str | Path | None,
    root: str | Path = "runs",
    progress: bool = True,
) -> Path:
    """Prepare a data set for its runs at a profile and return the data root.

    Writes ``split.json``, ``data.json`` (checksums of its files) and the mean atlas's ``metrics.csv`` below
    ``root/profile/dataset``.

    Args:
        data_root: folder of the real data; None: the profile's synthetic cohort, written if it is missing.

    Raises:
        BipvlError: the data have issues; the data or the split differ from those that were prepared there
            before; the profile has no synthetic cohort and no data root is given.
    """
    spec = load_spec(dataset)
    spacing = dataset_settings(profile, spec)["spacing"]
    data_root = Path(data_root) if data_root else synthetic_cohort(profile, dataset, progress)
    if issues := check_dataset(spec, data_root, progress=progress):
        problem = f"{spec.title} has {len(issues)} issues, the first: {issues[0]}"
        raise BipvlError(problem, f"see all with: bipvl check {dataset} --data-root {data_root}")
    cases, folder = list_cases(spec, data_root), Path(root) / profile_name(profile) / spec.name
    checksums = case_checksums(cases)
    _check_same_data(folder / "data.json", checksums)
    split = make_split(spec, cases, SPLIT_SEED)
    _check_same_split(folder / "split.json", split, cases)
    by_id = {case.id: case for case in cases}
    from bipvl.engine.mean_atlas import score_mean_atlas  # slow to import: not before the checks

    score_mean_atlas(
        spec,
        spacing,
        train=[by_id[i] for i in split.train],
        test=[by_id[i] for i in split.test],
        output=folder / "mean_atlas" / "seed0" / "metrics.csv",
        progress=progress,
    )
    write_json(folder / "data.json", checksums)
    write_split(split, folder / "split.json")
    return data_root


def _check_same_data(path: Path, found: CaseChecksums) -> None:
    """All runs of a folder, and its cache of prepared cases, must come from the same data."""
    known = read_checksums(path) if path.is_file() else found
    if other := sorted(i for i in known.keys() | found.keys() if known.get(i) != found.get(i)):
        named = ", ".join(other[:5]) + ", …" * (len(other) > 5)
        fix = "restore them, or delete the folder with its runs and prepare again"
        raise BipvlError(f"was prepared from other data ({named})", fix, path.parent)


def _check_same_split(path: Path, split: Split, cases: Sequence[Case]) -> None:
    """All runs of a folder must have the same split."""
    if path.is_file() and read_split(path, cases) != split:
        fix = f"restore the data set's YAML, or delete {path.parent} with its runs and prepare again"
        raise BipvlError("is not the split that the data set gives now", fix, path)
