"""What another text changes, an edit a row: mask, word attention, similarities."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style
from bipvl.figures.slice_tables import Slice, read_slices
from bipvl.figures.word_attention import STAGE, TINT, share_norm, tint_share

ROW, AROUND = 1.12, 2.15
"""Inches: the height of a row, and of what stands above and below all rows."""


def draw_prompt_lab(table: pd.DataFrame) -> Figure:
    """A row an edit, the trained texts first: columns of ``Lab.table``."""
    answers = read_slices(table)
    stages = _ends([name for name in table.columns if name.startswith(STAGE)])
    figure = Figure(figsize=(style.WIDTH, ROW * len(answers) + AROUND))
    figure.get_layout_engine().set(**panels.TIGHT)
    widths = [1.45, *[1] * (1 + len(stages)), 1.6]
    grid = figure.subplots(len(answers), len(widths), squeeze=False, width_ratios=widths)
    norm = share_norm(np.stack([this.masks[s] for this in answers for s in stages if s in this.masks]))
    limits = _limits(answers)
    for row, this in zip(grid, answers, strict=True):
        _say(row[0], this)
        _mask(row[1], this)
        for axes, stage in zip(row[2:-1], stages, strict=True):
            _attention(axes, this, stage, norm)
        _similarities(row[-1], this, answers[0], limits)
    _titles(grid[0], stages, answers)
    panels.orient(grid[0, 1])
    grid[-1, -1].set_xlabel("class")
    for axes in grid[:-1, -1]:
        axes.tick_params(labelbottom=False)
    _bar(figure, grid[:, 2:-1], norm)
    entries = panels.patches(answers[0].texts("classes"), _shown(answers), width=99)
    figure.legend(handles=entries, loc="outside upper center", ncols=4, **panels.LEGEND)
    style.caption(figure, _caption(table, answers[0]))
    return figure


def _ends(stages: Sequence[str]) -> list[str]:
    """The first and the last."""
    return list(dict.fromkeys((stages[0], stages[-1])))


def _say(axes: Axes, this: Slice) -> None:
    """The edit's name, the text that it gives the concept, and what it does to the mask."""
    axes.set_axis_off()
    named, size = {"transform": axes.transAxes, "va": "top"}, style.SMALL
    axes.text(0, 0.98, this.facts["edit"], fontsize=8, fontweight="bold", **named)
    axes.text(0, 0.82, textwrap.fill(this.facts["text"], 25, max_lines=5), fontsize=size, **named)
    said = f"Dice {this.facts['dice']:.2f}, changed {int(this.facts['changed'])}"
    axes.text(0, 0.02, said, fontsize=size, transform=axes.transAxes)


def _mask(axes: Axes, this: Slice) -> None:
    """All classes of the prediction, the truth of the class that is asked about in white."""
    panels.show(axes, this, this.masks["prediction"])
    _truth(axes, this)


def _attention(axes: Axes, this: Slice, stage: str, norm: LogNorm) -> None:
    if stage not in this.masks:
        panels.empty(axes, f"no “{this.facts['word']}”\nin its texts")
        return
    panels.show(axes, this)
    tint_share(axes, this, this.masks[stage], norm)
    _truth(axes, this)


def _truth(axes: Axes, this: Slice) -> None:
    y, x = panels.centres(this)
    own = this.masks["truth"] == this.facts["class_number"]
    if own.any():
        axes.contour(x, y, own, levels=[0.5], colors=["white"], linewidths=0.7)


def _similarities(axes: Axes, this: Slice, first: Slice, limits: tuple[float, float]) -> None:
    """A bar a class, the asked one with a black edge; black lines: those of the first row."""
    values, before = _row(this), _row(first)
    numbers = np.arange(1, len(values) + 1)
    edges = ["black" if n == this.facts["class_number"] else "none" for n in numbers]
    colours = [style.class_colour(n - 1) for n in numbers]
    axes.bar(numbers, values, color=colours, edgecolor=edges, linewidth=1)
    axes.hlines(before, numbers - 0.45, numbers + 0.45, color="black", linewidth=0.8)
    axes.axhline(0, color="black", linewidth=0.4)
    axes.set(ylim=limits, xticks=numbers[:: 1 if len(values) <= 8 else 2])
    axes.yaxis.tick_right()
    axes.spines["right"].set_visible(True)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")


def _row(this: Slice) -> np.ndarray:
    names = [name for name in this.facts if name.startswith("similarity_")]
    return np.array([this.facts[name] for name in names])


def _limits(answers: Sequence[Slice]) -> tuple[float, float]:
    values = np.concatenate([_row(this) for this in answers])
    return min(0.0, values.min() - 0.05), max(0.0, values.max() + 0.05)


def _titles(row: Sequence[Axes], stages: Sequence[str], answers: Sequence[Slice]) -> None:
    facts = next(this.facts for this in answers if stages[0] in this.masks)
    row[0].set_title(facts["concept"], loc="left")
    row[1].set_title("Prediction")
    for axes, stage in zip(row[2:-1], stages, strict=True):
        number = stage.removeprefix(STAGE)
        axes.set_title(f"“{facts['word']}”\nstage {number}, {facts[f'grid_{number}']}")
    row[-1].set_title("Similarity with\neach class (cosine)")


def _bar(figure: Figure, beside: np.ndarray, norm: LogNorm) -> None:
    ticks = [norm.vmin, 1, norm.vmax]
    bar = figure.colorbar(
        ScalarMappable(norm, TINT), ax=beside, location="bottom", aspect=22, shrink=0.9, pad=0.01, ticks=ticks
    )
    bar.set_label("attention, multiples of an even one")
    bar.ax.set_xticklabels([f"×{tick:.2f}" for tick in ticks])
    bar.minorticks_off()
    bar.outline.set_linewidth(0.4)


def _shown(answers: Sequence[Slice]) -> list[int]:
    """Every class: the similarities show them all."""
    return list(range(1, 1 + len(answers[0].texts("classes"))))


def _caption(table: pd.DataFrame, this: Slice) -> str:
    facts = this.facts
    channel = f" Channel shown: {facts['channel']}." if facts["channel"] not in ("CT", "MR") else ""
    own = facts["class"]
    return (
        f"{provenance(table.dropna(subset=['dataset']))} {variant_title(facts['variant'])} on "
        f"{dataset_title(facts['dataset'])}, case {facts['case']} (n = 1): a window of {facts['window']} "
        f"voxels around the class {own}, its axial slice with most of it (white: truth; R: patient's right). "
        f"Of this class's prompt the {facts['concept']} is edited, all else stays. Changed: voxels of the "
        f"window with other classes than in the first row; Dice: of {own} in the window. "
        f"“{facts['word']}”: where this word looks in the last layer of a stage's fusion, mean over heads. "
        "Similarity: cosine of the class's global text vector with each class's visual vector in the window "
        f"(black lines: the first row; black edge: the class itself).{channel}"
    )
