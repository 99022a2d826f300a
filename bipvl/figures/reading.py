"""The reading test: Dice against steps, what other wordings do, and where the text is lost."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.reading import reading_summary
from bipvl.engine.variants import variant_title
from bipvl.figures import style

COLOURS = {"bipvlseg-prompted": "#009e73", "bipvlseg-modulated": "#cc79a7"}
"""Beside the colours that variants have everywhere."""


def _colours(variants: pd.Series) -> dict[str, str]:
    return style.variant_colours(variants) | {v: c for v, c in COLOURS.items() if v in set(variants)}


def _origin(table: pd.DataFrame) -> str:
    seeds = ", ".join(map(str, sorted(table["seed"].unique())))
    return (
        f"Synthetic volumes of 32³ voxels with four balls, profile {table['profile'].iloc[0]}, seed {seeds}, "
        f"{table['steps'].iloc[0]} steps of two prompts each."
    )


def draw_reading(table: pd.DataFrame) -> Figure:
    """Dice against steps, one line per variant with the range over seeds; from the table "history"."""
    figure = Figure(figsize=(style.WIDTH, 3.4))
    axes = figure.subplots()
    for variant, colour in _colours(table["variant"]).items():
        rows = table[table["variant"] == variant]
        seeds = rows.groupby(["step", "seed"])["dice"].mean().unstack()
        axes.plot(
            seeds.index, seeds.mean(axis=1), color=colour, marker="o", ms=3, label=variant_title(variant)
        )
        axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.15, lw=0)
    ceiling = table["ceiling"].iloc[0]
    axes.axhline(ceiling, color="black", linestyle="--", linewidth=0.8)
    style.note(axes, f"best without reading: {ceiling:.2f}", (table["step"].min(), ceiling), (0, 3))
    axes.set(xlabel="training steps", ylabel="Dice (mean of four kinds)", ylim=(0, 1.03))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.caption(
        figure,
        _origin(table),
        "Mean over four test volumes and the four prompts; band: lowest to highest seed. Dashed: the best "
        "mask that is the same for all prompts.",
    )
    return figure


def draw_reading_wordings(table: pd.DataFrame) -> Figure:
    """One panel per test, one bar per variant; from the table "scores"."""
    summary = reading_summary(table)
    tests, colours = list(summary["test"].unique()), _colours(table["variant"])
    variants = list(colours)
    height = 0.22 * len(variants) + 0.9
    figure, grid = style.panel_grid(len(tests), 3, height=height, margin=0.6, sharey=True, sharex=True)
    for axes, test in zip(grid.flat, tests, strict=False):
        _bars(axes, summary[summary["test"] == test].set_index("variant"), variants, colours)
        axes.set_title(test)
        axes.set_xlabel("share of empty masks" if test == "absent ball" else "Dice")
    style.caption(
        figure,
        _origin(table),
        "Test volumes that no training saw. Bars: mean over seeds and kinds; lines: lowest to highest seed. "
        "An empty mask is right if the named ball is absent.",
    )
    return figure


def _bars(axes: Axes, rows: pd.DataFrame, variants: list[str], colours: dict[str, str]) -> None:
    places = style.named_rows(axes, [variant_title(variant) for variant in variants])
    values = rows.reindex(variants)
    axes.barh(places, values["value"], height=0.7, color=list(colours.values()))
    axes.hlines(places, values["low"], values["high"], color="black", linewidth=0.8)
    axes.set_xlim(0, 1)


def draw_reading_changes(table: pd.DataFrame) -> Figure:
    """How much another prompt changes each place's values, before and after training; from "changes"."""
    figure, grid = style.panel_grid(2, 2, height=2.8, margin=1.0, sharey=True)
    colours = _colours(table["variant"])
    places = list(dict.fromkeys(table["place"]))
    for axes, state in zip(grid.flat, table["state"].unique(), strict=True):
        for variant, colour in colours.items():
            rows = table[(table["variant"] == variant) & (table["state"] == state)]
            means = rows.groupby("place")["change"].mean().reindex(places)
            axes.plot(range(len(places)), means, color=colour, marker="o", ms=3, label=variant_title(variant))
        axes.set_xticks(range(len(places)), places, rotation=40, ha="right")
        axes.set_title(state)
        axes.set_yscale("log")
    grid[0, 0].set_ylabel("relative change by another prompt")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.caption(
        figure,
        _origin(table),
        "‖a − b‖ / ‖a‖ between the values with two prompts, mean over pairs of prompts, test volumes and "
        "seeds. From left to right: the way from the first fusion to the logits. A change of 0 is not drawn.",
    )
    return figure
