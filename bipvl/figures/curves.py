"""What was seen during training: losses, validation Dice, learnt weights, learning rate."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bipvl.analysis.statistics import provenance
from bipvl.common.errors import BipvlError
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style

WINDOWS = 60
"""Points of a curve: a longer training is averaged over so many windows of equal length."""
TERMS = {
    "class_embedding": ("class embedding", "#009e73"),
    "global_alignment": ("global alignment", "#cc79a7"),
    "local_alignment": ("local alignment", "#e69f00"),
    "alignment": ("alignment (both)", "#000000"),
    "segmentation": ("segmentation", "#56b4e9"),
}
LINES = ("-", "--", ":", "-.")
LOG = "log_variance_"


def training_curves(folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """The table of the training curves, from the history.csv of run folders by dataset.

    Columns cohort, profile, dataset, variant, seeds, term, step, value, low, high: a term's mean and range
    over each window of steps, at the window's middle. Validation Dice stands as measured.

    Raises:
        BipvlError: a history.csv without its columns.
    """
    parts = [_history(folder, dataset) for dataset, group in folders.items() for folder in group]
    return pd.concat(parts, ignore_index=True)


def _history(folder: Path, dataset: str) -> pd.DataFrame:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    history = pd.read_csv(folder / "history.csv")
    if lacking := [name for name in ("step", "lr", "total", "val_dice") if name not in history]:
        raise BipvlError(
            f"{folder / 'history.csv'} lacks the columns {', '.join(lacking)}; train the run anew."
        )
    window = -(-len(history) // WINDOWS)
    long = history.melt("step", var_name="term").dropna()
    block = long["step"].where(long["term"] == "val_dice", long["step"] // window)
    curves = (
        long.groupby([long["term"], block.rename("block")], sort=False)
        .agg(step=("step", "mean"), value=("value", "mean"), low=("value", "min"), high=("value", "max"))
        .reset_index()
        .drop(columns="block")
    )
    origin = {key: config[key] for key in ("cohort", "profile")} | {"dataset": dataset}
    origin |= {"variant": config["variant"], "seeds": str(config["seed"])}
    return curves.assign(**origin)[[*origin, "term", "step", "value", "low", "high"]]


def draw_training_curves(table: pd.DataFrame) -> Figure:
    """A column a dataset, a row a quantity: columns of ``training_curves``."""
    datasets, variants = (list(dict.fromkeys(table[key])) for key in ("dataset", "variant"))
    terms = [term for term in TERMS if term in set(table["term"]) and term != "segmentation"]
    logs = [LOG + term for term in TERMS if LOG + term in set(table["term"])]
    rows: list[tuple[str, list[str]]] = [("Total\nloss", ["total"]), ("Segmentation\nloss", ["segmentation"])]
    rows += [("Language\nlosses", terms)] if terms else []
    rows += [("Validation\nDice", ["val_dice"])]
    rows += [("Log variance\n$s_i$", logs)] if logs else []
    rows += [("Learning\nrate", ["lr"])]

    figure = Figure(figsize=(max(1.75 * len(datasets), 4), 1.15 * len(rows) + 1))
    grid = figure.subplots(len(rows), len(datasets), sharex="col", squeeze=False)
    for column, dataset in zip(grid.T, datasets, strict=True):
        part = table[table["dataset"] == dataset]
        column[0].set_title(dataset_title(dataset).replace(" (", "\n(", 1))
        for axes, (_, names) in zip(column, rows, strict=True):
            _curves(axes, part, names, variants)
        column[-1].set_xlabel("Training step")
    for axes, (label, _) in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label)
    for row, (_, names) in zip(grid, rows, strict=True):
        _same_height(row, names)
    figure.align_ylabels(grid[:, 0])
    figure.legend(handles=_legend(variants, terms, logs), loc="outside upper center", ncols=4)
    widths = table[table["term"] == "total"].groupby(["dataset", "variant", "seeds"])["step"].agg(_spacing)
    windows = " to ".join(f"{w:.0f}" for w in sorted({widths.min().round(), widths.max().round()}))
    style.caption(
        figure,
        f"{provenance(table)} Lines: mean over windows of {windows} steps, bands: lowest to highest value in "
        "a window; validation Dice: mean over validation cases and classes, on the working grid. The loss of "
        "term i is weighted by 1/(2 exp s$_i$), with s$_i$ learnt. Learning rate: of vision encoder and "
        "decoder.",
    )
    return figure


def _spacing(steps: pd.Series) -> float:
    return float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0


def _curves(axes: Axes, table: pd.DataFrame, names: list[str], variants: list[str]) -> None:
    colours = style.variant_colours(variants)
    for (variant, _, term), curve in table[table["term"].isin(names)].groupby(
        ["variant", "seeds", "term"], sort=False
    ):
        by_term = TERMS.get(term.removeprefix(LOG)) if len(names) > 1 else None
        colour = by_term[1] if by_term else colours[variant]
        line = LINES[variants.index(variant) % len(LINES)] if by_term or term == "lr" else "-"
        marker = {"marker": "o", "ms": 3} if term == "val_dice" else {}
        axes.plot(curve["step"], curve["value"], color=colour, ls=line, **marker)
        if term != "val_dice":
            axes.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, lw=0)
    axes.grid()
    axes.margins(x=0.02)
    if names == ["val_dice"]:
        axes.set_ylim(0, 1)
    if names == ["lr"]:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        axes.yaxis.get_offset_text().set_fontsize(style.SMALL)


def _same_height(row: np.ndarray, names: list[str]) -> None:
    """One scale for a quantity in all datasets, its numbers at the left only."""
    limits = [axes.get_ylim() for axes in row if axes.has_data()]
    for axes in row:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for axes in row[1:]:
        axes.tick_params(axis="y", labelleft=False)
        axes.yaxis.get_offset_text().set_visible(False)


def _legend(variants: list[str], terms: list[str], logs: list[str]) -> list[Line2D]:
    colours = style.variant_colours(variants)
    shown = [term for term in TERMS if term in terms or LOG + term in logs]
    return [
        *(Line2D([], [], color=colours[v], lw=2, label=variant_title(v)) for v in variants),
        *(Line2D([], [], color=TERMS[t][1], lw=2, label=TERMS[t][0]) for t in shown),
    ]
