"""Read YAML files and validate them with pydantic; an error names the wrong key and the nearest right one."""

import reprlib
import textwrap
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import nearest

M = TypeVar("M", bound=BaseModel)


class Schema(BaseModel):
    """Base of all models of YAML files: unknown keys and converted types (``"3"`` for 3) are errors.

    A field's ``description`` completes the sentence "'key' must be …".
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        BipvlError: the file is missing, is not YAML, has a key twice, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise BipvlError("file not found", "check its path", path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except Exception as error:  # a malformed date or number raises whatever its constructor does
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise BipvlError(f"not readable as YAML ({reason})", "correct its syntax", path) from error
    if not isinstance(content, dict):
        raise BipvlError("holds no mapping of keys to values", "write one 'key: value' per line", path)
    return content


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which would silently drop the first value of a repeated key, but raises here."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [key for key, count in keys.items() if count > 1]:
            raise yaml.constructor.ConstructorError(problem=f"the key '{repeated[0]}' is there twice")
        return super().construct_mapping(node, deep)


def validate(model: type[M], content: Mapping[str, Any], file: str | Path | None = None) -> M:
    """``content`` as a ``model``.

    Raises:
        BipvlError: the first problem, with the full key (``training.lr``) and what is expected there.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A slip makes the right key missing too, so unknown keys come first.
        first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
        issue = _as_error(model, first, content)
        raise (issue.at(file) if file else issue) from error


def _as_error(model: type[BaseModel], error: Mapping[str, Any], content: Any) -> BipvlError:
    """One entry of pydantic's ``ValidationError.errors()`` as a sentence."""
    place = _place(model, error["loc"], content)
    key = ".".join(map(str, place.path))
    complete = place.path[-1:] == error["loc"][-1:]  # not of a mapping that is one of several alternatives
    if error["type"] == "extra_forbidden" and complete:
        near = nearest(str(place.path[-1]), place.siblings)
        return BipvlError(f"there is no key '{key}'", f"use one of: {', '.join(near)}")
    if error["type"] == "missing" and complete:
        return BipvlError(f"'{key}' is missing", f"set it to {place.expected or 'a value'}")
    if error["type"] == "value_error":  # a validator's own ValueError("problem; fix")
        problem, _, fix = str(error["ctx"]["error"]).partition("; ")
        return BipvlError(f"'{key}' {problem}" if key else problem, fix or "correct it")
    expected = place.expected or error["msg"].removeprefix("Input should be ")
    if error["type"] == "model_type" and not place.expected:
        expected = "a mapping of keys to values"
    return BipvlError(f"'{key}' is {reprlib.repr(place.value)}", f"it must be {expected}")


class _Place(NamedTuple):
    """Where an error is: path of keys, value there, keys that are allowed beside it, what is expected."""

    path: tuple[str | int, ...]
    value: Any
    siblings: tuple[str, ...] = ()
    expected: str = ""


def _place(model: type[BaseModel], loc: Sequence[str | int], content: Any) -> _Place:
    """The place that pydantic's ``loc`` names; of a wrong list item, the field that describes the list.

    ``loc`` also names branches of unions ("list[int]"), which are left out.
    """
    annotation: Any = model
    place = _Place((), content)
    for part in loc:
        inner, value = _inner_model(annotation), place.value
        if inner and (part in inner.model_fields or _has(value, part)):
            field = inner.model_fields.get(str(part))
            annotation = field.annotation if field else None
            described = (field.description if field else None) or ""
            value = value[part] if _has(value, part) else None
            place = _Place((*place.path, part), value, tuple(inner.model_fields), described)
        elif not inner and _has(value, part):
            item = next((a for a in reversed(get_args(annotation)) if a is not ...), None)
            if not place.expected or _inner_model(item):
                annotation, place = item, _Place((*place.path, part), value[part])
    return place


def _has(content: Any, part: str | int) -> bool:
    if isinstance(content, Mapping):
        return part in content
    return isinstance(content, (list, tuple)) and isinstance(part, int) and part < len(content)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or that a union holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, map(_inner_model, get_args(annotation))), None)
    return None
