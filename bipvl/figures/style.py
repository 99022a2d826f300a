"""How every figure looks: sizes, colours, captions, and how it is written."""

import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bipvl.common.files import atomic_path, write_csv

WIDTH = 7.0
"""Inches, two columns of a page."""
SMALL = 7
"""Points, the smallest text."""

CLASS_COLOURS = (
    *("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"),
    *("#b41e00", "#0000e1", "#a5d2a5", "#00f0ff", "#a569ff", "#874b69", "#5a0087", "#78002d"),
)
"""Class c of a dataset (prompt row c). Seven of Okabe and Ito (2008), then eight that stay as far as can be
from all others in lightness or hue, also as seen with protanopia, deuteranopia and tritanopia. Where so many
meet, figures number the classes as well."""

ERRORS = {"missed": "#1f8fff", "false": "#e8450a", "another class": "#ffe14d"}
"""Where a mask is wrong: in the truth alone, in the prediction alone, in both but of two classes. Far apart
for every kind of colour vision, and from any grey."""

VARIANT_COLOURS = {"bipvlseg": "#0072b2", "swin_unetr_v2": "#d55e00", "mean_atlas": "#767676"}
OTHER_VARIANTS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure has the same bytes everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
}


def context() -> AbstractContextManager:
    """The settings that a figure is drawn and written under; nothing outside the block is changed."""
    return mpl.rc_context(mpl.rcParamsDefault | _RC | {"backend": mpl.rcParams["backend"]})


def class_colour(row: int) -> str:
    """The colour of class ``row`` (from 0); past the fifteenth they come again."""
    return CLASS_COLOURS[row % len(CLASS_COLOURS)]


def variant_colours(variants: Iterable[str]) -> dict[str, str]:
    """Each variant's colour: its own, or for one without the next of OTHER_VARIANTS."""
    names = list(dict.fromkeys(variants))
    others = [name for name in names if name not in VARIANT_COLOURS]
    spare = {name: OTHER_VARIANTS[i % len(OTHER_VARIANTS)] for i, name in enumerate(others)}
    return {name: (VARIANT_COLOURS | spare)[name] for name in names}


def outline(width: float = 1.5, colour: str = "black") -> list[withStroke]:
    """Path effects that keep a text legible on any image."""
    return [withStroke(linewidth=width, foreground=colour)]


def caption(figure: Figure, text: str) -> None:
    """Small text below the figure, wrapped to its width."""
    lines = textwrap.wrap(text, round(figure.get_figwidth() * 19))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color="#444444")


def png(figure: Figure) -> bytes:
    """The figure as a PNG, to be shown in a notebook."""
    buffer = BytesIO()
    with context():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, table: pd.DataFrame, path: str | Path) -> Path:
    """Write ``path`` + .csv, .pdf and .png; returns the PNG. The same figure gives the same bytes."""
    path = Path(path)
    write_csv(path.with_name(path.name + ".csv"), table)
    no_date = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    with context():
        for suffix, metadata in no_date.items():
            with atomic_path(path.with_name(f"{path.name}.{suffix}")) as temporary:
                figure.savefig(temporary, metadata=metadata)
    return path.with_name(path.name + ".png")
