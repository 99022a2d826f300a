"""What the prompts' words change: Dice under every edit, for networks trained with it and without."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.statistics import interval, provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style
from bipvl.figures.scores import spread

WAYS = {
    "full": ("trained with the full prompts", "#0072b2", "o", 0.24),
    "prompted": ("the same, prompted head", "#009e73", "^", 0.0),
    "edited": ("trained with the edited prompts", "#e69f00", "s", -0.24),
}
"""What was trained on what → words, colour, marker and place beside the row's middle."""
PROMPTED = "bipvlseg-prompted"


def draw_prompt_robustness(table: pd.DataFrame) -> Figure:
    """A panel a dataset, a row an edit: columns of ``robustness.prompt_robustness``."""
    datasets, edits = list(dict.fromkeys(table["dataset"])), list(dict.fromkeys(table["prompts"]))
    figure = Figure(figsize=(style.WIDTH, 1.5 + 0.36 * len(edits) * -(-len(datasets) // 2)))
    columns = min(2, len(datasets))
    grid = figure.subplots(-(-len(datasets) // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(datasets) :]:
        axes.set_axis_off()
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        _panel(axes, table[table["dataset"] == dataset], edits)
    for axes in grid[-1]:
        axes.set_xlabel("Dice (mean over classes)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    first = variant_title(table["variant"].iloc[0])
    style.caption(
        figure,
        f"{provenance(table)} {first}, tested with prompts of every kind. Small: a test case (mean over its "
        "classes and seeds); large: the mean, with its 95 % bootstrap interval (BCa) over cases; dashed: the "
        "full prompts. On the scan's own grid.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame, edits: list[str]) -> None:
    places = dict(zip(edits, np.arange(len(edits))[::-1], strict=True))
    for way, (label, colour, marker, beside) in WAYS.items():
        mine = table[_ways(table) == way]
        for edit, rows in mine.groupby("prompts", sort=False):
            values, place = rows.sort_values("case")["value"].to_numpy(), places[edit] + beside
            low, high = interval(values)
            axes.plot([low, high], [place] * 2, color=colour, lw=1.5)
            axes.plot(values, place + spread(len(values), 0.16), marker, color=colour, ms=2, alpha=0.5, mew=0)
            axes.plot(values.mean(), place, marker, color=colour, ms=5, label=label, ls="none")
            label = None
    whole = table.loc[(table["prompts"] == "full") & (_ways(table) == "full"), "value"]
    axes.axvline(whole.mean(), color="#767676", lw=0.8, ls=(0, (4, 2)), zorder=0)
    axes.set_yticks([*places.values()], [edit.replace("_", " ") for edit in places])
    axes.grid(axis="y", visible=False)
    count = table["case"].nunique()
    axes.set_title(f"{dataset_title(table['dataset'].iloc[0])}, n = {count} cases", loc="left")


def _ways(table: pd.DataFrame) -> pd.Series:
    """Each row's key of WAYS."""
    return (
        (table["trained"] == "full")
        .map({True: "full", False: "edited"})
        .mask(table["variant"] == PROMPTED, "prompted")
    )
