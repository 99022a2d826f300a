"""The README says what the repository holds."""

import re
from pathlib import Path

import pytest

from bipvl.errors import BipvlError
from bipvl.readme import BLOCK, filled

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_tables_are_those_of_the_committed_results():
    assert BLOCK.search(README), "the main table must be generated, not typed"
    assert filled(README, ROOT) == README, "make it anew with: python -m bipvl.readme README.md"


def test_its_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_a_block_without_its_file_is_told(tmp_path):
    with pytest.raises(BipvlError, match="make reproduce"):
        filled("<!-- figures/x.md -->\n<!-- end -->", tmp_path)
