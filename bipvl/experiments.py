"""What is computed: the studies of ``experiments.yaml``, read so strictly that a slip is named."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from bipvl.choices import choose
from bipvl.data.spec import dataset_names
from bipvl.errors import BipvlError

PATH = Path("notebooks/experiments.yaml")
"""Below the checkout, from where the workflow runs."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants compared to answer one question of the paper; the first is what the others are held against.

    Attributes:
        datasets: those of all studies where the file names none of its own.
        seeds: for each profile that the study runs at.
        notebooks: names (no suffix) beside the YAML file, which draw the study's tables and figures.
    """

    name: str
    title: str
    question: str
    datasets: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    notebooks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """All studies and the datasets that they run on."""

    datasets: tuple[str, ...]
    studies: dict[str, Study]

    def select(self, study: str, profile: str) -> list[Study]:
        """One study by name, or with "all" those that run at the profile.

        Raises:
            BipvlError: no such study or profile, or the study does not run at it.
        """
        from bipvl.runs import get_profile

        get_profile(profile)
        if study == "all":
            return [s for s in self.studies.values() if profile in s.seeds]
        chosen = choose("study", study, self.studies | {"all": None})
        if profile not in chosen.seeds:
            raise BipvlError(
                f"study '{study}' has no seeds for profile '{profile}'; it has: {', '.join(chosen.seeds)}"
            )
        return [chosen]


def load_experiments(path: str | Path = PATH) -> Experiments:
    """Read the studies.

    Raises:
        BipvlError: unreadable file; an unknown, missing or wrong field; an unknown dataset, variant, profile
            or notebook.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BipvlError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    try:
        _exactly(raw, ("datasets", "studies"), "the file")
        datasets = _datasets(raw)
        _check(isinstance(raw["studies"], dict) and raw["studies"], "'studies' must map names to studies")
        studies = {
            str(name): _study(str(name), study, datasets, path.parent)
            for name, study in raw["studies"].items()
        }
    except BipvlError as error:
        raise BipvlError(f"{path}: {error}") from error
    return Experiments(datasets=datasets, studies=studies)


def check_data_root(profile: str, data_root: str | Path | None) -> None:
    """Before anything slow starts: a data root must be a folder with something in it, or not be needed.

    Raises:
        BipvlError: unknown profile; no such folder, or an empty one; none where the profile needs one.
    """
    from bipvl.runs import get_profile

    if data_root is None:
        if "cohort" not in get_profile(profile):
            raise BipvlError(
                f"profile '{profile}' runs on real data; name the folder that holds them as the data root"
            )
    else:
        check_folder(data_root)


def check_folder(data_root: str | Path) -> None:
    """A data root must be a folder with something in it; else a BipvlError."""
    if not Path(data_root).is_dir():
        raise BipvlError(f"the data root {data_root} is not a folder; give the one that holds the datasets")
    if not any(Path(data_root).iterdir()):
        raise BipvlError(f"the data root {data_root} is empty; put the datasets there, or leave it out")


def _datasets(raw: dict[str, Any]) -> tuple[str, ...]:
    known = dict.fromkeys(dataset_names())
    for name in (names := _names(raw, "datasets")):
        choose("dataset", name, known)
    return names


def _study(name: str, raw: Any, datasets: tuple[str, ...], folder: Path) -> Study:
    from bipvl.runs import get_profile
    from bipvl.variants import get_variant

    _check(name != "all", "a study must not be called 'all', which stands for every study")
    if isinstance(raw, dict):
        raw = {"datasets": list(datasets)} | raw
    _exactly(raw, [f.name for f in fields(Study)][1:], f"study '{name}'")
    for key in ("title", "question"):
        _check(isinstance(raw[key], str), f"'{key}' of study '{name}' must be a text")
    _check(isinstance(raw["seeds"], dict), f"'seeds' of study '{name}' must map profiles to lists of seeds")
    for profile, seeds in raw["seeds"].items():
        get_profile(profile)
        _check(
            isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds),
            f"'seeds' of study '{name}' at '{profile}' must be a list of whole numbers from 0",
        )
    notebooks = _names(raw, "notebooks")
    for notebook in notebooks:
        _check((folder / f"{notebook}.ipynb").is_file(), f"there is no notebook '{notebook}.ipynb' beside it")
    return Study(
        name=name,
        title=raw["title"],
        question=raw["question"],
        datasets=_datasets(raw),
        variants=tuple(get_variant(variant).name for variant in _names(raw, "variants")),
        seeds={profile: tuple(seeds) for profile, seeds in raw["seeds"].items()},
        notebooks=notebooks,
    )


def _exactly(raw: Any, keys: Iterable[str], what: str) -> None:
    _check(isinstance(raw, dict), f"{what} must be a mapping of {', '.join(keys)}")
    for key in raw:
        choose(f"field of {what}", key, dict.fromkeys(keys))
    missing = [key for key in keys if key not in raw]
    _check(not missing, f"{what} lacks {', '.join(missing)}")


def _names(raw: dict[str, Any], key: str) -> tuple[str, ...]:
    value = raw[key]
    good = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
    _check(bool(good) and len(set(value)) == len(value), f"'{key}' must be a list of names, none twice")
    return tuple(value)


def _check(condition: object, sentence: str) -> None:
    if not condition:
        raise BipvlError(sentence)
