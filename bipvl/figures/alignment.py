"""The effect of alignment on the shared space: similarities before and after training, a map of the space."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bipvl.analysis.statistics import provenance
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.data.prompts import COLUMNS
from bipvl.data.spec import dataset_title, load_spec
from bipvl.engine.variants import VARIANTS, variant_title
from bipvl.figures import style
from bipvl.figures.curves import run_origin
from bipvl.figures.panels import LEGEND

if TYPE_CHECKING:
    from bipvl.engine.snapshots import Snapshot

PANELS = 3
"""Number of snapshots in the map: the first, the last, and those at equal distances between them."""
WRITTEN = 7
"""Maximum number of classes for which each cell shows its value and each column its number."""
NEAR = 0.08
"""Minimum distance between two numbers in a map, as a share of its extent."""


def language_runs(folders: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """The first run folder of each data set whose network reads prompts.

    Raises:
        BipvlError: a data set has no such run.
    """
    found = {}
    for dataset, group in folders.items():
        reading = [folder for folder in group if _reads_prompts(folder)]
        if not reading:
            problem = f"the study has no run on {dataset} of a network that reads prompts"
            raise BipvlError(problem, "train one, such as bipvlseg")
        found[dataset] = reading[0]
    return found


def _reads_prompts(folder: Path) -> bool:
    name = read_json(folder / "config.json")["variant"]
    return name in VARIANTS and VARIANTS[name].language


def similarity_table(runs: Mapping[str, Path]) -> pd.DataFrame:
    """Text–image similarities of all pairs of classes before and after training, from one run per data set.

    Columns cohort, profile, dataset, variant, seeds, cases, step, text_class, visual_class, similarity: the
    cosine of one class's global text vector and another's visual vector (``Snapshot.similarity``).

    Raises:
        BipvlError: a run has no snapshots.
    """
    from bipvl.model.losses import TEMPERATURE

    parts = []
    for origin, names, snapshots in _read(runs):
        temperature = VARIANTS[origin["variant"]].objective.get("temperature", TEMPERATURE)
        for snapshot in (snapshots[0], snapshots[-1]):
            rows = pd.DataFrame(snapshot.similarity(temperature).numpy(), names, names)
            rows = rows.rename_axis("text_class").rename_axis("visual_class", axis=1).stack()
            parts.append(rows.rename("similarity").reset_index().assign(**origin, step=snapshot.step))
    table = pd.concat(parts, ignore_index=True)
    return table[[*origin, "step", "text_class", "visual_class", "similarity"]]


def embedding_table(runs: Mapping[str, Path]) -> pd.DataFrame:
    """The vectors of all snapshots, projected on one plane of the shared space, from one run per data set.

    Columns cohort, profile, dataset, variant, seeds, cases, step, class, concept (empty: the visual vector),
    x, y, share_x, share_y: coordinates on the first two principal components of the normalised vectors of
    all snapshots, and the share of the variance that each component explains.

    Raises:
        BipvlError: a run has no snapshots.
    """
    parts = []
    for origin, names, snapshots in _read(runs):
        levels = {
            "step": [snapshot.step for snapshot in snapshots],
            "class": names,
            "concept": ["", *COLUMNS[: snapshots[0].text.shape[1]]],
        }
        keys = pd.MultiIndex.from_product(list(levels.values()), names=list(levels))
        vectors = [np.concatenate([s.visual[:, None], s.text], 1) for s in snapshots]  # S times N × K × D
        places, shares = principal_plane(np.stack(vectors).reshape(len(keys), -1))
        part = pd.DataFrame(places, keys, ["x", "y"]).reset_index()
        parts.append(part.assign(**origin, share_x=shares[0], share_y=shares[1]))
    table = pd.concat(parts, ignore_index=True)
    return table[[*origin, "step", "class", "concept", "x", "y", "share_x", "share_y"]]


def _read(runs: Mapping[str, Path]) -> Iterator[tuple[dict[str, Any], list[str], "list[Snapshot]"]]:
    """For each run the facts of its rows, its class names and its snapshots."""
    from bipvl.engine.snapshots import read_snapshots

    for dataset, folder in runs.items():
        names = [c.name for c in load_spec(read_json(folder / "config.json")["dataset"]).classes]
        snapshots = read_snapshots(folder)
        yield run_origin(folder, dataset) | {"cases": snapshots[0].cases}, names, snapshots


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project vectors (A × D), normalised to length 1, on their first two principal components.

    Returns:
        The coordinates (A × 2), and each component's share of the variance (2). The largest loading of a
        component is positive.
    """
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    centred = units - units.mean(0)
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]
    return centred @ axes.T, scale[:2] ** 2 / (scale**2).sum()


