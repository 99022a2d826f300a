"""A dataset in one YAML file: where it lies, what its codes mean, how it is prepared and split."""

import difflib
import math
import os
import re
import reprlib
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from bipvl.common.errors import BipvlError

_SPECS = Path(__file__).parent / "resources" / "specs"
LAYOUTS = ("dataset_json", "nnunet", "paired_files")
FILL_IN = "FILL IN"
"""What a draft holds wherever its owner must write; a file that holds it is refused."""
CROP_STEP = 32
"""A crop's sides are multiples of it, as the deepest network (profile paper) halves them five times."""
AUGMENTATIONS = ("intensity_shift", "intensity_scale", "rotation_degrees", "zoom", "flip_axes")


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """One foreground class: its name, the label codes that make it up, other names it goes by."""

    name: str
    codes: tuple[int, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Where files lie below a dataset's folder; ``{case}`` stands for a case's id, the same in all of them.

    Attributes:
        image: one file with all channels, or a file a channel, in the channels' order.
    """

    image: tuple[str, ...]
    label: str

    def __str__(self) -> str:
        return f"image: {', '.join(self.image)}; label: {self.label}"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a dataset's YAML declares. Row c of `classes` is row c of the prompts and class index c + 1.

    Attributes:
        folder: below the data root.
        layout: one of LAYOUTS, or the files' patterns.
        case_numbers: keep only the cases whose id ends in a number from first to last (None: all).
        code_names: for each code the names that dataset.json may give it; from `classes` where not declared.
        overlapping: a voxel may belong to several classes (sigmoid channels, no background channel).
        spacing: working grid, mm.
        intensity: {"window": (lo, hi)}, to 0…1 and clipped, or {"zscore": "nonzero"}, each channel by itself.
        augmentation: some of AUGMENTATIONS.
        split: {"test": "validation" (the benchmark's own section) or a share, "val": a share of the rest},
            with a "seed" or not; {"train", "val", "test": case ids}; or {"file": a JSON or CSV of these}.
        nsd_tolerance: of the normalised surface Dice, mm.
        patient: regular expression at the beginning of a case's id, its one group the patient; a split keeps
            a patient's cases together. None: nothing tells, and each case counts as a patient of its own.
        crop: of training, voxels. Where it is given, it and `spacing` hold at every profile. Prepared cases
            do not depend on it, so it is not in the `repr` by which they are kept.
    """

    name: str
    title: str
    modality: str
    channels: tuple[str, ...]
    folder: str
    layout: str | Patterns
    classes: tuple[ClassSpec, ...]
    spacing: tuple[float, float, float]
    intensity: dict[str, Any]
    split: dict[str, Any]
    prompts: Path
    nsd_tolerance: float
    overlapping: bool = False
    augmentation: dict[str, Any] = field(default_factory=dict)
    case_numbers: tuple[int, int] | None = None
    code_names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    patient: str | None = None
    crop: tuple[int, int, int] | None = field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        """N, the foreground classes."""
        return len(self.classes)

    @property
    def out_channels(self) -> int:
        """C, the network's output channels: N and the background, or N where classes overlap."""
        return self.num_classes + (not self.overlapping)

    @property
    def known_codes(self) -> tuple[int, ...]:
        """Every code that a label file may hold, ascending, 0 included."""
        return tuple(sorted({0}.union(*(c.codes for c in self.classes))))

    @property
    def decoded_codes(self) -> tuple[int, ...]:
        """The code that each class is written with: its first or, nested, the first of its own."""
        if not self.overlapping:
            return tuple(c.codes[0] for c in self.classes)
        return tuple(min(codes) for codes in self.own_codes)

    @property
    def own_codes(self) -> tuple[set[int], ...]:
        """For each class its codes less those of the classes nested in it."""
        sets = [set(c.codes) for c in self.classes]
        return tuple(s - set().union(*(t for t in sets if t < s)) for s in sets)


def dataset_names() -> list[str]:
    """The datasets that come with the package."""
    return sorted(path.stem for path in _SPECS.glob("*.yaml"))


def load_spec(name: str | Path) -> DatasetSpec:
    """The spec of a dataset that comes with the package, or of a user's own YAML file.

    Raises:
        BipvlError: unknown name, unreadable file, unknown, missing or wrong field.
    """
    names = dataset_names()
    if str(name) in names:
        path = _SPECS / f"{name}.yaml"
    elif Path(name).suffix in (".yaml", ".yml"):
        path = Path(name)
    else:
        near = difflib.get_close_matches(str(name), names, cutoff=0.4) or names
        raise BipvlError(f"There is no dataset '{name}'; did you mean {' or '.join(near)}, or a .yaml file?")
    return parse_spec(_read(path), path)


def _read(path: Path) -> dict:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except Exception as error:  # a date or number that is none raises its constructor's own
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise BipvlError(f"{path} cannot be read as YAML: {reason}; correct it.") from error
    if not isinstance(raw, dict):
        raise BipvlError(f"{path} holds no fields; write it like {_SPECS / 'amos22.yaml'}.")
    return raw


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key that is there twice is an error: the first would silently be dropped."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key, count in Counter(keys).items() if count > 1]:
            raise yaml.constructor.ConstructorError(problem=f"the field '{twice[0]}' is there twice")
        return super().construct_mapping(node, deep)


def parse_spec(raw: dict, path: Path) -> DatasetSpec:
    """The spec that the fields of the YAML file ``path`` declare; as `load_spec`."""
    required = [f.name for f in fields(DatasetSpec) if f.default is f.default_factory is MISSING]
    for key in raw:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            hint = f"did you mean '{near[0]}'" if near else f"the fields are {', '.join(_FIELDS)}"
            raise BipvlError(f"{path} has an unknown field '{key}'; {hint}?")
    if missing := [key for key in required if key not in raw]:
        raise BipvlError(f"{path} lacks {', '.join(missing)}; see {_SPECS / 'amos22.yaml'} for an example.")
    if drafted := [key for key, value in raw.items() if FILL_IN in repr(value)]:
        raise BipvlError(f"{path} is a draft: '{drafted[0]}' still holds '{FILL_IN}'; write what is meant.")
    values = {}
    for key, value in raw.items():
        parse, expected = _FIELDS[key]
        try:
            values[key] = parse(value)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError, re.error) as error:
            raise BipvlError(f"{path}: '{key}' must be {expected}, but is {reprlib.repr(value)}.") from error
    values["prompts"] = path.parent / values["prompts"]
    if "file" in values["split"]:
        values["split"] = {"file": path.parent / values["split"]["file"]}
    if isinstance(values["layout"], Patterns):
        values["layout"] = _of_channels(values["layout"], values["channels"], path)
    if not values.get("overlapping") and not values.get("code_names"):
        values["code_names"] = {code: (c.name, *c.aliases) for c in values["classes"] for code in c.codes}
    spec = DatasetSpec(**values)
    _check_codes(spec, path)
    if spec.split.get("test") == "validation" and spec.layout != "dataset_json":
        raise BipvlError(
            f"{path}: 'split' takes the test cases from a section, which the layout dataset_json alone has; "
            "give a share or case ids."
        )
    return spec


