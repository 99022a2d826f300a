"""The figure of surfaces: truth and predictions of whole cases in three dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bipvl.analysis.statistics import provenance
from bipvl.engine.variants import variant_title
from bipvl.figures import panels, style, surface_renderer
from bipvl.figures.surface_renderer import AZIMUTH, ELEVATION, VIEW, Surface, visible_classes
from bipvl.figures.volume_tables import Volume, read_volumes

EDGE, STRIP = 0.02, 0.15
"""Margin around the surfaces, and height of the strip below them for marks, as shares of their width."""


def draw_surfaces(table: pd.DataFrame) -> Figure:
    """One row per case: truth and each variant as surfaces, with the classes at the right."""
    rows = [CaseRow.of(volume) for volume in read_volumes(table)]
    layers = list(dict.fromkeys(name for row in rows for name in row.surfaces))
    titles = ["Truth" if name == "truth" else variant_title(name) for name in layers]
    entries = [panels.patches(row.volume.texts("classes"), row.classes()) for row in rows]
    figure, grid = panels.legend_figure([row.aspect for row in rows], titles, entries)
    for axes, row in zip(grid, rows, strict=True):
        for panel, name in zip(axes, layers, strict=True):
            _panel(panel, row, name)
        _orient(axes[0], row)
        panels.name_row(axes[0], row.volume.facts)
    _caption(figure, table, [row.volume for row in rows])
    return figure


@dataclass(frozen=True)
class CaseRow:
    """A case's surfaces by layer, and the box around all of them (x, y; mm)."""

    volume: Volume
    surfaces: dict[str, list[Surface]]
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, volume: Volume) -> "CaseRow":
        """Find the surfaces of all layers of a volume."""
        names, voxel = volume.texts("classes"), volume.facts["voxel_mm"]
        around = [1 + names.index(name) for name in volume.texts("around")]
        found = {name: surface_renderer.surfaces(mask, around, voxel) for name, mask in volume.masks.items()}
        points = [part.points[:, :2] for parts in found.values() for part in parts]
        points = np.concatenate(points or [[[0, 0], [voxel, voxel]]])
        return cls(volume, found, points.min(0), points.max(0))

    @property
    def width(self) -> float:
        """Width of all surfaces, mm."""
        return self.high[0] - self.low[0]

    @property
    def aspect(self) -> float:
        """Height of a panel over its width."""
        return ((self.high - self.low)[1] / self.width + EDGE + STRIP) / (1 + 2 * EDGE)

    def visible(self, name: str) -> np.ndarray:
        """The class in each voxel-sized square of a layer's picture."""
        return visible_classes(self.surfaces[name], self.low, self.high, self.volume.facts["voxel_mm"])

    def classes(self) -> set[int]:
        """The classes that are visible in any panel."""
        return {number for name in self.surfaces for number in panels.classes_in(self.visible(name))}


def _panel(axes: Axes, row: CaseRow, name: str) -> None:
    """Draw a layer's surfaces, in mm."""
    if name not in row.surfaces:
        panels.empty(axes, "not run")
        return
    for surface in row.surfaces[name]:
        surface_renderer.draw(axes, surface)
    (left, bottom), (right, top), edge = row.low, row.high, EDGE * row.width
    axes.set(xlim=(left - edge, right + edge), ylim=(bottom - STRIP * row.width, top + edge))
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if name == "truth":
        numbers = row.visible(name)
        places = [
            low + (np.arange(n) + 0.5) * row.volume.facts["voxel_mm"]
            for n, low in zip(numbers.shape, (bottom, left), strict=True)
        ]
        panels.number_classes(axes, places, numbers)
    if (dice := row.volume.facts.get(f"dice_{name}")) is not None:
        axes.text(0.03, 0.02, f"Dice {dice:.2f}", transform=axes.transAxes, fontsize=style.SMALL)
    if not row.surfaces[name]:
        axes.text(0.5, 0.5, "nothing found", ha="center", transform=axes.transAxes, fontsize=style.SMALL)


def _orient(axes: Axes, row: CaseRow) -> None:
    """Draw the directions of the patient's right, left and head, and a scale bar, into the strip."""
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    length = 0.5 * STRIP * row.width
    middle = np.array([axes.get_xlim()[0] + 1.7 * length, bottom + 0.6 * length])
    for letter, direction in {"R": [1, 0, 0], "L": [-1, 0, 0], "S": [0, 0, 1]}.items():
        end = middle + length * (VIEW[:2] @ direction)
        axes.plot(*zip(middle, end, strict=True), color="black", lw=0.8, solid_capstyle="round")
        axes.text(*(1.5 * end - 0.5 * middle), letter, ha="center", va="center", fontsize=style.SMALL)
    bar = max(mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm <= max(1, 0.32 * row.width))
    y = bottom + 0.1 * length
    axes.plot([right - bar, right], [y, y], color="black", lw=1.5, solid_capstyle="butt")
    style.note(axes, f"{bar} mm", (right, y), (0, 2), ha="right", va="bottom")


def _caption(figure: Figure, table: pd.DataFrame, volumes: Sequence[Volume]) -> None:
    counts = ", ".join(v.facts["cases"] for v in volumes)
    voxels = ", ".join(f"{v.facts['voxel_mm']:.1f}" for v in volumes)
    around = ", ".join(dict.fromkeys(name for v in volumes for name in v.texts("around")))
    turn, tilt = (round(np.degrees(angle)) for angle in (AZIMUTH, ELEVATION))
    scored = any(fact.startswith("dice_") for v in volumes for fact in v.facts)
    style.caption(
        figure,
        provenance(table.dropna(subset=["dataset"])),
        f"Shown: {volumes[0].facts['rule']} (n = {counts} test cases), seen from the front, {turn}° to the "
        f"patient's left and {tilt}° above (R, L: patient's right, left; S: towards the head).",
        "All panels of a row have the same scale.",
        f"Masks in voxels of {voxels} mm, smoothed.",
        f"See-through: {around}." if around else "",
        "Dice: of the whole case, mean over classes." if scored else "",
    )