def draw_similarity(table: pd.DataFrame) -> Figure:
    """One row per data set: similarities before and after training, from the ``similarity_table``."""
    count = table["dataset"].nunique()
    figure = Figure(figsize=(style.WIDTH, 2.25 * count + 0.9))
    grid = figure.subplots(count, 2, squeeze=False)
    for row, (dataset, part) in zip(grid, table.groupby("dataset", sort=False), strict=True):
        for axes, step in zip(row, (part["step"].min(), part["step"].max()), strict=True):
            image = _matrix(axes, part[part["step"] == step])
        row[1].tick_params(labelleft=False)
        row[0].set_ylabel(f"{style.dataset_heading(dataset)}\ntext of class")
    for axes in grid[-1]:
        axes.set_xlabel("visual vector of class, by number")
    figure.align_ylabels(grid[:, 0])
    bar = figure.colorbar(image, ax=grid, label="cosine similarity", shrink=0.9 / count, aspect=18)
    bar.outline.set_visible(False)
    classes = table.groupby("dataset", sort=False)["text_class"].nunique()
    style.caption(
        figure,
        f"{provenance(table)} {variant_title(table['variant'].iloc[0])}: cosine similarity of the global "
        "text vector of each class (row; its texts have the weights of the global alignment) and the visual "
        "vector of each class (column), in the shared space, before training and after the last step. "
        f"N = {', '.join(map(str, classes))} classes; means over the centre crops of n = {_cases(table)} "
        "validation cases. Above each panel: mean of the diagonal (same class) and of all other cells.",
    )
    return figure


def _matrix(axes: Axes, rows: pd.DataFrame) -> QuadMesh:
    names = list(rows["text_class"].unique())
    values = rows.pivot(index="text_class", columns="visual_class", values="similarity").loc[names, names]
    few, numbers = len(names) <= WRITTEN, range(1, len(names) + 1)
    colours = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "cbar": False}
    written = values.map(lambda value: _number(value, 1)) if few else False
    ticks = {
        "yticklabels": [f"{name}  {number}" for number, name in zip(numbers, names, strict=True)],
        "xticklabels": [number if few or number % 2 else "" for number in numbers],
    }
    look = {"square": True, "annot": written, "fmt": "", "annot_kws": {"fontsize": style.SMALL}}
    seaborn.heatmap(values, ax=axes, **colours, **look, **ticks)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0, rotation=0)
    own = np.eye(len(names), dtype=bool)
    same, others = (_number(values.to_numpy()[cells].mean()) for cells in (own, ~own))
    axes.set_title(f"{_when(rows['step'].iloc[0])}\nsame class {same}, others {others}")
    return axes.collections[0]


