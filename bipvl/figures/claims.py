"""The claims table as a forest plot."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bipvl.analysis.tables import claims_note
from bipvl.analysis.verdicts import MARGIN
from bipvl.figures import style

LOOKS = {
    "supported": ("#0072b2", "D"),
    "contradicted": ("#d55e00", "X"),
    "equivalent": ("#009e73", "s"),
    "undecided": ("#767676", "o"),
    "cannot be decided": ("#b0b0b0", "o"),
}
"""Verdict → colour and marker."""


def draw_claims(table: pd.DataFrame) -> Figure:
    """One row per claim, in the order of ``claims_table``: effect with intervals, verdict at the right."""
    figure = Figure(figsize=(style.WIDTH, 2 + 0.28 * len(table)))
    axes = figure.subplots()
    places = style.named_rows(axes, [textwrap.fill(text, 44) for text in table["claim"]])
    axes.axvspan(-100 * MARGIN, 100 * MARGIN, color="#009e73", alpha=0.12, lw=0)
    for place, row in zip(places, table.itertuples(), strict=True):
        words = row.verdict.split(":")[0]
        if np.isfinite(row.effect):
            words, _, origin = words.removesuffix(")").partition(" (")
            colour, marker = LOOKS[words]
            for low, high, width in ((row.low, row.high, 0.8), (row.low_90, row.high_90, 2)):
                axes.plot([100 * low, 100 * high], [place] * 2, color=colour, lw=width)
            axes.plot(100 * row.effect, place, marker, color=colour, ms=5)
            words += f", n = {row.cases}\n{origin}" if origin else f"\nn = {row.cases} cases"
        style.row_note(axes, place, words)
    axes.axvline(0, color="#767676", lw=0.8)
    axes.set_xlabel("effect in Dice points (right of 0: in favour of the claim)")
    rest = (
        "Thin bars: 95 % interval; thick bars: 90 % interval; green band: ±1 Dice point; n: number of test "
        "cases. The table of claims says what was compared, and why a claim is not tested."
    )
    style.caption(figure, claims_note(table), rest)
    return figure
