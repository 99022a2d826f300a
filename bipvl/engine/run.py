"""A run: one variant, trained on one data set with one seed at one profile, and its directory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.common.schema import validate
from bipvl.data.layouts import cohort_of, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.engine.learning_rates import tuned_settings
from bipvl.engine.profiles import Settings, dataset_settings, merge, profile_name
from bipvl.engine.variants import Variant, get_variant


class RunConfig(Settings):
    """What the ``config.json`` of a trained run holds."""

    dataset: str = Field(description="a data set's name, or the path of its YAML file")
    variant: str = Field(description="a variant's name")
    profile: str = Field(description="a profile's name")
    seed: int = Field(ge=0, description="a whole number from 0")
    cohort: str = Field(description="synthetic or real")


@dataclass(frozen=True)
class Run:
    """One variant on one data set with one seed at one profile, and its directory."""

    directory: Path
    config: dict[str, Any]

    @classmethod
    def plan(
        cls,
        *,
        profile: str | Path,
        dataset: str,
        variant: str,
        seed: int,
        data_root: Path | None,
        root: Path = Path("runs"),
        overrides: Mapping[str, Any] | None = None,
    ) -> "Run":
        """Return a run without writing anything.

        Args:
            profile: name of a built-in profile, or path of your own.
            data_root: folder of the data; None: the profile's synthetic cohort.
            root: folder of all runs.
            overrides: settings that differ from the profile's (``bipvl.engine.profiles.parse_overrides``).

        Raises:
            BipvlError: an unknown profile, data set or variant; a seed below 0; a wrong setting.
        """
        if seed < 0:
            raise BipvlError(f"the seed {seed} is below 0", "give 0 or more")
        spec = load_spec(dataset)
        tuned = tuned_settings(profile_name(profile), spec.name, variant)
        settings = dataset_settings(profile, spec, merge(tuned, overrides or {}))
        config = {
            "dataset": str(dataset),
            "variant": get_variant(variant).name,
            "profile": profile_name(profile),
            "seed": seed,
            "cohort": cohort_of(data_root) if data_root else "synthetic",
            **{key: settings[key] for key in Settings.model_fields},
        }
        return cls(root / profile_name(profile) / spec.name / variant / f"seed{seed}", config)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """Open a run on disk.

        Raises:
            BipvlError: no run there; its config is not readable, lacks a setting, holds a wrong one, or names
                an unknown data set or variant.
        """
        path = Path(directory) / "config.json"
        if not path.is_file():
            fix = "give a folder that `bipvl train` wrote"
            raise BipvlError("holds no run (no config.json)", fix, directory)
        config = read_json(path)
        if "external" not in config:  # predictions of another tool have no settings
            _check_config(config, path)
        return cls(Path(directory), config)

    def claim(self) -> None:
        """Write the config.

        Raises:
            BipvlError: the directory holds a run with other settings.
        """
        self.check_settings()
        write_json(self.directory / "config.json", self.config)

    def check_settings(self) -> None:
        """Raise a BipvlError if the directory holds a run with other settings."""
        path = self.directory / "config.json"
        if path.is_file() and read_json(path) != self.config:
            changed = [k for k, v in Run.open(self.directory).config.items() if self.config.get(k) != v]
            problem = f"holds a run with other settings ({', '.join(changed)})"
            fix = "delete it to train again, or use the same settings"
            raise BipvlError(problem, fix, self.directory)

    def check_has_network(self) -> None:
        """Raise a BipvlError if no network was trained."""
        if not self.model_folder.is_dir():
            raise BipvlError("no trained network (no model folder)", "train it first", self.directory)

    def check_trained(self) -> None:
        """Raise a BipvlError if no network was trained, or if its training is not complete."""
        self.check_has_network()
        if self.state_folder.is_dir():  # the network is the best so far, not the final one
            raise BipvlError("its training is not complete", "resume it with `bipvl train`", self.directory)

    @cached_property
    def spec(self) -> DatasetSpec:
        """The data set's spec, read once."""
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
    def state_folder(self) -> Path:
        """What a training needs to resume; gone when it is complete."""
        return self.directory / "state"

    @property
    def split_path(self) -> Path:
        """The split, shared by all runs on one data set at one profile."""
        # Not Path.parents, which ends where the path begins: a run may be given as "." or "seed0".
        return Path(os.path.normpath(self.directory / ".." / ".." / "split.json"))

    @property
    def data_path(self) -> Path:
        """The checksums of the data set's files, beside the split."""
        return self.split_path.with_name("data.json")


def _check_config(config: dict[str, Any], path: Path) -> None:
    try:
        validate(RunConfig, config)
    except BipvlError as error:
        problem = f"{error.problem}, so the file is of an older layout or was edited"
        raise BipvlError(problem, f"delete {path.parent} and train the run again", path) from error
    try:
        load_spec(config["dataset"])
        get_variant(config["variant"])
    except BipvlError as error:
        raise error.at(path) from error