def _of_channels(patterns: Patterns, channels: tuple[str, ...], path: Path) -> Patterns:
    """The patterns with each channel's name in the place of ``{channel}``."""
    image = patterns.image
    if any("{channel}" in pattern for pattern in image):
        if unfit := [name for name in channels if not re.fullmatch(r"[^/\\{}.][^/\\{}]*", name)]:
            raise BipvlError(f"{path}: the channel '{unfit[0]}' cannot be in a file's name; rename it.")
        image = tuple(dict.fromkeys(p.replace("{channel}", name) for p in image for name in channels))
    if len(image) not in (1, len(channels)) or len({*image, patterns.label}) != len(image) + 1:
        raise BipvlError(
            f"{path}: 'layout' has {len(image)} image patterns for {len(channels)} channels; give one for "
            "all, one a channel, or one with {channel}, none of them twice."
        )
    return replace(patterns, image=image)


def _check_codes(spec: DatasetSpec, path: Path) -> None:
    codes = [code for c in spec.classes for code in c.codes]
    if not spec.overlapping and len(set(codes)) < len(codes):
        raise BipvlError(f"{path} gives one code to two classes; correct it, or set 'overlapping: true'.")
    sets = [set(c.codes) for c in spec.classes]
    nested = all(a < b or b < a or not a & b for a, b in combinations(sets, 2))
    if spec.overlapping and not (nested and all(spec.own_codes)):
        raise BipvlError(
            f"{path}: overlapping classes must lie inside or beside each other, each with a code of its own."
        )
    named = spec.code_names or spec.layout == "dataset_json"  # that file's own names are held against them
    if named and set(spec.code_names) != set(codes):
        raise BipvlError(
            f"{path}: 'code_names' must name the codes {sorted(set(codes))}, no more and no fewer."
        )


