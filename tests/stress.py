"""What the package withstands, counted: python tests/stress.py figures --kills 100

The tests that spoil, kill and turn are run, the killing one as often as it is told. Leaves stress.csv, and
stress.md to read; the report's index shows the same. Ends with an error where anything did not hold.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from bipvl.analysis.tables import markdown
from bipvl.common.files import write_csv, write_text
from bipvl.engine.manifest import environment
from tools.report import STRESS, stress_note

TESTS = Path(__file__).parent
COUNTED = {
    "trainings killed (SIGKILL) at random moments, then gone on with": (
        "test_resume.py::test_killed_at_random_moments_trainings_end_with_the_same_bytes"
    ),
    "data sets and prompts with faults, to check": (
        "test_corruptions.py::test_a_corruption_is_told_in_a_sentence"
    ),
    "dataset YAML files with a fault, to check": "test_corruptions.py::test_a_yaml_is_told_in_a_sentence",
    "data, splits, runs, weights, scans and prompts with a fault, to the other commands": (
        "test_corruptions_of_commands.py::test_a_corruption_is_told_in_a_sentence"
    ),
    "wrong words and folders on the command line": "test_cli.py::test_bad_input_is_a_sentence",
    "axis orientations, oblique, 1.5 mm": "test_inversion.py::test_every_orientation_returns_to_the_voxel",
    "oblique affines in every orientation, spacings from 0.5 to 5 mm": (
        "test_inversion.py::test_every_orientation_returns_from_another_spacing"
    ),
    "shapes, with one channel and with four": "test_inversion.py::test_any_shape_returns_to_the_voxel",
    "kinds of header": "test_inversion.py::test_a_header_of_any_kind_is_kept",
}
"""What is done → the test that does it, once for each of its parameters."""


@dataclass
class Count:
    """A pytest plugin: of each test how many of its cases held, which failed, and their seconds."""

    kills: int
    held: dict[str, int] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Tell the tests how often to kill."""
        config.option.kills = self.kills

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test's setup, call or teardown; it may say itself how much it did (``held``, ``of``)."""
        path, _, case = report.nodeid.partition("[")
        test = path.rpartition("/")[2]
        self.seconds[test] = self.seconds.get(test, 0) + report.duration
        if report.failed:
            self.failed.setdefault(test, []).append(case.removesuffix("]") or test.partition("::")[2])
        if report.when == "call" or report.failed:
            counted = {"held": int(report.passed), "of": 1} | dict(report.user_properties)
            self.held[test] = self.held.get(test, 0) + counted["held"]
            self.of[test] = self.of.get(test, 0) + counted["of"]

    def table(self) -> pd.DataFrame:
        """A row for each entry of ``COUNTED``, with what it was counted on."""
        made = environment()
        hardware = made["hardware"]
        where = {
            "commit": made["commit"],
            "python": made["python"],
            "packages": ", ".join(f"{name} {number}" for name, number in made["packages"].items()),
            "machine": f"{hardware['machine']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB",
        }
        rows = [
            {
                "what": what,
                "held": self.held.get(test, 0),
                "of": self.of.get(test, 0),
                "seconds": round(self.seconds.get(test, 0)),
                "failed": ", ".join(self.failed.get(test, [])),
            }
            | where
            for what, test in COUNTED.items()
        ]
        return pd.DataFrame(rows)


def page(table: pd.DataFrame) -> str:
    """Markdown of the table."""
    rows = [[str(cell) for cell in row] for row in table[[*STRESS]].itertuples(index=False)]
    return f"{markdown([*STRESS.values()], rows)}\n\n{stress_note(table)}\n"


def main() -> int:
    """Run the tests and write what they counted; the exit code is theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where stress.csv and stress.md go")
    parser.add_argument("--kills", type=int, default=100, help="how often trainings are killed in all")
    words = parser.parse_args()
    count, tests = Count(words.kills), [str(TESTS / test) for test in COUNTED.values()]
    # Captured in Python alone, so that the bar of the kills is seen.
    flags = ["-q", "--no-header", "--disable-warnings", "--capture=sys", "-p", "no:cacheprovider"]
    code = pytest.main([*tests, *flags], plugins=[count])
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        write_csv(words.folder / "stress.csv", table := count.table())
        write_text(words.folder / "stress.md", page(table))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
