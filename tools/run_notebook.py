"""Executing a notebook from the workflow: its file is whole or absent, its progress reaches the terminal.

As a program: ``python tools/run_notebook.py NOTEBOOK OUTPUT name=value …``
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path

# Read by tqdm in the kernel. Rare lines of plain text: a terminal shared by several notebooks, a log file
# and an HTML page can all show them, which none of them can with tqdm's widget or a line that is overwritten.
PLAIN_PROGRESS = {
    "TQDM_MININTERVAL": "10",
    "TQDM_NCOLS": "100",
    "SPYDER_TQDM": "text",  # tqdm.auto draws text, not a widget, where a variable of Spyder's is set
}


class Lines:
    """A text file that prints each line under a label; a progress bar's new state is a line too."""

    def __init__(self, *, label: str, target: Any = None) -> None:
        self.label, self.target, self.rest = label, target or sys.stderr, ""

    def write(self, text: str) -> None:
        """Print what is complete: tqdm writes a state as a whole, after a carriage return."""
        *lines, self.rest = re.split(r"[\r\n]", self.rest + text)
        if "\r" in text:
            lines, self.rest = [*lines, self.rest], ""
        for line in filter(str.strip, lines):
            print(f"{self.label}: {line.rstrip()}", file=self.target, flush=True)

    def flush(self) -> None:
        """Nothing waits but a line that is not whole."""


def execute(notebook: str | Path, output: str | Path, parameters: Mapping[str, Any]) -> None:
    """Execute ``notebook`` with ``parameters`` into ``output``, which appears when all its cells have run.

    Raises:
        BipvlError: a cell failed (its own sentence where it raised a BipvlError) and the notebook lies beside
            ``output``, with ``.failed`` in its name; or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    output = Path(output)
    label, failed = "/".join(output.parts[2:-1]) or output.stem, output.with_suffix(".failed.ipynb")
    os.environ.update(PLAIN_PROGRESS)
    progress = Lines(label=label)
    progress.write(f"{Path(notebook).stem} starts\n")
    with atomic_path(output) as temporary:
        try:
            papermill.execute_notebook(
                notebook,
                temporary,
                dict(parameters),
                progress_bar=False,
                request_save_on_cell_execute=False,
                stderr_file=progress,  # where tqdm and warnings write; what cells print stays in the notebook
                coalesce_streams=True,
                extra_arguments=["--log-level=CRITICAL"],  # of the kernel, which complains when it is stopped
            )
        except papermill.PapermillExecutionError as error:
            os.replace(temporary, failed)
            text = error.evalue if error.ename == "BipvlError" else str(error)
            raise BipvlError(f"{label}: {text} (see {failed})") from None
        except DeadKernelError:
            raise BipvlError(
                f"{label}: the notebook's process was ended from outside, most often for want of memory; "
                "try fewer JOBS"
            ) from None
    failed.unlink(missing_ok=True)
    progress.write("done\n")


def main() -> int:
    """The program; returns its exit code."""
    notebook, output, *pairs = sys.argv[1:]
    parameters = {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    try:
        execute(notebook, output, parameters)
    except BipvlError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
