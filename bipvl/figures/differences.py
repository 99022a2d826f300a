"""The result of an ablation: differences in Dice to the reference variant, with their intervals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style

COLOUR = "#0072b2"


def draw_ablation(table: pd.DataFrame) -> Figure:
    """One panel per data set, one row per variant, from tables of ``comparisons.compare`` (Dice is drawn)."""
    table = table[table["metric"] == "dice"]
    count, variants = table["dataset"].nunique(), list(table["variant"].unique())
    height = 0.28 * len(variants)
    figure, grid = style.panel_grid(count, 2, height=height, margin=1.5, sharex=True, sharey=True)
    for axes, (dataset, part) in zip(grid.flat, table.groupby("dataset", sort=False), strict=False):
        _panel(axes, part.set_index("variant").loc[variants])
        axes.set_title(f"{dataset_title(dataset)}, n = {part['cases'].iloc[0]} cases", loc="left")
    reference = variant_title(table["reference"].iloc[0])
    for axes in grid[-1]:
        axes.set_xlabel(f"difference in mean Dice to {reference}")
    seeds = " (thin bars: over seeds and cases)" if table["nested_low"].notna().any() else ""
    style.caption(
        figure,
        f"{provenance(table)} Paired difference in Dice to {reference}, mean over test cases. Right of the "
        f"line: better than {reference}. Bars: 95 % bootstrap interval (BCa) over cases{seeds}. p: "
        "Wilcoxon's signed-rank test with Holm's correction over all rows of the figure. On the scan's own "
        "grid.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    places = style.named_rows(axes, map(variant_title, table.index))
    for place, row in zip(places, table.itertuples(), strict=True):
        axes.plot([row.nested_low, row.nested_high], [place] * 2, color=COLOUR, lw=0.6)
        axes.plot([row.difference_low, row.difference_high], [place] * 2, color=COLOUR, lw=1.8)
        axes.plot(row.difference, place, "D", color=COLOUR, ms=4)
        style.row_note(axes, place, f"p = {row.p_holm:.2g}" if np.isfinite(row.p_holm) else "")
    axes.axvline(0, color="#767676", lw=0.8)
