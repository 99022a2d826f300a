"""Time and memory against crop, classes and prompt length: BiPVL-Seg and the network without language."""

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from bipvl.figures import style

AXES = {"crop": "side of the crop (voxels)", "classes": "number of classes", "tokens": "tokens per prompt"}
"""Prefix of a case → axis label; a case has a name such as ``crop=96``."""
NETWORKS = (
    ("ours", "BiPVL-Seg", style.VARIANT_COLOURS["bipvlseg"], "o"),
    ("reference", "SwinUNETR-V2 (MONAI)", style.VARIANT_COLOURS["swin_unetr_v2"], "s"),
)
"""Column, name, colour and marker of each network."""


def draw_bench(table: pd.DataFrame) -> Figure:
    """One row of panels per quantity and one column per varied size, from the table ``bench.csv``."""
    varied = table[table["case"].str.contains("=")].copy()
    varied[["axis", "size"]] = varied["case"].str.split("=", expand=True)
    varied["size"] = varied["size"].astype(int)
    quantities = list(varied["quantity"].unique())
    figure = Figure(figsize=(style.WIDTH, 2.2 * len(quantities)))
    grid = figure.subplots(len(quantities), len(AXES), sharex="col", squeeze=False)
    for row, quantity in zip(grid, quantities, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            part = varied[(varied["axis"] == axis) & (varied["quantity"] == quantity)].sort_values("size")
            for column, title, colour, marker in NETWORKS:
                axes.plot(part["size"], part[column], color=colour, marker=marker, ms=4, label=title)
            axes.set_xticks(part["size"])
            axes.set_ylim(0, 1.1 * part[["ours", "reference"]].max(axis=None))
        row[0].set_ylabel(textwrap.fill(quantity, 24))
    for axes, label in zip(grid[-1], AXES.values(), strict=True):
        axes.set_xlabel(label)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    style.caption(
        figure,
        "One window on a CPU in fp32, random weights, feature size 48, 12-layer text encoder of width 768. "
        "Sizes that are not varied: crop 96³, 15 classes, about 80 tokens per prompt. Training: first step, "
        "with activation checkpointing in BiPVL-Seg. Each point is one measurement; times are measured after "
        "one warm-up run.",
    )
    return figure
