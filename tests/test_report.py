"""The report's pages: nothing that comes from data is run by a browser; what was counted stands there."""

import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from stress import COUNTED, Count, page

from tools.report import cleaned, write_report

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def report(tmp_path, monkeypatch):
    """(…) → the text of the index and of the one page of a report in which each name is ``EVIL``."""
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
    for name in ("a<img src=x>.png", "a<b>.csv"):
        (figures / name).touch()

    def make() -> tuple[str, str]:
        index = Path("report/quick/index.html")
        write_report(index, [folder / "notebook.ipynb"], figures=figures)
        return tuple(
            p.read_text(encoding="utf-8") for p in (index, index.with_name("mine-bipvlseg-seed0.html"))
        )

    return make


def test_nothing_that_comes_from_data_is_run(report):
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
def test_what_a_browser_runs_is_taken_away(html):
    assert not re.search(r"<(iframe|script)|<[^>]*(onerror|javascript)", cleaned(html))


def test_tables_of_pandas_are_shown_without_their_style():
    table = pd.DataFrame({"case": ["<b>"], "dice": [0.5]})
    html = cleaned(table._repr_html_())
    assert "style" not in html and "<th>case</th>" in html and "<td>&lt;b&gt;</td>" in html


# --- what `make stress` counts ---


def counted() -> pd.DataFrame:
    """Of the first entry one of two held, of the second all."""
    count, (first, second, *_) = Count(kills=2), COUNTED.values()
    for test, properties in ((first, [("held", 1), ("of", 2)]), (second + "[a]", []), (second + "[b/c]", [])):
        for when in ("setup", "call"):
            failed = when == "call" and test == first
            count.pytest_runtest_logreport(
                pytest.TestReport(
                    f"tests/{test}",
                    ("", 0, ""),
                    {},
                    "failed" if failed else "passed",
                    None,
                    when,
                    duration=1.0,
                    user_properties=properties,
                )
            )
    return count.table()


def test_what_held_and_what_did_not_is_counted():
    table = counted()
    assert table["held"].tolist()[:3] == [1, 2, 0] and table["of"].tolist()[:3] == [2, 2, 0]
    assert table["failed"][0].startswith("test_killed_at_random_moments") and not table["failed"][1]
    assert table["seconds"].tolist()[:2] == [2, 4]
    assert "| 1 | 2 | 2 | test_killed" in page(table)


def test_every_test_that_is_counted_is_there():
    for test in COUNTED.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in Path(__file__).with_name(file).read_text(encoding="utf-8")


def test_the_index_shows_what_was_counted_where_and_when(report):
    table = counted()
    table.to_csv("figures/stress.csv", index=False)
    index, _ = report()
    assert re.search(
        r"<td>trainings killed .*</td><td>1</td><td>2</td><td>2</td><td>test_killed.*</td>", index
    )
    assert table["commit"][0] in index and table["packages"][0] in index
    assert Path("report/quick/stress.csv").is_file()
