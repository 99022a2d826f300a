"""One panel (a slice with a mask or its errors over it), and the text around panels."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import distance_transform_edt, label

from bipvl.figures import style
from bipvl.figures.slice_tables import SliceData, error_kinds

TIGHT = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.01, "hspace": 0.01}
LEGEND = {"handlelength": 0.9, "handleheight": 0.9, "labelspacing": 0.2, "borderaxespad": 0.2}
LINE = 0.135
"""Height of a line in a legend, inches."""
TEXT = 0.28
"""Width of the text at the end of a row, as a share of the width of all its panels."""
ON_IMAGE = {"color": "white", "fontsize": style.SMALL, "path_effects": style.outline()}
"""Text style that is legible on any image."""


def show(
    axes: Axes, data: SliceData, mask: np.ndarray | None = None, *, frame: tuple[float, float] | None = None
) -> None:
    """Draw an image in true proportions with a mask's classes over it.

    Args:
        frame: height and width of the black frame around it, mm.
    """
    axes.imshow(data.image, cmap="gray", vmin=0, vmax=255, extent=data.extent, interpolation="bilinear")
    if mask is not None:
        colours = {number: style.class_colour(number - 1) for number in classes_in(mask)}
        _tint(axes, data, mask, colours, 0.45)
        for number, colour in colours.items():
            outline(axes, data, mask == number, colour, 0.8)
    height, width = frame or data.size
    axes.set(xlim=(-width / 2, width / 2), ylim=(height / 2, -height / 2))
    axes.set(facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def show_errors(axes: Axes, data: SliceData, mask: np.ndarray) -> None:
    """Draw a dimmed image, the errors of a mask (``style.ERRORS``) and the truth's outlines."""
    show(axes, data)
    axes.images[0].set_clim(0, 400)
    truth = data.masks["truth"]
    _tint(axes, data, error_kinds(truth, mask), dict(enumerate(style.ERRORS.values(), start=1)), 0.85)
    for number in classes_in(truth):
        outline(axes, data, truth == number, "white", 0.5)


def outline(
    axes: Axes, data: SliceData, inside: np.ndarray, colour: str = "white", width: float = 0.7
) -> None:
    """Draw the outline of a region of a slice."""
    if inside.any():
        y, x = centres(data)
        axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=width)


def centres(data: SliceData) -> list[np.ndarray]:
    """The positions of a slice's rows and of its columns, mm from its centre."""
    counts = data.image.shape
    return [(np.arange(n) - (n - 1) / 2) * side / n for n, side in zip(counts, data.size, strict=True)]


def _tint(axes: Axes, data: SliceData, regions: np.ndarray, colours: Mapping[int, str], alpha: float) -> None:
    """Draw regions, given by their numbers, in see-through colours."""
    overlay = np.zeros((*regions.shape, 4))
    for number, colour in colours.items():
        overlay[regions == number] = to_rgba(colour, alpha)
    axes.imshow(overlay, extent=data.extent, interpolation="nearest")


def classes_in(mask: np.ndarray) -> list[int]:
    """The classes of a mask, the largest first."""
    numbers, areas = np.unique(mask[mask > 0], return_counts=True)
    return [int(n) for n in numbers[np.argsort(-areas, kind="stable")]]


def number_classes(axes: Axes, places: Sequence[np.ndarray], mask: np.ndarray) -> None:
    """Write each class's number where its largest piece is thickest, unless another number is there.

    Args:
        places: positions of the mask's rows, and of its columns.
    """
    y, x = places
    near = 0.07 * abs(np.ptp(axes.get_xlim()))
    taken: list[tuple[float, float]] = []
    for number in classes_in(mask):
        pieces, _ = label(np.pad(mask == number, 1))
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        row, column = np.unravel_index(distance_transform_edt(largest)[1:-1, 1:-1].argmax(), mask.shape)
        place = x[column], y[row]
        if all(np.hypot(place[0] - a, place[1] - b) > near for a, b in taken):
            axes.text(*place, str(number), ha="center", va="center", **ON_IMAGE)
            taken.append(place)


def mark_sides(axes: Axes, left: str = "R", right: str = "L") -> None:
    """Write letters for the patient's directions at the sides of a slice."""
    axes.text(0.02, 0.5, left, ha="left", va="center", transform=axes.transAxes, **ON_IMAGE)
    axes.text(0.98, 0.5, right, ha="right", va="center", transform=axes.transAxes, **ON_IMAGE)


