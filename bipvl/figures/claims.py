"""The claims table as a forest plot."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bipvl.analysis.tables import claims_note
from bipvl.figures import style

LOOKS = {"supported": ("#0072b2", "D"), "not supported": ("#d55e00", "X"), "undecided": ("#767676", "o")}
"""Verdict → colour and marker."""


def draw_claims(table: pd.DataFrame) -> Figure:
    """One row per claim, in the order of ``claims_table``: effect with interval, verdict at the right."""
    figure = Figure(figsize=(style.WIDTH, 1.7 + 0.28 * len(table)))
    axes = figure.subplots()
    places = style.named_rows(axes, [textwrap.fill(text, 44) for text in table["claim"]])
    for place, row in zip(places, table.itertuples(), strict=True):
        words = row.verdict.split(":")[0]
        if np.isfinite(row.effect):
            colour, marker = LOOKS[words.removesuffix(" (synthetic cohort)")]
            axes.plot([100 * row.low, 100 * row.high], [place] * 2, color=colour, lw=1.5)
            axes.plot(100 * row.effect, place, marker, color=colour, ms=4)
            words = f"{words}\nn = {row.cases} cases"
        style.row_note(axes, place, words)
    axes.axvline(0, color="#767676", lw=0.8)
    axes.set_xlabel("effect in Dice points (right of 0: in favour of the claim)")
    rest = "The table of claims says what was compared, and why a claim is not tested."
    style.caption(figure, claims_note(table), rest)
    return figure
