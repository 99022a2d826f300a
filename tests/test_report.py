"""The report: text from data is escaped, and the results of ``make stress`` are shown."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from stress import TESTED, Counter, page

from tools.report import sanitize, write_report

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A function that writes a report with ``EVIL`` in every name; it returns index and page as text."""
    monkeypatch.chdir(tmp_path)
    folder, figures = Path("runs/quick/mine/bipvlseg/seed0"), Path("figures/quick")
    folder.mkdir(parents=True)
    figures.mkdir(parents=True)
    shown = [{"text/html": f"<table><tr><th>{EVIL}</th></tr></table>"}, {"text/markdown": f"**bold** {EVIL}"}]
    outputs = [new_output("display_data", data) for data in shown]
    outputs.append(new_output("stream", name="stdout", text=EVIL))
    cells = [new_markdown_cell(f"# Title {EVIL}\n\nOne *word*"), new_code_cell("1 + 1", outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), folder / "notebook.ipynb")
    config = {
        "profile": EVIL,
        "cohort": EVIL,
        "dataset": "amos22",
        "variant": "x",
        "title": EVIL,
        "seed": EVIL,
    }
    (folder / "config.json").write_text(json.dumps(config))
    phase = {"seconds": 1, "peak_memory_gib": 1, "commit": EVIL}
    (folder / "manifest.json").write_text(json.dumps({"phases": {"train": phase}}))
    (figures / "claims.csv").write_text(f"claim,verdict\n{EVIL},{EVIL}\n")
    for name in ("a<img src=x>.png", "a<img src=x>.csv", "a<b>.npz"):
        (figures / name).touch()

    def make() -> tuple[str, str]:
        index = Path("report/quick/index.html")
        write_report(index, [folder / "notebook.ipynb"], figures=figures)
        page = index.with_name("mine-bipvlseg-seed0.html")
        return index.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")

    return make


def test_html_from_data_is_escaped(report):
    for text in report():
        assert EVIL not in text and "<img src=x>" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_a_notebook_keeps_its_headings_tables_and_emphasis(report):
    page = report()[1]
    assert re.search(r"<h1[^>]*>Title", page)
    assert all(html in page for html in ("<strong>bold</strong>", "<em>word</em>", "<th>&lt;script&gt;"))


@pytest.mark.parametrize(
    "html",
    ['<a href="javascript:alert(1)">x</a>', '<img src="x" onerror="alert(1)">', "<iframe src=x></iframe>"],
)
def test_active_html_is_removed(html):
    assert not re.search(r"<(iframe|script)|<[^>]*(onerror|javascript)", sanitize(html))


def test_tables_of_pandas_are_kept_without_their_style():
    table = pd.DataFrame({"case": ["<b>"], "dice": [0.5]})
    html = sanitize(table._repr_html_())
    assert "style" not in html and "<th>case</th>" in html and "<td>&lt;b&gt;</td>" in html


# --- `make stress` ---


def stress_table() -> pd.DataFrame:
    """A table in which one of two cases of the first test passed, and all of the second."""
    count, (first, second, *_) = Counter(kills=2), TESTED.values()
    for test, properties in ((first, [("held", 1), ("of", 2)]), (second + "[a]", []), (second + "[b/c]", [])):
        for when in ("setup", "call"):
            outcome = "failed" if when == "call" and test == first else "passed"
            report = pytest.TestReport(
                f"tests/{test}",
                ("", 0, ""),
                {},
                outcome,
                None,
                when,
                duration=1.0,
                user_properties=properties,
            )
            count.pytest_runtest_logreport(report)
    return count.table()


def test_passed_and_failed_cases_are_counted():
    table = stress_table()
    assert table["held"].tolist()[:3] == [1, 2, 0] and table["of"].tolist()[:3] == [2, 2, 0]
    assert table["failed"][0].startswith("test_trainings_killed") and not table["failed"][1]
    assert table["seconds"].tolist()[:2] == [2, 4]
    assert "| 1 | 2 | 2 | test_trainings_killed" in page(table)


def test_every_stress_test_exists():
    for test in TESTED.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in Path(__file__).with_name(file).read_text(encoding="utf-8")


def test_the_index_shows_the_stress_tests_with_commit_and_packages(report):
    table = stress_table()
    table.to_csv("figures/stress.csv", index=False)
    index, _ = report()
    assert re.search(
        r"<td>killed trainings .*</td><td>1</td><td>2</td><td>2</td><td>test_trainings_killed.*</td>", index
    )
    assert table["commit"][0] in index and table["packages"][0] in index
    assert Path("report/quick/stress.csv").is_file()
