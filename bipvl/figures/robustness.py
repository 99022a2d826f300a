"""The effect of edited prompts: Dice per edit, for networks trained with the edit and without it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.statistics import interval, provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style
from bipvl.figures.scores import spread

TRAININGS = {
    "full": ("trained with the full prompts", "#0072b2", "o", 0.24),
    "prompted": ("trained with the full prompts, prompted head", "#009e73", "^", 0.0),
    "edited": ("trained with the edited prompts", "#e69f00", "s", -0.24),
}
"""Kind of training → label, colour, marker, and offset from the middle of the row."""
PROMPTED = "bipvlseg-prompted"


def draw_prompt_robustness(table: pd.DataFrame) -> Figure:
    """One panel per data set, one row per edit, from the table of ``prompt_robustness``."""
    count, edits = table["dataset"].nunique(), list(table["prompts"].unique())
    height = 0.36 * len(edits)
    figure, grid = style.panel_grid(count, 2, height=height, margin=1.5, sharex=True, sharey=True)
    training = (table["trained"] == "full").map({True: "full", False: "edited"})
    table = table.assign(training=training.mask(table["variant"] == PROMPTED, "prompted"))
    for axes, (dataset, part) in zip(grid.flat, table.groupby("dataset", sort=False), strict=False):
        _panel(axes, part, edits)
        axes.set_title(f"{dataset_title(dataset)}, n = {part['case'].nunique()} cases", loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("Dice (mean over classes)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.caption(
        figure,
        f"{provenance(table)} {variant_title(table['variant'].iloc[0])}, tested with every kind of prompt. "
        "Small markers: test cases (mean over classes and seeds); large: mean over cases with 95 % bootstrap "
        "interval (BCa); dashed line: mean with the full prompts. On the scan's own grid.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame, edits: list[str]) -> None:
    middles = style.named_rows(axes, [edit.replace("_", " ") for edit in edits])
    places = dict(zip(edits, middles, strict=True))
    for training, (label, colour, marker, offset) in TRAININGS.items():
        for edit, rows in table[table["training"] == training].groupby("prompts", sort=False):
            values, place = rows.sort_values("case")["value"].to_numpy(), places[edit] + offset
            axes.plot(interval(values), [place] * 2, color=colour, lw=1.5)
            axes.plot(values, place + spread(len(values), 0.16), marker, color=colour, ms=2, alpha=0.5, mew=0)
            axes.plot(values.mean(), place, marker, color=colour, ms=5, label=label, ls="none")
            label = None  # one legend entry per training
    full = table.loc[(table["prompts"] == "full") & (table["training"] == "full"), "value"]
    axes.axvline(full.mean(), color="#767676", lw=0.8, ls=(0, (4, 2)), zorder=0)
