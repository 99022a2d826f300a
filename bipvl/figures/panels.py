"""One panel: a slice with a mask, or with its errors, over it; and what stands around panels."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import distance_transform_edt, label

from bipvl.data.spec import dataset_title
from bipvl.figures import style
from bipvl.figures.slice_tables import Slice, error_kinds

TIGHT = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.01, "hspace": 0.01}
LEGEND = {"handlelength": 0.9, "handleheight": 0.9, "labelspacing": 0.2, "borderaxespad": 0.2}
LINE = 0.135
"""Inches, a line of a legend."""
TEXT = 0.28
"""Width of the place for text at the end of a row, as a share of all its panels' width."""


def show(
    axes: Axes, this: Slice, mask: np.ndarray | None = None, *, frame: tuple[float, float] | None = None
) -> None:
    """An image in its true proportions, a mask's classes over it, in a black frame (height, width in mm)."""
    axes.imshow(this.image, cmap="gray", vmin=0, vmax=255, extent=_extent(this), interpolation="bilinear")
    if mask is not None:
        colours = {number: style.class_colour(number - 1) for number in drawn(mask)}
        _tint(axes, this, mask, colours, 0.45)
        for number, colour in colours.items():
            _outline(axes, this, mask == number, colour, 0.8)
    height, width = frame or this.size
    axes.set(xlim=(-width / 2, width / 2), ylim=(height / 2, -height / 2))
    axes.set(facecolor="black", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def show_errors(axes: Axes, this: Slice, mask: np.ndarray) -> None:
    """A dimmed image, over it where a mask is wrong (``style.ERRORS``) and the truth's outlines."""
    show(axes, this)
    axes.images[0].set_clim(0, 400)
    truth = this.masks["truth"]
    _tint(axes, this, error_kinds(truth, mask), dict(enumerate(style.ERRORS.values(), start=1)), 0.85)
    for number in drawn(truth):
        _outline(axes, this, truth == number, "white", 0.5)


def _extent(this: Slice) -> tuple[float, float, float, float]:
    height, width = this.size
    return -width / 2, width / 2, height / 2, -height / 2


def centres(this: Slice) -> list[np.ndarray]:
    """Where the rows and the columns of a slice are drawn, mm from its middle."""
    counts = this.image.shape
    return [(np.arange(n) - (n - 1) / 2) * side / n for n, side in zip(counts, this.size, strict=True)]


def _tint(axes: Axes, this: Slice, regions: np.ndarray, colours: Mapping[int, str], alpha: float) -> None:
    """Regions, by their numbers, in see-through colours."""
    overlay = np.zeros((*regions.shape, 4))
    for number, colour in colours.items():
        overlay[regions == number] = to_rgba(colour, alpha)
    axes.imshow(overlay, extent=_extent(this), interpolation="nearest")


def _outline(axes: Axes, this: Slice, inside: np.ndarray, colour: str, width: float) -> None:
    y, x = centres(this)
    axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=width)


def drawn(mask: np.ndarray) -> list[int]:
    """The classes of a mask, largest first."""
    numbers, areas = np.unique(mask[mask > 0], return_counts=True)
    return [int(n) for n in numbers[np.argsort(-areas, kind="stable")]]


def number_classes(axes: Axes, places: Sequence[np.ndarray], mask: np.ndarray) -> None:
    """Each class's number where its largest piece is thickest, unless another number is there.

    Args:
        places: where the mask's rows and columns are drawn.
    """
    y, x = places
    near = 0.07 * abs(np.ptp(axes.get_xlim()))
    taken: list[tuple[float, float]] = []
    for number in drawn(mask):
        pieces, _ = label(np.pad(mask == number, 1))
        largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
        row, column = np.unravel_index(distance_transform_edt(largest)[1:-1, 1:-1].argmax(), mask.shape)
        place = x[column], y[row]
        if all(np.hypot(place[0] - a, place[1] - b) > near for a, b in taken):
            axes.text(*place, str(number), ha="center", va="center", **white())
            taken.append(place)


