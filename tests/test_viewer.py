"""The viewer: the data of the widget, the picture of slices, and the choice between the two."""

import sys
from types import SimpleNamespace

import IPython
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.figures import style
from bipvl.figures.interactive import layers, viewer
from bipvl.figures.interactive.layers import read_layers

SPEC = load_spec("mmwhs_ct")
AFFINE = np.array([[2.0, 0, 0, -10], [0, 3.0, 0, 20], [0, 0, 4.0, 5], [0, 0, 0, 1]])


def scan(values, axes="RAS", affine=AFFINE, dtype=np.int16):
    """A volume in memory whose voxels, in the order right, front, head, are ``values``."""
    image = nib.Nifti1Image(np.asarray(values, dtype), affine)
    return image.as_reoriented(nib.orientations.axcodes2ornt(axes))


@pytest.fixture
def codes():
    """Class 1 as a block at the patient's right and in front, class 3 as one voxel at the left."""
    codes = np.zeros((12, 10, 8), np.int16)
    codes[7:11, 5:9, 2:6] = SPEC.decoded_codes[0]
    codes[1, 2, 3] = SPEC.decoded_codes[2]
    return codes


@pytest.fixture
def layered(codes):
    predicted = np.where(codes == SPEC.decoded_codes[2], 0, codes)
    coarse = np.diag(
        [4.0, 6.0, 8.0, 1.0]
    )  # two voxels of the scan along each axis, the first corner the same
    coarse[:3, 3] = AFFINE[:3, 3] + [1, 1.5, 2]
    attention = scan([[[2.0, 0.5]]], affine=coarse, dtype=np.float32)
    return read_layers(scan(codes), scan(codes), scan(predicted), attention, spec=SPEC)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL"])
def test_any_orientation_gives_the_same_layers(codes, axes):
    found = read_layers(scan(codes, axes), truth=scan(codes, axes), spec=SPEC)
    (overlay,) = found.overlays
    np.testing.assert_array_equal(overlay.numbers, (codes == codes[8, 6, 3]) + 3 * (codes == codes[1, 2, 3]))
    np.testing.assert_allclose(found.affine, AFFINE)
    low, high = SPEC.intensity["window"]
    np.testing.assert_allclose(found.grey, 255 * (np.clip(codes, low, high) - low) / (high - low), atol=0.51)


def test_only_the_first_channel_is_shown_and_needed(codes):
    brain, grey = load_spec("msd_brain"), np.arange(codes.size, dtype=np.float32).reshape(codes.shape)
    alone = read_layers(nib.Nifti1Image(grey, AFFINE), spec=brain)
    all_four = read_layers(nib.Nifti1Image(np.stack([grey, codes, codes, codes], -1), AFFINE), spec=brain)
    np.testing.assert_array_equal(alone.grey, all_four.grey)


def test_classes_have_the_colours_of_the_figures_and_the_background_is_transparent(layered):
    truth = layered.overlays[0]
    assert truth.names == ("background", *(c.name for c in SPEC.classes))
    assert truth.colours[0, 3] == 0
    for row in range(SPEC.num_classes):
        np.testing.assert_array_equal(truth.colours[1 + row] / 255, to_rgba(style.class_colour(row)))


def test_the_innermost_of_nested_classes_is_shown():
    spec, codes = load_spec("msd_brain"), np.arange(8).reshape(2, 2, 2) % 4
    image = nib.Nifti1Image(1 + np.ones((2, 2, 2, len(spec.channels)), np.float32) * codes[..., None], AFFINE)
    (overlay,) = read_layers(image, prediction=scan(codes), spec=spec).overlays
    inner = {code: row for row, own in enumerate(spec.own_codes, start=1) for code in own}
    assert overlay.numbers.ravel().tolist() == [inner.get(code, 0) for code in codes.ravel().tolist()]


