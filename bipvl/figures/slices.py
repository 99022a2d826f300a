"""Figures of slices: masks over images, errors of masks, the worst cases, samples of the data."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style
from bipvl.figures.panels import LEGEND, LINE, TIGHT
from bipvl.figures.slice_tables import SliceData, read_slices


@dataclass(frozen=True)
class Column:
    """What a column shows over the image: nothing, a layer's classes, or the layer's errors."""

    title: str
    layer: str | None = None
    errors: bool = False
    scored: bool = True


IMAGE, TRUTH = Column("Image"), Column("Truth", "truth")


def draw_qualitative(table: pd.DataFrame) -> Figure:
    """One row per slice: image, truth and each variant, with the classes at the right."""
    return _with_legends(table, errors=False)


def draw_errors(table: pd.DataFrame) -> Figure:
    """Like ``draw_qualitative``, from its table, but with each variant's errors."""
    return _with_legends(table, errors=True)


def _with_legends(table: pd.DataFrame, *, errors: bool) -> Figure:
    slices = read_slices(table)
    variants = [Column(variant_title(name), name, errors=errors) for name in _variants(slices)]
    columns = [IMAGE, TRUTH, *variants]
    entries = [panels.patches(data.texts("classes"), _shown(data)) for data in slices]
    figure, grid = panels.legend_figure([_aspect(s) for s in slices], [c.title for c in columns], entries)
    _fill(grid, slices, columns)
    counts = ", ".join(s.facts["cases"] for s in slices)
    rule = f"{slices[0].facts['rule']} (n = {counts} test cases), the axial slice with most foreground"
    _finish(figure, table, slices, rule, errors=errors)
    return figure