def white() -> dict[str, object]:
    """How a text is written that is legible on any picture."""
    return {"color": "white", "fontsize": style.SMALL, "path_effects": style.outline()}


def orient(axes: Axes) -> None:
    """R and L at the sides of a slice, and a bar of 50 mm."""
    axes.text(0.02, 0.5, "R", ha="left", va="center", transform=axes.transAxes, **white())
    axes.text(0.98, 0.5, "L", ha="right", va="center", transform=axes.transAxes, **white())
    x, y = 0.46 * np.ptp(axes.get_xlim()), 0.46 * np.ptp(axes.get_ylim())
    bar = {"lw": 1.5, "path_effects": style.outline(2.5), "solid_capstyle": "butt"}
    axes.plot([x - 50, x], [y, y], color="white", **bar)
    axes.annotate("50 mm", (x, y), (0, 2), textcoords="offset points", ha="right", va="bottom", **white())


def name_row(axes: Axes, facts: Mapping[str, str | float]) -> None:
    """Dataset and case at the left of a row's first panel."""
    title = dataset_title(facts["dataset"]).replace(" (", "\n(", 1)
    axes.set_ylabel(f"{title}\n{facts['case']}", fontsize=style.SMALL)


def empty(axes: Axes, why: str) -> None:
    """A word in place of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, fontsize=style.SMALL)


def patch(number: int, text: str) -> Patch:
    """A class's entry in a legend, with its number."""
    figure_space = "\u2007"  # as wide as a digit
    name = f"{str(number).rjust(2, figure_space)}  {text}"
    return Patch(facecolor=style.class_colour(number - 1), label=name)


def patches(names: Sequence[str], numbers: Iterable[int], width: int = 20) -> list[Patch]:
    """Classes' entries in a legend, their names broken at ``width`` letters."""
    return [patch(n, textwrap.fill(names[n - 1], width, subsequent_indent=" " * 6)) for n in sorted(numbers)]


def panel_width(columns: int, text: float = TEXT) -> float:
    """About how wide a panel of ``rows_figure`` is, inches."""
    return (style.WIDTH - 0.6) / (columns * (1 + text))


def rows_figure(
    heights: Sequence[float], columns: int, *, text: float = TEXT, below: Sequence[float] = ()
) -> tuple[Figure, np.ndarray, list[Axes]]:
    """A figure of rows of panels, at the end of each a place for text.

    Args:
        heights: of the rows, inches.
        text: width of the place for text, as a share of all panels' width.
        below: heights of places for text under all rows, inches.

    Returns:
        the figure, the rows' axes (rows × ``columns`` + 1), the axes below.
    """
    figure = Figure(figsize=(style.WIDTH, sum(heights) + sum(below) + 0.85))
    figure.get_layout_engine().set(**TIGHT)
    ratios = {"width_ratios": [*[1] * columns, text * columns], "height_ratios": [*heights, *below]}
    grid = figure.add_gridspec(len(heights) + len(below), columns + 1, **ratios)
    rows = [[figure.add_subplot(grid[r, c]) for c in range(columns + 1)] for r in range(len(heights))]
    bottom = [figure.add_subplot(grid[len(heights) + r, :]) for r in range(len(below))]
    for axes in rows[0]:
        axes.set_anchor("N")  # else the layout takes room below a title for room above it
    for axes in [*(row[-1] for row in rows), *bottom]:
        axes.set_axis_off()
    return figure, np.array(rows), bottom


def legend_rows(aspects: Sequence[float], columns: int, legends: Sequence[Sequence[Patch]]) -> list[float]:
    """Heights of rows, inches, that fit their panels (height / width) and their legends."""
    lines = [sum(1 + entry.get_label().count("\n") for entry in legend) for legend in legends]
    panel = panel_width(columns)
    return [max(panel * aspect, LINE * (n + 0.5)) for aspect, n in zip(aspects, lines, strict=True)]
