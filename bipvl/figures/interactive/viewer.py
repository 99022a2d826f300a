"""Show a scan in a notebook with truth, prediction and attention over it, in 3D or as slices."""

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
from bipvl.figures.interactive.layers import LayeredScan, Overlay, ScanSource, read_layers
from bipvl.figures.slice_tables import SliceData, as_seen
from bipvl.figures.word_attention import LESS, MORE

PLANES = {"axial": (2, "R", "L"), "coronal": (1, "R", "L"), "sagittal": (0, "A", "P")}
"""For each plane the axis that it cuts, and the patient's directions at the picture's left and right."""
WIDEST = 2.2
"""Largest width of a panel, inches."""
NO_TEXT = 0.01
"""Width of the (unused) text at the end of a row, as a share of the panels' width."""
OPACITY = {"Truth": 1.0, "Prediction": 0.5, "Attention": 0.0}
"""Initial opacity of each overlay in the widget."""


def view(
    image: ScanSource,
    truth: ScanSource | None = None,
    prediction: ScanSource | None = None,
    attention: ScanSource | None = None,
    *,
    spec: DatasetSpec,
    caption: str = "",
    live: bool | None = None,
    height: int = 360,
) -> Any:
    """Show a scan in a notebook cell: an interactive 3D widget, or a picture of three slices.

    Args:
        image, truth, prediction, attention, spec: as for ``layers.read_layers``.
        caption: the source of the data and of the prediction.
        live: True for the widget, False for the picture, None for the widget if ``can_be_live``.
        height: of the widget, pixels.

    Raises:
        BipvlError: a file is unreadable or does not fit the image, or ipyniivue is not installed.
    """
    scan = read_layers(image, truth, prediction, attention, spec=spec)
    if can_be_live() if live is None else live:
        return make_widget(scan, caption=caption, height=height)
    from IPython.display import Image

    with style.context():
        return Image(style.png(draw_planes(scan, caption=caption)), width=800)


def can_be_live() -> bool:
    """Whether ipyniivue is installed and an interactive front end runs the current cell."""
    return importlib.util.find_spec("ipyniivue") is not None and has_front_end()


def has_front_end() -> bool:
    """Whether an interactive front end, such as JupyterLab, runs the current cell.

    It allows a cell to ask for input; papermill and nbconvert, which run notebooks unattended, do not.
    """
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))


def make_widget(scan: LayeredScan, *, caption: str = "", height: int = 360) -> Any:
    """A VBox of the volumes in niivue, an opacity slider for each, the legend and the caption.

    The truth is shown as outlines, so that the prediction stays visible. The attention would hide both, so it
    is invisible at first. The patient's right is at the left, as in all figures.

    Raises:
        BipvlError: ipyniivue is not installed.
    """
    try:
        import ipyniivue as niivue
    except ImportError as error:
        fix = "install it with `pip install ipyniivue`, or give live=False"
        raise BipvlError("the 3D viewer needs ipyniivue", fix) from error
    import ipywidgets

    viewer = niivue.NiiVue(
        height=height,
        is_radiological_convention=True,
        sagittal_nose_left=True,
        multiplanar_show_render=niivue.ShowRender.ALWAYS,
        slice_type=niivue.SliceType.MULTIPLANAR,
        crosshair_width=0.3,
    )
    data = _nifti(scan.grey, scan.affine)
    grey = niivue.Volume(data=data, name="image.nii", colormap="gray", cal_min=0, cal_max=255)
    volumes = [grey, *(_volume(overlay, scan.affine) for overlay in scan.overlays)]
    viewer.load_volumes(volumes)
    titles = ["Image", *(overlay.title for overlay in scan.overlays)]
    sliders = []
    for title, volume in zip(titles, volumes, strict=True):
        slider = ipywidgets.FloatSlider(volume.opacity, min=0, max=1, step=0.05, description=title)
        slider.readout, slider.layout.width = False, "220px"
        ipywidgets.jslink((slider, "value"), (volume, "opacity"))  # works without the kernel
        sliders.append(slider)
    entry = '<span style="white-space:nowrap"><span style="color:{}">&#9632;</span> {}</span>'
    legend = " &ensp; ".join(entry.format(colour, escape(text)) for colour, text in _legend(scan))
    below = ipywidgets.HTML(f"<div>{legend}</div><div>{escape(caption)}</div>")
    return ipywidgets.VBox([viewer, ipywidgets.HBox(sliders), below])


