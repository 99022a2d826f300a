"""Tables, links and make targets in the README and the pages of docs/."""

import re
from pathlib import Path

import pytest

from bipvl.common.errors import BipvlError
from tools.update_tables import BLOCK, pages, update, with_tables

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in pages(ROOT)}


@pytest.mark.parametrize("page", PAGES)
def test_tables_match_the_committed_results(page):
    assert with_tables(PAGES[page], ROOT) == PAGES[page], "run: python tools/update_tables.py"


def test_the_readme_shows_the_main_tables_and_the_claims():
    assert [name for _, name, _ in BLOCK.findall(PAGES["README.md"])] == [
        "figures/quick/main_table.md",
        "figures/quick/claims.md",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_and_pictures_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)", PAGES[page]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_index_and_readme_link_every_page():
    for page in PAGES.keys() - {"README.md", "docs/index.md"}:
        assert f"({Path(page).name})" in PAGES["docs/index.md"], page
        assert f"({page})" in PAGES["README.md"], page


def test_update_replaces_tables_and_does_not_write_pages_without_tables(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.md").write_text("new\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("<!-- figures/x.md -->\nold\n<!-- end -->\n", encoding="utf-8")
    (tmp_path / "docs" / "plain.md").write_text("plain\n", encoding="utf-8")
    before = (tmp_path / "docs" / "plain.md").stat().st_ino
    update(tmp_path)
    assert (tmp_path / "README.md").read_text() == "<!-- figures/x.md -->\nnew\n<!-- end -->\n"
    assert (tmp_path / "docs" / "plain.md").stat().st_ino == before


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(BipvlError, match=r"x\.md: file not found; create it with: make reproduce"):
        with_tables("<!-- figures/x.md -->\n<!-- end -->", tmp_path)
