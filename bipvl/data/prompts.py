"""The prompt table: for each class a title and five concepts that can be seen in a scan."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.spec import FILL_IN, ClassSpec, DatasetSpec

CONCEPTS = ("Shape", "Location", "Appearance/Density", "Contour/Symmetry", "Internal Texture")
COLUMNS = ("Title", *CONCEPTS)


@dataclass(frozen=True)
class PromptTable:
    """One row per class, each a mapping of COLUMNS to text. Paper, section on prompts: K = 5 concepts."""

    name: str
    rows: tuple[dict[str, str], ...]

    def segments(self) -> list[list[str]]:
        """N × (K + 1) short texts: the title alone, then each concept with its name."""
        return [[row["Title"], *(f"{concept}: {row[concept]}" for concept in CONCEPTS)] for row in self.rows]


def read_prompts(path: str | Path, spec: DatasetSpec | None = None) -> PromptTable:
    """Read a prompt CSV (UTF-8; other columns are ignored) and, given a spec, check it against the classes.

    Raises:
        BipvlError: the file is not readable; a column is missing or repeated; a cell is empty or surplus;
            there are too many or too few rows; a title is repeated or does not contain its class's name.
    """
    rows, issues = _read(Path(path), spec)
    if issues:
        raise issues[0]
    return PromptTable(Path(path).stem, tuple({name: row[name] for name in COLUMNS} for row in rows))


def prompt_issues(path: str | Path, spec: DatasetSpec) -> list[BipvlError]:
    """All issues of a prompt CSV."""
    try:
        return _read(Path(path), spec)[1]
    except BipvlError as error:
        return [error]


def check_prompts(table: PromptTable, spec: DatasetSpec, source: str) -> None:
    """Check a table that may not come from a file against the classes, as ``read_prompts`` does.

    Raises:
        BipvlError: as there; it names ``source``.
    """
    for issue in [*_cell_issues([*COLUMNS], _cells(table)), *_class_issues([*table.rows], spec)]:
        raise issue.at(source)


def named_classes(table: PromptTable, spec: DatasetSpec, source: str) -> tuple[ClassSpec, ...]:
    """For each row the class that its title names, or a new class with the title as name and the next code.

    For networks whose channels follow the rows: any of the classes in any order, and others besides.

    Raises:
        BipvlError: an empty cell, no row, or two rows of one class; it names ``source``.
    """
    lines = _cells(table)
    for issue in _cell_issues([*COLUMNS], lines):
        raise issue.at(source)
    if not lines:
        raise BipvlError("has no row", "give one row for each class to segment", source)
    found: list[ClassSpec] = []
    next_code = max(spec.known_codes) + 1
    for number, (title, *_) in enumerate(lines, start=1):
        known = max(spec.classes, key=lambda c: _matched_length(title, c))
        if not _matched_length(title, known):
            known, next_code = ClassSpec(name=title, codes=(next_code,)), next_code + 1
        if known.name in {c.name for c in found}:
            problem = f"names the class '{known.name}' again in row {number}, '{title}'"
            raise BipvlError(problem, "give each class one row", source)
        found.append(known)
    return tuple(found)


def default_prompts(spec: DatasetSpec) -> PromptTable:
    """The prompts that the data set's YAML names."""
    return read_prompts(spec.prompts, spec)


def _cells(table: PromptTable) -> list[list[str]]:
    return [[row.get(name, "").strip() for name in COLUMNS] for row in table.rows]


def _read(path: Path, spec: DatasetSpec | None) -> tuple[list[dict[str, str]], list[BipvlError]]:
    """The rows, each a mapping of columns to cells, and their issues."""
    header, lines = _read_lines(path)
    rows = [dict(zip(header, line, strict=False)) for line in lines]
    issues = [*_cell_issues(header, lines), *(_class_issues(rows, spec) if spec else ())]
    return rows, [issue.at(path) for issue in issues]


def _read_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and non-empty lines; a BipvlError if the file is not readable, or its columns are wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [[*map(str.strip, line)] for line in csv.reader(file, strict=True)] or [[]]
    except UnicodeDecodeError as error:
        raise BipvlError("is not UTF-8 text", "save it as 'CSV UTF-8'", path) from error
    except (OSError, csv.Error) as error:
        fix = f"write a CSV with the columns {', '.join(COLUMNS)}"
        raise BipvlError(f"not readable as CSV ({error})", fix, path) from error
    if missing := [name for name in COLUMNS if name not in header]:
        hint = ", separated by commas" if len(header) == 1 and header[0] else ""
        fix = f"give it the columns {', '.join(COLUMNS)}{hint}"
        raise BipvlError(f"lacks the columns {', '.join(missing)}", fix, path)
    if repeated := [name for name in COLUMNS if header.count(name) > 1]:
        raise BipvlError(f"has the column {repeated[0]} twice", "keep one of them", path)
    return header, [line for line in lines if any(line)]


def _cell_issues(header: list[str], lines: list[list[str]]) -> Iterator[BipvlError]:
    for number, line in enumerate(lines, start=1):
        cells = dict(zip(header, line, strict=False))
        if any(line[len(header) :]):
            problem = f"has {len(line)} cells in row {number}, but {len(header)} in its header"
            yield BipvlError(problem, "put a text that holds a comma in quotes")
        elif empty := [name for name in COLUMNS if not cells.get(name)]:
            problem = f"is incomplete: row {number} has no text under {', '.join(empty)}"
            yield BipvlError(problem, "fill it in")
        elif unfilled := [name for name in COLUMNS if FILL_IN in cells[name]]:
            problem = f"is a draft: row {number} still holds '{FILL_IN}' under {', '.join(unfilled)}"
            yield BipvlError(problem, "write what can be seen in a scan")


def _class_issues(rows: list[dict[str, str]], spec: DatasetSpec) -> Iterator[BipvlError]:
    """There must be one row per class, in order, and each title once."""
    titles = [row.get("Title", "") for row in rows]
    for number, title in enumerate(titles, start=1):
        if not any(_matched_length(title, c) for c in spec.classes):
            known = ", ".join(c.name for c in spec.classes)
            problem = f"matches no class with the title of row {number}, '{title}'"
            yield BipvlError(problem, f"the classes are {known}")
    if len(rows) != spec.num_classes:
        fix = f"give one row for each of the {spec.num_classes} classes of {spec.title}"
        yield BipvlError(f"has {len(rows)} rows", fix)
    for number, title in enumerate(titles, start=1):
        if title in titles[: number - 1]:
            yield BipvlError(f"repeats a title in row {number}, '{title}'", "give each class its own row")
    for number, (title, c) in enumerate(zip(titles, spec.classes, strict=False), start=1):
        if len(rows) == spec.num_classes and not _matched_length(title, c):
            problem = f"is out of order: the title of row {number}, '{title}', does not contain '{c.name}'"
            yield BipvlError(problem, f"put the rows in the order of the classes of {spec.title}")


def _matched_length(title: str, c: ClassSpec) -> int:
    """The length of the longest name of a class that a title contains; 0 if it contains none."""
    return max(len(name) * (name.casefold() in title.casefold()) for name in (c.name, *c.aliases))
