"""Convert label codes to class indices or masks and back."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec

_FIX = "correct the file or the data set's YAML"


def encode(spec: DatasetSpec, codes: np.ndarray, source: str | Path) -> np.ndarray:
    """Encode label codes (H × W × D) as uint8 for training.

    Returns class indices (1 × H × W × D; 0 background, class c as c + 1) or, where classes overlap, one
    binary mask per class (N × H × W × D).

    Raises:
        BipvlError: a value is not a whole number or not a declared code; the message names `source`.
    """
    codes = np.asarray(codes)
    if issue := code_issue(spec, codes):
        raise issue.at(source)
    codes = codes.astype(np.int16)
    if spec.overlapping:
        return np.stack([np.isin(codes, c.codes) for c in spec.classes]).astype(np.uint8)
    return class_indices(spec, codes)[None]


def decode(spec: DatasetSpec, encoded: np.ndarray) -> np.ndarray:
    """The inverse of `encode`: label codes, H × W × D, int16.

    A class of several codes gets its first. Of nested classes the innermost wins.
    """
    indices = innermost(spec, encoded) if spec.overlapping else np.asarray(encoded)[0]
    return np.array([0, *spec.decoded_codes], np.int16)[indices]


def class_indices(spec: DatasetSpec, codes: np.ndarray) -> np.ndarray:
    """Label codes → class indices (uint8; class c as c + 1, 0 elsewhere); the innermost class wins."""
    table = np.zeros(2**15, np.uint8)  # as many as there may be codes
    for c in _outermost_first(spec):
        table[list(spec.classes[c].codes)] = c + 1
    return table[codes.astype(np.int16)]


def innermost(spec: DatasetSpec, masks: np.ndarray) -> np.ndarray:
    """Masks (N × …) → class indices (uint8; class c as c + 1, 0 elsewhere); the innermost class wins."""
    indices = np.zeros(np.shape(masks)[1:], np.uint8)
    for c in _outermost_first(spec):
        indices[np.asarray(masks[c]) > 0] = c + 1
    return indices


def _outermost_first(spec: DatasetSpec) -> list[int]:
    """The order to paint nested classes in, so that the innermost wins (brain: whole, core, enhancing)."""
    return sorted(range(spec.num_classes), key=lambda c: -len(spec.classes[c].codes))


def code_issue(spec: DatasetSpec, codes: np.ndarray) -> BipvlError | None:
    """What is wrong with a label map of the data set, if anything."""
    return map_issue(codes, spec.known_codes, _FIX)


def map_issue(codes: np.ndarray, known_codes: Sequence[int], fix: str) -> BipvlError | None:
    """What is wrong with a label map that may hold `known_codes`; `fix` is the advice on other codes."""
    if codes.ndim != 3:
        fix = "keep one 3D volume of codes in it"
        return BipvlError(f"has {codes.ndim} axes, but a label map has three", fix)
    return value_issue(distinct_values(codes), known_codes, fix)


def distinct_values(planes: Iterable[np.ndarray]) -> np.ndarray:
    """The ascending values of a label map, given as its slices: sorting slices takes less memory."""
    return np.unique(np.concatenate([np.unique(plane) for plane in planes]))


def value_issue(values: np.ndarray, known_codes: Sequence[int], fix: str = _FIX) -> BipvlError | None:
    """As `map_issue`, given the distinct values of a label map."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if (broken := whole != values).any():
        example = values[broken][0]
        fix = "export without interpolation"
        return BipvlError(f"holds labels that are not whole numbers, such as {example:g}", fix)
    if len(unknown := whole[~np.isin(whole, known_codes)]):
        found = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        known = ", ".join(map(str, known_codes))
        return BipvlError(f"holds the undeclared codes {found} (declared: {known})", fix)
    return None
