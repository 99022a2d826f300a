"""What an ablation changes: differences to the reference variant, with their intervals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style


def draw_ablation(table: pd.DataFrame) -> Figure:
    """A panel a dataset, a row a variant: columns of ``comparisons.compare``."""
    datasets, variants = list(dict.fromkeys(table["dataset"])), list(dict.fromkeys(table["variant"]))
    figure = Figure(figsize=(style.WIDTH, 1.5 + 0.28 * len(variants) * -(-len(datasets) // 2)))
    columns = min(2, len(datasets))
    grid = figure.subplots(-(-len(datasets) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(datasets) :]:
        axes.set_axis_off()
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        _panel(axes, table[table["dataset"] == dataset].set_index("variant").loc[variants])
    reference = variant_title(table["reference"].iloc[0])
    for axes in grid[-1]:
        axes.set_xlabel(f"difference in mean Dice to {reference}")
    seeds = ", thin: over seeds and cases" if table["nested_low"].notna().any() else ""
    style.caption(
        figure,
        f"{provenance(table)} Mean over test cases of the paired difference to {reference}, right of the "
        f"line: better than it; bars: 95 % bootstrap interval (BCa) over cases{seeds}. p: Wilcoxon's signed-"
        "rank test with Holm's correction over all rows of the figure. On the scan's own grid.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))[::-1]
    for place, row in zip(places, table.itertuples(), strict=True):
        axes.plot([row.nested_low, row.nested_high], [place] * 2, color="#0072b2", lw=0.6)
        axes.plot([row.difference_low, row.difference_high], [place] * 2, color="#0072b2", lw=1.8)
        axes.plot(row.difference, place, "D", color="#0072b2", ms=4)
        axes.annotate(
            f"p = {row.p_holm:.2g}" if np.isfinite(row.p_holm) else "",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            fontsize=style.SMALL,
            va="center",
        )
    axes.axvline(0, color="#767676", lw=0.8)
    axes.set_yticks(places, [variant_title(v) for v in table.index])
    axes.set_ylim(-0.6, len(table) - 0.2)
    axes.grid(axis="y", visible=False)
    axes.set_title(
        f"{dataset_title(table['dataset'].iloc[0])}, n = {table['cases'].iloc[0]} cases", loc="left"
    )
