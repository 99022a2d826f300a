"""A scan in a notebook with truth, prediction and attention over it: in 3D, or as slices where none looks."""

import importlib.util
from html import escape
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec
from bipvl.figures import panels, style
from bipvl.figures.interactive.layers import Layer, Scan, Scene, read_scene
from bipvl.figures.slice_tables import Slice
from bipvl.figures.word_attention import LESS, MORE

PLANES = {"axial": (2, "R", "L"), "coronal": (1, "R", "L"), "sagittal": (0, "A", "P")}
"""By plane the axis that it cuts, and what lies at a picture's left and right."""
WIDEST = 2.2
"""Inches, a panel."""
NO_TEXT = 0.01
"""Share of the width at the end of a row: nothing is written there."""
OPACITY = {"Truth": 1.0, "Prediction": 0.5, "Attention": 0.0}
"""Of each layer in the widget, at first."""


def view(
    image: Scan,
    truth: Scan | None = None,
    prediction: Scan | None = None,
    attention: Scan | None = None,
    *,
    spec: DatasetSpec,
    caption: str = "",
    live: bool | None = None,
    height: int = 360,
) -> Any:
    """What a notebook's cell shows of a scan: a widget that turns in 3D, or a picture of three slices.

    Args:
        image, truth, prediction, attention, spec: as of ``scene.read_scene``.
        caption: where the data come from and what made the prediction.
        live: True for the widget, False for the picture; None: the widget where ``can_be_live``.
        height: of the widget, pixels.

    Raises:
        BipvlError: a file that cannot be read or does not fit the image; a widget without ipyniivue.
    """
    scene = read_scene(image, truth, prediction, attention, spec=spec)
    if can_be_live() if live is None else live:
        return make_widget(scene, caption=caption, height=height)
    from IPython.display import Image

    with style.context():
        return Image(style.png(draw_planes(scene, caption=caption)), width=800)


def can_be_live() -> bool:
    """Whether ipyniivue is installed, and a front end has sent the cell that runs now."""
    return importlib.util.find_spec("ipyniivue") is not None and has_front_end()


def has_front_end() -> bool:
    """Whether the cell that runs now was sent by a front end with a person at it, such as JupyterLab.

    That is one that could ask for input: papermill and nbconvert, which execute a notebook where nobody
    looks, say with each cell that they cannot.
    """
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))


def make_widget(scene: Scene, *, caption: str = "", height: int = 360) -> Any:
    """A VBox of the volumes in niivue, a slider of opacity for each, the classes' colours and the caption.

    The truth is shown by its outlines, so that the prediction can be seen with it; the attention, which would
    hide both, when its slider is moved. The patient's right is at the left, as in all figures.

    Raises:
        BipvlError: ipyniivue is not installed.
    """
    try:
        import ipyniivue as niivue
    except ImportError as error:
        raise BipvlError(
            "the 3D viewer needs ipyniivue; install it with `pip install ipyniivue`, or give live=False"
        ) from error
    import ipywidgets

    viewer = niivue.NiiVue(
        height=height,
        is_radiological_convention=True,
        sagittal_nose_left=True,
        multiplanar_show_render=niivue.ShowRender.ALWAYS,
        slice_type=niivue.SliceType.MULTIPLANAR,
        crosshair_width=0.3,
    )
    grey = niivue.Volume(
        data=_nifti(scene.grey, scene.affine), name="image.nii", colormap="gray", cal_min=0, cal_max=255
    )
    volumes = [grey, *(_volume(layer, scene.affine) for layer in scene.layers)]
    viewer.load_volumes(volumes)
    titles = ["Image", *(layer.title for layer in scene.layers)]
    sliders = [_opacity(title, volume) for title, volume in zip(titles, volumes, strict=True)]
    below = f"{_legend_html(scene)}<div>{escape(caption)}</div>"
    return ipywidgets.VBox([viewer, ipywidgets.HBox(sliders), ipywidgets.HTML(below)])


def _volume(layer: Layer, affine: np.ndarray) -> Any:
    from ipyniivue import LUT, Volume

    numbers = layer.outlines if layer.title == "Truth" else layer.numbers
    colours = _whole(layer.colours)
    table = LUT(lut=colours.ravel().tolist(), min=0, max=len(colours) - 1, labels=list(layer.names))
    return Volume(
        data=_nifti(numbers, affine, classes=layer.classes),
        name=f"{layer.title.lower()}.nii",
        opacity=OPACITY[layer.title],
        colormap_label=table,
        colorbar_visible=False,
    )


def _whole(colours: np.ndarray) -> np.ndarray:
    """Colours as niivue draws them over an image, whole or not at all.

    See-through ones are mixed with grey, and left out where nearly nothing is left of them.
    """
    share = colours[:, 3:] / 255
    mixed = share * colours[:, :3] + (1 - share) * 128
    return np.rint(np.hstack([mixed, 255 * (share > 0.1)])).astype(np.uint8)


