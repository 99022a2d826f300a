"""Profiles: all settings of a training at one scale, built in (``profiles.yaml``) or from your own YAML file.

Your file may change a built-in profile (``extends: quick``). The profile's name is the file's stem.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.common.schema import Schema, read_yaml, validate
from bipvl.data.spec import DatasetSpec

DEFAULTS = "defaults"
"""The entry of profiles.yaml that every profile starts from."""


def _parse_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3, which has no dot, as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_parse_number)]
Rate = Annotated[Number, Field(gt=0, allow_inf_nan=False, description="a number above 0, such as 0.001")]
FromZero = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# YAML 1.1 reads a bare no as false.
Precision = Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(lambda v: "no" if v is False else v)]
_THREE = {"min_length": 3, "max_length": 3}
Voxels = Annotated[list[Count], Field(**_THREE, description="three whole numbers of voxels")]
Spacing = Annotated[list[Rate], Field(**_THREE, description="three numbers above 0, in mm")]
Overlap = Annotated[Number, Field(ge=0, lt=1, description="a share from 0 to below 1 of a window's side")]


class Cohort(Schema):
    """The synthetic cohorts that a profile runs on without real data."""

    size: Voxels
    cases: int | None = Field(default=None, ge=2, description="at least 2 (absent: as in the benchmark)")


class Network(Schema):
    """The vision network, for every variant."""

    feature_size: int = Field(gt=0, multiple_of=12, description="a multiple of 12: channels of stage 1")
    depths: list[Count] = Field(min_length=1, description="a list of whole numbers: blocks per stage")
    num_heads: list[Count] = Field(min_length=1, description="a list of whole numbers: heads per stage")
    window_size: Count = Field(description="a whole number from 1: the side of an attention window")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.depths) != len(self.num_heads):
            raise ValueError("needs as many 'depths' as 'num_heads'; give one of each per stage")
        if any(self.feature_size * 2**n % heads for n, heads in enumerate(self.num_heads)):
            problem = "has 'num_heads' that do not divide the channels"
            raise ValueError(f"{problem}; channels are 'feature_size' × 2^stage")
        return self


class Language(Schema):
    """Text encoder and BiFusion, for the variants that read prompts."""

    text: str = Field(description="a text encoder: minilm, a folder or a Hugging Face Hub id")
    fusion_layers: Count = Field(description="a whole number from 1: BiFusion layers per stage")
    fusion_heads: Count | None = Field(default=None, description="a whole number from 1: heads of BiFusion")
    fusion_width: Count = Field(description="a whole number from 1: hidden width of BiFusion's MLPs")
    late_text_layers: Count | None = Field(
        default=None, description="a whole number from 1, or null: layers of each text stage from stage 2 on"
    )
    frozen_stages: int = Field(ge=0, description="a whole number from 0: text stages that are not trained")


class Training(Schema):
    """Optimiser, schedule and hardware."""

    epochs: Count = Field(description="a whole number from 1: passes over the training cases")
    validations: Count = Field(description="a whole number from 1: how often the network is validated")
    batch_size: Count = Field(description="a whole number from 1: crops per step and process")
    lr: Rate = Field(description="a number above 0: learning rate of vision network and loss weights")
    language_lr: Rate = Field(description="a number above 0: learning rate of fusions and text heads")
    text_lr: Rate = Field(description="a number above 0: learning rate of the text encoder")
    warmup: Number = Field(ge=0, lt=1, description="a share of the steps, from 0 to below 1")
    weight_decay: FromZero = Field(description="a number from 0")
    max_grad_norm: Rate | None = Field(description="a number above 0, or null for no clipping of gradients")
    rarity_power: FromZero = Field(description="a number p from 0: weights ∝ (1 / share)^p, paper: 0")
    mixed_precision: Precision = Field(description='"no", fp16 or bf16')
    checkpointing: bool = Field(description="true or false: recompute activations to save memory")
    workers: int = Field(ge=0, description="a whole number from 0: processes that load crops")
    deterministic: bool = Field(description="true or false: forbid nondeterministic GPU operations (slower)")


class Overlaps(Schema):
    """Overlap of the sliding windows."""

    validation: Overlap
    test: Overlap


class Settings(Schema):
    """All settings of one run on one data set, as its config.json holds them."""

    spacing: Spacing
    crop: Voxels
    network: Network = Field(description="a mapping of settings, such as 'depths'")
    language: Language = Field(description="a mapping of settings, such as 'fusion_layers'")
    training: Training = Field(description="a mapping of settings, such as 'lr'")
    overlap: Overlaps = Field(description="a mapping of 'validation' and 'test' to shares")


class Profile(Settings):
    """A profile; without ``spacing`` each data set keeps its own, without ``cohort`` it needs real data."""

    title: str = Field(description="a line that says what the profile is for")
    spacing: Spacing | None = Field(default=None, description="three numbers above 0, in mm")
    cohort: Cohort | None = Field(default=None, description="'size' and 'cases' of a synthetic cohort")
    reading_steps: Count = Field(description="a whole number from 1: steps of a training of the reading test")


def load_profiles() -> dict[str, Profile]:
    """The built-in profiles by name."""
    return {name: get_profile(name) for name in _built_in() if name != DEFAULTS}


def get_profile(profile: str | Path, dataset: str | None = None) -> Profile:
    """A built-in profile by name, or yours by the path of its YAML file; for one data set or in general.

    Raises:
        BipvlError: no profile of that name; a file that is not readable, extends an unknown profile, has the
            name of a built-in one, or holds an unknown key or a wrong value.
    """
    return _read_profile(profile, dataset) if _is_file(profile) else _built_in_profile(str(profile), dataset)


def _read_profile(profile: str | Path, dataset: str | None) -> Profile:
    layers = _layers(str(profile))
    file = Path(profile) if _is_file(profile) else None
    found = validate(Profile, _merge_layers(layers, None), file)
    for name in layers[-1].get("data_sets", {}):  # find errors now, not at the first run on that data set
        validate(Profile, _merge_layers(layers, name), f"{profile}, data_sets.{name}")
    return validate(Profile, _merge_layers(layers, dataset), file) if dataset else found


_built_in_profile = cache(_read_profile)
"""Unlike your own file, which you may edit meanwhile, a built-in profile is read once."""


def profile_name(profile: str | Path) -> str:
    """The name of a profile's folders below ``runs/`` and ``figures/``: of a file its stem."""
    return Path(profile).stem if _is_file(profile) else str(profile)


