"""Accuracy against cost: Dice over parameters, operations, time and memory."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style
from bipvl.figures.labels import place_labels

COSTS = {
    "parameters": ("parameters (10⁶)", 1e6),
    "operations": ("operations per window (10⁹)", 1e9),
    "seconds": ("evaluation (s per volume)", 1),
    "memory_gib": ("peak memory in training (GiB)", 1),
}
"""Column → axis label, and the size of the label's unit."""
OTHERS = "#555555"
"""Colour of the variants that have none in ``style.VARIANT_COLOURS``."""


def draw_efficiency(table: pd.DataFrame) -> Figure:
    """One panel per cost, one labelled point per variant, from the table of ``efficiency.efficiency``."""
    figure = Figure(figsize=(style.WIDTH, 6.6))
    grid = figure.subplots(2, 2, sharey=True)
    for axes, (column, (label, unit)) in zip(grid.flat, COSTS.items(), strict=True):
        _panel(axes, table[column] / unit, table)
        axes.set_xlabel(label)
    for axes in grid[:, 0]:
        axes.set_ylabel("Dice (mean over classes)")
    meaning = {"o": "reads the image only", "D": "reads image and prompts"}
    handles = [
        Line2D([], [], ls="", marker=marker, ms=4.5, color=OTHERS, label=text)
        for marker, text in meaning.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    title = f"{dataset_title(table['dataset'].iloc[0])}, n = {table['cases'].iloc[0]} test cases"
    grid[0, 0].set_title(title, loc="left")
    machines = {machine for text in table["machine"] for machine in text.split("; ")}
    style.caption(
        figure,
        f"{provenance(table)} Each point is a variant: mean Dice over test cases on the scan's own grid, "
        "with 95 % bootstrap interval (BCa). Operations are counted (one multiply-add is two). Seconds "
        "cover the whole evaluation, from file to scores, possibly while other jobs were running. Memory "
        f"is that of the whole process. Measured on: {'; '.join(sorted(machines))}.",
    )
    figure.draw_without_rendering()  # the labels need the final layout
    labels = [*map(variant_title, table["variant"])], [*map(_colour, table["variant"])]
    for axes, (column, (_, unit)) in zip(grid.flat, COSTS.items(), strict=True):
        place_labels(axes, table[column] / unit, table["dice"], *labels)
    return figure


def _panel(axes: Axes, cost: pd.Series, table: pd.DataFrame) -> None:
    for x, row in zip(cost, table.itertuples(), strict=True):
        if np.isfinite(row.low):
            axes.plot([x, x], [row.low, row.high], color="#dcdcdc", lw=0.8, zorder=1)
        axes.plot(x, row.dice, "D" if row.language else "o", ms=4.5, color=_colour(row.variant), zorder=3)
    axes.set_xscale("log")
    widest = max(cost.max() / cost.min(), 2) ** 0.12
    axes.set_xlim(cost.min() / widest, cost.max() * widest)
    narrow = cost.max() < 5 * cost.min()
    axes.xaxis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.1)
    axes.grid()


def _colour(variant: str) -> str:
    return style.VARIANT_COLOURS.get(variant, OTHERS)
