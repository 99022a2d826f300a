"""Names beside points, none on another name or on a point."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from bipvl.figures import style

DISTANCES = (4, 9, 15, 22, 30, 40, 52, 66)
"""Points from a point to its name; a line joins them from the second on."""
ANGLES = tuple(range(0, 360, 30))
SIZE = 4
"""Points that are kept free around each point, half a side."""


def place_labels(
    axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], colours: Sequence[str]
) -> None:
    """Write each name beside its point (data coordinates), near it where there is room.

    The figure must have been laid out; names that find no room in the axes lie where they overlap least.
    """
    pixel = axes.figure.dpi / 72
    points = axes.transData.transform(np.column_stack([x, y]))
    taken = [Bbox.from_bounds(*(p - SIZE * pixel), *[2 * SIZE * pixel] * 2) for p in points]
    # The crowded first: others can still go elsewhere.
    crowd = [np.hypot(*(points - p).T).round(3).tolist() for p in points]
    for i in sorted(range(len(points)), key=lambda i: sorted(crowd[i])[1:3]):
        label = _annotate(axes, (x[i], y[i]), names[i], colours[i])
        box, cost = label.get_window_extent(), np.inf
        for distance, angle in product(DISTANCES, ANGLES):
            tried = _moved(box, points[i], distance * pixel, np.deg2rad(angle))
            overlap = sum(_area(tried, other) for k, other in enumerate(taken) if k != i)
            overlap += tried.width * tried.height - _area(tried, axes.bbox)
            if overlap < cost - 1e-6:
                cost, best, far = overlap, tried, distance > DISTANCES[0]
        label.set_position(((np.array(best.p0) - points[i]) / pixel).tolist())
        if far:
            nearest = np.clip(points[i], best.p0, best.p1)
            axes.annotate(
                "",
                (x[i], y[i]),
                (nearest - points[i]) / pixel,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": colours[i], "lw": 0.4, "shrinkA": 0, "shrinkB": 3},
            ).set_in_layout(False)
        taken.append(best)


def _annotate(axes: Axes, point: tuple[float, float], name: str, colour: str) -> Annotation:
    label = axes.annotate(
        name,
        point,
        (0, 0),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=style.SMALL,
        color=colour,
        path_effects=style.outline(2, "white"),
        zorder=4,
    )
    label.set_in_layout(False)  # it must not move what it was placed by
    return label


def _moved(box: Bbox, point: np.ndarray, distance: float, angle: float) -> Bbox:
    """The box so that its nearest edge or corner lies at a distance from the point, in a direction."""
    way = np.array([np.cos(angle), np.sin(angle)])
    size = np.array([box.width, box.height])
    centre = point + way * distance + np.sign(way.round(6)) * size / 2
    return Bbox.from_bounds(*(centre - size / 2), *size)


def _area(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return shared.width * shared.height if shared else 0.0
