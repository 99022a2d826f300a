"""Figures for the rows that a curve shows better than a number."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bipvl.figures import style

from .network import token_cosines
from .schedule import T_MAX

RELEASED, RIGHT, OTHER = style.OTHER_VARIANTS[1], style.VARIANT_COLOURS["bipvlseg"], "#767676"


def draw_token_cosines() -> Figure:
    """Row 4: similarity of the text tokens before and after an untrained BiFusion."""
    bins = np.linspace(-0.2, 1.0, 61)
    before, right = token_cosines("paper")
    _, released = token_cosines(("erasing_fusion",))
    curves = {"before": (before, OTHER), "after, as released": (released, RELEASED)}
    curves |= {"after, preset paper": (right, RIGHT)}
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 2.4))
        axes = figure.subplots()
        for name, (cosines, colour) in curves.items():
            shares, _ = np.histogram(cosines.clamp(-0.2, 1.0).numpy(), bins)
            axes.stairs(shares / shares.sum(), bins, color=colour, label=name, fill=True, alpha=0.25)
            axes.stairs(shares / shares.sum(), bins, color=colour)
        axes.set(xlabel="Cosine of two text tokens (no unit)", ylabel="Share of pairs", ylim=(0, 1.05))
        axes.grid()
        axes.legend(loc="upper center")
    return figure


def draw_learning_rates(rates: pd.DataFrame) -> Figure:
    """Row 12: the learning rates in ``schedule.Course.rates``."""
    lines = {
        "network, as released": ("release", RELEASED, "-"),
        "loss weights $s_i$, as released": ("release_s", "black", "--"),
        "both, bipvl": ("right", RIGHT, "-"),
    }
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 2.4))
        axes = figure.subplots()
        for label, (column, colour, line) in lines.items():
            axes.plot(rates["step"], rates[column], color=colour, ls=line, label=label)
        axes.set(xlabel=f"Training step (MM-WHS: {T_MAX} epochs are {len(rates):,})", ylabel="Learning rate")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        axes.set_ylim(bottom=-0.03 * rates["right"].max())  # so that a rate of 0 is visible
        axes.margins(x=0.01)
        axes.grid()
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
