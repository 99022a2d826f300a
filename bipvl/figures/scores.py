"""Dice of every test case: per dataset, and per class."""

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


def spread(count: int, width: float) -> np.ndarray:
    """Places of ``count`` points within ±width/2, evenly strewn and the same each time."""
    return width * ((np.arange(count) * GOLDEN + 0.5) % 1 - 0.5)


def draw_main_dice(table: pd.DataFrame) -> Figure:
    """Mean Dice of every case, a panel a dataset: columns of ``statistics.case_means``."""
    datasets = list(dict.fromkeys(table["dataset"]))
    columns = min(4, len(datasets))
    rows = -(-len(datasets) // columns)
    figure = Figure(figsize=(max(1.75 * columns, 3.5), 2.9 * rows))
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(datasets) :]:
        axes.set_axis_off()
    colours = style.variant_colours(table["variant"])
    for axes, dataset in zip(grid.flat, datasets, strict=False):
        _panel(axes, table[table["dataset"] == dataset], colours)
    for axes in grid[:, 0]:
        axes.set_ylabel("Dice (mean over classes)")
    style.caption(
        figure,
        f"{provenance(table)} A circle is a test case (mean over its classes and seeds), a grey line joins a "
        "case with itself; diamonds: mean over cases with 95 % bootstrap interval (BCa); dashed: mean atlas, "
        "the most frequent label of the training cases at each place. On the scan's own grid.",
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    wide = table.pivot(index="case", columns="variant", values="value").sort_index()
    variants = [v for v in dict.fromkeys(table["variant"]) if v != MEAN_ATLAS]
    jitter = spread(len(wide), 0.3)
    places = np.arange(len(variants))[None] + jitter[:, None]
    axes.plot(places.T, wide[variants].T.to_numpy(), color="#c8c8c8", lw=0.5, zorder=1)
    for place, variant in enumerate(variants):
        values = wide[variant]
        axes.scatter(
            place + jitter, values, s=14, facecolor="white", edgecolor=colours[variant], lw=0.8, zorder=2
        )
        _mean(axes, place + 0.32, values.dropna(), colours[variant])
    if MEAN_ATLAS in wide:
        level = wide[MEAN_ATLAS].mean()
        axes.axhline(level, color=colours[MEAN_ATLAS], lw=1, ls=(0, (4, 2)), zorder=1)
        above = level < 0.1  # else the text would lie on the names below the axis
        axes.annotate(
            f"mean atlas {level:.2f}",
            (-0.45, level),
            (0, 2 if above else -2),
            textcoords="offset points",
            va="bottom" if above else "top",
            color="#555555",
            fontsize=style.SMALL,
        )
    axes.set_xlim(-0.5, len(variants) - 0.5 + 0.15)
    axes.set_ylim(0, 1.05)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid()
    labels = [variant_title(v) for v in variants]
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(variants) > 2 else {}
    axes.set_xticks(range(len(variants)), labels, **turned)
    for label, variant in zip(axes.get_xticklabels(), variants, strict=True):
        label.set_color(colours[variant])
    axes.set_title(f"{_two_lines(dataset_title(table['dataset'].iloc[0]))}\nn = {len(wide)} test cases")


def _mean(axes: Axes, place: float, values: pd.Series, colour: str) -> None:
    """Mean and interval beside the points, with the mean's value."""
    mean, (low, high) = values.mean(), interval(values.to_numpy())
    if np.isfinite(low):
        axes.plot([place, place], [low, high], color=colour, lw=1.2, zorder=3)
    axes.plot(place, mean, marker="D", ms=4.5, color=colour, zorder=4)
    axes.annotate(
        f"{mean:.2f}",
        (place, high if np.isfinite(high) else mean),
        (0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=colour,
        fontsize=style.SMALL,
        fontweight="bold",
        path_effects=style.outline(2, "white"),
        zorder=5,
    )


def _two_lines(title: str) -> str:
    return title.replace(" (", "\n(", 1)


def draw_class_dice(table: pd.DataFrame) -> Figure:
    """Dice of every case and class, a panel a dataset: columns of ``statistics.class_values``."""
    classes = {
        dataset: list(dict.fromkeys(group["class"]))
        for dataset, group in table.groupby("dataset", sort=False)
    }
    halves = _two_columns({dataset: len(names) + 2.2 for dataset, names in classes.items()})
    colours = style.variant_colours(table["variant"])
    rows = max(sum(len(classes[d]) + 2.2 for d in half) for half in halves)
    figure = Figure(figsize=(style.WIDTH if len(halves) > 1 else 4.2, 0.235 * rows + 1.0))
    for half, part in zip(halves, np.atleast_1d(figure.subfigures(1, len(halves), wspace=0.02)), strict=True):
        heights = [len(classes[d]) + 0.6 for d in half]
        for axes, dataset in zip(
            part.subplots(len(half), 1, height_ratios=heights, squeeze=False).flat, half, strict=True
        ):
            _class_panel(axes, table[table["dataset"] == dataset], classes[dataset], colours)
        axes.set_xlabel("Dice")
    variants = list(colours)
    handles = [
        Line2D([], [], ls="", marker="D", ms=4.5, color=colours[v], label=variant_title(v))
        if v != MEAN_ATLAS
        else Line2D([], [], ls="", marker="|", ms=9, mew=1.5, color=colours[v], label="Mean atlas (mean)")
        for v in variants
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    style.caption(
        figure,
        f"{provenance(table)} n: test cases; a circle is one (mean over seeds) that has the class or was "
        "given it; diamonds: mean over these with 95 % bootstrap interval (BCa). On the scan's own grid.",
    )
    return figure


def _two_columns(sizes: dict[str, float]) -> list[list[str]]:
    """Datasets into two columns of about equal height, in their order; one dataset stays alone."""
    names, total = list(sizes), sum(sizes.values())
    if len(names) == 1:
        return [names]
    cuts = range(1, len(names))
    cut = min(cuts, key=lambda c: abs(sum(sizes[n] for n in names[:c]) - total / 2))
    return [names[:cut], names[cut:]]


def _class_panel(axes: Axes, table: pd.DataFrame, names: list[str], colours: dict[str, str]) -> None:
    variants = [v for v in dict.fromkeys(table["variant"]) if v != MEAN_ATLAS]
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
    axes.scatter(
        values, place + jitter, s=7, facecolor="none", edgecolor=colour, lw=0.6, alpha=0.75, zorder=2
    )
    low, high = interval(values)
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=colour, lw=1.2, zorder=3)
    axes.plot(values.mean(), place, marker="D", ms=3.6, color=colour, mec="white", mew=0.4, zorder=4)
