"""Write an HTML report of executed notebooks: python tools/report.py PROFILE INDEX.html NOTEBOOK …

Verdicts and figures come from ``figures/PROFILE``.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from bipvl.analysis.studies import PATH, Study, load_experiments
from bipvl.common.files import atomic_path
from bipvl.data.spec import dataset_title
from bipvl.engine.profiles import profile_name
from bipvl.engine.variants import variant_title

INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>BiPVL-Seg: report</title>
<style>
body {{ font: 1rem/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto }}
td, th {{ text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }}
figure {{ margin: 1.5rem 0 }} img {{ max-width: 100% }} figcaption {{ font-size: .85rem }}
</style>
<h1>BiPVL-Seg: report</h1>
<p>{subtitle}</p>
{sections}
</html>
"""
ALLOWED_TAGS = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "div", "span", "pre", "sub", "sup", "del"),
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "img"),
}
ALLOWED_ATTRIBUTES = {"*": ["class", "id", "align"], "img": ["src", "alt", "width", "height"]}
"""Tags and attributes of notebooks that a page keeps, besides bleach's; others are shown as text."""
NO_NETWORK = {"mathjax_url": "", "require_js_url": "", "jquery_url": "", "mermaid_js_url": ""}
"""Scripts that nbconvert's pages would download; no notebook needs them."""


def write_report(
    index: str | Path, notebooks: Sequence[str | Path], *, studies: Sequence[Study] = (), figures: Path
) -> None:
    """Write ``index`` and, beside it, one page per executed notebook, the figures and the manifests.

    Args:
        notebooks: executed notebooks of studies, data and runs, below ``runs/PROFILE/``.
        figures: the profile's folder with figures and ``claims.csv``; the results of `make stress` are in
            its parent folder, in ``stress.csv``.
    """
    index = Path(index)
    with atomic_path(index.parent) as folder:
        folder.mkdir()
        pages = {Path(path): _write_page(Path(path), folder) for path in notebooks}
        sections = [
            ("Verdicts on the paper's claims", _verdicts(figures)),
            ("Studies", _studies(studies, pages)),
            ("Figures and tables", _figures(figures, folder)),
            ("Runs", _runs(pages, folder)),
            ("Stress tests", _stress(figures.parent / "stress.csv", folder)),
            ("All pages", _list(_link(page, title) for page, title in pages.values())),
        ]
        body = "\n".join(f"<h2>{title}</h2>\n{text}" for title, text in sections if text)
        text = INDEX.format(subtitle=escape(_subtitle(notebooks)), sections=body)
        (folder / index.name).write_text(text, encoding="utf-8")


def heading(notebook: dict) -> str:
    """A notebook's first heading, or "Notebook"."""
    cells = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    lines = (line for cell in cells for line in cell.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "Notebook")


def sanitize(html: str) -> str:
    """HTML of a notebook without anything that a browser would run: outputs may contain text from data."""
    import bleach

    html = re.sub(r"<style\b.*?</style>", "", html, flags=re.DOTALL | re.IGNORECASE)  # in tables of pandas
    attributes = bleach.ALLOWED_ATTRIBUTES | ALLOWED_ATTRIBUTES
    return bleach.clean(html, tags=bleach.ALLOWED_TAGS | ALLOWED_TAGS, attributes=attributes)


