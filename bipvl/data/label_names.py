"""Map another tool's label codes to the data set's by name."""

from collections.abc import Iterator, Mapping
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import plain_name
from bipvl.data.spec import DatasetSpec

LARGEST_CODE = 2**15 - 1
"""The largest code, as in a data set's own label maps."""
LABELS_FORM = '{"background": 0, "spleen": 1, …}'


def native_codes(labels: Any, spec: DatasetSpec, source: str) -> dict[int, int]:
    """The tool's code → the data set's code, including 0 → 0; of a class with several codes the lowest.

    Args:
        labels: names → codes, as in nnU-Net, or codes → names, as in MSD.
        source: the origin of the labels, for messages.

    Raises:
        BipvlError: `labels` is no mapping; a name is no label of the data set; a code is out of range or
            repeated; a label of the data set has no code.
    """
    accepted, codes, named = _accepted(spec), {0: 0}, set()
    for name, code in _pairs(labels, source):
        if (known_codes := accepted.get(plain_name(name))) is None:
            fix = f"rename it to one of {', '.join(accepted)}, or export without it"
            raise BipvlError(f"has the label '{name}', which {spec.title} does not have", fix, source)
        if not (type(code) is int and 0 < code <= LARGEST_CODE):
            fix = f"give one from 1 to {LARGEST_CODE}"
            raise BipvlError(f"gives '{name}' the code {code!r}", fix, source)
        if code in codes:
            raise BipvlError(f"gives the code {code} to two labels", "give each its own", source)
        codes[code] = min(known_codes)
        named |= known_codes
    if missing := dict.fromkeys(names[0] for code, names in spec.code_names.items() if code not in named):
        fix = "add the codes that the tool writes for them"
        raise BipvlError(f"has no code for {', '.join(missing)}", fix, source)
    return codes


def _pairs(labels: Any, source: str) -> Iterator[tuple[Any, Any]]:
    """Name and code of each label except the background."""
    if not isinstance(labels, Mapping):
        raise BipvlError("is not a mapping of names to codes", f"write it like {LABELS_FORM}", source)
    by_code = all(str(key).isdecimal() for key in labels)
    for key, value in labels.items():
        name, code = (value, int(key)) if by_code else (key, value)
        if (plain_name(name), str(code)) != ("background", "0"):
            yield name, code


def _accepted(spec: DatasetSpec) -> dict[str, set[int]]:
    """Each name that a label may have, and the data set's codes that it stands for.

    Where classes overlap, these are the names of codes (edema), not of classes (whole tumour).
    """
    if not spec.code_names:
        raise BipvlError("has no 'code_names' to match labels by", "add them to its YAML", spec.title)
    names: dict[str, set[int]] = {}
    for code, code_names in spec.code_names.items():
        for name in code_names:
            names.setdefault(plain_name(name), set()).add(code)
    if not spec.overlapping:
        names |= {plain_name(name): set(c.codes) for c in spec.classes for name in (c.name, *c.aliases)}
    return names
