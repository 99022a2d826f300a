"""The paper's own values, from a CSV file that whoever holds the paper fills in."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bipvl.analysis.statistics import METRICS
from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.data.spec import dataset_names
from bipvl.engine.variants import VARIANTS

PATH = Path("notebooks/paper_values.csv")
"""Relative to the root of the repository, where the notebooks run."""
COLUMNS = ["claim", "dataset", "method", "metric", "value", "source"]
NOT_AVAILABLE = "not available here"
EFFECT_UNIT = "Dice points"
UNITS = {"dice": "%", "hd95_mm": "mm", "nsd": "%"}
"""Metric → the unit of a method's value. A claim's value is an effect on Dice, in EFFECT_UNIT."""
TITLES = {"dice": "Dice", "hd95_mm": "HD95", "nsd": "surface Dice"}
VALUE = re.compile(r"[+−-]?\d+(\.\d+)?( to [+−-]?\d+(\.\d+)?)? ?(?P<unit>[^\d .].*)")


@dataclass(frozen=True, kw_only=True)
class PaperValue:
    """One row: the effect that a claim is about, or the score of a method on a data set.

    Attributes:
        claim: a claim's text; empty for a method's score.
        dataset: a data set's name; for a claim, empty if the paper names none.
        method: a variant's name; empty for a claim.
        metric: one of METRICS; "dice" for a claim.
        value: number and unit, such as "86.2 %" or "+2.1 to +4.7 Dice points".
        source: where the value was read.
    """

    claim: str
    dataset: str
    method: str
    metric: str
    value: str
    source: str


def read_paper_values(claims: Iterable[str], path: str | Path = PATH) -> list[PaperValue]:
    """Read the paper's values (columns COLUMNS); a file without rows has none.

    Args:
        claims: the texts of all claims, as returned by ``claim_texts``.

    Raises:
        BipvlError: the file is missing, or not a CSV with these columns; an unknown claim, data set, method,
            metric or unit; a row about both a claim and a method, or about neither; a value without source;
            two values of the same.
    """
    path = Path(path)
    if not path.is_file():
        raise BipvlError("file not found", "run this in a clone of the repository, which contains it", path)
    known = dict.fromkeys(claims)
    values: dict[tuple[str, ...], PaperValue] = {}
    for line, cells in enumerate(_lines(path), start=2):
        try:
            if len(cells) != len(COLUMNS):
                problem = f"has {len(cells)} cells instead of {len(COLUMNS)}"
                raise BipvlError(problem, "put a text with a comma in double quotes")
            value = PaperValue(**dict(zip(COLUMNS, map(str.strip, cells), strict=True)))
            key = (value.claim, value.dataset, value.method, value.metric)
            _check(value, known)
            if key in values:
                raise BipvlError("gives a second value of the same", "keep one of them")
        except BipvlError as error:
            raise BipvlError(f"line {line}: {error.problem}", error.fix, path) from error
        values[key] = value
    return [*values.values()]


def _lines(path: Path) -> list[list[str]]:
    """The rows below the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except (ValueError, csv.Error) as error:
        raise BipvlError(f"not readable as CSV ({error})", "save it as CSV in UTF-8", path) from error
    if header != COLUMNS:
        problem = f"has the columns {', '.join(header)} instead of {', '.join(COLUMNS)}"
        raise BipvlError(problem, "correct its first line", path)
    return [row for row in rows if any(row)]


def _check(value: PaperValue, claims: Mapping[str, None]) -> None:
    if bool(value.claim) == bool(value.method):
        problem = "names both a claim and a method" if value.claim else "names neither a claim nor a method"
        raise BipvlError(problem, "name one: a claim for an effect, a method for its score")
    choose("metric", value.metric, dict.fromkeys(METRICS))
    if value.claim:
        choose("claim", value.claim, claims)
        if value.metric != "dice":
            raise BipvlError(f"a claim's metric is '{value.metric}'", "claims are about Dice: write dice")
    else:
        choose("method", value.method, VARIANTS)
    if value.dataset or value.method:
        choose("data set", value.dataset, dict.fromkeys(dataset_names()))
    unit = EFFECT_UNIT if value.claim else UNITS[value.metric]
    match = VALUE.fullmatch(value.value)
    if not match:
        raise BipvlError(f"'{value.value}' is not a number with a unit", f"write it like '2.1 {unit}'")
    if match["unit"] != unit:
        raise BipvlError(f"the unit of '{value.value}' is '{match['unit']}'", f"give the value in {unit}")
    if not value.source:
        raise BipvlError("has no source", "say where the value was read, such as 'paper, Table 1'")


def claim_value(values: Sequence[PaperValue], claim: str, group: str = "") -> dict[str, str | None]:
    """Columns paper and paper_source (None if unknown) of a claim: its own values, else its group's."""
    own = [value for value in values if value.claim == claim]
    found = own or [value for value in values if group and value.claim == group]
    shown = "; ".join(f"{v.dataset}: {v.value}" if v.dataset else v.value for v in found)
    sources = "; ".join(dict.fromkeys(v.source for v in found))
    return {"paper": shown or NOT_AVAILABLE, "paper_source": sources or None}


def with_paper_values(main: pd.DataFrame, values: Sequence[PaperValue]) -> pd.DataFrame:
    """``statistics.main_table`` with columns paper and paper_source if the paper has a value of a row."""
    rows = [
        [v for v in values if (v.dataset, v.method) == (row.dataset, row.variant)]
        for row in main.itertuples()
    ]
    if not any(rows):
        return main
    shown = ["; ".join(f"{TITLES[v.metric]} {v.value}" for v in found) for found in rows]
    sources = ["; ".join(dict.fromkeys(v.source for v in found)) for found in rows]
    return main.assign(paper=shown, paper_source=sources)
