"""Training curves: losses, validation Dice, learnt weights, learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bipvl.analysis.statistics import provenance
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.engine.variants import variant_title
from bipvl.figures import style

WINDOWS = 60
"""Maximum number of points per curve: longer trainings are averaged over windows of equal length."""
TERMS = {
    "class_embedding": ("class embedding", "#009e73"),
    "global_alignment": ("global alignment", "#cc79a7"),
    "local_alignment": ("local alignment", "#e69f00"),
    "alignment": ("alignment (both)", "#000000"),
    "segmentation": ("segmentation", "#56b4e9"),
}
"""Column of a history → label and colour."""
LINES = ("-", "--", ":", "-.")
"""Line styles of the variants, where the colour stands for a term."""
LOG = "log_variance_"
"""Prefix of the columns with the learnt weights."""


def training_curves(folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """The table of the training curves, from the history.csv files of run folders per data set.

    Columns cohort, profile, dataset, variant, seeds, term, step, value, low, high: mean and range of a term
    over each window of steps, at the middle of the window. Validation Dice is not averaged.

    Raises:
        BipvlError: a history.csv lacks a column.
    """
    parts = [_history(folder, dataset) for dataset, group in folders.items() for folder in group]
    return pd.concat(parts, ignore_index=True)


def _history(folder: Path, dataset: str) -> pd.DataFrame:
    path = folder / "history.csv"
    history = pd.read_csv(path)
    if missing := [name for name in ("step", "lr", "total", "val_dice") if name not in history]:
        raise BipvlError(f"lacks the columns {', '.join(missing)}", "train the run again", path)
    window = -(-len(history) // WINDOWS)
    long = history.melt("step", var_name="term").dropna()
    block = long["step"].where(long["term"] == "val_dice", long["step"] // window)
    curves = (
        long.groupby([long["term"], block.rename("block")], sort=False)
        .agg(step=("step", "mean"), value=("value", "mean"), low=("value", "min"), high=("value", "max"))
        .reset_index()
        .drop(columns="block")
    )
    origin = run_origin(folder, dataset)
    return curves.assign(**origin)[[*origin, "term", "step", "value", "low", "high"]]


def run_origin(folder: Path, dataset: str) -> dict[str, str]:
    """The columns that say which run a row comes from: cohort, profile, dataset, variant, seeds."""
    config = read_json(folder / "config.json")
    origin = {"cohort": config["cohort"], "profile": config["profile"], "dataset": dataset}
    return origin | {"variant": config["variant"], "seeds": str(config["seed"])}


def draw_training_curves(table: pd.DataFrame) -> Figure:
    """One column of panels per data set, one row per quantity, from the table of ``training_curves``."""
    datasets, variants = list(table["dataset"].unique()), list(table["variant"].unique())
    terms = [term for term in TERMS if term in set(table["term"]) and term != "segmentation"]
    logs = [LOG + term for term in TERMS if LOG + term in set(table["term"])]
    rows: list[tuple[str, list[str]]] = [("Total\nloss", ["total"]), ("Segmentation\nloss", ["segmentation"])]
    rows += [("Language\nlosses", terms)] if terms else []
    rows += [("Validation\nDice", ["val_dice"])]
    rows += [("Log variance\n$s_i$", logs)] if logs else []
    rows += [("Learning\nrate", ["lr"])]

    figure = Figure(figsize=(max(1.75 * len(datasets), 4), 1.15 * len(rows) + 1))
    grid = figure.subplots(len(rows), len(datasets), sharex="col", sharey="row", squeeze=False)
    for column, dataset in zip(grid.T, datasets, strict=True):
        part = table[table["dataset"] == dataset]
        column[0].set_title(style.dataset_heading(dataset))
        for axes, (_, names) in zip(column, rows, strict=True):
            _curves(axes, part, names, variants)
        column[-1].set_xlabel("Training step")
    for axes, (label, names) in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label)
        if names == ["val_dice"]:
            axes.set_ylim(0, 1)
    rates = grid[-1, 0]
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    rates.yaxis.get_offset_text().set_fontsize(style.SMALL)
    figure.align_ylabels(grid[:, 0])
    colours = style.variant_colours(variants)
    entries = [(variant_title(variant), colours[variant]) for variant in variants]
    entries += [look for term, look in TERMS.items() if term in terms or LOG + term in logs]
    handles = [Line2D([], [], color=colour, lw=2, label=label) for label, colour in entries]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    runs = table[table["term"] == "total"].groupby(["dataset", "variant", "seeds"])["step"]
    widths = runs.agg(lambda steps: steps.diff().median()).fillna(1)  # a single step has no distance
    windows = " to ".join(f"{w:.0f}" for w in sorted({widths.min().round(), widths.max().round()}))
    style.caption(
        figure,
        f"{provenance(table)} Lines: mean over windows of {windows} steps; bands: minimum to maximum in a "
        "window. Validation Dice: mean over validation cases and classes, on the working grid. The loss of "
        "term i has the weight 1/(2 exp s$_i$); s$_i$ is learnt. Learning rate: that of vision encoder and "
        "decoder.",
    )
    return figure


def _curves(axes: Axes, table: pd.DataFrame, names: list[str], variants: list[str]) -> None:
    colours = style.variant_colours(variants)
    table = table[table["term"].isin(names)]
    for (variant, _, term), curve in table.groupby(["variant", "seeds", "term"], sort=False):
        by_term = TERMS.get(term.removeprefix(LOG)) if len(names) > 1 else None
        colour = by_term[1] if by_term else colours[variant]
        line = LINES[variants.index(variant) % len(LINES)] if by_term or term == "lr" else "-"
        marker = {"marker": "o", "ms": 3} if term == "val_dice" else {}
        axes.plot(curve["step"], curve["value"], color=colour, ls=line, **marker)
        if term != "val_dice":
            axes.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, lw=0)
    axes.grid()
    axes.margins(x=0.02)
