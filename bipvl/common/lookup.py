"""Looking a user's word up in a list of known ones."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from bipvl.common.errors import BipvlError

T = TypeVar("T")


def choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``; a name that is not there is a BipvlError that lists the near ones, or all."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, n=3) or sorted(known)
    raise BipvlError(f"there is no {kind} '{name}'; choose one of: {', '.join(near)}")