def orient(axes: Axes) -> None:
    """Mark the sides of a slice, and draw a scale bar of 50 mm."""
    mark_sides(axes)
    x, y = 0.46 * np.ptp(axes.get_xlim()), 0.46 * np.ptp(axes.get_ylim())
    bar = {"lw": 1.5, "path_effects": style.outline(2.5), "solid_capstyle": "butt"}
    axes.plot([x - 50, x], [y, y], color="white", **bar)
    style.note(axes, "50 mm", (x, y), (0, 2), ha="right", va="bottom", **ON_IMAGE)


def name_row(axes: Axes, facts: Mapping[str, str | float]) -> None:
    """Write data set and case to the left of a row's first panel."""
    axes.set_ylabel(f"{style.dataset_heading(facts['dataset'])}\n{facts['case']}", fontsize=style.SMALL)


def empty(axes: Axes, why: str) -> None:
    """Write a few words in place of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, fontsize=style.SMALL)


def channel_sentence(facts: Mapping[str, str | float]) -> str:
    """The caption's sentence about the channel shown, for images of several channels, else empty."""
    return "" if facts["channel"] in ("CT", "MR") else f"Channel shown: {facts['channel']}."


def patches(names: Sequence[str], numbers: Iterable[int], width: int = 20) -> list[Patch]:
    """Legend entries of classes, with their numbers; names are wrapped at ``width`` characters."""
    entries = []
    for n in sorted(numbers):
        name = textwrap.fill(names[n - 1], width, subsequent_indent=" " * 6)
        number = str(n).rjust(2, "\u2007")  # a space as wide as a digit
        entries.append(Patch(facecolor=style.class_colour(n - 1), label=f"{number}  {name}"))
    return entries


def panel_width(columns: int, text: float = TEXT) -> float:
    """The approximate width of a panel of ``rows_figure``, inches."""
    return (style.WIDTH - 0.6) / (columns * (1 + text))


def rows_figure(
    heights: Sequence[float], titles: Sequence[str], *, text: float = TEXT, below: Sequence[float] = ()
) -> tuple[Figure, np.ndarray, list[Axes]]:
    """Make a figure of rows of panels, with axes for text at the end of each row.

    Args:
        heights: heights of the rows, inches.
        titles: one per column of panels.
        text: width of the text at the end of a row, as a share of the width of all its panels.
        below: heights of axes for text below all rows, inches.

    Returns:
        The figure, the axes of the rows (rows × (titles + 1)), and the axes below.
    """
    figure = Figure(figsize=(style.WIDTH, sum(heights) + sum(below) + 0.85))
    figure.get_layout_engine().set(**TIGHT)
    columns = len(titles)
    ratios = {"width_ratios": [*[1] * columns, text * columns], "height_ratios": [*heights, *below]}
    grid = figure.add_gridspec(len(heights) + len(below), columns + 1, **ratios)
    rows = [[figure.add_subplot(grid[r, c]) for c in range(columns + 1)] for r in range(len(heights))]
    bottom = [figure.add_subplot(grid[len(heights) + r, :]) for r in range(len(below))]
    for axes, title in zip(rows[0], [*titles, ""], strict=True):
        axes.set_title(title)
        axes.set_anchor("N")  # otherwise the layout reserves the room above a title twice
    for axes in [*(row[-1] for row in rows), *bottom]:
        axes.set_axis_off()
    return figure, np.array(rows), bottom


def legend_figure(
    aspects: Sequence[float], titles: Sequence[str], legends: Sequence[Sequence[Patch]]
) -> tuple[Figure, np.ndarray]:
    """Make a figure of rows with a legend at the end of each: the figure, and the axes of its panels.

    Rows fit their panels (``aspects``: height / width) and their legends.
    """
    lines = [sum(1 + entry.get_label().count("\n") for entry in legend) for legend in legends]
    panel = panel_width(len(titles))
    heights = [max(panel * aspect, LINE * (n + 0.5)) for aspect, n in zip(aspects, lines, strict=True)]
    figure, grid, _ = rows_figure(heights, titles)
    for axes, legend in zip(grid[:, -1], legends, strict=True):
        axes.legend(handles=legend, loc="center left", **LEGEND)
    return figure, grid[:, :-1]
