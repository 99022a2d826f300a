"""The specification of a data set in one YAML file: files, codes, preparation and split."""

import os
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, StringConstraints
from pydantic_core import PydanticCustomError

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import nearest
from bipvl.common.schema import Schema, read_yaml, validate

_SPECS = Path(__file__).parent / "resources" / "specs"
FILL_IN = "FILL IN"
"""The placeholder in the initial files of a data set; a file that still holds it is refused."""
CROP_STEP = 32
"""A crop's sides are multiples of it, since the deepest network (profile paper) halves them five times."""


def _check(is_valid: Callable[[Any], bool]) -> AfterValidator:
    """A validator for rules beyond types; in the error message the field's description says what is right."""

    def check(value: Any) -> Any:
        if not is_valid(value):
            raise PydanticCustomError("invalid", "invalid value")
        return value

    return AfterValidator(check)


def _is_distinct(values: tuple) -> bool:
    return len(set(values)) == len(values)


def _is_below(path: str) -> bool:
    """Whether a relative path stays below its folder."""
    return not (os.path.isabs(path) or os.path.normpath(path).startswith(".."))


def _is_pattern(path: str) -> bool:
    braces = re.sub(r"\{(case|channel)\}", "", path)
    named = "{case}" in path and path.lower().endswith((".nii", ".nii.gz"))
    return _is_below(path) and named and not re.search(r"[{}]", braces)


def _is_share_rule(split: dict[str, Any]) -> bool:
    types = {"test": (str, float), "val": float, "seed": int}
    return {"test", "val"} <= split.keys() and all(isinstance(v, types[k]) for k, v in split.items())


def _has_one_group(pattern: str) -> bool:
    try:
        return re.compile(pattern).groups == 1
    except (re.error, OverflowError, RecursionError):
        return False


