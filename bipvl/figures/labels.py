"""Place names beside points so that no name covers another name or a point.

The placement is our own because matplotlib has none that avoids overlaps.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from bipvl.figures import style

DISTANCES = (4, 9, 15, 22, 30, 40, 52, 66)
"""Distances from a point to its name that are tried, in points. From the second on, a line connects them."""
ANGLES = np.deg2rad(np.arange(0, 360, 30))
SIZE = 4
"""Half the side of the square around each point that stays free, in points."""


def place_labels(
    axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Write each name beside its point (data coordinates), as near as there is room.

    A name without room is placed where it overlaps least. The layout of the figure must be final.
    """
    pixel = axes.figure.dpi / 72
    points = axes.transData.transform(np.column_stack([x, y]))
    taken = np.stack([points - SIZE * pixel, points + SIZE * pixel], 1)
    for i in _crowded_first(points):
        look = {"color": colours[i], "path_effects": style.outline(2, "white"), "zorder": 4}
        label = style.note(axes, names[i], (x[i], y[i]), (0, 0), ha="left", va="bottom", **look)
        label.set_in_layout(False)  # a label must not change the layout that it was placed in
        boxes = points[i] + pixel * _offsets(np.array(label.get_window_extent().size) / pixel)
        overlap = _overlaps(boxes, np.delete(taken, i, 0)).sum(1)
        outside = np.prod(boxes[:, 1] - boxes[:, 0], 1) - _overlaps(boxes, axes.bbox.get_points()[None])[:, 0]
        best = np.round(overlap + outside, 6).argmin()  # the nearest one of equal ones
        label.set_position(((boxes[best, 0] - points[i]) / pixel).tolist())
        if best >= len(ANGLES):
            nearest = (np.clip(points[i], *boxes[best]) - points[i]) / pixel
            stroke = {"arrowstyle": "-", "color": colours[i], "lw": 0.4, "shrinkA": 0, "shrinkB": 3}
            line = style.note(axes, "", (x[i], y[i]), nearest, arrowprops=stroke)
            line.set_in_layout(False)
        taken = np.concatenate([taken, boxes[[best]]])


def _crowded_first(points: np.ndarray) -> list[int]:
    """Indices of the points, those with near neighbours first: the others have more room later."""
    distances = np.linalg.norm(points[:, None] - points, axis=-1).round(3)
    return sorted(range(len(points)), key=lambda i: sorted(distances[i])[1:3])


def _offsets(size: np.ndarray) -> np.ndarray:
    """Candidate boxes of a size around the origin: C × (lower left, upper right) × (x, y), nearest first."""
    directions = np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]).round(6)
    gaps = (np.array(DISTANCES)[:, None, None] * directions).reshape(-1, 2)
    centres = gaps + np.tile(np.sign(directions), (len(DISTANCES), 1)) * size / 2
    return np.stack([centres - size / 2, centres + size / 2], 1)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas that boxes (A × 2 × 2) share with other boxes (B × 2 × 2): A × B."""
    low = np.maximum(boxes[:, None, 0], others[:, 0])
    high = np.minimum(boxes[:, None, 1], others[:, 1])
    return np.clip(high - low, 0, None).prod(-1)
