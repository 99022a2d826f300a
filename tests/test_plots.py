"""Figures: the same bytes from their tables alone, legible text, anatomical orientation."""

import shutil
from io import BytesIO
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from alignment_files import attention_pictures, write_snapshots
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from score_files import measurements, study, write_history, write_metrics, write_runs

from bipvl import figures as plots
from bipvl.analysis.claims import claims_table
from bipvl.analysis.comparisons import compare
from bipvl.analysis.statistics import case_means, class_values, main_table, read_runs
from bipvl.analysis.studies import Experiments, study_folders
from bipvl.analysis.tables import main_table_latex
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case
from bipvl.data.spec import load_spec
from bipvl.figures import style
from bipvl.figures.case_selection import Prediction, ShownCase
from bipvl.figures.slice_tables import read_slices
from bipvl.figures.table_files import write_table
from bipvl.figures.volume_tables import volume_table

COMMITTED = Path(__file__).parents[1] / "figures"
DATASETS = ("amos22", "mmwhs_ct", "msd_brain")
RIGHT, FRONT, HEAD = 1, 2, 3  # classes of the test scan, named by the position of their block


def scene(folder: Path, axes: str, spacing=(2.0, 3.0, 4.0), dataset: str = "mmwhs_ct") -> Case:
    """A grey box with three bright blocks (right, front, head), stored in the given axis order."""
    spec = load_spec(dataset)
    labels = np.zeros((20, 16, 12), np.int16)
    codes = spec.decoded_codes
    labels[14:18, 7:9, 2:10] = codes[RIGHT - 1]
    labels[9:11, 12:15, 2:9] = codes[FRONT - 1]
    labels[9:11, 7:9, 9:11] = codes[HEAD - 1]
    image = 100 + 100.0 * (labels > 0)
    affine = np.diag([*spacing, 1.0])
    to = nib.orientations.axcodes2ornt(axes)
    channels = len(spec.channels)
    for name, array in (
        ("label", labels),
        ("image", np.stack([image] * channels, -1) if channels > 1 else image),
    ):
        nib.save(nib.Nifti1Image(array, affine).as_reoriented(to), folder / f"{axes}_{name}.nii.gz")
    return Case(axes, folder / f"{axes}_image.nii.gz", folder / f"{axes}_label.nii.gz")


def origin(**more):
    return {"cohort": "synthetic", "profile": "quick", "seeds": "0", "cases": "4", "rule": "the case"} | more


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, list[Path]]:
    """Run folders of three data sets with 15, 7 and 3 classes."""
    folder = tmp_path_factory.mktemp("runs")
    for dataset in DATASETS:
        write_runs(folder, dataset)
    return study_folders(study(DATASETS), folder)[0]


@pytest.fixture(scope="module")
def scores(folders) -> pd.DataFrame:
    """The scores of all runs."""
    return read_runs(folders)


@pytest.fixture(scope="module")
def tables(folders, scores, tmp_path_factory) -> dict[str, pd.DataFrame]:
    """The table of every figure."""
    folder = tmp_path_factory.mktemp("tables")
    studies = {"main": study(DATASETS)}
    experiments = Experiments(profile="quick", datasets=DATASETS, studies=studies, external={})
    aligned = {dataset: write_snapshots(folder / "aligned", dataset) for dataset in DATASETS}
    parts, samples, failures, volumes = [], [], [], []
    for dataset in DATASETS:
        spec, case = load_spec(dataset), scene(folder, "LPS", dataset=dataset)
        truth = {"bipvlseg": case.label, "swin_unetr_v2": case.label}
        dice = {"bipvlseg": 0.5, "swin_unetr_v2": 0.4}
        parts.append(plots.slice_table(spec, case, origin=origin(), predictions=truth, dice=dice))
        worst = origin(worst_class=spec.classes[-1].name, worst_dice=0.0, worst_count=spec.num_classes)
        ours = {"bipvlseg": case.label}
        failures.append(plots.slice_table(spec, case, origin=worst, predictions=ours, worst_of="bipvlseg"))
        predictions = {name: Prediction(path=path) for name, path in truth.items()}
        volumes.append(
            volume_table(ShownCase(spec=spec, case=case, origin=origin(), predictions=predictions, dice=dice))
        )
        for plane in ("axial", "coronal"):
            samples.append(plots.slice_table(spec, case, origin=origin(), plane=plane))
    return {
        "main_dice": case_means(scores),
        "class_dice": class_values(scores),
        "training_curves": plots.training_curves(folders),
        "qualitative": pd.concat(parts, ignore_index=True),
        "errors": pd.concat(parts, ignore_index=True),
        "failures": pd.concat(failures, ignore_index=True),
        "surfaces": pd.concat(volumes, ignore_index=True),
        "data_samples-amos22": pd.concat(samples[:2]),
        "data_samples-msd_brain": pd.concat(samples[4:]),
        "bench": measurements(),
        "ablation-main": compare(scores, "bipvlseg", resamples=99),
        "similarity": plots.similarity_table(aligned),
        "embedding_map": plots.embedding_table(aligned),
        "word_attention-two_stages": attention_pictures(folder),
        "word_attention-four_stages": attention_pictures(folder, stages=4, pictures=2),
        "claims": claims_table(scores, experiments, resamples=99),
    }


