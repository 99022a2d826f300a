"""The figure of word attention: where in an image the words of the prompts look."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from nibabel.affines import from_matvec
from scipy.ndimage import affine_transform

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style
from bipvl.figures.case_selection import ShownCase, median_cases
from bipvl.figures.slice_tables import SliceData, as_seen, grey_values, pixel_table, read_slices

if TYPE_CHECKING:
    from bipvl.analysis.word_attention import AttendedWindow

SIDE = 64
"""Approximate side of a picture, pixels."""
STAGE = "stage_"
LESS, MORE = "#0072b2", "#d55e00"
"""Less and more attention than uniform; uniform attention is not tinted."""
TINT = LinearSegmentedColormap.from_list(
    "attention",
    [(0, to_rgba(LESS, 0.9)), (0.5, to_rgba(LESS, 0)), (0.5, to_rgba(MORE, 0)), (1, to_rgba(MORE, 0.9))],
)


def attention_table(folder: str | Path, data_root: str | Path) -> pd.DataFrame:
    """Where words of a run's prompts look in its test case with the median Dice, as ``pixel_table``s.

    Each is the axial slice with most of a class. Columns: the facts; ``row``; ``pixel``; ``image`` (0…255);
    ``truth`` (1: the class); for each fused stage ``stage_n``, attention in per cent of uniform attention.

    Raises:
        BipvlError: the run is not evaluated, the data lack the case, or no text reads the image.
    """
    from bipvl.analysis.word_attention import attended_windows
    from bipvl.engine.run import Run

    run = Run.open(folder)
    (shown,) = median_cases({run.spec.name: [Path(folder)]}, data_root)
    origin = shown.origin | {"variant": run.variant.name, "spacing": times(run.config["spacing"])}
    parts = [window_table(shown, window, origin) for window in attended_windows(run, shown.case)]
    return pd.concat(parts, ignore_index=True)


def window_table(shown: ShownCase, window: "AttendedWindow", origin: Mapping[str, object]) -> pd.DataFrame:
    """The part of ``attention_table`` for one class; ``origin`` holds further facts."""
    image, label = nib.load(shown.case.image), nib.load(shown.case.label)
    codes = np.asarray(label.dataobj)
    grey = grey_values(shown.spec, np.asarray(image.dataobj, np.float32).reshape(*codes.shape, -1)[..., 0])
    shown_class = shown.spec.classes[window.class_index]
    slab = window.affine @ from_matvec(np.eye(3), [0, 0, window.mask.sum((0, 1)).argmax()])
    finer = max(1, round(SIDE / max(window.mask.shape[:2])))
    target, shape = rescaled(slab, (1 / finer, 1 / finer, 1)), (*np.multiply(window.mask.shape[:2], finer), 1)

    def resample(volume: np.ndarray, affine: np.ndarray, **options: object) -> np.ndarray:
        """The slice of a volume as it is drawn, whole numbers."""
        matrix = np.linalg.inv(affine) @ target
        plane = affine_transform(volume, matrix, output_shape=shape, **options)[..., 0]
        return np.rint(as_seen(plane)).astype(int)

    layers = {
        "image": resample(grey.astype(float), image.affine, order=1),
        "truth": resample(np.isin(codes, shown_class.codes).astype(np.uint8), label.affine, order=0),
    }
    for stage, attention in window.maps.items():
        coarse = rescaled(window.affine, np.divide(window.mask.shape, attention.shape))
        percent = 100 * attention.size * attention.astype(float)
        layers[f"{STAGE}{stage}"] = resample(percent, coarse, order=1, mode="nearest")
    pixel = np.linalg.norm(target[:3, :2], axis=0)
    facts = {
        **origin,
        "dataset": shown.spec.name,
        "case": shown.case.id,
        "class": shown_class.name,
        "word": window.word,
        "channel": shown.spec.channels[0],
        "window": times(window.mask.shape),
        "pixel_height_mm": pixel[1],
        "pixel_width_mm": pixel[0],
        **{f"grid_{stage}": times(attention.shape) for stage, attention in window.maps.items()},
        **{f"inside_{stage}": window.inside(stage) for stage in window.maps},
    }
    return pixel_table(facts, layers)


def rescaled(affine: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """The affine of the same box with voxels ``factors`` times as large."""
    sides = np.asarray(factors, float)  # whole numbers would round the shift
    return affine @ from_matvec(np.diag(sides), (sides - 1) / 2)


def times(sides: Sequence[float]) -> str:
    """Write a size, such as 3 × 3 × 2.5."""
    return " × ".join(f"{side:g}" for side in sides)


def draw_word_attention(table: pd.DataFrame) -> Figure:
    """One row per word: the image, then the attention at each stage; columns of ``attention_table``."""
    slices = read_slices(table)
    stages = [name for name in slices[0].masks if name.startswith(STAGE)]
    columns = 1 + len(stages)
    panel = min(1.75, (style.WIDTH - 1.4) / columns)
    figure = Figure(figsize=(max(panel * columns + 1.4, 4.6), panel * len(slices) + 1.4))
    grid = figure.subplots(len(slices), columns, squeeze=False)
    figure.get_layout_engine().set(**panels.TIGHT)
    norm = share_norm(np.stack([data.masks[name] for data in slices for name in stages]))
    for row, data in zip(grid, slices, strict=True):
        panels.show(row[0], data)
        row[0].set_ylabel(f"“{data.facts['word']}”\n{textwrap.fill(data.facts['class'], 20)}")
        for axes, name in zip(row[1:], stages, strict=True):
            panels.show(axes, data)
            tint_share(axes, data, data.masks[name], norm)
            inside = data.facts[f"inside_{name.removeprefix(STAGE)}"]
            axes.text(0.03, 0.03, f"inside ×{inside:.2f}", transform=axes.transAxes, **panels.ON_IMAGE)
        for axes in row:
            panels.outline(axes, data, data.masks["truth"] > 0)
    panels.orient(grid[0, 0])
    grid[0, 0].set_title("Image, truth")
    for axes, name in zip(grid[0, 1:], stages, strict=True):
        stage = name.removeprefix(STAGE)
        axes.set_title(f"Stage {stage}\n{slices[0].facts[f'grid_{stage}']} positions")
    share_bar(figure, grid, norm, aspect=25, shrink=0.7)
    _caption(figure, table, slices[0].facts)
    return figure


def share_norm(percent: np.ndarray) -> LogNorm:
    """A logarithmic scale, symmetric about uniform attention, to the farthest value and at least to × 1.1."""
    ratio = np.clip(percent, 1, None) / 100
    limit = max(ratio.max(), 1 / ratio.min(), 1.1)
    return LogNorm(1 / limit, limit)


def tint_share(axes: Axes, data: SliceData, percent: np.ndarray, norm: LogNorm) -> None:
    """Draw attention, in per cent of uniform attention, over a slice."""
    ratio = np.clip(percent, 1, None) / 100
    axes.imshow(ratio, cmap=TINT, norm=norm, extent=data.extent, interpolation="bilinear")


def share_bar(figure: Figure, beside: np.ndarray, norm: LogNorm, **options: object) -> None:
    """Draw the colour bar of attention beside axes."""
    ticks = [norm.vmin, 1, norm.vmax]
    bar = figure.colorbar(ScalarMappable(norm, TINT), ax=beside, ticks=ticks, **options)
    bar.set_label("attention, multiples of uniform")
    bar.set_ticklabels([f"×{tick:.2f}" for tick in ticks])
    bar.minorticks_off()
    bar.outline.set_linewidth(0.4)


def _caption(figure: Figure, table: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    style.caption(
        figure,
        provenance(table.dropna(subset=["dataset"])),
        f"{dataset_title(facts['dataset'])}, case {facts['case']}: {facts['rule']} "
        f"(n = {facts['cases']} test cases). Where a word of a prompt "
        f"looks in {variant_title(facts['variant'])}: its text → image attention in the last layer of each "
        "stage's fusion, mean over heads, as a multiple of uniform attention over the window "
        f"({facts['window']} voxels of {facts['spacing']} mm around the class). Words: the last word of the "
        f"title before “of” or “in”, for the {table['dataset'].count()} largest classes. Shown: the axial "
        "slice with most of the class (outline: truth; R: patient's right). Inside: mean over the class's "
        "voxels in the window.",
        panels.channel_sentence(facts),
    )
