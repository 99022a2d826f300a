"""The tables in README.md and docs/ come from files: ``<!-- FILE -->`` to ``<!-- end -->`` is FILE's text.

``python tools/update_tables.py`` in the checkout reads them anew.
"""

import re
import sys
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_text

BLOCK = re.compile(r"(<!-- (figures/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages(folder: Path) -> list[Path]:
    """The README and the pages of docs/ in a checkout."""
    return [folder / "README.md", *sorted((folder / "docs").glob("*.md"))]


def filled(text: str, folder: Path) -> str:
    """The text with every block read anew from its file below ``folder``.

    Raises:
        BipvlError: a file is missing.
    """

    def block(match: re.Match) -> str:
        path = folder / match[2]
        if not path.is_file():
            raise BipvlError(f"{path} is missing; make it with: make reproduce")
        return f"{match[1]}{path.read_text(encoding='utf-8').strip()}\n{match[3]}"

    return BLOCK.sub(block, text)


def refill(folder: Path) -> None:
    """Read every block of every page anew; a page without a change is left alone."""
    for page in pages(folder):
        text = page.read_text(encoding="utf-8")
        if (now := filled(text, folder)) != text:
            write_text(page, now)


if __name__ == "__main__":
    try:
        refill(Path())
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
