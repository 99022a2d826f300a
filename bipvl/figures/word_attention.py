"""A look inside the network: where in an image the words of its prompts look."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from scipy.ndimage import affine_transform

from bipvl.analysis.statistics import provenance
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style
from bipvl.figures.case_selection import ShownCase, median_cases
from bipvl.figures.slice_tables import Slice, grey_values, read_slices

if TYPE_CHECKING:
    from bipvl.analysis.word_attention import Look

SIDE = 64
"""About so many pixels has a picture's side."""
STAGE = "stage_"
LESS, MORE = "#0072b2", "#d55e00"
"""Less and more attention than an even one; an even one is not tinted."""
TINT = LinearSegmentedColormap.from_list(
    "attention",
    [(0, to_rgba(LESS, 0.9)), (0.5, to_rgba(LESS, 0)), (0.5, to_rgba(MORE, 0)), (1, to_rgba(MORE, 0.9))],
)


def attention_table(folder: str | Path, data_root: str | Path) -> pd.DataFrame:
    """Where words of a run's prompts look in its test case with the median Dice (``attention.looks``).

    Of each look the axial slice with most of the class, one pixel a row. Columns: what is said of the slice;
    ``row``, ``pixel`` and ``image`` as in ``slice_table``; ``truth`` (1: the class); of each fused stage
    ``stage_n``, the attention in per cent of one that is even over the window. What is said of the slice
    stands in its first row alone.

    Raises:
        BipvlError: the run is not evaluated, the data lack the case, or no text reads the image.
    """
    from bipvl.analysis.word_attention import looks
    from bipvl.engine.run import Run

    run = Run.open(folder)
    (shown,) = median_cases({run.spec.name: [Path(folder)]}, data_root)
    origin = shown.origin | {"variant": run.variant.name, "spacing": _times(run.config["spacing"])}
    return pd.concat([look_table(shown, look, origin) for look in looks(run, shown.case)], ignore_index=True)


def look_table(shown: ShownCase, look: "Look", origin: Mapping[str, object]) -> pd.DataFrame:
    """The part of ``attention_table`` that shows one look; ``origin`` is said of it."""
    image, label = nib.load(shown.case.image), nib.load(shown.case.label)
    codes = np.asarray(label.dataobj)
    grey = grey_values(shown.spec, np.asarray(image.dataobj, np.float32).reshape(*codes.shape, -1)[..., 0])
    own = shown.spec.classes[look.class_index]
    slab = look.affine @ _step_up(int(look.mask.sum((0, 1)).argmax()))
    finer = max(1, round(SIDE / max(look.mask.shape[:2])))
    target, shape = rescaled(slab, (1 / finer, 1 / finer, 1)), (*np.multiply(look.mask.shape[:2], finer), 1)

    def picture(volume: np.ndarray, affine: np.ndarray, **how: object) -> np.ndarray:
        """The slice of a volume: rows from the patient's front, pixels from the patient's right."""
        matrix = np.linalg.inv(affine) @ target
        return np.flip(affine_transform(volume, matrix, output_shape=shape, **how)[..., 0].T)

    layers = {
        "image": picture(grey.astype(float), image.affine, order=1),
        "truth": picture(np.isin(codes, own.codes).astype(np.uint8), label.affine, order=0),
    }
    for stage, attention in look.maps.items():
        coarse = rescaled(look.affine, np.divide(look.mask.shape, attention.shape))
        percent = 100 * attention.size * attention.astype(float)
        layers[f"{STAGE}{stage}"] = picture(percent, coarse, order=1, mode="nearest")
    pixel = np.linalg.norm(target[:3, :2], axis=0)
    facts = {
        **origin,
        "dataset": shown.spec.name,
        "case": shown.case.id,
        "class": own.name,
        "word": look.word,
        "channel": shown.spec.channels[0],
        "window": _times(look.mask.shape),
        "pixel_height_mm": pixel[1],
        "pixel_width_mm": pixel[0],
        **{f"grid_{stage}": _times(attention.shape) for stage, attention in look.maps.items()},
        **{f"inside_{stage}": look.inside(stage) for stage in look.maps},
    }
    row, column = (grid.ravel() for grid in np.indices(layers["image"].shape))
    pixels = {name: np.rint(layer).astype(int).ravel() for name, layer in layers.items()}
    rows = pd.DataFrame({"row": row, "pixel": column} | pixels)
    return pd.concat([pd.DataFrame(facts, index=[0]), rows], axis=1)


