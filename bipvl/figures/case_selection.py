"""Choose the test cases that figures show: by a rule, not by eye."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bipvl.analysis.statistics import case_means, class_values, median_case, read_runs
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case, list_cases, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.engine.variants import variant_title


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A label map on its scan's grid; ``codes`` maps its codes to the data set's, None where equal."""

    path: Path
    codes: Mapping[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ShownCase:
    """A test case, facts for its caption (``origin``), and by variant its prediction and its mean Dice."""

    spec: DatasetSpec
    case: Case
    origin: dict[str, object]
    predictions: dict[str, Prediction]
    dice: dict[str, float]


def median_cases(folders: Mapping[str, Sequence[Path]], data_root: str | Path) -> list[ShownCase]:
    """For each data set the test case with the median Dice of its first variant, with all predictions.

    Args:
        folders: run folders by data set; the first seed of each variant is taken.

    Raises:
        BipvlError: the data lack the case, or a prediction is missing.
    """
    shown = []
    for dataset, group in folders.items():
        runs = _first_seeds(group)
        first, means = next(iter(runs)), case_means(read_runs({dataset: [*runs.values()]}))
        of_first = means[means["variant"] == first]
        case_id = median_case(of_first)
        dice = means[means["case"] == case_id].set_index("variant")["value"].to_dict()
        rule = f"of each data set the test case with the median Dice of {variant_title(first)}"
        origin = {"seeds": of_first["seeds"].iloc[0], "cases": len(of_first), "rule": rule}
        shown.append(_shown(runs, case_id, data_root, origin, dice))
    return shown


def worst_cases(
    folders: Mapping[str, Sequence[Path]], data_root: str | Path, count: int = 5
) -> list[ShownCase]:
    """Over all data sets the ``count`` test cases with the lowest Dice of the first variant, lowest first.

    Ties are sorted by name. ``origin`` names the class with the case's lowest Dice (the first of several) and
    counts the classes that have it.

    Args:
        folders: run folders by data set; the very first run determines the variant, and its first seed is
            taken for each data set.

    Raises:
        BipvlError: the data lack a case, or a prediction is missing.
    """
    runs = {dataset: _first_seeds(group) for dataset, group in folders.items()}
    variant = next(iter(next(iter(runs.values()))))
    chosen = {dataset: found[variant] for dataset, found in runs.items() if variant in found}
    scores = read_runs({dataset: [folder] for dataset, folder in chosen.items()})
    scores = scores[scores["variant"] == variant]  # without the mean atlas
    means, classes = case_means(scores), class_values(scores)
    some = f"the {count} of {len(means)} test cases of the study with the lowest Dice"
    rule = some if len(means) > count else f"all {len(means)} test cases of the study by the Dice"
    rule += f" of {variant_title(variant)}, lowest first, ties by name"
    shown = []
    for row in means.sort_values(["value", "case", "dataset"]).head(count).itertuples():
        of_case = classes[(classes["dataset"] == row.dataset) & (classes["case"] == row.case)]
        lowest = of_case[of_case["value"] == of_case["value"].min()]
        origin = {"seeds": row.seeds, "cases": len(means), "rule": rule}
        origin |= {"worst_class": lowest["class"].iloc[0], "worst_dice": lowest["value"].iloc[0]}
        origin |= {"worst_count": len(lowest)}
        run = {variant: chosen[row.dataset]}
        shown.append(_shown(run, row.case, data_root, origin, {variant: row.value}))
    return shown


def _first_seeds(folders: Sequence[Path]) -> dict[str, Path]:
    """The folder of each variant's first run, by the variant's name in tables."""
    found: dict[str, Path] = {}
    for folder in folders:
        config = read_json(folder / "config.json")
        found.setdefault(config.get("title", config["variant"]), folder)
    return found


def _shown(
    runs: Mapping[str, Path],
    case_id: str,
    data_root: str | Path,
    origin: Mapping[str, object],
    dice: Mapping[str, float],
) -> ShownCase:
    """A case with the predictions of runs, by variant."""
    config = read_json(next(iter(runs.values())) / "config.json")
    spec = load_spec(config["dataset"])
    cases = {case.id: case for case in list_cases(spec, data_root)}
    if case_id not in cases:
        raise BipvlError(f"lacks the case {case_id} of {spec.title}", "give the runs' data root", data_root)
    return ShownCase(
        spec=spec,
        case=cases[case_id],
        origin={"cohort": config["cohort"], "profile": config["profile"], **origin},
        predictions={variant: _prediction(folder, spec, case_id) for variant, folder in runs.items()},
        dice={variant: dice[variant] for variant in runs if variant in dice},
    )


def _prediction(folder: Path, spec: DatasetSpec, case_id: str) -> Prediction:
    """A run's label map of a case, or that of another tool (``bipvl.analysis.external``)."""
    other, codes = read_json(folder / "config.json").get("external"), None
    masks, fix = folder / "predictions", f"write it again with: bipvl evaluate {folder}"
    if other:
        masks, fix = Path(other["folder"]), "restore it, or remove its tool from the study"
        known = {names[0]: code for code, names in spec.code_names.items()}
        codes = {int(code): known[name] for code, name in other["labels"].items()}
    for path in (masks / f"{case_id}.nii.gz", masks / f"{case_id}.nii"):
        if path.is_file():
            return Prediction(path=path, codes=codes)
    raise BipvlError("file not found", fix, masks / f"{case_id}.nii.gz")
