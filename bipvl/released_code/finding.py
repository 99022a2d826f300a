"""One finding: a deviation of the released code, its texts and its measured numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Self

from bipvl.common.schema import read_yaml

COLUMNS = {
    "row": "Row",
    "what": "What the released code does",
    "released": "Released behaviour (measured here)",
    "right": "Correct behaviour (measured here)",
    "difference": "Difference",
    "quoted": "Seen on the authors' own network or files (quoted)",
    "shown_on": "Shown on",
}
"""Field of a finding → column header."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One deviation of the public release (December 2025), measured on this package's own code.

    Attributes (others: see ``COLUMNS``):
        difference: the consequence.
        shown_on: what was measured, and how far the result applies.
        quoted: effect seen when the public release was probed; not computed here.
        measured: the numbers by name, from which the texts are filled and which the tests check.
    """

    row: int
    what: str
    released: str
    right: str
    difference: str
    shown_on: str
    quoted: str = "–"
    measured: Mapping[str, Any]

    @classmethod
    def fill(cls, row: int, measured: Mapping[str, Any]) -> Self:
        """The finding of a row: its texts in ``findings.yaml`` with the measured numbers filled in."""
        filled = {name: _Numbers().vformat(text, (), measured) for name, text in _texts()[row].items()}
        return cls(row=row, measured=measured, **filled)

    def _repr_markdown_(self) -> str:
        """One table row per field, for notebooks."""
        lines = [f"| {title} | {getattr(self, name)} |" for name, title in list(COLUMNS.items())[1:]]
        return "\n".join(["| | |", "|:--|:--|", *lines])


class _Numbers(Formatter):
    """Formats facts as yes or no, percentages with a space, and numbers with a true minus sign."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        text = super().format_field(value, format_spec)
        return text if isinstance(value, str) else text.replace("%", " %").replace("-", "−")


@cache
def _texts() -> dict[int, dict[str, str]]:
    """Row → field → text with the names of numbers in braces."""
    return read_yaml(Path(__file__).with_name("findings.yaml"))