def rescaled(affine: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """The affine of the same box in voxels ``factors`` times as large."""
    change = np.diag([*factors, 1.0])
    change[:3, 3] = (np.asarray(factors) - 1) / 2
    return affine @ change


def _step_up(count: int) -> np.ndarray:
    """From the voxels of the slice with this number to the volume's."""
    change = np.eye(4)
    change[2, 3] = count
    return change


def _times(sides: Sequence[float]) -> str:
    return " × ".join(f"{side:g}" for side in sides)


def draw_word_attention(table: pd.DataFrame) -> Figure:
    """A row a word: the image, then its attention at each stage; columns of ``attention_table``."""
    slices = read_slices(table)
    stages = [name for name in slices[0].masks if name.startswith(STAGE)]
    columns = 1 + len(stages)
    panel = min(1.75, (style.WIDTH - 1.4) / columns)
    figure = Figure(figsize=(max(panel * columns + 1.4, 4.6), panel * len(slices) + 1.4))
    grid = figure.subplots(len(slices), columns, squeeze=False)
    figure.get_layout_engine().set(**panels.TIGHT)
    norm = share_norm(np.stack([this.masks[name] for this in slices for name in stages]))
    for row, this in zip(grid, slices, strict=True):
        panels.show(row[0], this)
        row[0].set_ylabel(f"“{this.facts['word']}”\n{textwrap.fill(this.facts['class'], 20)}")
        for axes, name in zip(row[1:], stages, strict=True):
            panels.show(axes, this)
            tint_share(axes, this, this.masks[name], norm)
            inside = this.facts[f"inside_{name.removeprefix(STAGE)}"]
            axes.text(0.03, 0.03, f"inside ×{inside:.2f}", transform=axes.transAxes, **panels.white())
        for axes in row:
            y, x = panels.centres(this)
            axes.contour(x, y, this.masks["truth"], levels=[0.5], colors=["white"], linewidths=0.7)
    panels.orient(grid[0, 0])
    grid[0, 0].set_title("Image, truth")
    for axes, name in zip(grid[0, 1:], stages, strict=True):
        stage = name.removeprefix(STAGE)
        axes.set_title(f"Stage {stage}\n{slices[0].facts[f'grid_{stage}']} positions")
    ticks = [norm.vmin, 1, norm.vmax]
    bar = figure.colorbar(ScalarMappable(norm, TINT), ax=grid, aspect=25, shrink=0.7, ticks=ticks)
    bar.set_label("attention, multiples of an even one")
    bar.ax.set_yticklabels([f"×{tick:.2f}" for tick in ticks])
    bar.minorticks_off()
    bar.outline.set_linewidth(0.4)
    style.caption(figure, _caption(table, slices[0]))
    return figure


def share_norm(percent: np.ndarray) -> LogNorm:
    """As far below an even attention as above it, to the value farthest from it; at least to a tenth more."""
    ratio = np.clip(percent, 1, None) / 100
    limit = max(ratio.max(), 1 / ratio.min(), 1.1)
    return LogNorm(1 / limit, limit)


def tint_share(axes: Axes, this: Slice, percent: np.ndarray, norm: LogNorm) -> None:
    """Draw a share of attention, in percent of an even one, over a slice."""
    height, width = this.size
    extent = (-width / 2, width / 2, height / 2, -height / 2)
    axes.imshow(
        np.clip(percent, 1, None) / 100, cmap=TINT, norm=norm, extent=extent, interpolation="bilinear"
    )


def _caption(table: pd.DataFrame, this: Slice) -> str:
    facts = this.facts
    channel = f" Channel shown: {facts['channel']}." if facts["channel"] not in ("CT", "MR") else ""
    return (
        f"{provenance(table.dropna(subset=['dataset']))} {dataset_title(facts['dataset'])}, case "
        f"{facts['case']}: {facts['rule']} (n = {facts['cases']} test cases). Where a word of a prompt "
        f"looks in {variant_title(facts['variant'])}: its text → image attention in the last layer of each "
        "stage's fusion, mean over heads, as a multiple of one that is even over the window "
        f"({facts['window']} voxels of {facts['spacing']} mm around the class). "
        f"Words: of the {table['dataset'].count()} classes with most voxels the last one of the title before "
        "“of” or “in”. Shown: the axial slice with most of the class (outline: truth; R: patient's right). "
        f"Inside: mean over the class's voxels in the window.{channel}"
    )
