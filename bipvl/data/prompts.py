"""The prompt table: for each class a title and five visually observable concepts."""

import csv
from dataclasses import dataclass
from pathlib import Path

from bipvl.data.spec import ClassSpec, DatasetSpec
from bipvl.errors import BipvlError

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
        BipvlError: unreadable file, a column missing, an empty cell, a row too many or too few, a title that
            does not contain its class's name.
    """
    path = Path(path)
    rows = _read(path)
    if spec:
        if len(rows) != spec.num_classes:
            raise BipvlError(
                f"{path} has {len(rows)} rows; {spec.title} has {spec.num_classes} classes, a row each."
            )
        for number, (row, c) in enumerate(zip(rows, spec.classes, strict=True), start=1):
            if not _names(row["Title"], c):
                raise BipvlError(
                    f"{path}: the title of row {number}, '{row['Title']}', does not contain '{c.name}'; "
                    f"the rows must follow the order of the classes of {spec.title}."
                )
    return PromptTable(path.stem, rows)


def default_prompts(spec: DatasetSpec) -> PromptTable:
    """The prompts that the dataset's YAML names."""
    return read_prompts(spec.prompts, spec)


def _read(path: Path) -> tuple[dict[str, str], ...]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except UnicodeDecodeError as error:
        raise BipvlError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8'.") from error
    except (OSError, csv.Error) as error:
        raise BipvlError(
            f"{path} cannot be read as CSV ({error}); expected the columns {', '.join(COLUMNS)}."
        ) from error
    header = [name.strip() for name in header]
    if missing := [name for name in COLUMNS if name not in header]:
        raise BipvlError(f"{path} lacks the columns {', '.join(missing)}; it must have {', '.join(COLUMNS)}.")
    rows = []
    for number, line in enumerate((line for line in lines if any(map(str.strip, line))), start=1):
        cells = dict(zip(header, map(str.strip, line), strict=False))
        if empty := [name for name in COLUMNS if not cells.get(name)]:
            raise BipvlError(f"{path}: row {number} has no text under {', '.join(empty)}; fill it in.")
        rows.append({name: cells[name] for name in COLUMNS})
    return tuple(rows)


def _names(title: str, c: ClassSpec) -> bool:
    return any(name.casefold() in title.casefold() for name in (c.name, *c.aliases))
