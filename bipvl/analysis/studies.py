"""The studies of ``experiments.yaml``: which variants are compared, on which data sets, with which seeds."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.common.schema import Schema, read_yaml, validate
from bipvl.data.label_names import native_codes
from bipvl.data.spec import dataset_names, load_spec
from bipvl.engine.profiles import get_profile, load_profiles, parent_profile, profile_name
from bipvl.engine.variants import MEAN_ATLAS, VARIANTS, get_variant, variant_title

PATH = Path("notebooks/experiments.yaml")
"""Relative to the root of the repository, where the workflow runs."""
READING_STUDIES = ("reading", "reading_held_out")
"""The studies that draw their own volumes (``bipvl.engine.reading``) and have no data sets."""
WORD = re.compile(r"[\w-]+")
"""A name that can be a file's or folder's name without leading elsewhere."""
T = TypeVar("T")


def _without_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"lists '{twice[0]}' twice; remove one of them")
    return names


_NAMES = "a list of different names"
_BY_PROFILE = ", or a mapping from profiles to such lists"
Text = Annotated[str, Field(pattern=r"\S", description="a text")]
Datasets = Annotated[
    tuple[str, ...],
    Field(strict=False, description=_NAMES),
    AfterValidator(_without_duplicates),
]
"""Empty for a study that draws its own volumes."""
Names = Annotated[Datasets, Field(min_length=1, description=_NAMES)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]
ByProfile = Annotated[
    dict[str, T], BeforeValidator(lambda value: value if isinstance(value, dict) else {"default": value})
]
"""A value for all profiles, or a mapping from profiles (and "default") to values."""
NamesByProfile = Annotated[ByProfile[Names] | None, Field(description=_NAMES + _BY_PROFILE)]
SeedsByProfile = Annotated[
    ByProfile[Seeds] | None, Field(description="a list of whole numbers from 0" + _BY_PROFILE)
]


class _ExternalEntry(Schema):
    """One entry of ``external:``."""

    title: Text
    dataset: Text
    folder: Annotated[Path, Field(strict=False, description="the path of a folder")]
    labels: Any = None


class External(_ExternalEntry):
    """Another tool's predictions on the test cases of one data set.

    Attributes:
        name: of its folder below ``runs/PROFILE/DATASET``.
        title: its name in tables and figures.
        dataset: a data set's name or YAML file.
        folder: has one label map per test case, ``CASE.nii.gz`` or ``CASE.nii``, on the scan's grid.
        labels: class name → code in these label maps; None if the folder's ``dataset.json`` has them.
    """

    name: str


class _Settings(Schema):
    """What a study can take from ``defaults:``."""

    datasets: Annotated[ByProfile[Datasets] | None, Field(description=_NAMES + _BY_PROFILE)] = None
    variants: NamesByProfile = None
    seeds: SeedsByProfile = None
    notebooks: NamesByProfile = None


class _StudyEntry(_Settings):
    """One entry of ``studies:``."""

    title: Text
    question: Text
    external: Annotated[Names | None, Field(description=_NAMES)] = None


class _File(Schema):
    """The content of ``experiments.yaml``."""

    datasets: Names
    defaults: _Settings = _Settings()
    studies: dict[str, _StudyEntry] = Field(min_length=1, description="a mapping of at least one study")
    external: Annotated[
        dict[str, _ExternalEntry], BeforeValidator(lambda value: {} if value is None else value)
    ] = Field({})


@dataclass(frozen=True, kw_only=True)
class Study:
    """Variants that are compared with the first of them, at one profile, to answer one question of the paper.

    Attributes:
        profile: the profile's name, which names its folder.
        external: other tools' predictions, each shown on its own data set.
        datasets: empty for the reading test, which draws its own volumes.
        seeds: empty if the study does not run at the profile.
        notebooks: names (no suffix) of the notebooks that draw the study's tables and figures.
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
        """Variant and seed of every run on a data set, other tools' predictions last."""
        trained = [(variant, seed) for variant in self.variants for seed in self.seeds]
        return trained + [(other.name, 0) for other in self.external if other.dataset == dataset]


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """All studies at one profile, their data sets, and other tools' predictions by name."""

    profile: str
    datasets: tuple[str, ...]
    studies: dict[str, Study]
    external: dict[str, External]

    def study(self, name: str) -> Study:
        """A study by name; an unknown name is a BipvlError that lists the nearest ones."""
        return choose("study", name, self.studies)

    def select(self, study: str) -> list[Study]:
        """One study by name, or with "all" every study that runs at the profile.

        Raises:
            BipvlError: no such study, or it does not run at the profile.
        """
        running = {name: s for name, s in self.studies.items() if s.seeds}
        if study == "all":
            return [*running.values()]
        if choose("study", study, self.studies | {"all": None}).name not in running:
            raise no_seeds(study, self.profile)
        return [running[study]]

    def external_on(self, dataset: str, name: str) -> External:
        """Another tool's predictions on a data set, by name.

        Raises:
            BipvlError: there are none with this name on the data set.
        """
        here = {other.name: other for other in self.external.values() if other.dataset == dataset}
        if not here:
            raise BipvlError(
                f"experiments.yaml has no external predictions on {dataset}", "add them under 'external'"
            )
        return choose(f"external on {dataset}", name, here)


