"""Dice of every test case: per data set, and per class."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bipvl.analysis.statistics import interval, provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import MEAN_ATLAS, variant_title
from bipvl.figures import style

GOLDEN = 0.618034
"""The golden ratio's fraction: its multiples modulo 1 are spread evenly."""


def spread(count: int, width: float) -> np.ndarray:
    """Offsets of ``count`` points within ±width/2: evenly spread, and the same in every drawing."""
    return width * ((np.arange(count) * GOLDEN + 0.5) % 1 - 0.5)


def draw_main_dice(table: pd.DataFrame) -> Figure:
    """Mean Dice of every case, one panel per data set, from the table of ``statistics.case_means``."""
    count = table["dataset"].nunique()
    width = max(1.75 * min(4, count), 3.5)
    figure, grid = style.panel_grid(count, 4, height=2.9, width=width, sharey=True)
    colours = style.variant_colours(table["variant"])
    for axes, (_, part) in zip(grid.flat, table.groupby("dataset", sort=False), strict=False):
        _panel(axes, part, colours)
    for axes in grid[:, 0]:
        axes.set_ylabel("Dice (mean over classes)")
    style.caption(
        figure,
        f"{provenance(table)} Circles: test cases (mean over classes and seeds); a grey line connects the "
        "results for the same case. Diamonds: mean over cases with 95 % bootstrap interval (BCa). Dashed: "
        "mean atlas, the most frequent label of the training cases at each position. On the scan's own grid.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    wide = table.pivot(index="case", columns="variant", values="value").sort_index()
    variants = _networks(table)
    jitter = spread(len(wide), 0.3)
    places = np.arange(len(variants))[None] + jitter[:, None]
    axes.plot(places.T, wide[variants].T.to_numpy(), color="#c8c8c8", lw=0.5, zorder=1)
    for place, variant in enumerate(variants):
        values = wide[variant]
        look = {"s": 14, "facecolor": "white", "edgecolor": colours[variant], "lw": 0.8, "zorder": 2}
        axes.scatter(place + jitter, values, **look)
        _mean(axes, place + 0.32, values.dropna(), colours[variant])
    if MEAN_ATLAS in wide:
        level = wide[MEAN_ATLAS].mean()
        axes.axhline(level, color=colours[MEAN_ATLAS], lw=1, ls=(0, (4, 2)), zorder=1)
        above = level < 0.1  # else the text would cover the names below the axis
        shift, va = (2, "bottom") if above else (-2, "top")
        style.note(axes, f"mean atlas {level:.2f}", (-0.45, level), (0, shift), va=va, color="#555555")
    axes.set_xlim(-0.5, len(variants) - 0.5 + 0.15)
    axes.set_ylim(0, 1.05)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid()
    labels = [variant_title(v) for v in variants]
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(variants) > 2 else {}
    axes.set_xticks(range(len(variants)), labels, **turned)
    for label, variant in zip(axes.get_xticklabels(), variants, strict=True):
        label.set_color(colours[variant])
    axes.set_title(f"{style.dataset_heading(table['dataset'].iloc[0])}\nn = {len(wide)} test cases")


def _mean(axes: Axes, place: float, values: pd.Series, colour: str) -> None:
    """Draw the mean and its interval beside the points, and write the mean's value above."""
    mean, (low, high) = values.mean(), interval(values.to_numpy())
    if np.isfinite(low):
        axes.plot([place, place], [low, high], color=colour, lw=1.2, zorder=3)
    axes.plot(place, mean, marker="D", ms=4.5, color=colour, zorder=4)
    look = {"fontweight": "bold", "path_effects": style.outline(2, "white"), "zorder": 5}
    top = high if np.isfinite(high) else mean
    style.note(axes, f"{mean:.2f}", (place, top), (0, 4), ha="center", va="bottom", color=colour, **look)


def _networks(table: pd.DataFrame) -> list[str]:
    return [variant for variant in table["variant"].unique() if variant != MEAN_ATLAS]


def draw_class_dice(table: pd.DataFrame) -> Figure:
    """Dice of every case and class, one panel per data set, from the table of ``statistics.class_values``."""
    classes = table.groupby("dataset", sort=False)["class"].nunique()
    halves = _two_columns(classes + 2.2)
    colours = style.variant_colours(table["variant"])
    rows = max((classes[half] + 2.2).sum() for half in halves)
    figure = Figure(figsize=(style.WIDTH if len(halves) > 1 else 4.2, 0.235 * rows + 1.0))
    for half, part in zip(halves, np.atleast_1d(figure.subfigures(1, len(halves), wspace=0.02)), strict=True):
        column = part.subplots(len(half), 1, height_ratios=classes[half] + 0.6, squeeze=False)[:, 0]
        for axes, dataset in zip(column, half, strict=True):
            _class_panel(axes, table[table["dataset"] == dataset], colours)
        column[-1].set_xlabel("Dice")
    bar, diamond = {"marker": "|", "ms": 9, "mew": 1.5}, {"marker": "D", "ms": 4.5}
    titles = {variant: variant_title(variant) for variant in colours} | {MEAN_ATLAS: "Mean atlas (mean)"}
    handles = [
        Line2D([], [], ls="", color=colour, label=titles[v], **(bar if v == MEAN_ATLAS else diamond))
        for v, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    style.caption(
        figure,
        f"{provenance(table)} n: number of test cases. Circles: cases (mean over seeds) with the class in "
        "the reference or in the prediction; diamonds: their mean with 95 % bootstrap interval (BCa). On "
        "the scan's own grid.",
    )
    return figure


def _two_columns(heights: pd.Series) -> list[list[str]]:
    """Split data sets into two columns of about equal height, in their order; a single one is not split."""
    names = list(heights.index)
    if len(names) == 1:
        return [names]
    cut = 1 + (heights.cumsum() - heights.sum() / 2).abs().iloc[:-1].argmin()
    return [names[:cut], names[cut:]]


def _class_panel(axes: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    names, variants = list(table["class"].unique()), _networks(table)
    lane = 0.8 / len(variants)
    for row, name in enumerate(names):
        rows = table[table["class"] == name]
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#f5f5f5", lw=0, zorder=0)
        for number, variant in enumerate(variants):
            values = rows[rows["variant"] == variant].sort_values("case")["value"].to_numpy()
            place = row + lane * (number - (len(variants) - 1) / 2)
            if len(values):
                _lane(axes, place, values, colours[variant], lane)
        atlas = rows[rows["variant"] == MEAN_ATLAS]["value"]
        if len(atlas):
            axes.plot([atlas.mean()] * 2, [row - 0.4, row + 0.4], color=colours[MEAN_ATLAS], lw=1.5, zorder=1)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 20) for name in names])
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    n = table["case"].nunique()
    axes.set_title(f"{dataset_title(table['dataset'].iloc[0])}, n = {n}", loc="left")


def _lane(axes: Axes, place: float, values: np.ndarray, colour: str, lane: float) -> None:
    jitter = spread(len(values), 0.5 * lane)
    look = {"s": 7, "facecolor": "none", "edgecolor": colour, "lw": 0.6, "alpha": 0.75, "zorder": 2}
    axes.scatter(values, place + jitter, **look)
    low, high = interval(values)
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=colour, lw=1.2, zorder=3)
    axes.plot(values.mean(), place, marker="D", ms=3.6, color=colour, mec="white", mew=0.4, zorder=4)
