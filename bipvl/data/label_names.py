"""Others' label codes to a dataset's own, matched by name: a number alone proves nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import plain_name
from bipvl.data.spec import DatasetSpec

LARGEST_CODE = 2**15 - 1
"""As in a dataset's own label maps."""
LABELS_FORM = '{"background": 0, "spleen": 1, …}'


def native_codes(labels: Any, spec: DatasetSpec, source: str) -> dict[int, int]:
    """Their code → the dataset's own, 0 → 0 among them; where a class has several, its lowest stands for all.

    Args:
        labels: names → codes, as nnU-Net writes them, or codes → names, as MSD does.
        source: where they are from, for the sentences.

    Raises:
        BipvlError: no mapping; a name that is no label of the dataset; a code out of range, or there twice;
            a label of the dataset without a code.
    """
    accepted, codes, named = _accepted(spec), {0: 0}, set()
    for name, code in _pairs(labels, source):
        if (own := accepted.get(plain_name(name))) is None:
            raise BipvlError(
                f"{source} has the label '{name}', which {spec.title} has not; rename it to one of "
                f"{', '.join(accepted)}, or export without it."
            )
        if not (type(code) is int and 0 < code <= LARGEST_CODE):
            raise BipvlError(f"{source} gives '{name}' the code {code!r}; give one from 1 to {LARGEST_CODE}.")
        if code in codes:
            raise BipvlError(f"{source} gives the code {code} to two labels; give each its own.")
        codes[code] = min(own)
        named |= own
    if missing := dict.fromkeys(names[0] for code, names in spec.code_names.items() if code not in named):
        raise BipvlError(f"{source} has no code for {', '.join(missing)}; add what the tool writes for it.")
    return codes


def _pairs(labels: Any, source: str) -> Iterator[tuple[Any, Any]]:
    """Name and code of each label but the background."""
    if not isinstance(labels, Mapping):
        raise BipvlError(f"{source} maps no names to codes; write them like {LABELS_FORM}.")
    turned = all(str(key).isdecimal() for key in labels)
    for key, value in labels.items():
        name, code = (value, int(key)) if turned else (key, value)
        if (plain_name(name), str(code)) != ("background", "0"):
            yield name, code


def _accepted(spec: DatasetSpec) -> dict[str, set[int]]:
    """Each name that a label may have, and the codes of the dataset that it stands for.

    Where classes overlap these are the names of the codes (edema), not of the classes (whole tumour).
    """
    if not spec.code_names:
        raise BipvlError(f"{spec.title} has no 'code_names' to match labels by; add them to its YAML.")
    names: dict[str, set[int]] = {}
    for code, called in spec.code_names.items():
        for name in called:
            names.setdefault(plain_name(name), set()).add(code)
    if not spec.overlapping:
        names |= {plain_name(name): set(c.codes) for c in spec.classes for name in (c.name, *c.aliases)}
    return names