def _write_page(path: Path, folder: Path) -> tuple[str, str]:
    """Write an executed notebook as a page in ``folder``; returns the page's name and title."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    # runs/quick/amos22/bipvlseg/seed0/notebook.ipynb → amos22-bipvlseg-seed0.html
    place = [part for part in path.with_suffix("").parts[2:] if part != "notebook"]
    page, title = "-".join(place) + ".html", f"{heading(notebook)} ({', '.join(place)})"
    resources = {"metadata": {"name": title}}
    exporter = HTMLExporter(**NO_NETWORK, sanitize_html=True, filters={"clean_html": sanitize})
    body, _ = exporter.from_notebook_node(notebook, resources)
    (folder / page).write_text(body, encoding="utf-8")
    return page, title


def _verdicts(figures: Path) -> str:
    if not (figures / "claims.csv").is_file():
        return ""
    claims = pd.read_csv(figures / "claims.csv", keep_default_na=False, dtype=str)
    rows = [[escape(cell) for cell in row] for row in claims.itertuples(index=False)]
    return _table([name.replace("_", " ") for name in claims.columns], rows)


def _studies(studies: Sequence[Study], pages: dict[Path, tuple[str, str]]) -> str:
    def links(study: Study) -> str:
        of_study = [page for path, page in pages.items() if path.parent.name == study.name]
        return "<br>".join(_link(page, title.partition(" (")[0]) for page, title in of_study)

    rows = [
        [escape(s.title), escape(s.question), escape(", ".join(map(dataset_title, s.datasets))), links(s)]
        for s in studies
    ]
    return _table(["study", "question", "data sets", "pages"], rows) if rows else ""


def _figures(figures: Path, folder: Path) -> str:
    """The PNGs with links to the tables that they are drawn from, then all other tables; copies all files."""
    from bipvl.figures import table_name

    files = sorted(path for path in figures.glob("*") if path.suffix in (".png", ".csv", ".npz", ".md"))
    if not files:
        return ""
    (folder / "figures").mkdir()
    for path in files:
        shutil.copyfile(path, folder / "figures" / path.name)
    tables = {path.stem: path.name for path in files if path.suffix in (".csv", ".npz")}
    drawn = {path.stem: tables.get(table_name(path.stem)) for path in files if path.suffix == ".png"}
    shown = [
        f'<figure><img loading="lazy" src="figures/{escape(stem)}.png" alt="{escape(stem)}">'
        f"<figcaption>{escape(stem)}{': ' + _link(f'figures/{table}', 'the values drawn') if table else ''}"
        "</figcaption></figure>"
        for stem, table in drawn.items()
    ]
    others = [path.name for path in files if path.suffix != ".png" and path.name not in drawn.values()]
    return "\n".join(shown) + _list(_link(f"figures/{name}", name) for name in others)


def _runs(pages: dict[Path, tuple[str, str]], folder: Path) -> str:
    """A table with one row per run: its costs, and links to its notebook and manifest."""
    rows = []
    for path, (page, _) in pages.items():
        config, manifest = (_json(path.with_name(f"{name}.json")) for name in ("config", "manifest"))
        if not config or not manifest:
            continue
        copy = Path(page).stem + ".manifest.json"
        shutil.copyfile(path.with_name("manifest.json"), folder / copy)
        phases = manifest.get("phases", {})
        seconds = [f"{phases[p]['seconds']:.0f}" if p in phases else "" for p in ("train", "evaluate")]
        peak = max((phase["peak_memory_gib"] for phase in phases.values()), default=float("nan"))
        rows.append(
            [
                escape(dataset_title(config["dataset"])),
                _link(page, config.get("title") or variant_title(config["variant"])),
                escape(str(config["seed"])),
                *seconds,
                f"{peak:.1f}",
                escape(", ".join(sorted({str(phase["commit"])[:12] for phase in phases.values()}))),
                _link(copy, "manifest"),
            ]
        )
    header = ["data set", "variant", "seed", "training (s)", "test (s)", "peak memory (GiB)", "commit", ""]
    return _table(header, rows) if rows else ""


STRESS = {"what": "test", "held": "passed", "of": "of", "seconds": "seconds", "failed": "failed"}
"""Column of stress.csv → its title on the page."""


def stress_note(table: pd.DataFrame) -> str:
    """The note below the table of stress.csv: what passing means, and on which machine it was measured."""
    commit, python, packages, machine = (
        " and ".join(table[name].astype(str).unique()) for name in ("commit", "python", "packages", "machine")
    )
    return (
        "A killed training passes if it ends with the same bytes (weights, history, embeddings) as one that "
        "was never killed; a bad input, if it is refused with one sentence and a non-zero exit code, without "
        "a traceback, and nothing is written; a scan, if its labels return to its grid with an unchanged "
        "affine and equal voxels (Dice above 0.99 if the spacing differs). Trainings: synthetic cohort, "
        f"profile smoke, seed 0. Commit {commit}; Python {python}; {packages}; {machine}."
    )


def _stress(path: Path, folder: Path) -> str:
    if not path.is_file():
        return ""
    shutil.copyfile(path, folder / path.name)
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    rows = [[escape(cell) for cell in row] for row in table[[*STRESS]].itertuples(index=False)]
    note = f"<p>{escape(stress_note(table))} {_link(path.name, 'These numbers as CSV')}.</p>"
    return f"{_table([*STRESS.values()], rows)}\n{note}"


def _subtitle(notebooks: Sequence[str | Path]) -> str:
    """Profile and cohort of the runs in the report."""
    configs = [c for c in (_json(Path(path).with_name("config.json")) for path in notebooks) if c]
    profiles, cohorts = ({c[key] for c in configs} for key in ("profile", "cohort"))
    profile, cohort = " and ".join(sorted(profiles)), " and ".join(sorted(cohorts))
    return f"Profile {profile}; {cohort} cohorts; {len(configs)} runs."


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _link(address: str, text: str) -> str:
    return f'<a href="{escape(address)}">{escape(text)}</a>'


def _list(items: Iterable[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{item}</li>" for item in items) + "\n</ul>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; ``rows`` already hold HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


if __name__ == "__main__":
    profile, target, *notebooks = sys.argv[1:]
    write_report(
        Path(target),
        notebooks,
        studies=load_experiments(profile, PATH).select("all"),
        figures=Path("figures", profile_name(profile)),
    )
