"""The figure of surfaces: truth and predictions of whole cases, in three dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.statistics import provenance
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style
from bipvl.figures.panels import LEGEND
from bipvl.figures.surface_renderer import AZIMUTH, ELEVATION, VIEW, pitch, render
from bipvl.figures.volume_tables import Volume, read_volumes


def draw_surfaces(table: pd.DataFrame) -> Figure:
    """A row a case: truth and each variant as surfaces, with the classes at the right."""
    rows = [Row.of(volume) for volume in read_volumes(table)]
    layers = list(dict.fromkeys(name for row in rows for name in row.pictures))
    entries = [panels.patches(row.volume.texts("classes"), row.classes()) for row in rows]
    heights = panels.legend_rows([row.height / row.width for row in rows], len(layers), entries)
    figure, grid, _ = panels.rows_figure(heights, len(layers))
    for axes, row, legend in zip(grid, rows, entries, strict=True):
        for panel, name in zip(axes, layers, strict=False):
            _panel(panel, row, name)
        _orient(axes[0], row)
        panels.name_row(axes[0], row.volume.facts)
        axes[-1].legend(handles=legend, loc="center left", **LEGEND)
    for axes, name in zip(grid[0], layers, strict=False):
        axes.set_title("Truth" if name == "truth" else variant_title(name))
    style.caption(figure, _caption(table, [row.volume for row in rows]))
    return figure


@dataclass(frozen=True)
class Row:
    """A case's pictures by layer (RGBA and class of each pixel), cut to what any of them shows."""

    volume: Volume
    pictures: dict[str, tuple[np.ndarray, np.ndarray]]
    pixel_mm: float

    @classmethod
    def of(cls, volume: Volume) -> "Row":
        """Render all layers of a volume."""
        names = volume.texts("classes")
        around = [1 + names.index(name) for name in volume.texts("around")]
        pictures = {name: render(mask, around) for name, mask in volume.masks.items()}
        box = _box(np.any([numbers > 0 for _, numbers in pictures.values()], axis=0))
        cut = {name: (picture[box], numbers[box]) for name, (picture, numbers) in pictures.items()}
        return cls(volume, cut, pitch(volume.masks["truth"].shape) * volume.facts["voxel_mm"])

    @property
    def width(self) -> float:
        """Of a panel, mm."""
        return 1.04 * self._size[1]

    @property
    def height(self) -> float:
        """Of a panel, mm, with a strip at the bottom for marks."""
        return self._size[0] + 0.02 * self._size[1] + self.strip

    @property
    def strip(self) -> float:
        """Height of the strip for marks, mm."""
        return 0.15 * self._size[1]

    @property
    def _size(self) -> tuple[float, float]:
        rows, columns = self.pictures["truth"][1].shape
        return rows * self.pixel_mm, columns * self.pixel_mm

    def classes(self) -> list[int]:
        """The classes to be seen in any panel."""
        seen = {int(n) for _, numbers in self.pictures.values() for n in np.unique(numbers)}
        return sorted(seen - {0})


def _box(found: np.ndarray) -> tuple[slice, slice]:
    """The box around all true pixels; all of the picture where none is."""
    if not found.any():
        return slice(None), slice(None)
    places = np.argwhere(found)
    return tuple(slice(low, high + 1) for low, high in zip(places.min(0), places.max(0), strict=True))


def _panel(axes: Axes, row: Row, name: str) -> None:
    """A layer's surfaces, in mm from the picture's upper left."""
    if name not in row.pictures:
        panels.empty(axes, "not run")
        return
    picture, numbers = row.pictures[name]
    height, width = (n * row.pixel_mm for n in numbers.shape)
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
    edge = 0.02 * width
    axes.set(xlim=(-edge, width + edge), ylim=(height + row.strip, -edge), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if name == "truth":
        places = [(np.arange(n) + 0.5) * row.pixel_mm for n in numbers.shape]
        panels.number_classes(axes, places, numbers)
    if (dice := row.volume.facts.get(f"dice_{name}")) is not None:
        axes.text(0.03, 0.02, f"Dice {dice:.2f}", transform=axes.transAxes, fontsize=style.SMALL)
    if not numbers.any():
        axes.text(0.5, 0.5, "nothing found", ha="center", transform=axes.transAxes, fontsize=style.SMALL)


def _orient(axes: Axes, row: Row) -> None:
    """The patient's right, left and head, as they lie in the picture, and a bar, in the strip for marks."""
    (_, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    length = 0.5 * row.strip
    middle = np.array([1.7 * length, bottom - 0.6 * length])
    for letter, way in {"R": [1, 0, 0], "L": [-1, 0, 0], "S": [0, 0, 1]}.items():
        end = middle + length * (VIEW[:2] @ way) * [1, -1]
        axes.plot(*zip(middle, end, strict=True), color="black", lw=0.8, solid_capstyle="round")
        place = middle + 1.5 * (end - middle)
        axes.text(*place, letter, ha="center", va="center", fontsize=style.SMALL)
    bar = max(mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm <= max(1, 0.3 * row.width))
    axes.plot([right - bar, right], [bottom - 0.1 * length] * 2, color="black", lw=1.5, solid_capstyle="butt")
    axes.annotate(
        f"{bar} mm",
        (right, bottom - 0.1 * length),
        (0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=style.SMALL,
    )


def _caption(table: pd.DataFrame, volumes: Sequence[Volume]) -> str:
    counts = ", ".join(v.facts["cases"] for v in volumes)
    voxels = ", ".join(f"{v.facts['voxel_mm']:.1f}" for v in volumes)
    around = ", ".join(dict.fromkeys(name for v in volumes for name in v.texts("around")))
    turn, tilt = (round(np.degrees(angle)) for angle in (AZIMUTH, ELEVATION))
    scored = any(fact.startswith("dice_") for v in volumes for fact in v.facts)
    sentences = [
        provenance(table.dropna(subset=["dataset"])),
        f"Shown: {volumes[0].facts['rule']} (n = {counts} test cases), seen from the front, {turn}° to the "
        f"patient's left and {tilt}° above (R, L: patient's right, left; S: towards the head).",
        "Each row to one scale.",
        f"Masks in voxels of {voxels} mm, smoothed.",
        f"See-through: {around}." if around else "",
        "Dice: of the whole case, mean over classes." if scored else "",
    ]
    return " ".join(filter(None, sentences))
