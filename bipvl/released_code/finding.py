"""What a proof is: one row of the table of departures, with its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS = {
    "row": "Row",
    "what": "What the released code does",
    "released": "Released behaviour (measured here)",
    "right": "The right one (measured here)",
    "difference": "Difference",
    "quoted": "Seen on the authors' own network or files (quoted)",
    "shown_on": "Shown on",
}
"""Fields of a proof → heads of the table."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One departure of the public release (December 2025), measured on this package's own code.

    Attributes:
        row: its number in the table.
        what: what the released code does.
        released, right: the two behaviours, in words with the measured numbers.
        difference: what follows from it.
        shown_on: what it was measured on, and how far that reaches.
        quoted: effect seen when the public release was probed; not computed here.
        measured: the bare numbers, by name; what the words above are made of and what assertions check.
    """

    row: int
    what: str
    released: str
    right: str
    difference: str
    shown_on: str
    quoted: str = "–"
    measured: Mapping[str, float]

    def _repr_markdown_(self) -> str:
        """How a notebook shows it: one line a field."""
        lines = [f"| {COLUMNS[name]} | {getattr(self, name)} |" for name in list(COLUMNS)[1:]]
        return "\n".join(["| | |", "|:--|:--|", *lines])


def percent(share: float, digits: int = 0) -> str:
    """A share of one as percent."""
    return f"{100 * share:.{digits}f} %"


def yes_no(fact: float) -> str:
    """A fact as a word."""
    return "yes" if fact else "no"


def signed(value: float, form: str) -> str:
    """A number with a true minus sign."""
    return format(value, form).replace("-", "−")