def test_attention_keeps_its_positions_and_uniform_attention_is_not_tinted(layered):
    (overlay,) = (overlay for overlay in layered.overlays if not overlay.classes)
    more, less = overlay.numbers[0, 0, 0], overlay.numbers[0, 0, 2]
    assert (overlay.names[more], overlay.names[less]) == ("×2.00", "×0.50")
    elsewhere = overlay.numbers[4, 4, 4]
    assert overlay.numbers[1, 1, :5].tolist() == [more, more, less, less, elsewhere]
    assert float(overlay.names[elsewhere].removeprefix("×")) == pytest.approx(1, abs=0.01)
    assert overlay.colours[elsewhere, 3] <= 2 and overlay.colours[[more, less], 3].min() > 200


@given(ratio=st.floats(0.02, 50))
def test_the_names_of_attention_steps_give_its_value(ratio):
    attention = scan(np.full((1, 1, 1), ratio), dtype=np.float32)
    (overlay,) = read_layers(scan(np.zeros((2, 2, 2))), attention=attention, spec=SPEC).overlays
    value = float(overlay.names[overlay.numbers[0, 0, 0]].removeprefix("×"))
    assert value == pytest.approx(ratio, rel=0.05, abs=0.006)


def test_large_scans_are_subsampled_and_stay_in_place(codes, monkeypatch):
    monkeypatch.setattr(layers, "LONGEST_SIDE", 5)  # every third of 12 voxels
    found = read_layers(scan(codes), scan(codes), spec=SPEC)
    assert found.grey.shape == found.overlays[0].numbers.shape == (4, 4, 3)
    np.testing.assert_array_equal(found.overlays[0].numbers > 0, codes[::3, ::3, ::3] > 0)
    np.testing.assert_allclose(found.affine @ [1, 1, 1, 1], AFFINE @ [3, 3, 3, 1])


def test_the_widget_shows_each_overlay_as_a_volume_in_its_colours(layered):
    pytest.importorskip("ipyniivue")
    box = viewer.make_widget(layered, caption="synthetic <cohort>")
    niivue, sliders, below = box.children
    assert [v.name for v in niivue.volumes] == ["image.nii", "truth.nii", "prediction.nii", "attention.nii"]
    files = [nib.Nifti1Image.from_bytes(volume.data) for volume in niivue.volumes]
    for file in files:
        np.testing.assert_allclose(file.affine, AFFINE)
        assert file.get_data_dtype() == np.uint8 and file.shape == (12, 10, 8)
    np.testing.assert_array_equal(files[0].dataobj, layered.grey)
    np.testing.assert_array_equal(files[2].dataobj, layered.overlays[1].numbers)
    assert [file.header["intent_code"] for file in files] == [0, 1002, 1002, 0]  # labels are not interpolated
    for volume, overlay in zip(niivue.volumes[1:], layered.overlays, strict=True):
        table = volume.colormap_label
        colours = np.reshape(table.lut, (-1, 4))
        whole = overlay.colours[:, 3] == 255
        assert np.array_equal(colours[whole], overlay.colours[whole])
        assert set(colours[:, 3]) == {0, 255}  # niivue draws a colour fully opaque or not at all
        assert (colours[overlay.colours[:, 3] < 20, 3] == 0).all()
        assert (table.min, table.max, table.labels) == (0, len(overlay.colours) - 1, list(overlay.names))
    assert [slider.description for slider in sliders.children] == [
        "Image",
        "Truth",
        "Prediction",
        "Attention",
    ]
    assert SPEC.classes[0].name in below.value and "synthetic &lt;cohort&gt;" in below.value
    assert SPEC.classes[1].name not in below.value  # neither in the truth nor in the prediction


def test_the_truth_is_hollow_in_the_widget(layered):
    pytest.importorskip("ipyniivue")
    truth = viewer.make_widget(layered).children[0].volumes[1]
    shell = np.asarray(nib.Nifti1Image.from_bytes(truth.data).dataobj)
    assert (shell[8:10, 6:8, 3:5] == 0).all()  # a block of 4³ has 2³ inside
    assert (shell > 0).sum() == 4**3 - 2**3 + 1 and shell[1, 2, 3] == 3


