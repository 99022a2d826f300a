"""The figure of the prompt lab: what each edit of a text changes in mask, word attention and similarities."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style
from bipvl.figures.slice_tables import SliceData, read_slices
from bipvl.figures.word_attention import STAGE, share_bar, share_norm, tint_share

ROW, AROUND = 1.12, 2.15
"""Height of a row, and of everything above and below the rows, inches."""


def draw_prompt_lab(table: pd.DataFrame) -> Figure:
    """One row per edit, the trained texts first; columns of ``Lab.table``."""
    answers = read_slices(table)
    stages = [name for name in table.columns if name.startswith(STAGE)]
    stages = list(dict.fromkeys((stages[0], stages[-1])))
    figure = Figure(figsize=(style.WIDTH, ROW * len(answers) + AROUND))
    figure.get_layout_engine().set(**panels.TIGHT)
    widths = [1.45, *[1] * (1 + len(stages)), 1.6]
    grid = figure.subplots(len(answers), len(widths), squeeze=False, width_ratios=widths)
    norm = share_norm(np.stack([data.masks[s] for data in answers for s in stages if s in data.masks]))
    values = np.concatenate([_values(data) for data in answers])
    limits = min(0.0, values.min() - 0.05), max(0.0, values.max() + 0.05)
    for row, data in zip(grid, answers, strict=True):
        _describe(row[0], data)
        panels.show(row[1], data, data.masks["prediction"])
        _outline_truth(row[1], data)
        for axes, stage in zip(row[2:-1], stages, strict=True):
            _attention(axes, data, stage, norm)
        _similarities(row[-1], data, answers[0], limits)
    _titles(grid[0], stages, answers)
    panels.orient(grid[0, 1])
    grid[-1, -1].set_xlabel("class")
    for axes in grid[:-1, -1]:
        axes.tick_params(labelbottom=False)
    share_bar(figure, grid[:, 2:-1], norm, location="bottom", aspect=22, shrink=0.9, pad=0.01)
    names = answers[0].texts("classes")
    entries = panels.patches(names, range(1, len(names) + 1), width=99)
    figure.legend(handles=entries, loc="outside upper center", ncols=4, **panels.LEGEND)
    _caption(figure, table, answers[0].facts)
    return figure


def _describe(axes: Axes, data: SliceData) -> None:
    """Write the edit's name, the text that it gives the concept, and its effect on the mask."""
    axes.set_axis_off()
    top, size = {"transform": axes.transAxes, "va": "top"}, style.SMALL
    axes.text(0, 0.98, data.facts["edit"], fontsize=8, fontweight="bold", **top)
    axes.text(0, 0.82, textwrap.fill(data.facts["text"], 25, max_lines=5), fontsize=size, **top)
    effect = f"Dice {data.facts['dice']:.2f}, changed {int(data.facts['changed'])}"
    axes.text(0, 0.02, effect, fontsize=size, transform=axes.transAxes)


def _attention(axes: Axes, data: SliceData, stage: str, norm: LogNorm) -> None:
    if stage not in data.masks:
        panels.empty(axes, f"no “{data.facts['word']}”\nin its texts")
        return
    panels.show(axes, data)
    tint_share(axes, data, data.masks[stage], norm)
    _outline_truth(axes, data)


def _outline_truth(axes: Axes, data: SliceData) -> None:
    """Outline the truth of the edited class in white."""
    panels.outline(axes, data, data.masks["truth"] == data.facts["class_number"])


def _similarities(axes: Axes, data: SliceData, first: SliceData, limits: tuple[float, float]) -> None:
    """One bar per class, the edited class with a black edge; black lines mark the first row's values."""
    values, before = _values(data), _values(first)
    numbers = np.arange(1, len(values) + 1)
    edges = ["black" if n == data.facts["class_number"] else "none" for n in numbers]
    colours = [style.class_colour(n - 1) for n in numbers]
    axes.bar(numbers, values, color=colours, edgecolor=edges, linewidth=1)
    axes.hlines(before, numbers - 0.45, numbers + 0.45, color="black", linewidth=0.8)
    axes.axhline(0, color="black", linewidth=0.4)
    axes.set(ylim=limits, xticks=numbers[:: 1 if len(values) <= 8 else 2])
    axes.yaxis.tick_right()
    axes.spines["right"].set_visible(True)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")


def _values(data: SliceData) -> np.ndarray:
    """The similarity with each class."""
    return np.array([value for name, value in data.facts.items() if name.startswith("similarity_")])


def _titles(row: Sequence[Axes], stages: Sequence[str], answers: Sequence[SliceData]) -> None:
    facts = next(data.facts for data in answers if stages[0] in data.masks)
    row[0].set_title(facts["concept"], loc="left")
    row[1].set_title("Prediction")
    for axes, stage in zip(row[2:-1], stages, strict=True):
        number = stage.removeprefix(STAGE)
        axes.set_title(f"“{facts['word']}”\nstage {number}, {facts[f'grid_{number}']}")
    row[-1].set_title("Similarity with\neach class (cosine)")


def _caption(figure: Figure, table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    edited = facts["class"]
    style.caption(
        figure,
        provenance(table.dropna(subset=["dataset"])),
        f"{variant_title(facts['variant'])} on {dataset_title(facts['dataset'])}, case {facts['case']} "
        f"(n = 1): a window of {facts['window']} "
        f"voxels around the class {edited}, its axial slice with most of it (white: truth; R: patient's "
        f"right). Each row edits only the {facts['concept']} of this class's prompt. Changed: voxels of the "
        f"window whose classes differ from the first row; Dice: of {edited} in the window. "
        f"“{facts['word']}”: where this word looks in the last layer of a stage's fusion, mean over heads. "
        "Similarity: cosine of the class's global text vector with each class's visual vector in the window "
        "(black lines: the first row; black edge: the class itself).",
        panels.channel_sentence(facts),
    )
