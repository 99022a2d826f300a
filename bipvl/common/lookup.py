"""Look up a name that a user typed among the known ones."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from bipvl.common.errors import BipvlError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that resemble ``name``; all of them, sorted, where none does."""
    known = [*known]
    return difflib.get_close_matches(str(name), known, n=3) or sorted(known)


def choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``.

    Raises:
        BipvlError: an unknown name; the message lists the nearest known ones.
    """
    if name in known:
        return known[name]
    near = ", ".join(nearest(name, known))
    fix = f"choose one of: {near}" if near else "none is defined yet"
    raise BipvlError(f"there is no {kind} '{name}'", fix)