def test_slices_have_the_orientation_that_radiologists_expect(layered):
    with style.context():
        figure = viewer.draw_planes(layered, caption="Said.")
    panels = np.reshape(figure.axes[:15], (3, 5))
    assert [axes.get_title() for axes in panels[0]] == ["Image", "Truth", "Prediction", "Attention", ""]
    axial, coronal, sagittal = (axes.images[0].get_array() for axes in panels[:, 0])
    assert axial.shape == (10, 12) and coronal.shape == (8, 12) and sagittal.shape == (8, 10)
    bright = layered.grey.max()
    assert (axial[1:5, 1:5] == bright).all()  # in front: above; the patient's right: at the left
    assert (coronal[2:6, 1:5] == bright).all()
    assert (sagittal[2:6, 1:5] == bright).all()  # in front: at the left
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == f"1 {SPEC.classes[0].name}" and "attention" in names[-1]
    assert figure.get_supxlabel().startswith("Said. Shown: the slices with most of the truth")


def test_an_image_without_masks_is_cut_in_the_middle(codes):
    with style.context():
        figure = viewer.draw_planes(read_layers(scan(codes), spec=SPEC))
    assert "the middle slices" in figure.get_supxlabel()
    assert [axes.get_ylabel() for axes in figure.axes[:6:2]] == [
        "axial, voxel 4",
        "coronal, voxel 5",
        "sagittal, voxel 6",
    ]


@pytest.mark.parametrize(("asks", "front_end"), [(True, True), (False, False), (None, False)])
def test_an_interactive_front_end_is_recognised_by_allow_stdin(monkeypatch, asks, front_end):
    content = {} if asks is None else {"allow_stdin": asks}
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": content})
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert viewer.has_front_end() is front_end


def test_a_picture_is_shown_outside_a_notebook(codes):
    assert not viewer.can_be_live()
    assert viewer.view(scan(codes), spec=SPEC).data.startswith(b"\x89PNG")


def test_live_forces_the_widget_or_says_what_is_missing(codes, monkeypatch):
    monkeypatch.setattr(viewer, "make_widget", lambda layered, **how: how["height"])
    assert viewer.view(scan(codes), spec=SPEC, live=True, height=7) == 7
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(BipvlError, match="needs ipyniivue; install it with"):
        viewer.view(scan(codes), spec=SPEC, live=True)


def test_files_that_do_not_fit_are_named(codes, tmp_path):
    image = scan(codes)
    with pytest.raises(BipvlError, match=r"none\.nii.gz: file not found"):
        viewer.view(tmp_path / "none.nii.gz", spec=SPEC)
    (tmp_path / "text.nii").write_text("not a scan")
    with pytest.raises(BipvlError, match=r"text\.nii: not readable as NIfTI"):
        viewer.view(tmp_path / "text.nii", spec=SPEC)
    nib.save(scan(codes[:-1]), tmp_path / "short.nii")
    with pytest.raises(BipvlError, match=r"short\.nii: has 11 x 10 x 8 voxels, but its image has 12"):
        viewer.view(image, truth=tmp_path / "short.nii", spec=SPEC)
    with pytest.raises(BipvlError, match="the volume: is not on the grid of its image"):
        viewer.view(image, prediction=scan(codes, affine=2 * AFFINE), spec=SPEC)
    with pytest.raises(BipvlError, match="7"):
        viewer.view(image, truth=scan(np.where(codes, 7, 0)), spec=SPEC)
    with pytest.raises(BipvlError, match="2 channels, but MM-WHS"):
        viewer.view(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), AFFINE), spec=SPEC)
    with pytest.raises(BipvlError, match="has 2 axes"):
        viewer.view(nib.Nifti1Image(np.zeros((4, 4)), AFFINE), spec=SPEC)
