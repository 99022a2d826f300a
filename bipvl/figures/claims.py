"""The claims ledger as a forest plot."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.tables import claims_note
from bipvl.figures import style

LOOKS = {"supported": ("#0072b2", "D"), "not supported": ("#d55e00", "X"), "undecided": ("#767676", "o")}
"""A verdict's colour and marker."""


def draw_claims(table: pd.DataFrame) -> Figure:
    """A row a claim, in the order of ``claims.ledger``: effect with interval, verdict at the right."""
    labels = [textwrap.fill(text, 44) for text in table["claim"]]
    figure = Figure(figsize=(style.WIDTH, 1.7 + 0.28 * len(table)))
    axes = figure.subplots()
    places = np.arange(len(table))[::-1]
    for place, row in zip(places, table.itertuples(), strict=True):
        _claim(axes, place, row)
    axes.axvline(0, color="#767676", lw=0.8)
    axes.set_yticks(places, labels)
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("effect in Dice points, right of 0: as claimed")
    style.caption(
        figure,
        f"{claims_note(table)} Why a claim is not tested, and what was compared: in the table of claims.",
    )
    return figure


def _claim(axes: Axes, place: float, row: Any) -> None:
    words = row.verdict.split(":")[0]
    if np.isfinite(row.effect):
        colour, marker = LOOKS[words.removesuffix(" (synthetic cohort)")]
        axes.plot([100 * row.low, 100 * row.high], [place] * 2, color=colour, lw=1.5)
        axes.plot(100 * row.effect, place, marker, color=colour, ms=4)
        words = f"{words}\nn = {row.cases} cases"
    axes.annotate(words, (1.02, place), xycoords=("axes fraction", "data"), fontsize=style.SMALL, va="center")
