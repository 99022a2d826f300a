"""Validation Dice against the learning rate, for every network that was tuned."""

import pandas as pd
from matplotlib.figure import Figure

from bipvl.engine.variants import variant_title
from bipvl.figures import style

MARKERS = "osD^vP*Xd<>ph"


def draw_learning_rates(table: pd.DataFrame) -> Figure:
    """One panel per data set, one line per network, the chosen rate filled; from ``learning_rates.csv``."""
    datasets = list(table["dataset"].unique())
    figure, grid = style.panel_grid(len(datasets), 2, height=2.8, margin=1.4, sharex=True)
    colours = style.variant_colours(table["variant"])
    markers = dict(zip(colours, MARKERS * 3, strict=False))
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        for variant, rows in table[table["dataset"] == dataset].groupby("variant", sort=False):
            look = {"color": colours[variant], "marker": markers[variant], "ms": 5}
            axes.plot(rows["lr"], rows["val_dice"], mfc="white", label=variant_title(variant), **look)
            best = rows[rows["chosen"]]
            axes.plot(best["lr"], best["val_dice"], linestyle="none", **look)
        axes.set_title(style.dataset_heading(dataset))
        axes.set_xscale("log")
        axes.set_xticks(rates := sorted(table["lr"].unique()), [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
        axes.set_xlabel("learning rate of the vision network")
    grid[0, 0].set_ylabel("validation Dice")
    handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    shown = {label: line for label, line in handles.items() if not label.startswith("_")}
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3)
    first = table.iloc[0]
    steps = " and ".join(str(n) for n in sorted(table["steps"].unique()))
    style.caption(
        figure,
        f"{first.cohort.capitalize()} cohort, profile {first.profile}, seed {first.seed}: best Dice on the "
        f"validation cases in a training of {steps} steps, a third of the final one. Filled: the chosen "
        "rate. One training per point, so differences within about 0.01 are noise.",
    )
    return figure