def _number(value: float, digits: int = 2) -> str:
    """Format a number with a typographic minus sign, and without one before zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def _when(step: int) -> str:
    return f"After step {step}" if step else "Before training"


def _cases(table: pd.DataFrame) -> str:
    """The number of cases of each data set."""
    return ", ".join(map(str, table.groupby("dataset", sort=False)["cases"].first()))


def draw_embedding_map(table: pd.DataFrame) -> Figure:
    """One row per data set, one column per snapshot, from the ``embedding_table``."""
    table = table.assign(concept=table["concept"].fillna(""))
    count = table["dataset"].nunique()
    columns = min(PANELS, table.groupby("dataset")["step"].nunique().max())
    figure = Figure(figsize=(style.WIDTH, 1.95 * count + 0.9))
    ratios = {"width_ratios": [*[1] * columns, 0.3 * columns]}
    grid = figure.subplots(count, columns + 1, squeeze=False, **ratios)
    for row, (dataset, part) in zip(grid, table.groupby("dataset", sort=False), strict=True):
        steps = sorted(set(part["step"]))
        shown = [steps[int(i)] for i in np.linspace(0, len(steps) - 1, min(PANELS, len(steps)))]
        for axes, step in zip(row, shown, strict=False):
            _map(axes, part, step)
        for axes in row[len(shown) :]:
            axes.set_axis_off()
        for axes in row[1:-1]:
            axes.tick_params(labelleft=False)
        shares = part.iloc[0]
        row[0].set_ylabel(f"{dataset_title(dataset)}\nPC 2 ({100 * shares['share_y']:.0f} % of variance)")
        row[(columns - 1) // 2].set_xlabel(f"PC 1 ({100 * shares['share_x']:.0f} % of variance)")
        entries = [
            Line2D([], [], marker="D", ls="", ms=4, color=style.class_colour(n), label=f"{n + 1}  {name}")
            for n, name in enumerate(part["class"].unique())
        ]
        row[-1].legend(handles=entries, loc="center left", **LEGEND)
    kinds = table[table["concept"] != ""]["concept"].nunique()
    style.caption(
        figure,
        f"{provenance(table)} {variant_title(table['variant'].iloc[0])}: the shared space of texts and "
        "images. Vectors have length 1 and are projected on the first two principal components of all "
        "snapshots of a data set. Diamonds: visual vector of each class; dashed lines: its path since the "
        f"first snapshot; dots, connected to it: its {kinds} texts. Means over the centre crops of n = "
        f"{_cases(table)} validation cases.",
    )
    return figure


def _map(axes: Axes, part: pd.DataFrame, step: int) -> None:
    """Draw a snapshot: each class's visual vector with its path, connected to the vectors of its texts.

    Classes are numbered, except where the number would overlap another one.
    """
    now, extent = part[part["step"] == step], np.ptp(part[["x", "y"]].to_numpy(), axis=0).max()
    numbered: list[np.ndarray] = []
    for number, (name, of_class) in enumerate(now.groupby("class", sort=False)):
        colour = style.class_colour(number)
        own, texts = of_class[of_class["concept"] == ""], of_class[of_class["concept"] != ""]
        place = own[["x", "y"]].to_numpy()[0]
        ties = [(place, text) for text in texts[["x", "y"]].to_numpy()]
        axes.add_collection(LineCollection(ties, colors=[colour], linewidths=0.5, alpha=0.5))
        axes.scatter(texts["x"], texts["y"], s=6, color=colour, edgecolors="black", linewidths=0.3, zorder=5)
        path = part[(part["class"] == name) & (part["concept"] == "") & (part["step"] <= step)]
        axes.plot(path["x"], path["y"], color=colour, lw=0.8, ls=(0, (2, 1)), zorder=2)
        axes.plot(*place, "D", ms=5, color=colour, mec="black", mew=0.5, zorder=4)
        if any(np.hypot(*(place - other)) < NEAR * extent for other in numbered):
            continue
        numbered.append(place)
        white = style.outline(colour="white")
        style.note(axes, str(number + 1), place, (3, 3), zorder=6, path_effects=white)
    low, high = part[["x", "y"]].min(), part[["x", "y"]].max()
    middle, half = (low + high) / 2, 0.56 * (high - low).max()
    axes.set(xlim=(middle["x"] - half, middle["x"] + half), ylim=(middle["y"] - half, middle["y"] + half))
    axes.set(aspect="equal", title=_when(step))
