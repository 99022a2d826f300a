"""All figures. Each one is drawn from its table alone, so that redrawing needs neither data nor runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import pandas as pd
from matplotlib.figure import Figure

from bipvl.analysis.tables import main_table_latex
from bipvl.common.errors import BipvlError
from bipvl.common.files import write_text
from bipvl.figures import style
from bipvl.figures.alignment import (
    draw_embedding_map,
    draw_similarity,
    embedding_table,
    language_runs,
    similarity_table,
)
from bipvl.figures.architecture_figure import draw_architecture, draw_bifusion
from bipvl.figures.bench import draw_bench
from bipvl.figures.claims import draw_claims
from bipvl.figures.curves import draw_training_curves, training_curves
from bipvl.figures.differences import draw_ablation
from bipvl.figures.efficiency import draw_efficiency, draw_runtime
from bipvl.figures.lab import draw_prompt_lab
from bipvl.figures.learning_rates import draw_learning_rates
from bipvl.figures.reading import draw_reading, draw_reading_changes, draw_reading_wordings
from bipvl.figures.robustness import draw_prompt_robustness
from bipvl.figures.scores import draw_class_dice, draw_main_dice
from bipvl.figures.slice_tables import failures_table, qualitative_table, samples_table, slice_table
from bipvl.figures.slices import draw_data_samples, draw_errors, draw_failures, draw_qualitative
from bipvl.figures.surfaces import draw_surfaces
from bipvl.figures.table_files import read_table, write_table
from bipvl.figures.volume_tables import surfaces_table
from bipvl.figures.word_attention import attention_table, draw_word_attention

__all__ = [
    "FIGURES",
    "attention_table",
    "draw",
    "embedding_table",
    "failures_table",
    "language_runs",
    "qualitative_table",
    "redraw",
    "samples_table",
    "similarity_table",
    "slice_table",
    "surfaces_table",
    "table_name",
    "training_curves",
    "write",
]

FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "main_dice": draw_main_dice,
    "class_dice": draw_class_dice,
    "qualitative": draw_qualitative,
    "errors": draw_errors,
    "failures": draw_failures,
    "surfaces": draw_surfaces,
    "training_curves": draw_training_curves,
    "learning_rates": draw_learning_rates,
    "data_samples": draw_data_samples,
    "bench": draw_bench,
    "architecture": draw_architecture,
    "bifusion": draw_bifusion,
    "ablation": draw_ablation,
    "efficiency": draw_efficiency,
    "runtime": draw_runtime,
    "prompt_robustness": draw_prompt_robustness,
    "claims": draw_claims,
    "reading": draw_reading,
    "reading_wordings": draw_reading_wordings,
    "reading_changes": draw_reading_changes,
    "similarity": draw_similarity,
    "embedding_map": draw_embedding_map,
    "word_attention": draw_word_attention,
    "prompt_lab": draw_prompt_lab,
}
"""Name of a figure → the function that draws its table. A file name may add a suffix after a hyphen."""

TABLES = {"errors": "qualitative", "ablation": "comparisons"}
"""Name of a figure → the name of its table, where it differs."""


def draw(name: str, table: pd.DataFrame) -> Figure:
    """Draw the figure of a name such as "main_dice" or "data_samples-amos22"."""
    with style.context():
        figure = FIGURES[name.split("-")[0]](table)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is final, for all files
    return figure


def table_name(name: str) -> str:
    """The name of the table from which a figure is drawn: "comparisons-main" for "ablation-main"."""
    kind, *suffix = name.split("-", 1)
    return "-".join([TABLES.get(kind, kind), *suffix])


def write(name: str, table: pd.DataFrame, folder: str | Path) -> Path:
    """Write a figure's table and draw it as a PNG into ``folder``; return the path of the PNG.

    The figure is drawn from the rounded values of the written table, so that redrawing gives the same bytes.
    """
    folder = Path(folder)
    return _picture(name, write_table(folder / table_name(name), table), folder, "png")


def redraw(folder: str | Path, form: Literal["png", "pdf"] = "png") -> list[Path]:
    """Draw all figures of a folder again from their tables; return the paths of the pictures.

    With "pdf", the main table is also written as LaTeX (``main_table.tex``).

    Raises:
        BipvlError: the folder has no table of a figure, or a file is not the table of its figure.
    """
    folder = Path(folder)
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.npz")])
    pictures = [_redraw(path, name, form) for path in tables for name in _drawn_from(path)]
    if not pictures:
        raise BipvlError("has no table of a figure", "make the figures with: make reproduce", folder)
    main = folder / "main_table.csv"
    if form == "pdf" and main.is_file():
        write_text(main.with_suffix(".tex"), main_table_latex(read_table(main)))
    return pictures


def _drawn_from(path: Path) -> list[str]:
    """The names of all figures that are drawn from a table."""
    kind, *suffix = path.stem.split("-", 1)
    return ["-".join([figure, *suffix]) for figure in FIGURES if table_name(figure) == kind]


def _redraw(path: Path, name: str, form: str) -> Path:
    try:
        return _picture(name, read_table(path), path.parent, form)
    except (KeyError, ValueError, EOFError, BadZipFile) as error:
        problem = f"is not the table of the figure '{name}' ({error})"
        raise BipvlError(problem, "write it again with: make reproduce", path) from error


def _picture(name: str, table: pd.DataFrame, folder: Path, form: str) -> Path:
    path = folder / f"{name}.{form}"
    style.save(draw(name, table), path)
    return path
