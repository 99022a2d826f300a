"""Accuracy against cost: Dice over what is counted (parameters, operations) or measured (time, memory)."""

from collections.abc import Mapping

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

COUNTED = {
    "parameters": ("parameters (10⁶)", 1e6),
    "operations": ("operations per window (10⁹)", 1e9),
}
MEASURED = {
    "seconds": ("evaluation (s per volume)", 1),
    "memory_gib": ("peak memory in training (GiB)", 1),
}
"""Column → axis label, and the size of the label's unit."""
OTHERS = "#555555"
"""Colour of the variants that have none in ``style.VARIANT_COLOURS``."""


def draw_efficiency(table: pd.DataFrame) -> Figure:
    """Dice against parameters and operations, from the table of ``efficiency.efficiency``.

    Only its columns of counted costs are needed, so that a rerun on another machine gives the same figure.
    """
    return _draw(table, COUNTED, "Operations are counted (one multiply-add is two).")


def draw_runtime(table: pd.DataFrame) -> Figure:
    """Dice against time and memory, from the table of ``efficiency.efficiency``."""
    machines = {machine for text in table["machine"] for machine in text.split("; ")}
    return _draw(
        table,
        MEASURED,
        "Seconds cover the whole evaluation, from file to scores, possibly while other jobs were running. "
        f"Memory is that of the whole process. Measured on: {'; '.join(sorted(machines))}.",
    )


def _draw(table: pd.DataFrame, costs: Mapping[str, tuple[str, float]], explained: str) -> Figure:
    """One panel per cost, one labelled point per variant."""
    figure = Figure(figsize=(style.WIDTH, 3.7))
    row = figure.subplots(1, len(costs), sharey=True)
    for axes, (column, (label, unit)) in zip(row, costs.items(), strict=True):
        _panel(axes, table[column] / unit, table)
        axes.set_xlabel(label)
    row[0].set_ylabel("Dice (mean over classes)")
    meaning = {"o": "reads the image only", "D": "reads image and prompts"}
    handles = [
        Line2D([], [], ls="", marker=marker, ms=4.5, color=OTHERS, label=text)
        for marker, text in meaning.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    title = f"{dataset_title(table['dataset'].iloc[0])}, n = {table['cases'].iloc[0]} test cases"
    row[0].set_title(title, loc="left")
    style.caption(
        figure,
        f"{provenance(table)} Each point is a variant: mean Dice over test cases on the scan's own grid, "
        f"with 95 % bootstrap interval (BCa). {explained}",
    )
    figure.draw_without_rendering()  # the labels need the final layout
    labels = [*map(variant_title, table["variant"])], [*map(_colour, table["variant"])]
    for axes, (column, (_, unit)) in zip(row, costs.items(), strict=True):
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
    digits = (1, 2, 5) if cost.max() < 200 * cost.min() else (1,)
    axes.xaxis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=digits))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.1)
    axes.grid()


def _colour(variant: str) -> str:
    return style.VARIANT_COLOURS.get(variant, OTHERS)