def load_experiments(profile: str, path: str | Path = PATH) -> Experiments:
    """Read the studies as they run at a profile; your own profile has the studies of the one it extends.

    Raises:
        BipvlError: the file is not readable; a key is unknown, missing or has a wrong value; a data set,
            variant, profile, notebook or external name is unknown or not allowed.
    """
    get_profile(profile)
    path = Path(path)
    if not path.is_file():
        raise BipvlError("file not found", "run this in a clone of the repository, which contains it", path)
    content = validate(_File, read_yaml(path), path)
    try:
        _check_datasets(content.datasets)
        external = {name: _external(name, entry, path) for name, entry in content.external.items()}
        _check_titles(external)
        studies = {name: _study(name, profile, content, external, path.parent) for name in content.studies}
    except BipvlError as error:
        raise error.at(path) from error
    return Experiments(profile=profile, datasets=content.datasets, studies=studies, external=external)


def _study(name: str, profile: str, content: _File, external: Mapping[str, External], folder: Path) -> Study:
    """One study at a profile; ``folder`` has the notebooks."""
    if name == "all":
        raise BipvlError("a study is called 'all', which stands for every study", "rename it")
    _check_word("a study", name)
    entry = content.studies[name]
    given = {key: getattr(entry, key) or getattr(content.defaults, key) for key in _Settings.model_fields}
    given["datasets"] = given["datasets"] or {"default": content.datasets}
    at_profile = {key: _at_profile(value, profile, f"studies.{name}.{key}") for key, value in given.items()}
    _check_datasets(at_profile["datasets"])
    if not (at_profile["datasets"] or name in READING_STUDIES):
        raise BipvlError(f"'studies.{name}.datasets' is []", "name at least one data set")
    for variant in at_profile["variants"]:
        get_variant(variant)
    for notebook in at_profile["notebooks"]:
        if not (WORD.fullmatch(notebook) and (folder / f"{notebook}.ipynb").is_file()):
            raise BipvlError(
                f"study '{name}' names '{notebook}', but there is no notebook {notebook}.ipynb in {folder}",
                "correct its 'notebooks'",
            )
    return Study(
        name=name,
        profile=profile_name(profile),
        title=entry.title,
        question=entry.question,
        external=tuple(choose("external prediction", other, external) for other in entry.external or ()),
        **at_profile,
    )


def _at_profile(by_profile: Mapping[str, tuple] | None, profile: str, key: str) -> tuple[Any, ...]:
    """The value for a profile; only seeds and data sets may have none."""
    if by_profile is None:
        raise BipvlError(f"'{key}' is missing", "add it there or under 'defaults'")
    for name in by_profile:
        choose(f"profile for '{key}'", name, load_profiles() | {"default": None})
    value = by_profile.get(parent_profile(profile), by_profile.get("default", ()))
    if not (value or key.endswith((".seeds", ".datasets"))):
        raise BipvlError(f"'{key}' has nothing for profile '{profile}'", "add a list for it, or a 'default'")
    return value


def _external(name: str, entry: _ExternalEntry, path: Path) -> External:
    """An entry of ``external:`` in the file ``path`` with its name; its folder need not exist yet."""
    _check_word("an external", name)
    taken = {*VARIANTS, MEAN_ATLAS}
    if name in taken:
        raise BipvlError(f"external '{name}' has the name of a variant", "give it another name")
    if entry.title in taken | {variant_title(variant) for variant in taken}:
        raise BipvlError(f"external '{name}' has a variant's title, '{entry.title}'", "give it another title")
    spec = load_spec(entry.dataset)
    if entry.labels is not None:
        native_codes(entry.labels, spec, f"{path}: 'labels' of external '{name}'")
    return External(name=name, **dict(entry))


def _check_titles(external: Mapping[str, External]) -> None:
    """Titles of predictions on one data set must differ, since tables show only the title."""
    titles = Counter((other.dataset, other.title) for other in external.values())
    for (dataset, title), count in titles.items():
        if count > 1:
            problem = f"{count} externals on {dataset} have the title '{title}'"
            raise BipvlError(problem, "give them different titles")


def _check_datasets(names: tuple[str, ...]) -> None:
    for name in names:
        choose("data set", name, dict.fromkeys(dataset_names()))


def _check_word(what: str, name: str) -> None:
    if not WORD.fullmatch(name):
        raise BipvlError(f"{what} is called '{name}'", "use only letters, digits, _ and - in its name")


def no_seeds(study: str, profile: str) -> BipvlError:
    """The error of a study that does not run at a profile."""
    return BipvlError(f"study '{study}' has no seeds for profile '{profile}'", "add some to experiments.yaml")


def reading_folders(study: Study, root: str | Path) -> list[Path]:
    """The run folders of a study that draws its own volumes; none for all other studies."""
    if study.datasets:
        return []
    base = Path(root) / study.profile / study.name
    return [base / variant / f"seed{seed}" for variant in study.variants for seed in study.seeds]


def study_folders(
    study: Study, root: str | Path, file: str = "metrics.csv"
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The study's run folders that contain ``file``, by data set, and a list of those that lack it.

    For a study without seeds at its profile: all run folders on disk.

    Raises:
        BipvlError: there is no run at all.
    """
    found: dict[str, list[Path]] = {}
    missing = []
    for dataset in study.datasets:
        base = Path(root) / study.profile / dataset
        folders = [base / variant / f"seed{seed}" for variant, seed in study.runs(dataset)]
        if not study.seeds:
            folders = [f for variant in study.variants for f in sorted((base / variant).glob("seed*"))]
        for folder in folders:
            if (folder / file).is_file():
                found.setdefault(dataset, []).append(folder)
            else:
                missing.append(folder)
    if not found:
        raise BipvlError(
            f"has no {file} of the study '{study.name}'",
            f"create it with: make reproduce PROFILE={study.profile} STUDY={study.name}",
            Path(root) / study.profile,
        )
    return found, missing
