"""What stands before every run on a dataset: the cohort, its check, the split and the mean atlas."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_csv, write_json
from bipvl.data.checks.dataset import check_dataset
from bipvl.data.layouts import Case, list_cases
from bipvl.data.spec import load_spec
from bipvl.data.splits import Split, make_split, read_split, write_split
from bipvl.data.transforms import prepare_transform
from bipvl.engine.checksums import fingerprints, read_fingerprints
from bipvl.engine.evaluate import score_cases
from bipvl.engine.mean_atlas import mean_atlas
from bipvl.engine.run import dataset_settings, get_profile

SPLIT_SEED = 42
"""Of every split, the release's own seed: runs with other seeds share their test cases."""


def prepare(
    *,
    profile: str,
    dataset: str,
    data_root: str | Path | None,
    root: str | Path = "runs",
    progress: bool = True,
) -> Path:
    """Make a dataset ready for its runs at a profile; returns the data root.

    Writes ``split.json``, ``data.json`` (the files' fingerprints) and the mean atlas's ``metrics.csv`` below
    ``root/profile/dataset``.

    Args:
        data_root: where the real data lie; None: the profile's synthetic cohort, written where it is missing.

    Raises:
        BipvlError: the data have faults; they or the split are others than those that were prepared there
            before; the profile has no synthetic cohort and no data root is given.
    """
    spec = load_spec(dataset)
    data_root = Path(data_root) if data_root else synthetic_cohort(profile, dataset, progress)
    faults = check_dataset(spec, data_root, progress=progress)
    if faults:
        raise BipvlError(
            f"{spec.title} has {len(faults)} faults, the first: {faults[0]} See all with: "
            f"bipvl check {dataset} --data-root {data_root}"
        )
    cases, folder = list_cases(spec, data_root), Path(root) / profile / spec.name
    found = fingerprints(cases)
    _check_same(folder / "data.json", found)
    split = make_split(spec, cases, SPLIT_SEED)
    _check_same_split(folder / "split.json", split, cases)
    by_id = {case.id: case for case in cases}
    spacing = dataset_settings(profile, spec)["spacing"]
    load = prepare_transform(spec, spacing)
    labels = [load(by_id[i].paths)["label"].as_subclass(Tensor) for i in split.train]
    table = score_cases(
        [by_id[i] for i in split.test],
        spec,
        spacing,
        mean_atlas(labels, spec),
        title=f"{spec.name} · mean atlas",
        progress=progress,
    )
    write_csv(folder / "mean_atlas" / "seed0" / "metrics.csv", table)
    write_json(folder / "data.json", found)
    write_split(split, folder / "split.json")
    return data_root


def _check_same(path: Path, found: dict[str, Any]) -> None:
    """All runs of a folder, stopped ones too, and the cases that it keeps prepared are of one data set."""
    known = read_fingerprints(path) if path.is_file() else found
    if other := sorted(i for i in known.keys() | found.keys() if known.get(i) != found.get(i)):
        named = ", ".join(other[:5]) + ", …" * (len(other) > 5)
        raise BipvlError(
            f"{path.parent} was prepared from other data ({named}); put them back, or delete that folder "
            "with its runs and begin anew"
        )


def _check_same_split(path: Path, split: Split, cases: Sequence[Case]) -> None:
    """Drawn once, for all runs of a folder."""
    if path.is_file() and read_split(path, cases) != split:
        raise BipvlError(
            f"{path} is another split than the dataset gives now; restore the dataset's YAML, or delete "
            f"{path.parent} with its runs and begin anew"
        )


def synthetic_cohort(profile: str, dataset: str, progress: bool = True) -> Path:
    """The profile's synthetic cohort of a dataset, written below ``data/`` where it is missing."""
    from bipvl.data.synthetic import synthesize

    settings = get_profile(profile).get("cohort")
    if settings is None:
        raise BipvlError(
            f"profile '{profile}' runs on real data; name the folder that holds them with DATA_ROOT=…"
        )
    root = Path("data") / f"synthetic-{profile}"
    synthesize(dataset, root, cases=settings.get("cases"), size=tuple(settings["size"]), progress=progress)
    return root
