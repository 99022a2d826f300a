"""The one exception that a user is meant to read."""

from pathlib import Path
from typing import Self


class BipvlError(Exception):
    """Bad input, as one sentence: what is wrong, and how to fix it.

    The command line prints the sentence and exits with 1; it never shows a traceback for it. ``bipvl check``
    lists the same errors as a table.

    Args:
        problem: what is wrong, without a full stop. It does not repeat the file's name.
        fix: what the user should do, without a full stop.
        file: the file, folder or other source of the problem.

    Example:
        >>> print(BipvlError("'spacing' is missing", "add it", "knee.yaml"))
        knee.yaml: 'spacing' is missing; add it
    """

    def __init__(self, problem: str, fix: str, file: str | Path | None = None) -> None:
        super().__init__(problem, fix, file)  # all of them, so that a worker process can send the error
        self.problem, self.fix, self.file = problem, fix, file

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}: "
        return f"{where}{self.problem}; {self.fix}"

    def at(self, file: str | Path) -> Self:
        """The same error, about ``file`` if it names none yet."""
        return self if self.file is not None else type(self)(self.problem, self.fix, file)
