"""Runs: what decides one result, and where it lies."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bipvl.choices import choose
from bipvl.data.layouts import cohort_of
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.errors import BipvlError
from bipvl.files import write_json
from bipvl.variants import Variant, get_variant


def load_profiles() -> dict[str, dict[str, Any]]:
    """The profiles by name."""
    return yaml.safe_load((Path(__file__).parent / "profiles.yaml").read_text(encoding="utf-8"))


def get_profile(name: str) -> dict[str, Any]:
    """A profile's settings; an unknown name is a BipvlError that lists them."""
    return choose("profile", name, load_profiles())


def dataset_settings(profile: str, spec: DatasetSpec) -> dict[str, Any]:
    """A profile's settings for one dataset: mappings from datasets to values are resolved."""
    settings = {"spacing": list(spec.spacing)} | get_profile(profile)

    def resolve(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "default" in value:
            return value.get(spec.name, value["default"])
        return {key: resolve(inner) for key, inner in value.items()}

    return resolve(settings)


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
        """The run that these words name; nothing is written."""
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
        """A run that lies on disk."""
        path = Path(directory) / "config.json"
        if not path.is_file():
            raise BipvlError(
                f"{directory} holds no run (no config.json); give a folder that `bipvl train` wrote"
            )
        return cls(Path(directory), json.loads(path.read_text(encoding="utf-8")))

    def claim(self) -> None:
        """Write the config; a directory that belongs to other settings is a BipvlError."""
        path = self.directory / "config.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != self.config:
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
        return self.directory.parents[1] / "split.json"

    @property
    def data_path(self) -> Path:
        """The fingerprints of the dataset's files, beside the split."""
        return self.split_path.with_name("data.json")