def parent_profile(profile: str | Path) -> str:
    """The built-in profile that a profile is or extends; ``defaults`` if it extends none."""
    return _read_own(Path(profile)).get("extends", DEFAULTS) if _is_file(profile) else str(profile)


def dataset_settings(
    profile: str | Path, spec: DatasetSpec, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a run on a data set, as plain values: a profile's, then the data set's, then yours.

    A data set whose YAML has a ``crop`` keeps it and its spacing at every profile.

    Args:
        overrides: nested mapping of what differs from the profile (``parse_overrides``).

    Raises:
        BipvlError: an unknown key or a wrong value; a crop too small for the network.
    """
    kept = {*Settings.model_fields, "cohort"}
    chosen = get_profile(profile, spec.name).model_dump(exclude_unset=True, include=kept)
    cohort = chosen.pop("cohort", None)
    chosen = {"spacing": list(spec.spacing)} | chosen
    if spec.crop:
        chosen |= {"spacing": list(spec.spacing), "crop": list(spec.crop)}
    settings = validate(Settings, merge(chosen, overrides or {}), "--set").model_dump(exclude_unset=True)
    _check_crop(settings, spec, profile_name(profile))
    return settings | ({"cohort": cohort} if cohort else {})


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """``["training.lr=0.001"]`` → ``{"training": {"lr": 0.001}}``; values are YAML.

    Raises:
        BipvlError: no ``=``, an empty key, or a value that is not YAML.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(parts := key.strip().split(".")):
            fix = "write KEY=VALUE, such as training.lr=0.001"
            raise BipvlError(f"'{assignment}' is no setting", fix, "--set")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = f"the value of '{assignment}' is not YAML"
            raise BipvlError(problem, "correct its syntax", "--set") from error
        for part in reversed(parts):
            value = {part: value}
        overrides = merge(overrides, value)
    return overrides


def changed_settings(base: Mapping[str, Any], settings: Mapping[str, Any], place: str = "") -> list[str]:
    """The assignments, such as ``training.lr=0.001``, that turn ``base`` into ``settings``."""
    changed = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            changed += changed_settings(base.get(key, {}), value, f"{place}{key}.")
        elif base.get(key) != value:
            changed.append(f"{place}{key}={json.dumps(value)}")
    return changed


def _check_crop(settings: Mapping[str, Any], spec: DatasetSpec, profile: str) -> None:
    """The network must leave more than a single voxel of a crop."""
    crop, halved = settings["crop"], 2 ** (len(settings["network"]["depths"]) + 1)
    if max(crop) > halved and not any(side % halved for side in crop):
        return
    found = f"{spec.title} has crops of {' x '.join(map(str, crop))} voxels"
    fix = f"make the sides of 'crop' multiples of {halved}, and one side {2 * halved} or more"
    raise BipvlError(f"{found}, which the network of profile '{profile}' cannot halve", fix)


def _is_file(profile: str | Path) -> bool:
    return str(profile).endswith((".yaml", ".yml"))


@cache
def _built_in() -> dict[str, dict[str, Any]]:
    return read_yaml(Path(__file__).with_name("profiles.yaml"))


def _layers(profile: str) -> list[dict[str, Any]]:
    """The entries that make up a profile; each overrides those before it."""
    built_in = _built_in()
    if not _is_file(profile):
        names = {name: entry for name, entry in built_in.items() if name != DEFAULTS}
        return [built_in[DEFAULTS], choose("profile", profile, names)]
    own = _read_own(Path(profile))
    return [built_in[DEFAULTS], built_in[own.pop("extends", DEFAULTS)], own]


def _read_own(path: Path) -> dict[str, Any]:
    """Your own profile's YAML file, as it is written."""
    own, built_in = read_yaml(path), _built_in()
    if path.stem in built_in:
        problem = f"'{path.stem}' is the name of a built-in profile"
        raise BipvlError(problem, "give your file another name", path)
    try:
        choose("profile", str(own.get("extends", DEFAULTS)), built_in)
    except BipvlError as error:
        raise BipvlError(f"'extends': {error.problem}", error.fix, path) from error
    entries = own.get("data_sets", {})
    if not (isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values())):
        raise BipvlError("'data_sets' does not map data sets to settings", "write 'NAME: {KEY: VALUE}'", path)
    return own


def _merge_layers(layers: Iterable[Mapping[str, Any]], dataset: str | None) -> dict[str, Any]:
    """Each layer's settings, then what it says of the data set."""
    merged: dict[str, Any] = {}
    for layer in layers:
        own = {key: value for key, value in layer.items() if key != "data_sets"}
        merged = merge(merge(merged, own), layer.get("data_sets", {}).get(dataset, {}))
    return merged


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``; mappings inside are merged too."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result