# How each field is read, and what to tell who wrote it wrongly.
def _ensure(value: Any, condition: bool) -> Any:
    if not condition:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    return _ensure(value, isinstance(value, str) and bool(value.strip())).strip()


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(v) for v in _ensure(value, isinstance(value, list) and bool(value)))


def _distinct_texts(value: Any) -> tuple[str, ...]:
    return _ensure(_texts(value), len(set(value)) == len(value))


def _folder(value: Any) -> str:
    path = os.path.normpath(_text(value))
    return _ensure(_text(value), not (os.path.isabs(path) or path.startswith("..")))


def _layout(value: Any) -> str | Patterns:
    if isinstance(value, str):
        return _ensure(value, value in LAYOUTS)
    image = _ensure(value, set(value) == {"image", "label"})["image"]
    images = image if isinstance(image, list) else [image]
    label = _pattern(_ensure(value["label"], "{channel}" not in value["label"]))
    return Patterns(image=tuple(map(_pattern, _ensure(images, images))), label=label)


def _pattern(value: Any) -> str:
    text = os.path.normpath(_folder(value))
    _ensure(text, "{case}" in text and text.lower().endswith((".nii", ".nii.gz")))
    return _ensure(text, not re.search(r"[{}]", text.replace("{case}", "").replace("{channel}", "")))


def _patient(value: Any) -> str:
    return _ensure(value, re.compile(_text(value)).groups == 1)


def _number(value: Any) -> float:
    _ensure(value, isinstance(value, (int, float)) and not isinstance(value, bool))
    return float(_ensure(value, math.isfinite(value)))


def _positive(value: Any) -> float:
    return _ensure(_number(value), value > 0)


def _share(value: Any) -> float:
    return _ensure(_number(value), 0 < value < 1)


def _code(value: Any) -> int:
    # Bounded so that predictions fit the 16-bit label maps that every viewer reads.
    return _ensure(value, type(value) is int and 0 < value < 2**15)


def _class(value: Any) -> ClassSpec:
    codes = _ensure(value, isinstance(value, dict) and set(value) <= {"name", "codes", "aliases"})["codes"]
    return ClassSpec(
        name=_text(value["name"]),
        codes=tuple(_code(v) for v in _ensure(codes, isinstance(codes, list) and bool(codes))),
        aliases=_texts(value["aliases"]) if "aliases" in value else (),
    )


def _classes(value: Any) -> tuple[ClassSpec, ...]:
    classes = tuple(_class(c) for c in _ensure(value, isinstance(value, list) and bool(value)))
    names = [name for c in classes for name in {n.casefold() for n in (c.name, *c.aliases)}]
    return _ensure(
        classes, len(set(names)) == len(names) and all(len({*c.codes}) == len(c.codes) for c in classes)
    )


