"""Run and count the stress tests: python tests/stress.py figures --kills 100

Writes stress.csv and stress.md; the report's index shows the same table. Exits with an error if a test fails.
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
TESTED = {
    "killed trainings (SIGKILL at random moments) that are resumed": (
        "test_resume.py::test_trainings_killed_at_random_moments_end_with_the_same_bytes"
    ),
    "bipvl check on corrupt data sets and prompts": (
        "test_corruptions.py::test_each_corruption_is_reported_by_file_problem_and_fix"
    ),
    "bipvl check on wrong data set YAML files": (
        "test_corruptions.py::test_a_wrong_yaml_is_reported_in_one_sentence"
    ),
    "other commands on corrupt data, splits, runs, weights, scans and prompts": (
        "test_corruptions_of_commands.py::test_bad_input_is_reported_in_one_sentence"
    ),
    "wrong arguments and folders on the command line": (
        "test_cli.py::test_bad_input_is_reported_in_a_sentence_and_writes_nothing"
    ),
    "scans in every orientation, oblique, 1.5 mm": (
        "test_inversion.py::test_every_orientation_returns_to_the_voxel"
    ),
    "scans in every orientation, oblique, 0.5 to 5 mm": (
        "test_inversion.py::test_every_orientation_returns_from_another_spacing"
    ),
    "scans of any shape, one or four channels": "test_inversion.py::test_any_shape_returns_to_the_voxel",
    "scans with different headers": "test_inversion.py::test_headers_of_any_kind_are_kept",
}
"""Description → test; each parameter of a test counts as one case."""


@dataclass
class Counter:
    """A pytest plugin that counts, for each test, the passed cases, the failed cases, and the seconds."""

    kills: int
    passed: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Set the number of kills."""
        config.option.kills = self.kills

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test's setup, call or teardown; a test may report its own counts (``held``, ``of``)."""
        path, _, case = report.nodeid.partition("[")
        test = path.rpartition("/")[2]
        self.seconds[test] = self.seconds.get(test, 0) + report.duration
        if report.failed:
            self.failed.setdefault(test, []).append(case.removesuffix("]") or test.partition("::")[2])
        if report.when == "call" or report.failed:
            counted = {"held": int(report.passed), "of": 1} | dict(report.user_properties)
            self.passed[test] = self.passed.get(test, 0) + counted["held"]
            self.total[test] = self.total.get(test, 0) + counted["of"]

    def table(self) -> pd.DataFrame:
        """One row per entry of ``TESTED``, with commit, packages and machine."""
        state = environment()
        hardware = state["hardware"]
        rows = [
            {
                "what": what,
                "held": self.passed.get(test, 0),
                "of": self.total.get(test, 0),
                "seconds": round(self.seconds.get(test, 0)),
                "failed": ", ".join(self.failed.get(test, [])),
            }
            for what, test in TESTED.items()
        ]
        return pd.DataFrame(rows).assign(
            commit=state["commit"],
            python=state["python"],
            packages=", ".join(f"{name} {number}" for name, number in state["packages"].items()),
            machine=f"{hardware['machine']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB",
        )


def page(table: pd.DataFrame) -> str:
    """The table as Markdown, with its note."""
    rows = [[str(cell) for cell in row] for row in table[[*STRESS]].itertuples(index=False)]
    return f"{markdown([*STRESS.values()], rows)}\n\n{stress_note(table)}\n"


def main() -> int:
    """Run the tests and write the counts; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for stress.csv and stress.md")
    parser.add_argument("--kills", type=int, default=100, help="total number of kills of trainings")
    arguments = parser.parse_args()
    counter, tests = Counter(arguments.kills), [str(TESTS / test) for test in TESTED.values()]
    # --capture=sys lets the progress bar of the kills through.
    flags = ["-q", "--no-header", "--disable-warnings", "--capture=sys", "-p", "no:cacheprovider"]
    code = pytest.main([*tests, *flags], plugins=[counter])
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        write_csv(arguments.folder / "stress.csv", table := counter.table())
        write_text(arguments.folder / "stress.md", page(table))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
