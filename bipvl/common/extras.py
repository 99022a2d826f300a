"""What ``pip install bipvl`` leaves out: packages that only an extra of pyproject.toml brings."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bipvl.common.errors import BipvlError


@contextmanager
def missing_extra_explained() -> Iterator[None]:
    """Where a package is missing in the block that an extra brings, a BipvlError says which extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        raise BipvlError(
            f"this needs the package {error.name}; install it with: pip install 'bipvl[{extra}]'"
        ) from error


def extra_of(module: str) -> str | None:
    """The extra that brings a module; None of what the bare installation brings, and of strangers."""
    from importlib.metadata import requires  # not at the top: it would double the time of `import bipvl`

    package = IMPORTED_AS.get(module, module).replace("_", "-")
    for line in requires("bipvl") or ():
        if found := re.match(rf"{re.escape(package)}\b(?!-).*extra == ['\"](\w+)['\"]", line, re.IGNORECASE):
            return found[1]
    return None


IMPORTED_AS = {"yaml": "pyyaml"}
"""Module → package, where the names differ by more than a hyphen."""