def _spacing(value: Any) -> tuple[float, ...]:
    return tuple(_positive(v) for v in _ensure(value, len(value) == 3))


def _intensity(value: Any) -> dict[str, Any]:
    if value == {"zscore": "nonzero"}:
        return value
    low, high = _ensure(value, set(value) == {"window"})["window"]
    return {"window": (_number(low), _ensure(_number(high), high > low))}


def _augmentation(value: Any) -> dict[str, Any]:
    _ensure(value, set(value) <= set(AUGMENTATIONS))
    known = {key: _positive(v) for key, v in value.items() if key != "flip_axes"}
    if "flip_axes" in value:
        known["flip_axes"] = tuple(_ensure(v, v in (0, 1, 2)) for v in value["flip_axes"])
    return known


def _split(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"file": _ensure(_text(value), value.lower().endswith((".json", ".csv")))}
    if set(value) == {"train", "val", "test"}:
        return {part: _texts(value[part]) for part in ("train", "val", "test")}
    _ensure(value, {"test", "val"} <= set(value) <= {"test", "val", "seed"})
    test = value["test"]
    rule = {"test": test if test == "validation" else _share(test), "val": _share(value["val"])}
    return rule | ({"seed": _seed(value["seed"])} if "seed" in value else {})


def _seed(value: Any) -> int:
    return _ensure(value, type(value) is int and 0 <= value < 2**32)


def _crop(value: Any) -> tuple[int, ...]:
    sides = [_ensure(v, type(v) is int and v > 0 and v % CROP_STEP == 0) for v in value]
    return tuple(_ensure(sides, len(sides) == 3))


def _case_numbers(value: Any) -> tuple[int, int]:
    first, last = value
    return _ensure((first, last), type(first) is type(last) is int and first <= last)


_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name": (lambda v: _ensure(v, re.fullmatch(r"[\w-]+", v)), "one word of letters, digits, _ and -"),
    "title": (_text, "a text"),
    "modality": (lambda v: _ensure(v, v in ("CT", "MR")), "CT or MR"),
    "channels": (_distinct_texts, "a list of the image channels' names, each once, such as [CT]"),
    "folder": (_folder, "the dataset's folder below the data root"),
    "layout": (
        _layout,
        f"one of {', '.join(LAYOUTS)}, or {{image: a pattern or a list of them, label: a pattern}}, patterns "
        "such as scans/{case}.nii.gz that stay below the folder",
    ),
    "classes": (
        _classes,
        "a list such as [{name: spleen, codes: [1]}], names and aliases distinct, codes from 1 to 32767",
    ),
    "overlapping": (lambda v: _ensure(v, isinstance(v, bool)), "true or false"),
    "spacing": (_spacing, "three positive numbers (mm)"),
    "intensity": (_intensity, "{window: [low, high]} or {zscore: nonzero}"),
    "augmentation": (_augmentation, f"a mapping of {', '.join(AUGMENTATIONS)} to positive numbers or axes"),
    "split": (
        _split,
        "{test: validation or a share, val: a share}, shares between 0 and 1, with a seed or not; or "
        "{train: […], val: […], test: […]}, case ids in quotes; or the path of a .json or .csv with these",
    ),
    "crop": (_crop, f"three multiples of {CROP_STEP} (voxels)"),
    "prompts": (_text, "the prompt CSV's path, relative to the YAML file"),
    "nsd_tolerance": (_positive, "a positive number (mm)"),
    "case_numbers": (_case_numbers, "two whole numbers [first, last]"),
    "code_names": (
        lambda v: {_code(code): _texts(names) for code, names in v.items()},
        "a mapping of codes to lists of names, such as {1: [edema]}",
    ),
    "patient": (_patient, r"a regular expression with one group, such as '(P\d+)_'"),
}


def dataset_title(name: str) -> str:
    """What a dataset is called in figures and tables: its spec's title, or its name for a user's own."""
    try:
        return load_spec(name).title
    except BipvlError:
        return name
