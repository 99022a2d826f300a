"""The common look of all figures: sizes, colours, captions, panels, and the written files."""

import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from PIL import Image

from bipvl.common.files import atomic_path
from bipvl.data.spec import dataset_title

WIDTH = 7.0
"""Inches: the text width of a page with two columns."""
SMALL = 7
"""Font size of the smallest text, in points."""

CLASS_COLOURS = (
    *("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"),
    *("#b41e00", "#0000e1", "#a5d2a5", "#00f0ff", "#a569ff", "#874b69", "#5a0087", "#78002d"),
)
"""Colour of class c of a data set (prompt row c). Seven are from Okabe and Ito (2008); the other eight differ
from all others in lightness or hue, also with protanopia, deuteranopia and tritanopia."""

ERRORS = {"missed": "#1f8fff", "false": "#e8450a", "another class": "#ffe14d"}
"""Errors of a mask: only in the reference, only in the prediction, in both but with different classes. The
colours differ from each other and from grey for every kind of colour vision."""

VARIANT_COLOURS = {"bipvlseg": "#0072b2", "swin_unetr_v2": "#d55e00", "mean_atlas": "#767676"}
OTHER_VARIANTS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

_RC = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every computer
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), SMALL),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **{"axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.5},
    "lines.linewidth": 1.2,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "pdf.fonttype": 42,  # keep text as text
}


def context() -> AbstractContextManager:
    """Matplotlib settings for drawing and writing figures; the global settings are restored afterwards."""
    return mpl.rc_context(mpl.rcParamsDefault | _RC | {"backend": mpl.rcParams["backend"]})


def class_colour(row: int) -> str:
    """The colour of class ``row`` (from 0); after the fifteenth, the colours repeat."""
    return CLASS_COLOURS[row % len(CLASS_COLOURS)]


def variant_colours(variants: Iterable[str]) -> dict[str, str]:
    """The colour of each variant: from VARIANT_COLOURS if it is listed there, else from OTHER_VARIANTS."""
    spare = cycle(OTHER_VARIANTS)
    return {name: VARIANT_COLOURS.get(name) or next(spare) for name in dict.fromkeys(variants)}


def outline(width: float = 1.5, colour: str = "black") -> list[withStroke]:
    """Path effects that keep text legible on any image."""
    return [withStroke(linewidth=width, foreground=colour)]


def dataset_heading(dataset: str) -> str:
    """The title of a data set on two lines: name, then modality."""
    return dataset_title(dataset).replace(" (", "\n(", 1)


def panel_grid(
    count: int, columns: int, *, height: float, margin: float = 0.0, width: float = WIDTH, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with ``count`` panels, at most ``columns`` in a row, and its axes (rows × columns).

    Rows are ``height`` inches high; ``margin`` inches are added once, for legend and caption.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows + margin))
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, grid


def named_rows(axes: Axes, names: Iterable[str]) -> np.ndarray:
    """Label the y axis with ``names`` from top to bottom; return their y coordinates."""
    names = list(names)
    places = np.arange(len(names))[::-1]
    axes.set_yticks(places, names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(axis="y", visible=False)
    return places


def row_note(axes: Axes, place: float, text: str) -> None:
    """Write ``text`` at the right of the axes, beside the row at ``place``."""
    axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), fontsize=SMALL, va="center")


def note(
    axes: Axes, text: str, place: tuple[float, float], shift: tuple[float, float], **look: Any
) -> Annotation:
    """Write small text beside a place in data coordinates, ``shift`` points to its right and above it."""
    return axes.annotate(text, place, shift, textcoords="offset points", **{"fontsize": SMALL} | look)


def caption(figure: Figure, *sentences: str) -> None:
    """Write a caption below the figure, wrapped to its width; empty sentences are left out."""
    lines = textwrap.wrap(" ".join(filter(None, sentences)), round(figure.get_figwidth() * 19))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color="#444444")


def png(figure: Figure, compression: int = 6) -> bytes:
    """The figure as PNG bytes, for display in a notebook."""
    buffer, options = BytesIO(), {"compress_level": compression}
    with context():
        figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs=options)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PDF or PNG, by the suffix of ``path``, without a date."""
    with atomic_path(path) as temporary:
        if path.suffix == ".pdf":
            with context():
                figure.savefig(temporary, metadata={"CreationDate": None})
        else:
            drawn = Image.open(BytesIO(png(figure, compression=0))).convert("RGB")
            _small(drawn).save(temporary, optimize=True)


def _small(picture: Image.Image) -> Image.Image:
    """The picture with a palette of 256 colours, a third of the bytes, if nobody can see the difference.

    That is: fewer than one pixel in a thousand changes by more than 10 of 255.
    """
    small = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(picture)).max(-1)
    return small if (change > 10).mean() < 0.001 else picture
