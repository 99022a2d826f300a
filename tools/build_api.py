"""Build the API reference as HTML from the docstrings: python tools/build_api.py FOLDER [MODULE …]"""

import sys
from pathlib import Path
from pkgutil import iter_modules

import pdoc

import bipvl

if __name__ == "__main__":
    folder, *modules = sys.argv[1:]
    # List modules instead of the names that `bipvl` re-exports, which their modules document.
    bipvl.__all__ = [module.name for module in iter_modules(bipvl.__path__) if module.name != "__main__"]
    pdoc.render.configure(docformat="google", show_source=False)  # readers have the sources
    pdoc.pdoc(*(modules or ["bipvl"]), output_directory=Path(folder))