def _nifti(numbers: np.ndarray, affine: np.ndarray, *, classes: bool = False) -> bytes:
    """A NIfTI file's bytes; of classes it says so, and niivue then mixes no two of them."""
    image = nib.Nifti1Image(numbers, affine)
    image.header.set_xyzt_units("mm")
    if classes:
        image.header.set_intent("label")
    return image.to_bytes()


def _opacity(title: str, volume: Any) -> Any:
    """A slider that acts in the browser, without the kernel."""
    import ipywidgets

    slider = ipywidgets.FloatSlider(volume.opacity, min=0, max=1, step=0.05, description=title)
    slider.readout, slider.layout.width = False, "220px"
    ipywidgets.jslink((slider, "value"), (volume, "opacity"))
    return slider


def _legend_html(scene: Scene) -> str:
    entry = '<span style="white-space:nowrap"><span style="color:{}">&#9632;</span> {}</span>'
    return f"<div>{' &ensp; '.join(entry.format(c, escape(text)) for c, text in _legend(scene))}</div>"


def _legend(scene: Scene) -> list[tuple[str, str]]:
    """Colours and what they mean: the classes in any layer, then the ends of the attention's scale."""
    masks = [layer for layer in scene.layers if layer.classes]
    shown = sorted({number for layer in masks for number in panels.drawn(layer.numbers)})
    entries = [(style.class_colour(n - 1), f"{n} {masks[0].names[n]}") for n in shown]
    for layer in scene.layers:
        if not layer.classes:
            ends = (LESS, "less", layer.names[0]), (MORE, "more", layer.names[-1])
            entries += [(colour, f"{how} attention than an even one (to {end})") for colour, how, end in ends]
    return entries


def draw_planes(scene: Scene, *, caption: str = "") -> Figure:
    """A row a plane, through most of the truth (or of the first mask); a column the image and each layer."""
    cuts = {plane: _cut(scene, plane) for plane in PLANES}
    columns = 1 + len(scene.layers)
    width = min(WIDEST, panels.panel_width(columns, text=NO_TEXT))
    heights = [width * this.size[0] / this.size[1] for this, _ in cuts.values()]
    figure, grid, _ = panels.rows_figure(heights, columns, text=NO_TEXT)
    for row, (plane, (this, index)) in zip(grid, cuts.items(), strict=True):
        for axes, layer in zip(row, (None, *scene.layers), strict=False):
            _panel(axes, this, layer)
        _orient(row[0], *PLANES[plane][1:])
        row[0].set_ylabel(f"{plane}, voxel {index}")
    for axes, title in zip(grid[0], ("Image", *(layer.title for layer in scene.layers)), strict=False):
        axes.set_title(title)
    entries = [Patch(facecolor=colour, label=text) for colour, text in _legend(scene)]
    if entries:
        figure.legend(handles=entries, loc="outside upper center", ncols=3, **panels.LEGEND)
    style.caption(figure, f"{caption} {_rule(scene)}".strip())
    return figure


def _cut(scene: Scene, plane: str) -> tuple[Slice, int]:
    """A plane's slice with most of the first mask, the middle one where there is none; and its number."""
    axis = PLANES[plane][0]
    masks = [layer.numbers for layer in scene.layers if layer.classes and layer.numbers.any()]
    index = scene.grey.shape[axis] // 2
    if masks:
        index = int(np.moveaxis(masks[0] > 0, axis, 0).sum((1, 2)).argmax())

    def picture(volume: np.ndarray) -> np.ndarray:
        """Rows from the front or head; pixels from the patient's right, or from the front."""
        return np.flip(volume.take(index, axis).T)

    spacing = np.delete(np.linalg.norm(scene.affine[:3, :3], axis=0), axis)
    facts = {"pixel_width_mm": spacing[0], "pixel_height_mm": spacing[1]}
    layers = {layer.title: picture(layer.numbers) for layer in scene.layers}
    return Slice(facts, picture(scene.grey), layers), index


def _panel(axes: Axes, this: Slice, layer: Layer | None) -> None:
    classes = layer is not None and layer.classes
    panels.show(axes, this, this.masks[layer.title] if classes else None)
    if layer is not None and not classes:
        height, width = this.size
        extent = (-width / 2, width / 2, height / 2, -height / 2)
        axes.imshow(layer.colours[this.masks[layer.title]], extent=extent, interpolation="nearest")


def _orient(axes: Axes, left: str, right: str) -> None:
    for x, letter in ((0.03, left), (0.97, right)):
        side = "left" if letter == left else "right"
        axes.text(x, 0.5, letter, ha=side, va="center", transform=axes.transAxes, **panels.white())


def _rule(scene: Scene) -> str:
    masks = [layer.title.lower() for layer in scene.layers if layer.classes and layer.numbers.any()]
    where = f"the slices with most of the {masks[0]}" if masks else "the middle slices"
    return f"Shown: {where} (R: patient's right, L: left, A: front, P: back)."
