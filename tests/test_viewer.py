"""The viewer: what is handed to the widget, the slices in its place, and which of them a notebook gets."""

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
from bipvl.figures.interactive import layers as scenes
from bipvl.figures.interactive import viewer
from bipvl.figures.interactive.layers import read_scene

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
def scene(codes):
    predicted = np.where(codes == SPEC.decoded_codes[2], 0, codes)
    coarse = np.diag(
        [4.0, 6.0, 8.0, 1.0]
    )  # two voxels of the scan along each axis, the first corner the same
    coarse[:3, 3] = AFFINE[:3, 3] + [1, 1.5, 2]
    attention = scan([[[2.0, 0.5]]], affine=coarse, dtype=np.float32)
    return read_scene(scan(codes), scan(codes), scan(predicted), attention, spec=SPEC)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAL"])
def test_any_orientation_comes_to_the_same_scene(codes, axes):
    found = read_scene(scan(codes, axes), truth=scan(codes, axes), spec=SPEC)
    (layer,) = found.layers
    np.testing.assert_array_equal(layer.numbers, (codes == codes[8, 6, 3]) + 3 * (codes == codes[1, 2, 3]))
    np.testing.assert_allclose(found.affine, AFFINE)
    low, high = SPEC.intensity["window"]
    np.testing.assert_allclose(found.grey, 255 * (np.clip(codes, low, high) - low) / (high - low), atol=0.51)


def test_of_several_channels_the_first_alone_is_shown_as_all_are(codes):
    brain, grey = load_spec("msd_brain"), np.arange(codes.size, dtype=np.float32).reshape(codes.shape)
    alone = read_scene(nib.Nifti1Image(grey, AFFINE), spec=brain)
    all_four = read_scene(nib.Nifti1Image(np.stack([grey, codes, codes, codes], -1), AFFINE), spec=brain)
    np.testing.assert_array_equal(alone.grey, all_four.grey)


def test_classes_have_the_figures_colours_and_the_background_none(scene):
    truth = scene.layers[0]
    assert truth.names == ("background", *(c.name for c in SPEC.classes))
    assert truth.colours[0, 3] == 0
    for row in range(SPEC.num_classes):
        np.testing.assert_array_equal(truth.colours[1 + row] / 255, to_rgba(style.class_colour(row)))


def test_of_nested_classes_the_innermost_is_shown():
    spec, codes = load_spec("msd_brain"), np.arange(8).reshape(2, 2, 2) % 4
    image = nib.Nifti1Image(1 + np.ones((2, 2, 2, len(spec.channels)), np.float32) * codes[..., None], AFFINE)
    (layer,) = read_scene(image, prediction=scan(codes), spec=spec).layers
    inner = {code: row for row, own in enumerate(spec.own_codes, start=1) for code in own}
    assert layer.numbers.ravel().tolist() == [inner.get(code, 0) for code in codes.ravel().tolist()]


def test_attention_keeps_its_positions_and_is_not_tinted_where_it_is_even_or_has_none(scene):
    (layer,) = (layer for layer in scene.layers if not layer.classes)
    more, less = layer.numbers[0, 0, 0], layer.numbers[0, 0, 2]
    assert (layer.names[more], layer.names[less]) == ("×2.00", "×0.50")
    elsewhere = layer.numbers[4, 4, 4]
    assert layer.numbers[1, 1, :5].tolist() == [more, more, less, less, elsewhere]
    assert float(layer.names[elsewhere].removeprefix("×")) == pytest.approx(1, abs=0.01)
    assert layer.colours[elsewhere, 3] <= 2 and layer.colours[[more, less], 3].min() > 200


@given(ratio=st.floats(0.02, 50))
def test_the_steps_of_attention_tell_its_value(ratio):
    attention = scan(np.full((1, 1, 1), ratio), dtype=np.float32)
    (layer,) = read_scene(scan(np.zeros((2, 2, 2))), attention=attention, spec=SPEC).layers
    told = float(layer.names[layer.numbers[0, 0, 0]].removeprefix("×"))
    assert told == pytest.approx(ratio, rel=0.05, abs=0.006)


def test_long_sides_are_thinned_and_stay_in_place(codes, monkeypatch):
    monkeypatch.setattr(scenes, "LONGEST_SIDE", 5)  # of 12: every third
    found = read_scene(scan(codes), scan(codes), spec=SPEC)
    assert found.grey.shape == found.layers[0].numbers.shape == (4, 4, 3)
    np.testing.assert_array_equal(found.layers[0].numbers > 0, codes[::3, ::3, ::3] > 0)
    np.testing.assert_allclose(found.affine @ [1, 1, 1, 1], AFFINE @ [3, 3, 3, 1])


