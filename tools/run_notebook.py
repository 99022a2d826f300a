"""Execute a notebook for the workflow: atomic output, progress on the terminal.

python tools/run_notebook.py NOTEBOOK OUTPUT name=value …
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

# For tqdm in the kernel: infrequent lines of plain text. Unlike a widget or an overwritten line, a terminal
# shared by several notebooks, a log file and an HTML page can all show them.
PLAIN_PROGRESS = {
    "TQDM_MININTERVAL": "10",
    "TQDM_NCOLS": "100",
    "SPYDER_TQDM": "text",  # a variable of Spyder that makes tqdm.auto draw text instead of a widget
}


class LabelledLines:
    """A text file that prints each line with a label; each update of a progress bar becomes a line."""

    def __init__(self, *, label: str, target: Any = None) -> None:
        self.label, self.target, self.rest = label, target or sys.stderr, ""

    def write(self, text: str) -> None:
        """Print the complete lines; tqdm writes each update as a whole, after a carriage return."""
        *lines, self.rest = re.split(r"[\r\n]", self.rest + text)
        if "\r" in text:
            lines, self.rest = [*lines, self.rest], ""
        for line in filter(str.strip, lines):
            print(f"{self.label}: {line.rstrip()}", file=self.target, flush=True)

    def flush(self) -> None:
        """Nothing to do: ``write`` flushes complete lines."""


def execute(notebook: str | Path, output: str | Path, parameters: Mapping[str, Any]) -> None:
    """Execute ``notebook`` with ``parameters`` into ``output``, which appears when all its cells have run.

    Raises:
        BipvlError: a cell failed, or the kernel died. The notebook of a failed cell is kept beside
            ``output``, with ``.failed`` in its name.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    output = Path(output)
    label, failed = "/".join(output.parts[2:-1]) or output.stem, output.with_suffix(".failed.ipynb")
    os.environ.update(PLAIN_PROGRESS)
    progress = LabelledLines(label=label)
    progress.write(f"{Path(notebook).stem} starts\n")
    with atomic_path(output) as temporary:
        try:
            papermill.execute_notebook(
                notebook,
                temporary,
                dict(parameters),
                progress_bar=False,
                request_save_on_cell_execute=False,
                stderr_file=progress,  # tqdm and warnings; printed output stays in the notebook
                coalesce_streams=True,
                extra_arguments=["--log-level=CRITICAL"],  # the kernel logs errors when it is stopped
            )
        except papermill.PapermillExecutionError as error:
            os.replace(temporary, failed)
            problem = error.evalue if error.ename == "BipvlError" else str(error)
            raise BipvlError(problem, f"see the failed cell in {failed}", label) from None
        except DeadKernelError:
            problem = "the notebook's process was killed, most often for lack of memory"
            raise BipvlError(problem, "try fewer JOBS", label) from None
    failed.unlink(missing_ok=True)
    progress.write("done\n")


def main() -> int:
    """The command line; returns the exit code."""
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
