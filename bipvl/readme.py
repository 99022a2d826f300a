"""The README's tables come from files: between ``<!-- FILE -->`` and ``<!-- end -->`` stands FILE's text.

python -m bipvl.readme README.md
"""

import re
import sys
from pathlib import Path

from bipvl.errors import BipvlError
from bipvl.files import write_text

BLOCK = re.compile(r"(<!-- (figures/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The text with every block read anew from its file below ``folder``."""

    def block(match: re.Match) -> str:
        path = folder / match[2]
        if not path.is_file():
            raise BipvlError(f"{path} is missing; make it with: make reproduce")
        return f"{match[1]}{path.read_text(encoding='utf-8').strip()}\n{match[3]}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    try:
        write_text(readme, filled(readme.read_text(encoding="utf-8"), readme.parent))
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