def test_the_widget_gets_each_layer_as_a_volume_in_its_colours(scene):
    pytest.importorskip("ipyniivue")
    box = viewer.make_widget(scene, caption="synthetic <cohort>")
    niivue, sliders, below = box.children
    assert [v.name for v in niivue.volumes] == ["image.nii", "truth.nii", "prediction.nii", "attention.nii"]
    files = [nib.Nifti1Image.from_bytes(volume.data) for volume in niivue.volumes]
    for file in files:
        np.testing.assert_allclose(file.affine, AFFINE)
        assert file.get_data_dtype() == np.uint8 and file.shape == (12, 10, 8)
    np.testing.assert_array_equal(files[0].dataobj, scene.grey)
    np.testing.assert_array_equal(files[2].dataobj, scene.layers[1].numbers)
    assert [file.header["intent_code"] for file in files] == [0, 1002, 1002, 0]  # labels are not mixed
    for volume, layer in zip(niivue.volumes[1:], scene.layers, strict=True):
        table = volume.colormap_label
        colours = np.reshape(table.lut, (-1, 4))
        whole = layer.colours[:, 3] == 255
        assert np.array_equal(colours[whole], layer.colours[whole])
        assert set(colours[:, 3]) == {0, 255}  # an overlay's colour is drawn whole or not at all
        assert (colours[layer.colours[:, 3] < 20, 3] == 0).all()
        assert (table.min, table.max, table.labels) == (0, len(layer.colours) - 1, list(layer.names))
    assert [slider.description for slider in sliders.children] == [
        "Image",
        "Truth",
        "Prediction",
        "Attention",
    ]
    assert SPEC.classes[0].name in below.value and "synthetic &lt;cohort&gt;" in below.value
    assert SPEC.classes[1].name not in below.value  # neither in the truth nor in the prediction


def test_the_widgets_truth_is_hollow_so_that_the_prediction_is_seen(scene):
    pytest.importorskip("ipyniivue")
    truth = viewer.make_widget(scene).children[0].volumes[1]
    shell = np.asarray(nib.Nifti1Image.from_bytes(truth.data).dataobj)
    assert (shell[8:10, 6:8, 3:5] == 0).all()  # a block of 4³ has 2³ inside
    assert (shell > 0).sum() == 4**3 - 2**3 + 1 and shell[1, 2, 3] == 3


def test_the_slices_stand_as_a_radiologist_expects(scene):
    with style.context():
        figure = viewer.draw_planes(scene, caption="Said.")
    panels = np.reshape(figure.axes[:15], (3, 5))
    assert [axes.get_title() for axes in panels[0]] == ["Image", "Truth", "Prediction", "Attention", ""]
    axial, coronal, sagittal = (axes.images[0].get_array() for axes in panels[:, 0])
    assert axial.shape == (10, 12) and coronal.shape == (8, 12) and sagittal.shape == (8, 10)
    bright = scene.grey.max()
    assert (axial[1:5, 1:5] == bright).all()  # in front: above; the patient's right: at the left
    assert (coronal[2:6, 1:5] == bright).all()
    assert (sagittal[2:6, 1:5] == bright).all()  # in front: at the left
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == f"1 {SPEC.classes[0].name}" and "attention" in names[-1]
    assert figure.get_supxlabel().startswith("Said. Shown: the slices with most of the truth")


def test_an_image_alone_is_drawn_through_its_middle(codes):
    with style.context():
        figure = viewer.draw_planes(read_scene(scan(codes), spec=SPEC))
    assert "the middle slices" in figure.get_supxlabel()
    assert [axes.get_ylabel() for axes in figure.axes[:6:2]] == [
        "axial, voxel 4",
        "coronal, voxel 5",
        "sagittal, voxel 6",
    ]


@pytest.mark.parametrize(("asks", "front_end"), [(True, True), (False, False), (None, False)])
def test_a_front_end_is_known_by_its_cells(monkeypatch, asks, front_end):
    content = {} if asks is None else {"allow_stdin": asks}
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": content})
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert viewer.has_front_end() is front_end


def test_without_a_notebook_a_picture_is_shown(codes):
    assert not viewer.can_be_live()
    assert viewer.view(scan(codes), spec=SPEC).data.startswith(b"\x89PNG")


def test_live_is_as_asked_or_says_what_is_missing(codes, monkeypatch):
    monkeypatch.setattr(viewer, "make_widget", lambda scene, **how: how["height"])
    assert viewer.view(scan(codes), spec=SPEC, live=True, height=7) == 7
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(BipvlError, match="needs ipyniivue; install it with"):
        viewer.view(scan(codes), spec=SPEC, live=True)


def test_what_does_not_fit_is_named(codes, tmp_path):
    image = scan(codes)
    with pytest.raises(BipvlError, match=r"none\.nii.gz is missing"):
        viewer.view(tmp_path / "none.nii.gz", spec=SPEC)
    (tmp_path / "text.nii").write_text("not a scan")
    with pytest.raises(BipvlError, match=r"text\.nii cannot be read as NIfTI"):
        viewer.view(tmp_path / "text.nii", spec=SPEC)
    nib.save(scan(codes[:-1]), tmp_path / "short.nii")
    with pytest.raises(BipvlError, match=r"short\.nii is 11 x 10 x 8 voxels, but its image is 12 x 10 x 8"):
        viewer.view(image, truth=tmp_path / "short.nii", spec=SPEC)
    with pytest.raises(BipvlError, match="the volume lies elsewhere than its image"):
        viewer.view(image, prediction=scan(codes, affine=2 * AFFINE), spec=SPEC)
    with pytest.raises(BipvlError, match="7"):
        viewer.view(image, truth=scan(np.where(codes, 7, 0)), spec=SPEC)
    with pytest.raises(BipvlError, match="2 channels, but MM-WHS"):
        viewer.view(nib.Nifti1Image(np.zeros((4, 4, 4, 2)), AFFINE), spec=SPEC)
    with pytest.raises(BipvlError, match="has 2 axes"):
        viewer.view(nib.Nifti1Image(np.zeros((4, 4)), AFFINE), spec=SPEC)