FIGURES = ["main_dice", "class_dice", "training_curves", "qualitative"]
FIGURES += ["errors", "failures", "surfaces"]
FIGURES += ["similarity", "embedding_map", "word_attention-two_stages", "word_attention-four_stages"]
FIGURES += ["data_samples-amos22", "data_samples-msd_brain", "bench", "ablation-main", "claims"]


def test_every_registered_figure_is_tested(tables):
    in_other_files = {"architecture", "bifusion", "efficiency", "runtime"}
    in_other_files |= {"prompt_robustness", "prompt_lab", "learning_rates"}
    in_other_files |= {"reading", "reading_wordings", "reading_changes"}
    assert {name.split("-")[0] for name in FIGURES} == set(plots.FIGURES) - in_other_files
    assert set(FIGURES) == set(tables)


@pytest.fixture(scope="module")
def drawn(tables):
    """All figures, each drawn once."""
    return {name: plots.draw(name, table) for name, table in tables.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_legible_in_print_names_its_cohort_and_is_not_blank(drawn, name):
    figure = drawn[name]
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert min(text.get_fontsize() for text in texts) >= style.SMALL
    assert figure.get_figwidth() <= style.WIDTH
    canvas = FigureCanvasAgg(figure)
    with style.context():
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
    assert box.x0 >= 0 and box.y0 >= 0, box  # nothing is cut off at the figure's edge
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight(), box
    picture = np.asarray(canvas.buffer_rgba())[::3, ::3, :3]
    assert picture.std() > 12
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    caption = figure.get_supxlabel().replace("\n", " ")
    if name == "bench":
        assert "random weights" in caption
        return
    assert "Synthetic cohort, profile quick" in caption
    assert name.startswith("data_samples") or "seed 0" in caption


def as_text(column: pd.Series) -> list[str]:
    return ["" if pd.isna(v) else f"{v:.9g}" if isinstance(v, float) else str(v) for v in column]


@pytest.mark.parametrize("name", FIGURES)
def test_a_table_is_read_back_as_it_was_written(tables, tmp_path, name):
    table = tables[name].reset_index(drop=True)
    first, second = tmp_path / "first", tmp_path / "second"
    back = write_table(first, table)
    assert list(back) == list(table)
    for column in back:
        if pd.api.types.is_numeric_dtype(back[column]):
            np.testing.assert_allclose(back[column], table[column].astype(float), rtol=1e-8)
        else:
            assert as_text(back[column]) == as_text(table[column]), column
    pd.testing.assert_frame_equal(write_table(second, back), back)
    (one, two) = sorted(tmp_path.iterdir())
    assert one.suffix == (".npz" if {"pixel", "start"} & set(table) else ".csv")
    assert one.read_bytes() == two.read_bytes()


def test_figures_redrawn_from_their_tables_have_the_same_bytes(tables, tmp_path):
    """One figure from a CSV, two from the same compressed table."""
    for name in ("ablation-main", "qualitative", "errors"):
        assert plots.write(name, tables[name], tmp_path) == tmp_path / f"{name}.png"
    (tmp_path / "main_table.csv").write_text("not,a,figure\n")
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pictures = ["ablation-main.png", "qualitative.png", "errors.png"]
    assert written.keys() == {*pictures, "comparisons-main.csv", "qualitative.npz", "main_table.csv"}
    for name in pictures:
        (tmp_path / name).unlink()
    assert [path.name for path in plots.redraw(tmp_path)] == pictures
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_committed_figures_are_those_of_their_tables(tmp_path):
    for name in ("main_dice.csv", "word_attention-mmwhs_mr.npz"):
        shutil.copy(COMMITTED / "quick" / name, tmp_path)
    for picture in plots.redraw(tmp_path):
        here, there = (
            np.asarray(Image.open(path).convert("RGB"), int)
            for path in (picture, COMMITTED / "quick" / picture.name)
        )
        assert here.shape == there.shape, "run: make figures"
        assert np.abs(here - there).max() <= 8, "run: make figures"  # another processor may round differently


def test_committed_results_are_small_and_not_stored_twice():
    found = [p for p in COMMITTED.rglob("*") if p.suffix in (".png", ".csv", ".npz", ".md")]
    found = [p for p in found if p.parent.name in ("quick", "bench") and not p.name.startswith("runtime-")]
    contents = [path.read_bytes() for path in found]
    assert sum(map(len, contents)) < 10e6
    assert len(set(contents)) == len(found) > 50
    names = {path.name for path in found}
    for picture in (path.stem for path in found if path.suffix == ".png"):
        assert {f"{plots.table_name(picture)}{suffix}" for suffix in (".csv", ".npz")} & names, picture


def test_pdf_and_latex_are_written_without_dates_only_if_asked_for(tables, scores, tmp_path):
    plots.write("ablation-main", tables["ablation-main"], tmp_path)
    main = main_table(scores)
    write_table(tmp_path / "main_table", main)
    assert [path.name for path in plots.redraw(tmp_path, "pdf")] == ["ablation-main.pdf"]
    pdf = (tmp_path / "ablation-main.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf
    assert (tmp_path / "main_table.tex").read_text(encoding="utf-8") == main_table_latex(main)


def test_a_png_has_a_palette_only_if_the_difference_is_invisible(tmp_path):
    noise = np.random.default_rng(0).uniform(size=(50, 50, 3))
    for drawing, mode in ((lambda axes: axes.imshow(noise), "RGB"), (lambda axes: axes.plot([0, 1]), "P")):
        with style.context():
            drawing((figure := Figure(figsize=(2, 2))).subplots())
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        style.save(figure, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as small, Image.open(BytesIO(style.png(figure))) as full:
            assert small.mode == mode
            change = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(full.convert("RGB"), int))
        assert (change.max(-1) > 10).mean() < 0.001


def test_the_style_does_not_change_global_settings():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with style.context():
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert dict(mpl.rcParams) == before


def oklab(rgb):
    """Convert linear RGB to Oklab, a space with perceptually uniform distances (Ottosson 2020)."""
    cones = rgb @ np.array([[0.4122, 0.2119, 0.0883], [0.5363, 0.6807, 0.2817], [0.0514, 0.1074, 0.6300]])
    back = [[0.2105, 1.9780, 0.0259], [0.7936, -2.4286, 0.7828], [-0.0041, 0.4506, -0.8087]]
    return np.cbrt(np.clip(cones, 0, 1)) @ np.array(back)


DEFICIENCIES = {  # Machado et al. 2009, severity 1.0, in linear RGB
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_class_colours_differ_for_every_kind_of_colour_vision(deficiency):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in style.CLASS_COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = oklab(np.clip(linear @ np.transpose(DEFICIENCIES[deficiency]), 0, 1))
    assert len(seen) == max(load_spec(d).num_classes for d in DATASETS)
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.05


def test_unknown_variants_get_different_colours():
    colours = style.variant_colours(["bipvlseg", "no_fusion", "one_way"])
    assert len(set(colours.values())) == 3


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_slices_have_radiological_orientation(tmp_path, axes):
    spec = load_spec("mmwhs_ct")
    axial = read_slices(plots.slice_table(spec, scene(tmp_path, axes), origin=origin()))[0]
    rows, columns = np.indices(axial.masks["truth"].shape)

    def middle(number, mask):
        return rows[: len(mask)][mask == number].mean(), columns[mask == number].mean()

    right, front = (middle(number, axial.masks["truth"]) for number in (RIGHT, FRONT))
    assert right[1] < axial.image.shape[1] / 3  # the patient's right is at the left
    assert front[0] < axial.image.shape[0] / 3  # the front is at the top
    assert axial.facts["pixel_width_mm"] == 2 and axial.facts["pixel_height_mm"] == 3
    assert axial.size == (16 * 3, 20 * 2)
    table = plots.slice_table(spec, scene(tmp_path, axes), origin=origin(), plane="coronal")
    coronal = read_slices(table)[0]
    head = np.argwhere(coronal.masks["truth"] == HEAD)
    assert head[:, 0].mean() < coronal.image.shape[0] / 3
    assert coronal.facts["pixel_height_mm"] == 4


def test_grey_values_use_the_window_of_the_data_set_and_air_is_cropped(tmp_path):
    case = scene(tmp_path, "RAS")
    scan = nib.load(case.image)
    values = np.full((60, 60, 12), -1000.0)
    values[20:40, 20:36] = scan.get_fdata()
    labels = np.zeros(values.shape, np.int16)
    labels[20:40, 20:36] = nib.load(case.label).get_fdata()
    nib.save(nib.Nifti1Image(values, scan.affine), case.image)
    nib.save(nib.Nifti1Image(labels, scan.affine), case.label)
    shown = read_slices(plots.slice_table(load_spec("mmwhs_ct"), case, origin=origin()))[0]
    assert set(np.unique(shown.image)) == {0, 64, 128}  # of 0 … 400 HU: air, 100, 200
    assert shown.image.shape == (16 + 6, 20 + 6)


def test_the_innermost_of_nested_classes_is_shown_and_large_slices_are_subsampled(tmp_path):
    spec = load_spec("msd_brain")  # codes: 1 edema, 2 non-enhancing core, 3 enhancing
    codes = np.zeros((400, 200, 3), np.int16)
    codes[100:300, 50:150] = 1
    codes[150:250, 70:130] = 2
    codes[180:220, 80:120] = 3
    image = np.random.default_rng(0).uniform(1, 2, (*codes.shape, 4))
    case = Case("big", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    nib.save(nib.Nifti1Image(image, np.eye(4)), case.image)
    nib.save(nib.Nifti1Image(codes, np.eye(4)), case.label)
    shown = read_slices(plots.slice_table(spec, case, origin=origin()))[0]
    names = {number: spec.classes[number - 1].name for number in np.unique(shown.masks["truth"]) if number}
    assert names[shown.masks["truth"][33, 66]] == "enhancing tumour"
    assert set(names.values()) == {"tumour core", "whole tumour", "enhancing tumour"}
    assert max(shown.image.shape) <= 192
    assert shown.size == pytest.approx((200, 400), abs=3)


def test_a_prediction_on_another_grid_is_rejected(tmp_path):
    case = scene(tmp_path, "RAS")
    other = tmp_path / "prediction.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.int16), np.eye(4)), other)
    with pytest.raises(BipvlError, match=r"prediction.nii.gz: does not have the shape of .*; evaluate"):
        plots.slice_table(load_spec("mmwhs_ct"), case, origin=origin(), predictions={"bipvlseg": other})


def test_curves_are_windowed_means_with_their_range_and_validation_is_not_averaged(tmp_path):
    folder = write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", [])
    history = write_history(folder, language=True)  # 130 steps: windows of 3
    table = plots.training_curves({"mmwhs_ct": [folder]}).set_index("term")
    first = table.loc["total"].iloc[1]
    window = history["total"][3:6]
    assert first[["step", "value", "low", "high"]].tolist() == pytest.approx(
        [4, window.mean(), window.min(), window.max()]
    )
    assert table.loc["val_dice", "step"].tolist() == [49, 99, 129]
    assert set(table.index) == set(history.columns) - {"step"}


def test_a_history_without_its_columns_is_rejected(tmp_path):
    folder = write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", [])
    (folder / "history.csv").write_text("step,loss\n0,1\n")
    with pytest.raises(
        BipvlError, match=r"history.csv: lacks the columns lr, total, val_dice; train the run again"
    ):
        plots.training_curves({"mmwhs_ct": [folder]})


def test_redraw_reports_files_that_are_not_figure_tables(tmp_path):
    with pytest.raises(
        BipvlError, match=rf"{tmp_path}: has no table of a figure; make the figures with: make reproduce"
    ):
        plots.redraw(tmp_path)
    (tmp_path / "main_dice.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        BipvlError, match=r"main_dice.csv: is not the table of the figure 'main_dice' \(.*; write it again"
    ):
        plots.redraw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["main_dice.csv"]


@pytest.mark.parametrize("content", [b"", b"row,pixel\n0,0\n", b"PK\x03\x04 cut off", "arrays"])
def test_redraw_reports_arrays_that_are_no_figure(tmp_path, content):
    path = tmp_path / "failures.npz"
    np.savez(path, x=np.zeros(2)) if content == "arrays" else path.write_bytes(content)
    with pytest.raises(
        BipvlError, match=r"failures.npz: is not the table of the figure 'failures' \(.*; write it"
    ):
        plots.redraw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["failures.npz"]