def draw_failures(table: pd.DataFrame) -> Figure:
    """One row per case, the worst first: image, truth, prediction, errors, and the worst class."""
    slices = read_slices(table)
    (variant,) = _variants(slices)
    wrong = Column("Errors", variant, errors=True, scored=False)
    columns = [IMAGE, TRUTH, Column(variant_title(variant), variant), wrong]
    shown: dict[str, set[int]] = {}
    for data in slices:
        shown.setdefault(data.facts["dataset"], set()).update(_shown(data))
    names = {data.facts["dataset"]: data.texts("classes") for data in slices}
    across = {dataset: 3 if max(map(len, names[dataset])) > 24 else 5 for dataset in shown}
    below = [LINE * (1.8 - -len(shown[dataset]) // across[dataset]) for dataset in shown]
    heights = [panels.panel_width(len(columns), text=0.2) * _aspect(data) for data in slices]
    figure, grid, bottom = panels.rows_figure(heights, [c.title for c in columns], text=0.2, below=below)
    _fill(grid[:, :-1], slices, columns)
    for axes, data in zip(grid[:, -1], slices, strict=True):
        more = int(data.facts["worst_count"]) - 1
        name = data.facts["worst_class"] + (f" and {more} more" if more else "")
        worst = ["worst class:", *textwrap.wrap(name, 25), f"Dice {data.facts['worst_dice']:.2f}"]
        look = {"va": "center", "transform": axes.transAxes, "fontsize": style.SMALL}
        axes.text(0.04, 0.5, "\n".join(worst), **look)
    for axes, dataset in zip(bottom, shown, strict=True):
        entries = panels.patches(names[dataset], shown[dataset], width=99)
        title = {"title": dataset_title(dataset), "title_fontsize": style.SMALL, "alignment": "left"}
        axes.legend(handles=entries, loc="center left", ncols=across[dataset], **title, **LEGEND)
    rule = f"{slices[0].facts['rule']}, the axial slice with most wrong voxels"
    _finish(figure, table, slices, rule, errors=True)
    return figure


def _variants(slices: Sequence[SliceData]) -> list[str]:
    return list(dict.fromkeys(name for s in slices for name in s.masks if name != "truth"))


def _shown(data: SliceData) -> set[int]:
    """The classes of a slice in truth and predictions."""
    return {number for mask in data.masks.values() for number in panels.classes_in(mask)}


def _aspect(data: SliceData) -> float:
    height, width = data.size
    return height / width


def _fill(grid: np.ndarray, slices: Sequence[SliceData], columns: Sequence[Column]) -> None:
    """Draw the panels of all rows, with the names of the rows."""
    for row, data in zip(grid, slices, strict=True):
        for axes, column in zip(row, columns, strict=True):
            _panel(axes, data, column)
        panels.orient(row[0])
        panels.name_row(row[0], data.facts)


def _panel(axes: Axes, data: SliceData, column: Column) -> None:
    if column.layer and column.layer not in data.masks:
        panels.empty(axes, "not run")
        return
    mask = data.masks.get(column.layer)
    if column.errors:
        panels.show_errors(axes, data, mask)
    else:
        panels.show(axes, data, mask)
    if column == TRUTH:
        panels.number_classes(axes, panels.centres(data), mask)
    dice = data.facts.get(f"dice_{column.layer}")
    if dice is not None and column.scored:
        axes.text(0.03, 0.03, f"Dice {dice:.2f}", transform=axes.transAxes, **panels.ON_IMAGE)


def _finish(
    figure: Figure, table: pd.DataFrame, slices: Sequence[SliceData], rule: str, *, errors: bool
) -> None:
    """Draw the caption and, for errors, the legend of their colours above the figure."""
    if errors:
        meaning = ("only in the truth", "only in the prediction", "in both, but not the same")
        entries = zip(style.ERRORS.items(), meaning, strict=True)
        key = [Patch(facecolor=colour, label=f"{name} ({how})") for (name, colour), how in entries]
        figure.legend(handles=key, loc="outside upper center", ncols=len(key), **LEGEND)
    channels = {s.facts["channel"]: dataset_title(s.facts["dataset"]) for s in slices}
    shown = ", ".join(f"{c} of {title}" for c, title in channels.items() if c not in ("CT", "MR"))
    scored = any(fact.startswith("dice_") for s in slices for fact in s.facts)
    style.caption(
        figure,
        provenance(table.dropna(subset=["dataset"])),
        f"Shown: {rule}, seen from the feet (R: patient's right).",
        "Dice: of the whole case, mean over classes." if scored else "",
        "White: outlines of the truth." if errors else "",
        "Of nested classes the innermost is drawn." if len(slices) > 1 or shown else "",
        f"Channel shown: {shown}." if shown else "",
    )


def draw_data_samples(table: pd.DataFrame) -> Figure:
    """One column per case: axial image, with truth, coronal slice with truth; below, the prompts' titles."""
    slices = read_slices(table)
    cases = list(dict.fromkeys(s.facts["case"] for s in slices))
    found = {(s.facts["case"], s.facts["plane"]): s for s in slices}
    rows = [("axial", False), ("axial", True), ("coronal", True)]
    frames = [tuple(np.max([found[case, plane].size for case in cases], axis=0)) for plane, _ in rows]
    titles = slices[0].texts("prompts")
    columns = 3 if max(map(len, titles)) < 36 else 2
    legend_height = LINE * -(-len(titles) // columns)

    panel = 6.7 / len(cases)
    heights = [panel * height / width for height, width in frames]
    figure = Figure(figsize=(style.WIDTH, sum(heights) + legend_height + 1.0))
    grid = figure.add_gridspec(len(rows) + 1, len(cases), height_ratios=[*heights, legend_height])
    figure.get_layout_engine().set(**TIGHT)
    for number, ((plane, overlaid), frame) in enumerate(zip(rows, frames, strict=True)):
        for column, case in enumerate(cases):
            axes, data = figure.add_subplot(grid[number, column]), found[case, plane]
            panels.show(axes, data, data.masks["truth"] if overlaid else None, frame=frame)
            if overlaid:
                panels.number_classes(axes, panels.centres(data), data.masks["truth"])
            if number == 0:
                axes.set_title(case)
            if column == 0:
                panels.orient(axes)
                axes.set_ylabel(f"{plane}{', truth' if overlaid else ''}")
    below = figure.add_subplot(grid[-1, :])
    below.set_axis_off()
    handles = panels.patches(titles, range(1, len(titles) + 1), width=999)
    below.legend(handles=handles, loc="center", ncols=columns, **LEGEND)
    facts = slices[0].facts
    figure.suptitle(dataset_title(facts["dataset"]), fontsize=9)
    style.caption(
        figure,
        provenance(table.dropna(subset=["dataset"])),
        f"{facts['cases']}; shown: training cases, the slices "
        "with most foreground, at one scale (R: patient's right). Numbers and colours: the prompts' titles; "
        f"of nested classes the innermost is drawn.",
        panels.channel_sentence(facts),
    )
    return figure
