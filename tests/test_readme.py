"""The README and the pages of docs/ say what the repository holds."""

import re
from pathlib import Path

import pytest

from bipvl.common.errors import BipvlError
from tools.update_tables import BLOCK, filled, pages, refill

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in pages(ROOT)}


@pytest.mark.parametrize("page", PAGES)
def test_its_tables_are_those_of_the_committed_results(page):
    assert filled(PAGES[page], ROOT) == PAGES[page], "make it anew with: python tools/update_tables.py"


def test_the_main_table_and_the_claims_stand_in_the_readme():
    assert [name for _, name, _ in BLOCK.findall(PAGES["README.md"])] == [
        "figures/quick/main_table.md",
        "figures/laptop/main_table.md",
        "figures/laptop/claims.md",
        "figures/quick/claims.md",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_its_links_and_pictures_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_its_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)", PAGES[page]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_page_can_be_found():
    for page in PAGES.keys() - {"README.md", "docs/index.md"}:
        assert f"({Path(page).name})" in PAGES["docs/index.md"], page
        assert f"({page})" in PAGES["README.md"], page


def test_a_table_is_read_anew_and_a_page_without_one_left_alone(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.md").write_text("new\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("<!-- figures/x.md -->\nold\n<!-- end -->\n", encoding="utf-8")
    (tmp_path / "docs" / "plain.md").write_text("plain\n", encoding="utf-8")
    before = (tmp_path / "docs" / "plain.md").stat().st_ino
    refill(tmp_path)
    assert (tmp_path / "README.md").read_text() == "<!-- figures/x.md -->\nnew\n<!-- end -->\n"
    assert (tmp_path / "docs" / "plain.md").stat().st_ino == before


def test_a_block_without_its_file_is_told(tmp_path):
    with pytest.raises(BipvlError, match="make reproduce"):
        filled("<!-- figures/x.md -->\n<!-- end -->", tmp_path)
