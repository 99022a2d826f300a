"""The qualitative figures: the choice of cases, errors of masks, and surfaces."""

import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from score_files import write_metrics
from test_plots import DEFICIENCIES, oklab

from bipvl import figures as plots
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case
from bipvl.data.spec import load_spec
from bipvl.figures import style, surface_renderer
from bipvl.figures.case_selection import Prediction, ShownCase, median_cases, worst_cases
from bipvl.figures.slice_tables import error_kinds, read_slices
from bipvl.figures.surface_renderer import VEIL, surfaces, visible_classes
from bipvl.figures.volume_tables import read_volumes, volume_table

SHAPE = (20, 16, 12)
RIGHT, FRONT, HEAD = 1, 2, 3  # classes of the small phantom, by the position of their block
PREFIX = {"mmwhs_ct": "ct_train", "mmwhs_mr": "mr_train"}


def save(codes: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(codes, np.diag([2.0, 3.0, 4.0, 1.0])), path)
    return path


def phantom(dataset: str) -> np.ndarray:
    """Label codes of three blocks, one at each of right, front and head."""
    codes = load_spec(dataset).decoded_codes
    labels = np.zeros(SHAPE, np.int16)
    labels[14:18, 7:9, 2:6] = codes[RIGHT - 1]
    labels[9:11, 12:15, 2:6] = codes[FRONT - 1]
    labels[9:11, 7:9, 9:11] = codes[HEAD - 1]
    return labels


def write_cohort(root: Path, dataset: str, scores: dict[str, list[float]]) -> dict[str, list[Path]]:
    """Scans, and runs of both variants whose predictions have one false block at the head.

    ``scores``: for each case the Dice of each class.
    """
    spec, truth = load_spec(dataset), phantom(dataset)
    wrong = truth.copy()
    wrong[2:8, 2:6, 10] = spec.decoded_codes[RIGHT - 1]
    for case in scores:
        save(truth, root / "data" / spec.folder / f"{case}_label.nii.gz")
        save(100 + 100.0 * (truth > 0), root / "data" / spec.folder / f"{case}_image.nii.gz")
    folders = []
    for variant in ("bipvlseg", "swin_unetr_v2"):
        rows = [
            (case, c.name, metric, value)
            for case, values in scores.items()
            for c, value in zip(spec.classes, values, strict=False)
            for metric in ("dice", "hd95_mm", "nsd")
        ]
        folders.append(write_metrics(root / "runs", dataset, variant, rows))
        for case in scores:
            save(wrong, folders[-1] / "predictions" / f"{case}.nii.gz")
    return {dataset: folders}


@pytest.fixture
def cohort(tmp_path):
    """Run folders of two data sets with four cases each, and the data root."""
    ct = {f"ct_train_10{i:02}": [dice, 0.9] for i, dice in ((1, 0.5), (2, 0.3), (3, 0.3), (4, 0.8))}
    mr = {f"mr_train_10{i:02}": [dice, 0.9] for i, dice in ((1, 0.3), (2, 0.1), (3, 0.7), (4, 0.6))}
    folders = write_cohort(tmp_path, "mmwhs_ct", ct) | write_cohort(tmp_path, "mmwhs_mr", mr)
    return folders, tmp_path / "data"


def shown(dataset: str, folder: Path, prediction: np.ndarray | None = None) -> ShownCase:
    truth = phantom(dataset)
    case = Case("one", save(truth * 1.0, folder / "image.nii.gz"), save(truth, folder / "label.nii.gz"))
    path = save(truth if prediction is None else prediction, folder / "prediction.nii.gz")
    return ShownCase(
        spec=load_spec(dataset),
        case=case,
        origin={"cohort": "synthetic", "profile": "quick", "seeds": "0", "cases": 1, "rule": "the case"},
        predictions={"bipvlseg": Prediction(path=path)},
        dice={"bipvlseg": 0.5},
    )


