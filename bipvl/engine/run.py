"""Runs: what decides one result, and where it lies."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.common.lookup import choose
from bipvl.data.layouts import cohort_of, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.engine.variants import Variant, get_variant


def load_profiles() -> dict[str, dict[str, Any]]:
    """The profiles by name."""
    return yaml.safe_load((Path(__file__).parent / "profiles.yaml").read_text(encoding="utf-8"))


def get_profile(name: str) -> dict[str, Any]:
    """A profile's settings; an unknown name is a BipvlError that lists them."""
    return choose("profile", name, load_profiles())


def dataset_settings(profile: str, spec: DatasetSpec) -> dict[str, Any]:
    """A profile's settings for one dataset: mappings from datasets to values are resolved.

    A dataset with a crop of its own keeps it and its spacing at every profile.
    """
    settings = {"spacing": list(spec.spacing)} | get_profile(profile)
    if spec.crop:
        settings |= {"spacing": list(spec.spacing), "crop": _fitting_crop(profile, spec)}

    def resolve(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "default" in value:
            return value.get(spec.name, value["default"])
        return {key: resolve(inner) for key, inner in value.items()}

    return resolve(settings)


def _fitting_crop(profile: str, spec: DatasetSpec) -> list[int]:
    """A dataset's own crop; BipvlError where the profile's network would leave a single voxel of it."""
    halved = 2 ** (len(get_profile(profile)["network"]["depths"]) + 1)
    if max(spec.crop) <= halved:
        raise BipvlError(
            f"{spec.title} has crops of {' x '.join(map(str, spec.crop))} voxels, too small for profile "
            f"'{profile}'; make one side of 'crop' in its YAML {2 * halved}"
        )
    return list(spec.crop)


@dataclass(frozen=True)
class Run:
    """One variant on one dataset with one seed at one profile, and its directory."""

    directory: Path
    config: dict[str, Any]

    @classmethod
    def plan(
        cls,
        *,
        profile: str,
        dataset: str,
        variant: str,
        seed: int,
        data_root: Path,
        root: Path = Path("runs"),
    ) -> "Run":
        """The run that these words name; nothing is written.

        Raises:
            BipvlError: unknown profile, dataset or variant; a seed below 0.
        """
        if seed < 0:
            raise BipvlError(f"the seed {seed} is below 0; give 0 or more")
        spec = load_spec(dataset)
        settings = dataset_settings(profile, spec)
        config = {
            "dataset": str(dataset),
            "variant": get_variant(variant).name,
            "profile": profile,
            "seed": seed,
            "cohort": cohort_of(data_root),
            **{
                key: settings[key]
                for key in ("spacing", "crop", "network", "language", "training", "overlap")
            },
        }
        return cls(root / profile / spec.name / variant / f"seed{seed}", config)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """A run that lies on disk.

        Raises:
            BipvlError: no run there; its config cannot be read, lacks a setting, or names a dataset or a
                variant that is not known.
        """
        path = Path(directory) / "config.json"
        if not path.is_file():
            raise BipvlError(
                f"{directory} holds no run (no config.json); give a folder that `bipvl train` wrote"
            )
        config = read_json(path)
        if "external" not in config:  # others' predictions, which no network of ours made
            _check_config(config, path)
        return cls(Path(directory), config)

    def claim(self) -> None:
        """Write the config; a directory that belongs to other settings is a BipvlError."""
        path = self.directory / "config.json"
        if path.is_file() and read_json(path) != self.config:
            changed = [k for k, v in Run.open(self.directory).config.items() if self.config.get(k) != v]
            raise BipvlError(
                f"{self.directory} holds a run with other settings ({', '.join(changed)}); "
                "delete it to train anew"
            )
        write_json(path, self.config)

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec."""
        return load_spec(self.config["dataset"])

    @property
    def variant(self) -> Variant:
        """The variant."""
        return get_variant(self.config["variant"])

    @property
    def model_folder(self) -> Path:
        """Weights and config of the best network, for ``from_pretrained``."""
        return self.directory / "model"

    @property
    def split_path(self) -> Path:
        """The split, shared by all runs on one dataset at one profile."""
        # Not Path.parents, which ends where the path begins: a run may be given as "." or "seed0".
        return Path(os.path.normpath(self.directory / ".." / ".." / "split.json"))

    @property
    def data_path(self) -> Path:
        """The fingerprints of the dataset's files, beside the split."""
        return self.split_path.with_name("data.json")


def _check_config(config: dict[str, Any], path: Path) -> None:
    if wrong := [key for key, is_right in _CONFIG.items() if not is_right(config.get(key))]:
        raise BipvlError(
            f"{path} lacks {', '.join(wrong)}, or holds there what cannot be: it is of an older layout "
            f"or edited; delete {path.parent} and make the run anew"
        )
    try:
        load_spec(config["dataset"])
        get_variant(config["variant"])
    except BipvlError as error:
        raise BipvlError(f"{path}: {error}") from error


def _of_kind(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _three(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_number, value)) and min(value) > 0


def _number(value: Any) -> bool:
    return type(value) in (int, float)


_CONFIG: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("dataset", "variant", "profile", "cohort"), _of_kind(str)),
    "seed": _of_kind(int),
    **dict.fromkeys(("spacing", "crop"), _three),
    **dict.fromkeys(("network", "language", "training"), _of_kind(dict)),
    "overlap": lambda value: isinstance(value, dict) and _number(value.get("test")),
}
"""What a run's config.json holds, and what each setting must be."""