def _volume(overlay: Overlay, affine: np.ndarray) -> Any:
    from ipyniivue import LUT, Volume

    numbers = overlay.outlines if overlay.title == "Truth" else overlay.numbers
    colours = _opaque(overlay.colours)
    table = LUT(lut=colours.ravel().tolist(), min=0, max=len(colours) - 1, labels=list(overlay.names))
    return Volume(
        data=_nifti(numbers, affine, classes=overlay.classes),
        name=f"{overlay.title.lower()}.nii",
        opacity=OPACITY[overlay.title],
        colormap_label=table,
        colorbar_visible=False,
    )


def _opaque(colours: np.ndarray) -> np.ndarray:
    """Colours for niivue, which draws the colours of an overlay fully opaque or not at all.

    Partly transparent colours are mixed with grey; nearly transparent ones are left out.
    """
    share = colours[:, 3:] / 255
    mixed = share * colours[:, :3] + (1 - share) * 128
    return np.rint(np.hstack([mixed, 255 * (share > 0.1)])).astype(np.uint8)


def _nifti(numbers: np.ndarray, affine: np.ndarray, *, classes: bool = False) -> bytes:
    """The bytes of a NIfTI file; classes are marked as labels, so that niivue does not interpolate them."""
    image = nib.Nifti1Image(numbers, affine)
    image.header.set_xyzt_units("mm")
    if classes:
        image.header.set_intent("label")
    return image.to_bytes()


def _legend(scan: LayeredScan) -> list[tuple[str, str]]:
    """Colours and their meaning: the classes in any overlay, then the ends of the attention scale."""
    masks = _masks(scan)
    shown = sorted({number for overlay in masks for number in panels.classes_in(overlay.numbers)})
    entries = [(style.class_colour(n - 1), f"{n} {masks[0].names[n]}") for n in shown]
    for overlay in scan.overlays:
        if not overlay.classes:
            ends = (LESS, "less", overlay.names[0]), (MORE, "more", overlay.names[-1])
            entries += [(colour, f"{how} attention than uniform (to {end})") for colour, how, end in ends]
    return entries


def draw_planes(scan: LayeredScan, *, caption: str = "") -> Figure:
    """One row per plane, through most of the first mask; one column for the image and each overlay."""
    cuts = {plane: _cut(scan, plane) for plane in PLANES}
    width = min(WIDEST, panels.panel_width(1 + len(scan.overlays), text=NO_TEXT))
    heights = [width * data.size[0] / data.size[1] for data, _ in cuts.values()]
    titles = ["Image", *(overlay.title for overlay in scan.overlays)]
    figure, grid, _ = panels.rows_figure(heights, titles, text=NO_TEXT)
    for row, (plane, (data, index)) in zip(grid[:, :-1], cuts.items(), strict=True):
        for axes, overlay in zip(row, (None, *scan.overlays), strict=True):
            _panel(axes, data, overlay)
        panels.mark_sides(row[0], *PLANES[plane][1:])
        row[0].set_ylabel(f"{plane}, voxel {index}")
    if entries := [Patch(facecolor=colour, label=text) for colour, text in _legend(scan)]:
        figure.legend(handles=entries, loc="outside upper center", ncols=3, **panels.LEGEND)
    masks = _masks(scan)
    where = f"the slices with most of the {masks[0].title.lower()}" if masks else "the middle slices"
    style.caption(figure, caption, f"Shown: {where} (R: patient's right, L: left, A: front, P: back).")
    return figure


def _masks(scan: LayeredScan) -> list[Overlay]:
    """The overlays of classes that are not empty."""
    return [overlay for overlay in scan.overlays if overlay.classes and overlay.numbers.any()]


def _cut(scan: LayeredScan, plane: str) -> tuple[SliceData, int]:
    """The slice of a plane with most of the first mask (the middle one without a mask), and its index."""
    axis = PLANES[plane][0]
    index = scan.grey.shape[axis] // 2
    if masks := _masks(scan):
        index = int(np.moveaxis(masks[0].numbers > 0, axis, 0).sum((1, 2)).argmax())
    spacing = np.delete(np.linalg.norm(scan.affine[:3, :3], axis=0), axis)
    facts = {"pixel_width_mm": spacing[0], "pixel_height_mm": spacing[1]}
    overlays = {overlay.title: as_seen(overlay.numbers.take(index, axis)) for overlay in scan.overlays}
    return SliceData(facts, as_seen(scan.grey.take(index, axis)), overlays), index


def _panel(axes: Axes, data: SliceData, overlay: Overlay | None) -> None:
    numbers = data.masks[overlay.title] if overlay else None
    panels.show(axes, data, numbers if overlay and overlay.classes else None)
    if overlay and not overlay.classes:
        axes.imshow(overlay.colours[numbers], extent=data.extent, interpolation="nearest")