def _has_distinct_names(classes: tuple["ClassSpec", ...]) -> bool:
    return _is_distinct([n for c in classes for n in {name.casefold() for name in (c.name, *c.aliases)}])


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Code = Annotated[int, Field(gt=0, lt=2**15)]  # predictions fit the 16-bit label maps that every viewer reads
Codes = Annotated[tuple[Code, ...], Field(strict=False, min_length=1), _check(_is_distinct)]
Side = Annotated[int, Field(gt=0, multiple_of=CROP_STEP)]
Pattern = Annotated[Text, AfterValidator(os.path.normpath), _check(_is_pattern)]
Window = Annotated[tuple[FiniteFloat, FiniteFloat], Field(strict=False), _check(lambda w: w[0] < w[1])]
Range = Annotated[tuple[int, int], Field(strict=False), _check(lambda ends: ends[0] <= ends[1])]
Axes = Annotated[tuple[Literal[0, 1, 2], ...], Field(strict=False)]
Augmentation = Annotated[
    dict[
        Literal["intensity_shift", "intensity_scale", "rotation_degrees", "zoom", "flip_axes"],
        Positive | Axes,
    ],
    _check(lambda changes: all(isinstance(v, tuple) == (k == "flip_axes") for k, v in changes.items())),
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Shares = Annotated[
    dict[Literal["test", "val", "seed"], Literal["validation"] | Share | Seed], _check(_is_share_rule)
]
Parts = Annotated[dict[Literal["train", "val", "test"], Texts], Field(min_length=3)]
SplitFile = Annotated[dict[Literal["file"], Path], Field(min_length=1)]


class ClassSpec(Schema):
    """One foreground class: its name, the label codes that make it up, other names it is known by."""

    name: Text = Field(description="a text")
    codes: Codes = Field(description="a list of distinct codes from 1 to 32767")
    aliases: Texts = Field((), description="a list of other names")


class Patterns(Schema):
    """The file patterns below a data set's folder; ``{case}`` stands for a case's id, the same in all.

    Attributes:
        image: one file with all channels, or one file per channel, in the channels' order.
    """

    image: Annotated[
        tuple[Pattern, ...],
        Field(strict=False, min_length=1),
        BeforeValidator(lambda image: (image,) if isinstance(image, str) else image),
    ]
    label: Annotated[Pattern, _check(lambda label: "{channel}" not in label)]

    def __str__(self) -> str:
        return f"image: {', '.join(self.image)}; label: {self.label}"


class DatasetSpec(Schema):
    """The content of a data set's YAML. Class c corresponds to row c of the prompts and class index c + 1.

    Attributes:
        layout: the name of a layout, or the files' patterns.
        case_numbers: keep only cases whose id ends in a number from first to last; None: all.
        code_names: for each code the names that dataset.json may give it; default: the classes' names.
        overlapping: a voxel may belong to several classes (sigmoid channels, no background channel).
        spacing: of the working grid, mm.
        intensity: {"window": (low, high)}: scaled to 0…1 and clipped; {"zscore": "nonzero"}: each channel
            standardised over its non-zero voxels.
        nsd_tolerance: of the normalised surface Dice, mm.
        patient: regular expression for the beginning of a case's id; its group is the patient, whose cases a
            split keeps together. None: each case counts as another patient.
        crop: of training, voxels. If given, it and `spacing` hold at every profile. Prepared cases do not
            depend on it, so it is not part of the `repr` by which they are cached.
    """

    name: str = Field(pattern=r"^[\w-]+$", description="one word of letters, digits, _ and -")
    title: Text = Field(description="a text")
    modality: Literal["CT", "MR"] = Field(description="CT or MR")
    channels: Annotated[Texts, _check(_is_distinct)] = Field(
        description="a list of the image channels' names, each once, such as [CT]"
    )
    folder: Annotated[Text, _check(_is_below)] = Field(
        description="the data set's folder below the data root"
    )
    layout: Literal["dataset_json", "nnunet", "paired_files"] | Patterns = Field(
        description="one of dataset_json, nnunet, paired_files, or {image: a pattern or a list of them, "
        "label: a pattern}, patterns such as scans/{case}.nii.gz that stay below the folder"
    )
    classes: Annotated[tuple[ClassSpec, ...], _check(_has_distinct_names)] = Field(
        strict=False,
        min_length=1,
        description="a list such as [{name: spleen, codes: [1]}] with distinct names and aliases",
    )
    spacing: tuple[Positive, Positive, Positive] = Field(
        strict=False, description="three positive numbers (mm)"
    )
    intensity: dict[Literal["window"], Window] | dict[Literal["zscore"], Literal["nonzero"]] = Field(
        min_length=1, description="{window: [low, high]} or {zscore: nonzero}"
    )
    split: Shares | Parts | SplitFile = Field(
        description="{test: validation or a share, val: a share}, shares between 0 and 1, with a seed or "
        "not; or {train: […], val: […], test: […]}, case ids in quotes; or the path of a .json or .csv with "
        "these"
    )
    prompts: Path = Field(description="the prompt CSV's path, relative to the YAML file")
    nsd_tolerance: Positive = Field(description="a positive number (mm)")
    overlapping: bool = Field(False, description="true or false")
    augmentation: Augmentation = Field(
        default_factory=dict,
        description="a mapping of intensity_shift, intensity_scale, rotation_degrees or zoom to a positive "
        "number, and of flip_axes to a list of axes",
    )
    case_numbers: Range | None = Field(None, description="two whole numbers [first, last]")
    code_names: dict[Code, Texts] = Field(
        default_factory=dict, description="a mapping of codes to lists of names, such as {1: [edema]}"
    )
    patient: Annotated[Text, _check(_has_one_group)] | None = Field(
        None, description=r"a regular expression with one group, such as '(P\d+)_'"
    )
    crop: tuple[Side, Side, Side] | None = Field(
        None, strict=False, repr=False, description=f"three multiples of {CROP_STEP} (voxels)"
    )

    @property
    def num_classes(self) -> int:
        """N, the number of foreground classes."""
        return len(self.classes)

    @property
    def out_channels(self) -> int:
        """C, the network's output channels: N and the background, or N where classes overlap."""
        return self.num_classes + (not self.overlapping)

    @property
    def known_codes(self) -> tuple[int, ...]:
        """Every code that a label map may hold, ascending, including 0."""
        return tuple(sorted({0}.union(*(c.codes for c in self.classes))))

    @property
    def decoded_codes(self) -> tuple[int, ...]:
        """The code that each class is written with: its first or, if nested, its lowest own code."""
        if not self.overlapping:
            return tuple(c.codes[0] for c in self.classes)
        return tuple(min(codes) for codes in self.own_codes)

    @property
    def own_codes(self) -> tuple[set[int], ...]:
        """For each class its codes without those of the classes nested in it."""
        sets = [set(c.codes) for c in self.classes]
        return tuple(s - set().union(*(t for t in sets if t < s)) for s in sets)


def dataset_names() -> list[str]:
    """The names of the data sets that come with the package."""
    return sorted(path.stem for path in _SPECS.glob("*.yaml"))


def dataset_title(name: str) -> str:
    """A data set's name in figures and tables: its spec's title, or its name if it has no shipped spec."""
    try:
        return load_spec(name).title
    except BipvlError:
        return name


def load_spec(name: str | Path) -> DatasetSpec:
    """The spec of a data set that comes with the package, or of your own YAML file.

    Raises:
        BipvlError: the name is unknown, the file is not readable, or a field is unknown, missing or wrong.
    """
    names = dataset_names()
    if str(name) in names:
        path = _SPECS / f"{name}.yaml"
    elif Path(name).suffix in (".yaml", ".yml"):
        path = Path(name)
    else:
        near = ", ".join(nearest(str(name), names))
        raise BipvlError(f"there is no data set '{name}'", f"choose one of {near}, or a .yaml file")
    return parse_spec(read_yaml(path), path)


def parse_spec(raw: dict[str, Any], path: Path) -> DatasetSpec:
    """The spec that the content of the YAML file ``path`` declares; raises as `load_spec`."""
    if unfilled := [key for key, value in raw.items() if FILL_IN in repr(value)]:
        fix = "replace it by what is meant"
        raise BipvlError(f"is a draft: '{unfilled[0]}' still holds '{FILL_IN}'", fix, path)
    raw = dict(raw)
    prompts, split = raw.get("prompts"), raw.get("split")
    if isinstance(prompts, str) and prompts.strip():
        raw["prompts"] = path.parent / prompts.strip()
    if isinstance(split, str) and split.lower().endswith((".json", ".csv")):
        raw["split"] = {"file": path.parent / split.strip()}
    spec = validate(DatasetSpec, raw, path)
    if isinstance(spec.layout, Patterns):
        spec = spec.model_copy(update={"layout": _of_channels(spec.layout, spec.channels, path)})
    if not spec.overlapping and not spec.code_names:
        names = {code: (c.name, *c.aliases) for c in spec.classes for code in c.codes}
        spec = spec.model_copy(update={"code_names": names})
    _check_codes(spec, path)
    if spec.split.get("test") == "validation" and spec.layout != "dataset_json":
        problem = "'split' takes the test cases from a section, which only the layout dataset_json has"
        raise BipvlError(problem, "give a share or case ids", path)
    return spec


def _of_channels(patterns: Patterns, channels: tuple[str, ...], path: Path) -> Patterns:
    """The patterns with each channel's name in place of ``{channel}``."""
    image = patterns.image
    if any("{channel}" in pattern for pattern in image):
        if wrong := [name for name in channels if not re.fullmatch(r"[^/\\{}.][^/\\{}]*", name)]:
            raise BipvlError(f"the channel '{wrong[0]}' cannot be part of a file's name", "rename it", path)
        image = tuple(dict.fromkeys(p.replace("{channel}", name) for p in image for name in channels))
    if len(image) not in (1, len(channels)) or not _is_distinct((*image, patterns.label)):
        fix = "give one for all, one per channel, or one with {channel}, none of them twice"
        raise BipvlError(f"'layout' has {len(image)} image patterns for {len(channels)} channels", fix, path)
    return patterns.model_copy(update={"image": image})


def _check_codes(spec: DatasetSpec, path: Path) -> None:
    codes = [code for c in spec.classes for code in c.codes]
    if not spec.overlapping and not _is_distinct(codes):
        fix = "correct it, or set 'overlapping: true'"
        raise BipvlError("'classes' gives one code to two classes", fix, path)
    sets = [set(c.codes) for c in spec.classes]
    nested = all(a < b or b < a or not a & b for a, b in combinations(sets, 2))
    if spec.overlapping and not (nested and all(spec.own_codes)):
        fix = "nest each pair of classes or keep it apart, and give each class a code of its own"
        raise BipvlError("'classes' overlap in part, or one has no code of its own", fix, path)
    needed = spec.code_names or spec.layout == "dataset_json"  # which compares them with the file's names
    if needed and set(spec.code_names) != set(codes):
        fix = f"name exactly the codes {sorted(set(codes))}"
        raise BipvlError(f"'code_names' names the codes {sorted(spec.code_names)}", fix, path)