def test_an_error_is_missed_false_or_another_class():
    truth = np.array([[0, 0, 1, 1], [2, 2, 2, 0]])
    prediction = np.array([[0, 1, 1, 0], [2, 1, 0, 2]])
    assert [*style.ERRORS] == ["missed", "false", "another class"]
    assert error_kinds(truth, prediction).tolist() == [[0, 2, 0, 1], [0, 3, 1, 2]]


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_error_colours_differ_from_each_other_and_from_grey_for_every_kind_of_colour_vision(deficiency):
    codes = [*style.ERRORS.values(), "#000000", "#808080", "#ffffff"]
    rgb = np.array([[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in codes])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = oklab(np.clip(linear @ np.transpose(DEFICIENCIES[deficiency]), 0, 1))
    pairs = list(combinations(range(len(seen)), 2))
    distances = [np.linalg.norm(seen[a] - seen[b]) for a, b in pairs if a < len(style.ERRORS)]
    assert min(distances) > 0.1


def test_the_worst_five_cases_have_the_lowest_dice_with_ties_sorted_by_name(cohort):
    folders, data = cohort
    chosen = worst_cases(folders, data)
    assert [c.case.id for c in chosen] == [
        *("mr_train_1002", "ct_train_1002", "ct_train_1003", "mr_train_1001", "ct_train_1001")
    ]
    assert [c.dice["bipvlseg"] for c in chosen] == pytest.approx([0.5, 0.6, 0.6, 0.6, 0.7])
    first = chosen[0].origin
    assert (first["worst_class"], first["worst_dice"]) == ("left ventricle", 0.1)
    assert first["rule"].startswith("the 5 of 8 test cases of the study with the lowest Dice of BiPVL-Seg")


def test_fewer_than_five_cases_are_all_shown_and_equally_bad_classes_are_counted(tmp_path):
    scores = {"ct_train_1001": [0.0, 0.8, 0.0], "ct_train_1002": [0.2, 0.2, 0.1]}
    folders = write_cohort(tmp_path, "mmwhs_ct", scores)
    table = plots.failures_table(folders, tmp_path / "data")
    slices = read_slices(table)
    assert [this.facts["case"] for this in slices] == ["ct_train_1002", "ct_train_1001"]
    assert [this.facts["worst_count"] for this in slices] == ["1", "2"]
    figure = plots.draw("failures", table)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "worst class:\nleft ventricle and 1 more\nDice 0.00" in texts
    assert "worst class:\nleft atrium\nDice 0.10" in texts
    assert "all 2 test cases of the study by the Dice of BiPVL-Seg" in figure.get_supxlabel().replace(
        "\n", " "
    )


def test_failures_show_the_slice_with_most_errors_and_median_cases_the_one_with_most_foreground(cohort):
    folders, data = cohort
    worst = read_slices(plots.failures_table(folders, data, count=1))[0]
    assert worst.facts["slice"] == 10
    kinds = error_kinds(worst.masks["truth"], worst.masks["bipvlseg"])
    assert np.bincount(kinds.ravel()).tolist()[1:] == [0, 6 * 4]
    assert list(worst.masks) == ["truth", "bipvlseg"]
    middle = read_slices(plots.qualitative_table(folders, data))[0]
    assert 2 <= middle.facts["slice"] < 6
    assert list(middle.masks) == ["truth", "bipvlseg", "swin_unetr_v2"]


def test_a_missing_prediction_is_named_with_the_command_that_writes_it(cohort):
    folders, data = cohort
    path = folders["mmwhs_mr"][0] / "predictions" / "mr_train_1002.nii.gz"
    path.unlink()
    with pytest.raises(BipvlError) as caught:
        plots.failures_table(folders, data)
    fix = f"write it again with: bipvl evaluate {path.parents[1]}"
    assert str(caught.value) == f"{path}: file not found; {fix}"


def test_label_maps_of_another_tool_are_read_by_its_codes(cohort, tmp_path):
    folders, data = cohort
    spec, truth = load_spec("mmwhs_ct"), phantom("mmwhs_ct")
    theirs = np.zeros_like(truth)
    for code, number in ((7, RIGHT), (1, FRONT), (2, HEAD)):
        theirs[truth == spec.decoded_codes[number - 1]] = code
    names = {str(code): spec.code_names[spec.decoded_codes[n - 1]][0] for code, n in ((7, 1), (1, 2), (2, 3))}
    other = {"folder": str(tmp_path / "theirs"), "labels": names}
    rows = [(f"ct_train_100{i}", spec.classes[0].name, "dice", 1.0) for i in range(1, 5)]
    folder = write_metrics(tmp_path / "runs", "mmwhs_ct", "nnunet", rows, title="nnU-Net", external=other)
    for case, *_ in rows:
        save(theirs, tmp_path / "theirs" / f"{case}.nii")
    folders["mmwhs_ct"].append(folder)
    (of_ct, _) = median_cases(folders, data)
    assert of_ct.dice["nnU-Net"] == 1
    mask = read_slices(plots.qualitative_table(folders, data))[0].masks
    assert (mask["nnU-Net"] == mask["truth"]).all() and mask["truth"].any()


@settings(max_examples=20, deadline=None)
@given(masks=st.lists(arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 3)), min_size=2, max_size=2))
def test_volumes_are_read_back_unchanged(masks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    codes = np.array([0, *load_spec("mmwhs_ct").decoded_codes])
    masks[0][0, 0, 0] = masks[0][-1, -1, -1] = 1  # the box around the masks is the whole volume
    case = shown("mmwhs_ct", folder)
    for path, mask in zip((case.case.label, case.predictions["bipvlseg"].path), masks, strict=True):
        nib.save(nib.Nifti1Image(codes[mask].astype(np.int16), np.eye(4)), path)
    (volume,) = read_volumes(volume_table(case))
    assert volume.facts["voxel_mm"] == 1
    assert (volume.masks["truth"] == masks[0]).all() and (volume.masks["bipvlseg"] == masks[1]).all()


def test_a_large_volume_is_subsampled_to_cubes_and_keeps_its_size_in_mm(tmp_path):
    codes = np.zeros((10, 12, 160), np.int16)
    codes[2:8, 3:9, 5:155] = load_spec("mmwhs_ct").decoded_codes[0]
    case = shown("mmwhs_ct", tmp_path)
    for path in (case.case.label, case.predictions["bipvlseg"].path):
        save(codes, path)  # 2 × 3 × 4 mm
    (volume,) = read_volumes(volume_table(case))
    shape = np.array(volume.masks["truth"].shape)
    assert shape.max() <= 56
    assert shape * volume.facts["voxel_mm"] == pytest.approx([12, 18, 600], abs=volume.facts["voxel_mm"])
    assert (volume.masks["truth"] == 1).all()


def visible(mask: np.ndarray, see_through: Sequence[int] = ()) -> np.ndarray:
    """The class in each voxel-sized square of a picture of a mask, rows from the top."""
    corner = np.full(2, sum(mask.shape) / 2)
    return np.flipud(visible_classes(surfaces(mask, see_through), -corner, corner, 1.0))


def test_surfaces_show_the_patient_from_the_front_with_the_head_above(tmp_path):
    (volume,) = read_volumes(volume_table(shown("mmwhs_ct", tmp_path)))
    numbers = visible(volume.masks["truth"])
    rows, columns = np.indices(numbers.shape)
    middle = {n: (rows[numbers == n].mean(), columns[numbers == n].mean()) for n in (RIGHT, FRONT, HEAD)}
    assert middle[RIGHT][1] < middle[HEAD][1]  # the patient's right is at the left
    assert middle[HEAD][0] < min(middle[RIGHT][0], middle[FRONT][0])


def test_near_surfaces_hide_those_behind_them():
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[2:7, 6:8, 2:7], mask[2:7, 1:3, 2:7] = 1, 2  # in front, and behind
    numbers, alone, front = (visible(m) for m in (mask, mask * (mask == 2), mask * (mask == 1)))
    assert ((numbers == 1) == (front == 1)).mean() > 0.99
    assert ((numbers == 2) == ((alone == 2) & (front == 0))).mean() > 0.99
    assert ((alone == 2) & (front == 1)).sum() >= 10


@pytest.mark.parametrize(("see_through", "colour"), [([], [1, 0, 0]), ([1], [VEIL, 1 - VEIL, 0])])
def test_a_picture_shows_the_nearest_surface_and_what_is_behind_a_veil(monkeypatch, see_through, colour):
    colours = np.array([[0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1]])
    monkeypatch.setattr(surface_renderer, "_lit", lambda numbers, normals: colours[numbers])
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[1:8, 6:8, 1:8], mask[3:6, 3:5, 3:6] = 1, 2  # in front, and behind
    figure = Figure(figsize=(2, 2), facecolor="black")
    axes = figure.add_axes([0, 0, 1, 1], xlim=(-9, 9), ylim=(-9, 9))
    axes.set_axis_off()
    for surface in surfaces(mask, see_through):
        surface_renderer.draw(axes, surface)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    np.testing.assert_allclose(picture[100, 100], colour, atol=0.01)


def test_a_surface_has_the_size_of_its_mask():
    ball = (((np.indices((31, 31, 31)) - 15) ** 2).sum(0) < 12**2).astype(np.uint8)
    (surface,) = surfaces(ball, voxel_mm=2.0)
    radius = np.linalg.norm(surface.points, axis=1)
    assert radius.mean() == pytest.approx(24, abs=0.6) and np.ptp(radius) < 2


def test_thin_parts_stay_in_one_piece_and_an_empty_mask_has_no_surface():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[10, 10, 2:18] = 4
    rows = np.flatnonzero((visible(mask) == 4).any(1))
    assert np.ptp(rows) + 1 == rows.size > 12
    assert surfaces(np.zeros_like(mask)) == []


def test_the_outermost_of_nested_classes_is_see_through(tmp_path):
    mask = np.zeros((15, 15, 15), np.uint8)
    mask[2:13, 2:13, 2:13], mask[5:10, 5:10, 5:10] = 2, 3
    assert 3 not in visible(mask) and {2, 3} <= set(np.unique(visible(mask, [2])))
    assert [surface.opacity for surface in surfaces(mask, [2])] == [1, VEIL]
    brain = volume_table(shown("msd_brain", tmp_path))
    assert read_volumes(brain)[0].texts("around") == ["whole tumour"]


def test_a_panel_without_a_run_says_so(cohort):
    folders, data = cohort
    shutil.rmtree(folders["mmwhs_mr"].pop())
    for name, table in (
        ("errors", plots.qualitative_table(folders, data)),
        ("surfaces", plots.surfaces_table(folders, data)),
    ):
        figure = plots.draw(name, table)
        assert [t.get_text() for axes in figure.axes for t in axes.texts].count("not run") == 1, name
