"""The API reference as HTML, from the docstrings, by pdoc: python docs/reference.py FOLDER [MODULE …]"""

import sys
from pathlib import Path
from pkgutil import iter_modules

import pdoc

import bipvl

if __name__ == "__main__":
    folder, *modules = sys.argv[1:]
    # The modules in place of the names that `bipvl` lends from them: each is documented at its home.
    bipvl.__all__ = [module.name for module in iter_modules(bipvl.__path__) if module.name != "__main__"]
    pdoc.render.configure(docformat="google", show_source=False)  # the sources are at hand
    pdoc.pdoc(*(modules or ["bipvl"]), output_directory=Path(folder))
