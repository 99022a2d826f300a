"""The prompt table: for each class a title and five visually observable concepts."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.issues import Fault
from bipvl.data.spec import FILL_IN, ClassSpec, DatasetSpec

CONCEPTS: tuple[str, ...] = (
    "Shape",
    "Location",
    "Appearance/Density",
    "Contour/Symmetry",
    "Internal Texture",
)
COLUMNS: tuple[str, ...] = ("Title", *CONCEPTS)


@dataclass(frozen=True)
class PromptTable:
    """One row a class, each a mapping of COLUMNS to text. Paper, section on prompts: K = 5 concepts."""

    name: str
    rows: tuple[dict[str, str], ...]

    def segments(self) -> list[list[str]]:
        """N x (K + 1) short texts: the title alone, then each concept with its name."""
        return [[row["Title"], *(f"{concept}: {row[concept]}" for concept in CONCEPTS)] for row in self.rows]

    def descriptions(self) -> list[str]:
        """N full texts: the title, then each concept with its name."""
        return [". ".join(text.rstrip(". ") for text in texts) + "." for texts in self.segments()]


def read_prompts(path: str | Path, spec: DatasetSpec | None = None) -> PromptTable:
    """Read a prompt CSV (UTF-8; further columns are ignored) and, given a spec, check it against the classes.

    Raises:
        BipvlError: unreadable file, a column missing or there twice, an empty cell, a cell too many; a row
            too many or too few, one title twice, a title that does not contain its class's name.
    """
    rows, faults = _read(Path(path), spec)
    if faults:
        raise faults[0].error
    return PromptTable(Path(path).stem, tuple({name: row[name] for name in COLUMNS} for row in rows))


def prompt_faults(path: str | Path, spec: DatasetSpec) -> list[Fault]:
    """All that is wrong with a prompt CSV at once."""
    try:
        return _read(Path(path), spec)[1]
    except BipvlError as error:
        return [Fault.told(path, error)]


def check_prompts(table: PromptTable, spec: DatasetSpec, source: str) -> None:
    """Hold a table that may not come from a file against the classes, as ``read_prompts`` does.

    Raises:
        BipvlError: as there, of ``source``.
    """
    lines = [[row.get(name, "").strip() for name in COLUMNS] for row in table.rows]
    for told in [*_cell_faults([*COLUMNS], lines), *_class_faults([*table.rows], spec)]:
        raise Fault(source, *told).error


def named_classes(table: PromptTable, spec: DatasetSpec, source: str) -> tuple[ClassSpec, ...]:
    """For each row the class that its title names, or a new one: called by the title, with the next code.

    For networks whose channels the rows make: some of the classes, in any order, and others besides.

    Raises:
        BipvlError: an empty cell, no row, or two rows of one class, of ``source``.
    """
    lines = [[row.get(name, "").strip() for name in COLUMNS] for row in table.rows]
    for told in _cell_faults([*COLUMNS], lines):
        raise Fault(source, *told).error
    if not lines:
        raise Fault(source, "has no row", "give a row for each class to segment").error
    found: list[ClassSpec] = []
    free = max(spec.known_codes) + 1
    for number, (title, *_) in enumerate(lines, start=1):
        known = max(spec.classes, key=lambda c: _named_part(title, c))
        if not _named_part(title, known):
            known, free = ClassSpec(name=title, codes=(free,)), free + 1
        if known.name in {c.name for c in found}:
            told = f"names the class '{known.name}' again in row {number}, '{title}'"
            raise Fault(source, told, "give each class one row").error
        found.append(known)
    return tuple(found)


def default_prompts(spec: DatasetSpec) -> PromptTable:
    """The prompts that the dataset's YAML names."""
    return read_prompts(spec.prompts, spec)


def _read(path: Path, spec: DatasetSpec | None) -> tuple[list[dict[str, str]], list[Fault]]:
    """The rows, each a mapping of columns to cells, and what is wrong with them."""
    header, lines = _lines(path)
    rows = [dict(zip(header, line, strict=False)) for line in lines]
    told = [*_cell_faults(header, lines), *(_class_faults(rows, spec) if spec else ())]
    return rows, [Fault(str(path), *parts) for parts in told]


def _lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and filled lines; BipvlError where there are no such, or a column is missing or there twice."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [[*map(str.strip, line)] for line in csv.reader(file, strict=True)] or [[]]
    except UnicodeDecodeError as error:
        raise BipvlError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8'.") from error
    except (OSError, csv.Error) as error:
        raise BipvlError(
            f"{path} cannot be read as CSV ({error}); expected the columns {', '.join(COLUMNS)}."
        ) from error
    if missing := [name for name in COLUMNS if name not in header]:
        hint = ", separated by commas" if len(header) == 1 and header[0] else ""
        raise BipvlError(
            f"{path} lacks the columns {', '.join(missing)}; it must have {', '.join(COLUMNS)}{hint}."
        )
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise BipvlError(f"{path} has the column {twice[0]} twice; keep one of them.")
    return header, [line for line in lines if any(line)]


def _cell_faults(header: list[str], lines: list[list[str]]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        cells = dict(zip(header, line, strict=False))
        if any(line[len(header) :]):
            told = f"does not fit its columns: row {number} has {len(line)} cells, the header {len(header)}"
            yield told, "put a text that holds a comma in quotes"
        elif empty := [name for name in COLUMNS if not cells.get(name)]:
            yield f"is incomplete: row {number} has no text under {', '.join(empty)}", "fill it in"
        elif drafted := [name for name in COLUMNS if FILL_IN in cells[name]]:
            told = f"is a draft: row {number} still holds '{FILL_IN}' under {', '.join(drafted)}"
            yield told, "write there what can be seen in a scan"


def _class_faults(rows: list[dict[str, str]], spec: DatasetSpec) -> Iterator[tuple[str, str]]:
    """A row a class in order, no row of none, no title twice."""
    titles = [row.get("Title", "") for row in rows]
    for number, title in enumerate(titles, start=1):
        if not any(_names(title, c) for c in spec.classes):
            known = ", ".join(c.name for c in spec.classes)
            yield f"matches no class with the title of row {number}, '{title}'", f"the classes are {known}"
    if len(rows) != spec.num_classes:
        yield f"has {len(rows)} rows", f"{spec.title} has {spec.num_classes} classes, a row each"
    for number, title in enumerate(titles, start=1):
        if title in titles[: number - 1]:
            yield f"has the title of row {number}, '{title}', twice", "give each class its own row"
    for number, (title, c) in enumerate(zip(titles, spec.classes, strict=False), start=1):
        if len(rows) == spec.num_classes and not _names(title, c):
            told = f"is out of order: the title of row {number}, '{title}', does not contain '{c.name}'"
            yield told, f"the rows must follow the order of the classes of {spec.title}"


def _names(title: str, c: ClassSpec) -> bool:
    return bool(_named_part(title, c))


def _named_part(title: str, c: ClassSpec) -> int:
    """The length of the longest of a class's names that a title contains; 0 where it contains none."""
    return max(len(name) * (name.casefold() in title.casefold()) for name in (c.name, *c.aliases))
