"""Errors for missing packages that belong to an extra of pyproject.toml, such as ``bipvl[run]``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from bipvl.common.errors import BipvlError


@contextmanager
def missing_extra_explained() -> Iterator[None]:
    """Turn the failed import of an extra's package into an error that names the extra.

    Raises:
        BipvlError: a package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        fix = f"install it with: pip install 'bipvl[{extra}]'"
        raise BipvlError(f"this needs the package {error.name}", fix) from error


def extra_of(module: str) -> str | None:
    """The extra that installs a module; None if no extra does."""
    from importlib.metadata import requires  # here, because it would double the time of `import bipvl`

    package = IMPORTED_AS.get(module, module).replace("_", "-")
    for line in requires("bipvl") or ():
        if found := re.match(rf"{re.escape(package)}\b(?!-).*extra == ['\"](\w+)['\"]", line, re.IGNORECASE):
            return found[1]
    return None


IMPORTED_AS = {"yaml": "pyyaml"}
"""Module → package, for names that differ by more than a hyphen."""
