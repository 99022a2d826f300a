"""How time and memory grow with crop, classes and prompt: BiPVL-Seg against the network without language."""

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.figures import style

AXES = {"crop": "side of the crop (voxels)", "classes": "classes", "tokens": "tokens of a prompt"}
"""Case prefix → axis label; a case is named ``crop=96``."""


def draw_bench(table: pd.DataFrame) -> Figure:
    """A column of panels for each thing that grows, a row for each quantity (columns of ``bench.csv``)."""
    grown = table[table["case"].str.contains("=")].copy()
    grown[["axis", "size"]] = grown["case"].str.split("=", expand=True)
    quantities = list(dict.fromkeys(grown["quantity"]))
    figure = Figure(figsize=(style.WIDTH, 2.2 * len(quantities)))
    grid = figure.subplots(len(quantities), len(AXES), sharex="col", squeeze=False)
    for row, quantity in zip(grid, quantities, strict=True):
        for axes, (axis, label) in zip(row, AXES.items(), strict=True):
            of_both = grown[(grown["axis"] == axis) & (grown["quantity"] == quantity)]
            _panel(axes, of_both.assign(size=of_both["size"].astype(int)).sort_values("size"))
            if quantity == quantities[-1]:
                axes.set_xlabel(label)
        row[0].set_ylabel(textwrap.fill(quantity, 24))
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    style.caption(
        figure,
        "One window on a CPU in fp32, random weights, feature size 48, 12-layer text encoder of width 768; "
        "where not on the axis: crop 96³, 15 classes, about 80 tokens a prompt. Training with activation "
        "checkpointing in BiPVL-Seg, first step. n = 1 measurement a point; for the times, after one to "
        "warm up.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    colours = style.VARIANT_COLOURS
    for column, title, colour, marker in (
        ("ours", "BiPVL-Seg", colours["bipvlseg"], "o"),
        ("reference", "SwinUNETR-V2 (MONAI)", colours["swin_unetr_v2"], "s"),
    ):
        axes.plot(table["size"], table[column], color=colour, marker=marker, ms=4, label=title)
    axes.set_xticks(table["size"])
    axes.set_ylim(0, 1.1 * table[["ours", "reference"]].max(axis=None))
