"""The steps that a reproduction would run and why, from snakemake's dry run."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bipvl.common.errors import BipvlError

INHERITED = "new input from an earlier step"
"""Said only of a step that has no other reason."""
REASONS = {
    "Forced execution": "forced",
    "Missing output files": "missing output",
    "Incomplete output files": "interrupted",
    "Params have changed": "changed settings",
    "Updated input files": "changed input",
    "Set of input files has changed": "other inputs",
    "Input files updated by another job": INHERITED,
}
"""How snakemake's reasons for a step begin → what `make plan` says."""
JOB = re.compile(r"^(?:local)?rule \w+:\n((?: {4}.*\n)+)", re.MULTILINE)
FIELD = re.compile(r"^ {4}(output|reason|priority): (.*)$", re.MULTILINE)
ERROR = re.compile(r"^(bipvl: |\w*(Error|Exception)\b)")


@dataclass(frozen=True)
class Step:
    """One notebook or page that would be written.

    Attributes:
        output: its first file.
        why: the reasons, such as "missing output".
        priority: steps with a higher one start earlier.
    """

    output: str
    why: str
    priority: int = 0

    def __str__(self) -> str:
        return f"{self.output}: {self.why}"


def dry_run(options: Sequence[str]) -> list[Step]:
    """The steps of a dry run of snakemake, which gets all options of the real run.

    Raises:
        BipvlError: snakemake failed.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "host", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BipvlError(f"snakemake cannot plan the steps:\n{_error(done.stdout)}", "correct the cause")
    return read_steps(done.stdout)


def read_steps(text: str) -> list[Step]:
    """The steps in the output of a dry run, by priority."""
    found = [dict(FIELD.findall(job)) for job in JOB.findall(text)]
    steps = [
        Step(fields["output"].split(",")[0], explain(fields["reason"]), int(fields.get("priority", 0)))
        for fields in found
        if "output" in fields  # the final target has none
    ]
    # Snakemake lists steps of equal priority in any order; the notebooks of studies wait for the runs.
    return sorted(steps, key=lambda step: (-step.priority, "/studies/" in step.output, step.output))


def explain(reason: str) -> str:
    """Snakemake's reason for a step in a few words; one that is not known stays as it is."""
    found = [short for start, short in REASONS.items() if start in reason]
    return ", ".join(found[:-1] if found[1:] and found[-1] == INHERITED else found) or reason


def _error(text: str) -> str:
    """A failed dry run's output from its first error on."""
    lines = text.splitlines()
    first = next((n for n, line in enumerate(lines) if ERROR.match(line)), 0)
    return "\n".join(lines[first:])
