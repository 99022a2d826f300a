"""Native label codes to what the network is trained on, and back."""

from collections.abc import Iterable, Sequence

import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec

_MEND = "correct the file or the dataset's YAML"


def encode(spec: DatasetSpec, codes: np.ndarray, source: str) -> np.ndarray:
    """Native codes (H x W x D) to uint8: class indices (1 x H x W x D, 0 background, row c as c + 1) or,
    where classes overlap, one binary channel a class (N x H x W x D).

    Raises:
        BipvlError: a value that is not a whole number or not a declared code; names `source`.
    """
    codes = np.asarray(codes)
    if fault := code_fault(spec, codes):
        raise BipvlError(f"{source} {fault[0]}; {fault[1]}.")
    codes = codes.astype(np.int16)
    if spec.overlapping:
        return np.stack([np.isin(codes, c.codes) for c in spec.classes]).astype(np.uint8)
    table = np.zeros(max(spec.known_codes) + 1, np.uint8)
    for index, c in enumerate(spec.classes, start=1):
        table[list(c.codes)] = index
    return table[codes][None]


def decode(spec: DatasetSpec, encoded: np.ndarray) -> np.ndarray:
    """The inverse of `encode`: native codes, H x W x D, int16.

    Overlapping classes are painted from the outermost in, so that a voxel gets the innermost class it was
    given (brain: whole tumour 1, core 2, enhancing 3). A class of several codes gets its first.
    """
    encoded = np.asarray(encoded)
    if not spec.overlapping:
        return np.array([0, *spec.decoded_codes], np.int16)[encoded[0]]
    codes = np.zeros(encoded.shape[1:], np.int16)
    for row in sorted(range(spec.num_classes), key=lambda row: -len(spec.classes[row].codes)):
        codes[encoded[row] > 0] = spec.decoded_codes[row]
    return codes


def code_fault(spec: DatasetSpec, codes: np.ndarray) -> tuple[str, str] | None:
    """What is wrong with a dataset's label map, and how to mend it; None where nothing is."""
    return map_fault(codes, spec.known_codes, _MEND)


def map_fault(codes: np.ndarray, known_codes: Sequence[int], mend: str) -> tuple[str, str] | None:
    """As `code_fault`, for a label map that may hold these codes; `mend` is how to treat others."""
    if codes.ndim != 3:
        return f"has {codes.ndim} axes, but a label map has three", "keep one 3D volume of codes in it"
    return _value_fault(distinct_values(codes), known_codes, mend)


def value_fault(spec: DatasetSpec, values: np.ndarray) -> tuple[str, str] | None:
    """As `code_fault`, for the distinct values of a label map."""
    return _value_fault(values, spec.known_codes, _MEND)


def distinct_values(planes: Iterable[np.ndarray]) -> np.ndarray:
    """The values of a label map, given as its slices, ascending; sorting slices takes less than a volume."""
    return np.unique(np.concatenate([np.unique(plane) for plane in planes]))


def _value_fault(values: np.ndarray, known_codes: Sequence[int], mend: str) -> tuple[str, str] | None:
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if (broken := whole != values).any():
        example = values[broken][0]
        return f"holds labels that are not whole numbers, such as {example:g}", "export without interpolation"
    if len(unknown := whole[~np.isin(whole, known_codes)]):
        found = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        known = ", ".join(map(str, known_codes))
        return f"holds the undeclared codes {found} (declared: {known})", mend
    return None
