"""What is computed: the studies of ``experiments.yaml``, read so strictly that a slip is named."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bipvl.analysis.external import External, read_externals
from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.data.spec import dataset_names

PATH = Path("notebooks/experiments.yaml")
"""Below the checkout, from where the workflow runs."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants compared at a profile to answer one question of the paper, against the first of them.

    Attributes:
        datasets: those of all studies where the file names none of its own.
        external: names of others' predictions (``bipvl.analysis.external``), each shown on its own dataset.
        seeds: none where the study does not run at the profile.
        notebooks: names (no suffix) beside the YAML file, which draw the study's tables and figures.
    """

    name: str
    profile: str
    title: str
    question: str
    datasets: tuple[str, ...]
    variants: tuple[str, ...]
    external: tuple[External, ...]
    seeds: tuple[int, ...]
    notebooks: tuple[str, ...]

    def runs(self, dataset: str) -> list[tuple[str, int]]:
        """Variant and seed of every run on a dataset, others' predictions last."""
        own = [(variant, seed) for variant in self.variants for seed in self.seeds]
        return own + [(other.name, 0) for other in self.external if other.dataset == dataset]


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """All studies at a profile, the datasets that they run on, and others' predictions by name."""

    profile: str
    datasets: tuple[str, ...]
    studies: dict[str, Study]
    external: dict[str, External]

    def study(self, name: str) -> Study:
        """A study by name; an unknown one is a BipvlError that lists the near ones."""
        return choose("study", name, self.studies)

    def select(self, study: str) -> list[Study]:
        """One study by name, or with "all" those that run at the profile.

        Raises:
            BipvlError: no such study, or it does not run at the profile.
        """
        running = {name: s for name, s in self.studies.items() if s.seeds}
        if study == "all":
            return [*running.values()]
        if choose("study", study, self.studies | {"all": None}).name not in running:
            raise BipvlError(f"study '{study}' has no seeds for profile '{self.profile}'; give it some")
        return [running[study]]


def load_experiments(profile: str, path: str | Path = PATH) -> Experiments:
    """Read the studies as they run at a profile.

    Raises:
        BipvlError: unreadable file; an unknown, missing or wrong field; an unknown dataset, variant, profile
            or notebook.
    """
    from bipvl.engine.run import get_profile

    get_profile(profile)
    path = Path(path)
    if not path.is_file():
        raise BipvlError(f"{path} is missing; run this in a clone of the repository, which holds it")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BipvlError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    _check(isinstance(raw, dict), f"{path}: the file must be a mapping of datasets, studies and external")
    external = {e.name: e for e in read_externals(raw.setdefault("external"), path)}
    try:
        _exactly(raw, ("datasets", "studies", "external"), "the file")
        datasets = _datasets(raw["datasets"], "'datasets'")
        _check(isinstance(raw["studies"], dict) and raw["studies"], "'studies' must map names to studies")
        reader = _Reader(profile, path.parent, datasets, external)
        studies = {str(name): reader.study(str(name), study) for name, study in raw["studies"].items()}
    except BipvlError as error:
        raise BipvlError(f"{path}: {error}") from error
    return Experiments(profile=profile, datasets=datasets, studies=studies, external=external)


def check_data_root(profile: str, data_root: str | Path | None) -> None:
    """Before anything slow starts: a data root must be a folder with something in it, or not be needed.

    Raises:
        BipvlError: unknown profile; no such folder, or an empty one; none where the profile needs one.
    """
    from bipvl.engine.run import get_profile

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


