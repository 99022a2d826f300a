"""What is wrong with a file of a dataset, as a row of a table and as a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bipvl.common.errors import BipvlError

WIDEST = 60
"""Characters to which a column of the table is filled up."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with which file, and what to do; ``str`` makes "<file> <fault>; <fix>." of it."""

    file: str
    fault: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file} {self.fault}; {self.fix}."

    @classmethod
    def told(cls, file: str | Path, error: BipvlError) -> "Fault":
        """A BipvlError about a file in its parts, with or without the file's name at its head."""
        told, _, fix = str(error).rstrip(".").rpartition("; ")
        fault = (told or fix).removeprefix(str(file)).lstrip(": ")
        return cls(str(file), fault, fix if told else "correct it")

    @property
    def error(self) -> BipvlError:
        """The fault as what stops a command."""
        return BipvlError(str(self))


def fault_table(faults: Sequence[Fault]) -> str:
    """Columns of file, fault and fix under their names, so far aligned as texts of usual length are.

    Each row, blanks aside, is the fault's sentence.
    """
    rows = [("file", "fault", "fix"), *((f.file, f"{f.fault};", f"{f.fix}.") for f in faults)]
    files, told = (min(max(len(row[column]) for row in rows), WIDEST) for column in (0, 1))
    return "\n".join(f"{file:{files}}  {fault:{told}}  {fix}" for file, fault, fix in rows)
