"""Pages of executed notebooks, with an index: ``python -m bipvl.report INDEX NOTEBOOK …``"""

import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bipvl.files import atomic_path

INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem }}</style>
<h1>{title}</h1>
<p>{subtitle}</p>
<ul>
{entries}
</ul>
</html>
"""


def write_report(index: str | Path, notebooks: Sequence[str | Path]) -> None:
    """Write a page for each executed notebook, and ``index``, which lists them by their first headings."""
    import nbformat
    from nbconvert import HTMLExporter

    index, exporter, entries = Path(index), HTMLExporter(), []
    with atomic_path(index.parent) as folder:
        folder.mkdir()
        for path in map(Path, notebooks):
            notebook = nbformat.read(path, as_version=4)
            # runs/quick/amos22/bipvlseg/seed0/notebook.ipynb → amos22-bipvlseg-seed0.html
            place = [part for part in path.with_suffix("").parts[2:] if part != "notebook"]
            page, title = "-".join(place) + ".html", f"{heading(notebook)} ({', '.join(place)})"
            body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
            (folder / page).write_text(body, encoding="utf-8")
            entries.append(f'<li><a href="{html.escape(page)}">{html.escape(title)}</a></li>')
        (folder / index.name).write_text(
            INDEX.format(
                title="BiPVL-Seg: report",
                subtitle=html.escape(_what(notebooks)),
                entries="\n".join(entries),
            ),
            encoding="utf-8",
        )


def heading(notebook: dict) -> str:
    """A notebook's first heading, "Notebook" where it has none."""
    cells = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    lines = (line for cell in cells for line in cell.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "Notebook")


def _what(notebooks: Sequence[str | Path]) -> str:
    """Profile and cohort of the runs whose notebooks these are."""
    paths = (Path(notebook).with_name("config.json") for notebook in notebooks)
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    profiles, cohorts = ({c[key] for c in configs} for key in ("profile", "cohort"))
    profile, cohort = " and ".join(sorted(profiles)), " and ".join(sorted(cohorts))
    return f"Profile {profile}; {cohort} cohorts; {len(configs)} runs."


if __name__ == "__main__":
    write_report(sys.argv[1], sys.argv[2:])
