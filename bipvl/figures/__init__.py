"""All figures. Each one is drawn from its table alone, so that redrawing needs neither data nor runs."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bipvl.common.errors import BipvlError
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
from bipvl.figures.efficiency import draw_efficiency
from bipvl.figures.lab import draw_prompt_lab
from bipvl.figures.robustness import draw_prompt_robustness
from bipvl.figures.scores import draw_class_dice, draw_main_dice
from bipvl.figures.slice_tables import failures_table, qualitative_table, samples_table, slice_table
from bipvl.figures.slices import draw_data_samples, draw_errors, draw_failures, draw_qualitative
from bipvl.figures.surfaces import draw_surfaces
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
    "data_samples": draw_data_samples,
    "bench": draw_bench,
    "architecture": draw_architecture,
    "bifusion": draw_bifusion,
    "ablation": draw_ablation,
    "efficiency": draw_efficiency,
    "prompt_robustness": draw_prompt_robustness,
    "claims": draw_claims,
    "similarity": draw_similarity,
    "embedding_map": draw_embedding_map,
    "word_attention": draw_word_attention,
    "prompt_lab": draw_prompt_lab,
}
"""Name of a figure → the function that draws its table. A file name may add a suffix after a hyphen."""

TEXT_COLUMNS = (
    *("cohort", "profile", "dataset", "variant", "seeds", "case", "cases", "class"),
    *("term", "rule", "channel", "text_class", "visual_class", "concept", "word", "edit"),
    *("text", "classes", "prompts", "trained", "plane", "layer", "around", "worst_class"),
)
"""Columns that are read as text even if they look like numbers."""


def draw(name: str, table: pd.DataFrame) -> Figure:
    """Draw the figure of a name such as "main_dice" or "data_samples-amos22"."""
    with style.context():
        figure = FIGURES[name.split("-")[0]](table)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is final, for all files
    return figure


def write(name: str, table: pd.DataFrame, folder: str | Path) -> Path:
    """Draw a figure and write it as CSV, PDF and PNG into ``folder``; return the path of the PNG.

    The figure is drawn from the rounded values of the CSV, so that redrawing gives the same bytes.
    """
    table = _read(StringIO(table.to_csv(index=False, float_format="%.9g")))
    return style.save_figure(draw(name, table), table, Path(folder) / name)


def redraw(folder: str | Path) -> list[Path]:
    """Draw all figures of a folder again from their CSV files; return the paths of the PNGs.

    Raises:
        BipvlError: the folder has no CSV file of a figure, or a file is not the table of its figure.
    """
    paths = [path for path in sorted(Path(folder).glob("*.csv")) if path.stem.split("-")[0] in FIGURES]
    if not paths:
        raise BipvlError("has no table of a figure", "make the figures with: make reproduce", folder)
    return [_redraw(path) for path in paths]


def _redraw(path: Path) -> Path:
    try:
        return write(path.stem, _read(path), path.parent)
    except (KeyError, ValueError) as error:
        problem = f"is not the table of the figure '{path.stem}' ({error})"
        raise BipvlError(problem, "write it again with: make reproduce", path) from error


def _read(source: Path | StringIO) -> pd.DataFrame:
    """Read the CSV of a figure. Only empty cells are missing values: a case may have the name "NA"."""
    return pd.read_csv(source, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
