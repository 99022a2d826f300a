"""Copy tables from result files into README.md and docs/: python tools/update_tables.py

The text between ``<!-- FILE -->`` and ``<!-- end -->`` is replaced by the content of FILE.
"""

import re
import sys
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_text

BLOCK = re.compile(r"(<!-- (figures/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages(folder: Path) -> list[Path]:
    """The README and the pages of docs/ of a checkout."""
    return [folder / "README.md", *sorted((folder / "docs").glob("*.md"))]


def with_tables(text: str, folder: Path) -> str:
    """The text with every block replaced by its file below ``folder``.

    Raises:
        BipvlError: a file is missing.
    """

    def block(match: re.Match) -> str:
        path = folder / match[2]
        if not path.is_file():
            raise BipvlError("file not found", "create it with: make reproduce", path)
        return f"{match[1]}{path.read_text(encoding='utf-8').strip()}\n{match[3]}"

    return BLOCK.sub(block, text)


def update(folder: Path) -> None:
    """Update all pages of a checkout; unchanged pages are not written."""
    for page in pages(folder):
        text = page.read_text(encoding="utf-8")
        if (updated := with_tables(text, folder)) != text:
            write_text(page, updated)


if __name__ == "__main__":
    try:
        update(Path())
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
