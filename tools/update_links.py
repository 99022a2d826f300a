"""Copy the repository's address from pyproject.toml into the badges and install cells of notebooks.

python tools/update_links.py notebooks/*.py && jupytext --sync notebooks/*.py
"""

import re
import sys
import tomllib
from pathlib import Path

from bipvl.common.files import write_text

COLAB = "https://colab.research.google.com/github"


def repository(pyproject: Path) -> str:
    """The repository's address in [project.urls] of a pyproject.toml."""
    return tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def with_links(text: str, name: str, address: str) -> str:
    """A notebook's text with the right addresses in its badge and its install cell."""
    owner = address.removeprefix("https://github.com/")
    notebook = "/".join([COLAB, owner, "blob/main/notebooks", f"{name}.ipynb"])
    text = re.sub(rf"\({re.escape(COLAB)}/[^)]*\)", f"({notebook})", text)
    return re.sub(r'("clone", "--depth=1", )"[^"]*"', rf'\1"{address}"', text)


if __name__ == "__main__":
    address = repository(Path("pyproject.toml"))
    for path in map(Path, sys.argv[1:]):
        write_text(path, with_links(path.read_text(encoding="utf-8"), path.stem, address))
