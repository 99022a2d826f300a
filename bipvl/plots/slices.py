"""Slices of scans with masks drawn over them."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import distance_transform_edt, label

from bipvl import style
from bipvl.plots.pixels import Slice, read_slices
from bipvl.statistics import dataset_title, provenance, variant_title

TIGHT = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.01, "hspace": 0.01}


def draw_qualitative(table: pd.DataFrame) -> Figure:
    """A row a slice: image, truth and each variant, with the classes at the right."""
    slices = read_slices(table)
    variants = list(dict.fromkeys(name for s in slices for name in s.masks if name != "truth"))
    columns = ["image", "truth", *variants]
    heights = [height / width for height, width in (s.size for s in slices)]
    figure = Figure(figsize=(style.WIDTH, 5.15 / len(columns) * sum(heights) + 0.85))
    ratios = {"width_ratios": [*[1] * len(columns), 0.28 * len(columns)], "height_ratios": heights}
    grid = figure.subplots(len(slices), len(columns) + 1, squeeze=False, **ratios)
    figure.get_layout_engine().set(**TIGHT)
    for row, this in zip(grid, slices, strict=True):
        for axes, name in zip(row, columns, strict=False):
            if name != "image" and name not in this.masks:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not run", ha="center", transform=axes.transAxes, fontsize=style.SMALL)
                continue
            show(axes, this, this.masks.get(name))
            if f"dice_{name}" in this.facts:
                text = f"Dice {this.facts[f'dice_{name}']:.2f}"
                axes.text(0.03, 0.03, text, transform=axes.transAxes, **_white())
        _orient(row[0])
        _number(row[1], this, this.masks["truth"])
        title = dataset_title(this.facts["dataset"]).replace(" (", "\n(", 1)
        row[0].set_ylabel(f"{title}\n{this.facts['case']}", fontsize=style.SMALL)
        row[-1].set_axis_off()
        _legend(row[-1], this)
    for axes, name in zip(grid[0], columns, strict=False):
        axes.set_title({"image": "Image", "truth": "Truth"}.get(name) or variant_title(name))
    style.caption(figure, _caption(table, slices))
    return figure


def _caption(table: pd.DataFrame, slices: Sequence[Slice]) -> str:
    counts = ", ".join(s.facts["cases"] for s in slices)
    channels = {s.facts["channel"]: dataset_title(s.facts["dataset"]) for s in slices}
    shown = ", ".join(f"{c} of {title}" for c, title in channels.items() if c not in ("CT", "MR"))
    scored = any(fact.startswith("dice_") for s in slices for fact in s.facts)
    sentences = [
        provenance(table.dropna(subset=["dataset"])),
        f"Shown: {slices[0].facts['rule']} (n = {counts} test cases), the axial slice with most foreground, "
        "seen from the feet (R: patient's right).",
        "Dice: of the whole case, mean over classes." if scored else "",
        "Of nested classes the innermost is drawn." if len(slices) > 1 or shown else "",
        f"Channel shown: {shown}." if shown else "",
    ]
    return " ".join(filter(None, sentences))


def draw_data_samples(table: pd.DataFrame) -> Figure:
    """A column a case: axial image, truth over it, truth over a coronal slice; the prompts' titles below."""
    slices = read_slices(table)
    cases = list(dict.fromkeys(s.facts["case"] for s in slices))
    found = {(s.facts["case"], s.facts["plane"]): s for s in slices}
    rows = [("axial", False), ("axial", True), ("coronal", True)]
    frames = [tuple(np.max([found[case, plane].size for case in cases], axis=0)) for plane, _ in rows]
    titles = slices[0].texts("prompts")
    columns = 3 if max(map(len, titles)) < 36 else 2
    legend_height = 0.135 * -(-len(titles) // columns)

    panel = 6.7 / len(cases)
    heights = [panel * height / width for height, width in frames]
    figure = Figure(figsize=(style.WIDTH, sum(heights) + legend_height + 1.0))
    grid = figure.add_gridspec(len(rows) + 1, len(cases), height_ratios=[*heights, legend_height])
    figure.get_layout_engine().set(**TIGHT)
    for number, ((plane, overlaid), frame) in enumerate(zip(rows, frames, strict=True)):
        for column, case in enumerate(cases):
            axes, this = figure.add_subplot(grid[number, column]), found[case, plane]
            show(axes, this, this.masks["truth"] if overlaid else None, frame=frame)
            if overlaid:
                _number(axes, this, this.masks["truth"])
            if number == 0:
                axes.set_title(case)
            if column == 0:
                _orient(axes)
                axes.set_ylabel(f"{plane}{', truth' if overlaid else ''}")
    below = figure.add_subplot(grid[-1, :])
    below.set_axis_off()
    handles = [_patch(number, title) for number, title in enumerate(titles, start=1)]
    below.legend(handles=handles, loc="center", ncols=columns, **_LEGEND)
    facts = slices[0].facts
    figure.suptitle(dataset_title(facts["dataset"]), fontsize=9)
    channel = f" Channel shown: {facts['channel']}." if facts["channel"] not in ("CT", "MR") else ""
    style.caption(
        figure,
        f"{provenance(table.dropna(subset=['dataset']))} {facts['cases']}; shown: training cases, the slices "
        "with most foreground, to one scale (R: patient's right). Numbers and colours: the prompts' titles; "
        f"of nested classes the innermost is drawn.{channel}",
    )
    return figure


def show(
    axes: Axes, this: Slice, mask: np.ndarray | None = None, *, frame: tuple[float, float] | None = None
) -> None:
    """An image in its true proportions, a mask's classes over it, in a black frame (height, width in mm)."""
    height, width = this.size
    extent = (-width / 2, width / 2, height / 2, -height / 2)
    axes.imshow(this.image, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="bilinear")
    if mask is not None:
        y, x = _centres(this)
        overlay = np.zeros((*mask.shape, 4))
        for number in _drawn(mask):
            colour, inside = to_rgb(style.class_colour(number - 1)), mask == number
            overlay[inside] = (*colour, 0.45)
            axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=0.8)
        axes.imshow(overlay, extent=extent, interpolation="nearest")
    height, width = frame or this.size
    axes.set(xlim=(-width / 2, width / 2), ylim=(height / 2, -height / 2))
    axes.set(facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _centres(this: Slice) -> list[np.ndarray]:
    """Where the rows and the columns of a picture are drawn, mm from its middle."""
    counts = this.image.shape
    return [(np.arange(n) - (n - 1) / 2) * side / n for n, side in zip(counts, this.size, strict=True)]


def _drawn(mask: np.ndarray) -> list[int]:
    """The classes of a mask, largest first."""
    numbers, areas = np.unique(mask[mask > 0], return_counts=True)
    return [int(n) for n in numbers[np.argsort(-areas, kind="stable")]]


def _number(axes: Axes, this: Slice, mask: np.ndarray) -> None:
    """Each class's number where its largest piece is thickest, unless another number is there."""
    y, x = _centres(this)
    near = 0.07 * np.ptp(axes.get_xlim())
    taken: list[tuple[float, float]] = []
    for number in _drawn(mask):
        pieces, _ = label(np.pad(mask == number, 1))
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        row, column = np.unravel_index(distance_transform_edt(largest)[1:-1, 1:-1].argmax(), mask.shape)
        place = x[column], y[row]
        if all(np.hypot(place[0] - a, place[1] - b) > near for a, b in taken):
            axes.text(*place, str(number), ha="center", va="center", **_white())
            taken.append(place)


def _white() -> dict[str, object]:
    return {"color": "white", "fontsize": style.SMALL, "path_effects": style.outline()}


def _orient(axes: Axes) -> None:
    """R and L at the sides, and a bar of 50 mm."""
    axes.text(0.02, 0.5, "R", ha="left", va="center", transform=axes.transAxes, **_white())
    axes.text(0.98, 0.5, "L", ha="right", va="center", transform=axes.transAxes, **_white())
    x, y = 0.46 * np.ptp(axes.get_xlim()), 0.46 * np.ptp(axes.get_ylim())
    bar = {"lw": 1.5, "path_effects": style.outline(2.5), "solid_capstyle": "butt"}
    axes.plot([x - 50, x], [y, y], color="white", **bar)
    axes.annotate("50 mm", (x, y), (0, 2), textcoords="offset points", ha="right", va="bottom", **_white())


_LEGEND = {"handlelength": 0.9, "handleheight": 0.9, "labelspacing": 0.2, "borderaxespad": 0.2}


def _patch(number: int, text: str) -> Patch:
    figure_space = "\u2007"  # as wide as a digit
    return Patch(
        facecolor=style.class_colour(number - 1), label=f"{str(number).rjust(2, figure_space)}  {text}"
    )


def _legend(axes: Axes, this: Slice) -> None:
    """The classes that are drawn in a row, with their numbers."""
    drawn = sorted({number for mask in this.masks.values() for number in _drawn(mask)})
    names = this.texts("classes")
    wrapped = [textwrap.fill(names[n - 1], 20, subsequent_indent=" " * 6) for n in drawn]
    handles = [_patch(n, name) for n, name in zip(drawn, wrapped, strict=True)]
    axes.legend(handles=handles, loc="center left", **_LEGEND)