@dataclass(frozen=True)
class _Reader:
    """Reads studies at a profile; ``datasets`` are those of a study that names none."""

    profile: str
    folder: Path
    datasets: tuple[str, ...]
    external: dict[str, External]

    def study(self, name: str, raw: Any) -> Study:
        """A study of the file."""
        from bipvl.engine.variants import get_variant

        _check(name != "all", "a study must not be called 'all', which stands for every study")
        _check(_is_word(name), f"a study may not be called '{name}'; use letters, digits, _ and -")
        if isinstance(raw, dict):
            raw = {"datasets": list(self.datasets), "external": None} | raw
        keys = ("title", "question", "datasets", "variants", "external", "seeds", "notebooks")
        _exactly(raw, keys, f"study '{name}'")
        for key in ("title", "question"):
            _check(isinstance(raw[key], str), f"'{key}' of study '{name}' must be a text")

        def of(key: str) -> tuple[Any, str]:
            return self._resolved(raw[key], key, name), f"'{key}' of study '{name}'"

        notebooks = _names(*of("notebooks"))
        for notebook in notebooks:
            path = self.folder / f"{notebook}.ipynb"
            _check(
                _is_word(notebook) and path.is_file(), f"there is no notebook '{notebook}.ipynb' beside it"
            )
        return Study(
            name=name,
            profile=self.profile,
            title=raw["title"],
            question=raw["question"],
            datasets=_datasets(*of("datasets")),
            variants=tuple(get_variant(variant).name for variant in _names(*of("variants"))),
            external=self._others(raw["external"], f"'external' of study '{name}'"),
            seeds=_seeds(*of("seeds")),
            notebooks=notebooks,
        )

    def _resolved(self, value: Any, key: str, study: str) -> Any:
        """A mapping from profiles (and "default") to values → the profile's own; [] where it has none."""
        from bipvl.engine.run import load_profiles

        if not isinstance(value, dict):
            return value
        for profile in value:
            choose(f"profile in '{key}' of study '{study}'", profile, load_profiles() | {"default": None})
        return value.get(self.profile, value.get("default", []))

    def _others(self, value: Any, what: str) -> tuple[External, ...]:
        names = () if value is None else _names(value, what)
        return tuple(choose("external prediction", name, self.external) for name in names)


def _datasets(value: Any, what: str) -> tuple[str, ...]:
    known = dict.fromkeys(dataset_names())
    for name in (names := _names(value, what)):
        choose("dataset", name, known)
    return names


def _seeds(value: Any, what: str) -> tuple[int, ...]:
    good = isinstance(value, list) and all(type(s) is int and s >= 0 for s in value)
    _check(good, f"{what} must be a list of whole numbers from 0, or map profiles to such lists")
    return tuple(value)


def _exactly(raw: Any, keys: Iterable[str], what: str) -> None:
    _check(isinstance(raw, dict), f"{what} must be a mapping of {', '.join(keys)}")
    for key in raw:
        choose(f"field of {what}", key, dict.fromkeys(keys))
    missing = [key for key in keys if key not in raw]
    _check(not missing, f"{what} lacks {', '.join(missing)}")


def _names(value: Any, what: str) -> tuple[str, ...]:
    good = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
    _check(bool(good) and len(set(value)) == len(value), f"{what} must be a list of names, none twice")
    return tuple(value)


def _is_word(name: str) -> bool:
    """Whether a name can be that of a file or folder, and of none elsewhere."""
    return re.fullmatch(r"[\w-]+", name) is not None


def _check(condition: object, sentence: str) -> None:
    if not condition:
        raise BipvlError(sentence)


def study_folders(
    study: Study, root: str | Path, file: str = "metrics.csv"
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The study's run folders that hold ``file``, by dataset, and a list of those that should but do not.

    A study without seeds at its profile is taken as it lies on disk.

    Raises:
        BipvlError: not one run is there.
    """
    found: dict[str, list[Path]] = {}
    missing = []
    for dataset in study.datasets:
        base = Path(root) / study.profile / dataset
        folders = [base / variant / f"seed{seed}" for variant, seed in study.runs(dataset)]
        if not study.seeds:
            folders = [
                folder for variant in study.variants for folder in sorted((base / variant).glob("seed*"))
            ]
        for folder in folders:
            if (folder / file).is_file():
                found.setdefault(dataset, []).append(folder)
            else:
                missing.append(folder)
    if not found:
        raise BipvlError(
            f"{Path(root) / study.profile} holds no {file} of the study '{study.name}'; "
            f"make it with: make reproduce PROFILE={study.profile} STUDY={study.name}"
        )
    return found, missing
