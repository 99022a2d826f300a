"""What stands before every run on a dataset: the cohort, its check, the split and the mean atlas."""

from pathlib import Path

from torch import Tensor

from bipvl.atlas import mean_atlas
from bipvl.data.check import check_dataset
from bipvl.data.layouts import list_cases
from bipvl.data.spec import load_spec
from bipvl.data.splits import make_split, write_split
from bipvl.data.transforms import prepare_transform
from bipvl.errors import BipvlError
from bipvl.evaluate import score_cases
from bipvl.files import write_csv
from bipvl.fingerprints import write_fingerprints
from bipvl.runs import dataset_settings, get_profile

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
        BipvlError: the data have faults, or the profile has no synthetic cohort and no data root is given.
    """
    spec = load_spec(dataset)
    data_root = Path(data_root) if data_root else synthetic_cohort(profile, dataset, progress)
    faults = check_dataset(spec, data_root, progress=progress)
    if faults:
        raise BipvlError(
            f"{spec.title} has {len(faults)} faults, the first: {faults[0]} See all with: "
            f"bipvl check {dataset} --data-root {data_root}"
        )
    cases = list_cases(spec, data_root)
    split = make_split(spec, cases, SPLIT_SEED)
    folder, by_id = Path(root) / profile / spec.name, {case.id: case for case in cases}
    spacing = dataset_settings(profile, spec)["spacing"]
    load = prepare_transform(spec, spacing)
    labels = [
        load({"image": str(by_id[i].image), "label": str(by_id[i].label)})["label"].as_subclass(Tensor)
        for i in split.train
    ]
    table = score_cases(
        [by_id[i] for i in split.test],
        spec,
        spacing,
        mean_atlas(labels, spec),
        title=f"{spec.name} · mean atlas",
        progress=progress,
    )
    write_csv(folder / "mean_atlas" / "seed0" / "metrics.csv", table)
    write_fingerprints(cases, folder / "data.json")
    write_split(split, folder / "split.json")
    return data_root


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
