"""Diagrams of the network and of BiFusion, drawn from ``architecture_table`` and ``bifusion_table``."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.transforms import Bbox

from bipvl.data.spec import dataset_title
from bipvl.engine.variants import variant_title
from bipvl.figures import style

COLOURS = {
    "text": "#e69f00",
    "fusion": "#009e73",
    "vision": "#0072b2",
    "image": "#0072b2",
    "decoder": "#56b4e9",
    "head": "#cc79a7",
    "loss": "#d55e00",
    "input": "#767676",
}
NO_DATA = "Structure only: no cohort, no seed."
LANES = ("Text encoder", "Fusion", "Vision encoder", "Skips", "Decoder", "Objective")
LINE = {"color": "#333333", "lw": 0.8, "solid_capstyle": "butt", "zorder": 1}
Place = tuple[float, float]
ARROW = {"arrowstyle": "-|>,head_width=0.16,head_length=0.3", "shrinkA": 0, "shrinkB": 0, "lw": 0.8}


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    """A rectangle with its centre at (x, y), in inches."""
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _centre(box: Bbox) -> Place:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def _draw(
    axes: Axes, box: Bbox, colour: str, lines: Sequence[str], bold: int, *, frozen: bool = False
) -> None:
    """Draw a tinted rectangle with round corners and lines of text in it, the first ``bold`` ones bold.

    A frozen block has a dashed edge and no tint.
    """
    tint = [1 - (1 - c) * (0.0 if frozen else 0.22) for c in to_rgb(colour)]
    edge = {"edgecolor": colour, "linewidth": 0.9, "linestyle": (0, (3, 2)) if frozen else "-"}
    corners = "round,pad=0,rounding_size=0.04"
    patch = FancyBboxPatch(box.p0, box.width, box.height, corners, facecolor=tint, zorder=2, **edge)
    axes.add_patch(patch)
    (x, y), pitch = _centre(box), 0.125
    for number, line in enumerate(lines):
        above = pitch * ((len(lines) - 1) / 2 - number)
        look = {"fontsize": style.SMALL, "weight": "bold" if number < bold else "normal", "zorder": 3}
        axes.text(x, y + above, line, ha="center", va="center", **look)


def _arrow(axes: Axes, path: Sequence[Place], *, dashed: bool = False) -> None:
    """Draw a line through the places, with an arrow head at the last one."""
    dash = {"linestyle": (0, (3, 2))} if dashed else {}
    if len(path) > 2:
        axes.plot(*zip(*path[:-1], strict=True), **LINE | dash)
    arrow = ARROW | {"color": LINE["color"]} | dash
    axes.annotate("", path[-1], path[-2], arrowprops=arrow, zorder=1)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one panel in units of inches, and room for the caption below."""
    figure = Figure(figsize=(width, height + 0.62))
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def _filled(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Replace missing values in text columns by "": a CSV file cannot store empty text."""
    return table.assign(**{name: table[name].astype(object).fillna("") for name in columns})


PITCH, ROW, MARGIN = 0.96, 0.8, 0.27
"""Inches: distance of columns, distance of rows, margin left of the first column."""


def draw_architecture(table: pd.DataFrame) -> Figure:
    """Diagram of the network: one row per lane (``LANES``), one box per row of the ``architecture_table``."""
    table = _filled(table, "detail", "shape", "state", "feeds", "deviations", "note")
    rows = 1 + table["row"].max()
    width = MARGIN + PITCH * (1 + table["column"].max())
    figure, axes = _canvas(width, ROW * rows)
    boxes = {}
    for block in table.itertuples():
        place = MARGIN + PITCH * (block.column + 0.5), ROW * (rows - block.row - 0.5)
        boxes[block.id] = _box(*place, 0.81, 0.56)
        title = textwrap.wrap(block.title, 13)
        learnt = "learnt weight" if block.kind == "loss" else _amount(block.parameters)
        lines = [*title, block.detail, *map(_compact, block.shape.split("; "))]
        lines = [line for line in [*lines, learnt if block.parameters else ""] if line]
        frozen = block.state == "frozen"
        _draw(axes, boxes[block.id], COLOURS[block.kind], lines, len(title), frozen=frozen)
    look = {"rotation": 90, "va": "center", "ha": "center", "fontsize": style.SMALL, "color": "#444444"}
    for row, lane in enumerate(LANES[:rows]):
        axes.text(0.14, ROW * (rows - row - 0.5), lane.replace(" ", "\n"), **look)
    pairs = [(b.id, target) for b in table.itertuples() for target in b.feeds.split(";") if target]
    for source, target in pairs:
        _connect(axes, boxes[source], boxes[target], mutual=(target, source) in pairs)
    _architecture_caption(figure, table)
    return figure


def _connect(axes: Axes, source: Bbox, target: Bbox, *, mutual: bool) -> None:
    """Draw an arrow: straight within a column and to a neighbouring column, else below all boxes."""
    (x, y), (target_x, target_y) = _centre(source), _centre(target)
    if x == target_x:
        down = target_y < y
        x += 0 if not mutual else -0.13 if down else 0.13
        _arrow(axes, [(x, source.y0 if down else source.y1), (x, target.y1 if down else target.y0)])
    elif abs(x - target_x) < 1.5 * PITCH:
        ends = (source.x1, target.x0) if target_x > x else (source.x0, target.x1)
        _arrow(axes, [(end, y) for end in ends])
    else:
        below = source.y0 - 0.1
        _arrow(axes, [(x, source.y0), (x, below), (target_x, below), (target_x, target.y0)], dashed=True)


def _compact(shape: str) -> str:
    """12 × 24 × 24 × 24 → 12 × 24³, with thin spaces; four sizes have none, to fit their box."""
    short = re.sub(r"\b(\d+) × \1 × \1$", r"\1³", shape)
    return short.replace(" × ", "×" if short.count("×") > 2 else "\u2009×\u2009")


def _amount(number: int) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _architecture_caption(figure: Figure, table: pd.DataFrame) -> None:
    facts, count = table.iloc[0], table["parameters"]
    fused, frozen = (table["kind"] == "fusion").any(), (table["state"] == "frozen").any()
    trained = f"{_amount(count[table['state'] == 'trained'].sum())} trained; dashed boxes are frozen"
    deviations = facts["deviations"].replace("_", " ").replace(";", ", ")
    where = ", but not in the decoder" if "unfused" in deviations else ""
    style.caption(
        figure,
        f"{variant_title(facts['variant'])}, profile {facts['profile']}, {dataset_title(facts['dataset'])}, "
        f"crops of {_compact(facts['crop'])} voxels. {NO_DATA}",
        "Each box shows the size of its output (images: channels × grid; texts: classes × tokens × width"
        f"{'; BiFusion: text tokens, image tokens × width' if fused else ''}) and its parameters: "
        f"{_amount(count.sum())} in total, {trained if frozen else 'all trained'}.",
        f"The output of BiFusion replaces the tokens of its stage{where}." if fused else "",
        "Dashed arrow: a target without gradient." if "class_embedding" in set(table["id"]) else "",
        f"Deviations from the paper: {deviations} (see bipvl/model/deviations.py)." if deviations else "",
        facts["note"],
    )


STEP, SIDE = 2.75, 0.42
"""Inches: width of a step of BiFusion, and of the space for the residual connections beside the steps."""
NORM, GAP = 0.14, 0.06
"""Inches: height of the sum or norm after a step, and the space around each box."""


@dataclass(frozen=True)
class Step:
    """A step of BiFusion with its position: its box, and the box of its sum or norm if it has one."""

    box: Bbox
    end: Bbox | None

    @property
    def whole(self) -> Bbox:
        return Bbox.union([self.box, self.end or self.box])


def draw_bifusion(table: pd.DataFrame) -> Figure:
    """Diagram of BiFusion from the ``bifusion_table``: text steps at the left, image steps at the right."""
    table = _filled(table, "detail", "added", "feeds")
    heights = [max(map(_height, rows.itertuples())) for _, rows in table.groupby("row")]
    figure, axes = _canvas(style.WIDTH, sum(heights))
    centres = {"text": SIDE + STEP / 2, "image": style.WIDTH - SIDE - STEP / 2}
    steps = {row.id: _place(row, centres[row.lane], sum(heights[row.row :])) for row in table.itertuples()}
    for row in table.itertuples():
        _draw_step(axes, steps[row.id], row)
        for target in filter(None, row.feeds.split(";")):
            _feed(axes, steps[row.id], steps[target])
        if row.added:
            near = row.id in table.set_index("id")["feeds"][row.added].split(";")
            _add(axes, steps[row.added], steps[row.id], near)
    _bifusion_caption(figure, table)
    return figure


def _height(row: Any) -> float:
    """Height of a step with the space around it: two lines of text if a LayerNorm follows, else one."""
    end = NORM + GAP if row.norm or row.added else 0
    return (0.33 if row.norm else 0.2) + end + 2 * GAP


def _place(row: Any, x: float, top: float) -> Step:
    """Place a step below ``top``. Its sum or norm is drawn below its box, that of an output above it."""
    height, ended = 0.33 if row.norm else 0.2, bool(row.norm or row.added)
    above = ended and row.kind == "output"
    box = _box(x, top - GAP - height / 2 - above * (NORM + GAP), STEP, height)
    y = box.y1 + GAP + NORM / 2 if above else box.y0 - GAP - NORM / 2
    return Step(box, _box(x, y, 1.0, NORM) if ended else None)


def _draw_step(axes: Axes, step: Step, row: Any) -> None:
    title = f"{row.title} · {_amount(row.parameters)}" if row.parameters else row.title
    lines = [title, row.detail] if row.norm else [", ".join(filter(None, (title, row.detail)))]
    _draw(axes, step.box, COLOURS[row.lane if row.kind == "step" else "input"], lines, bold=1)
    if step.end:
        words = ["add"] * bool(row.added) + ["LayerNorm"] * row.norm
        _draw(axes, step.end, COLOURS["fusion"], [", ".join(words)], bold=0)
        upper, lower = sorted((step.box, step.end), key=lambda box: -box.y0)
        axes.plot([_centre(step.box)[0]] * 2, [upper.y0, lower.y1], **LINE)


def _feed(axes: Axes, source: Step, target: Step) -> None:
    """Draw an arrow straight down within a lane, or down and across to the other lane."""
    x, (other_x, other_y) = _centre(source.box)[0], _centre(target.box)
    start = x, source.whole.y0
    if x == other_x:
        _arrow(axes, [start, (x, target.whole.y1)])
    else:
        side = target.box.x0 if x < other_x else target.box.x1
        _arrow(axes, [start, (x, other_y), (side, other_y)])


def _add(axes: Axes, source: Step, target: Step, near: bool) -> None:
    """Draw a residual connection around the step that reads it, or (not near) around all steps between."""
    x, y = _centre(target.end)
    left = x < style.WIDTH / 2
    side = x + (-1 if left else 1) * (STEP / 2 + (0.14 if near else 0.3))
    start = target.whole.y1 + 1.4 * GAP if near else source.whole.y0 - 0.6 * GAP
    _arrow(axes, [(x, start), (side, start), (side, y), (target.end.x0 if left else target.end.x1, y)])


def _bifusion_caption(figure: Figure, table: pd.DataFrame) -> None:
    facts, lanes = table.iloc[0], set(table.loc[table["kind"] == "output", "lane"])
    unread = [lane for lane in ("text", "image") if lane not in lanes]
    style.caption(
        figure,
        f"{variant_title(facts['variant'])}, profile {facts['profile']}: BiFusion at stage {facts['stage']}, "
        f"{_amount(table['parameters'].sum())} parameters. {NO_DATA}",
        "T, V: current text and image tokens; E: the text at the entry of the first layer, added as a "
        "positional prompt.",
        f"The {unread[0]} tokens pass the block unchanged." if unread else "",
    )
