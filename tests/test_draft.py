"""The initial files of a data set: detected layouts, suggested values, and placeholders to fill in."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import yaml
from data_files import SHAPE, dataset_json, save, write_dataset, write_nnunet
from typer.testing import CliRunner

from bipvl.__main__ import app
from bipvl.common.errors import BipvlError
from bipvl.data.checks.dataset import check_dataset
from bipvl.data.layouts import list_cases
from bipvl.data.onboarding.detect_layout import detect_layout
from bipvl.data.onboarding.draft import draft_dataset
from bipvl.data.spec import FILL_IN, Patterns, load_spec

AMOS, BRAIN = load_spec("amos22"), load_spec("msd_brain")


def labels(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(np.int16)


def image(seed=0, shape=SHAPE, low=0.0, high=90.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def fill_in(path):
    """Replace all placeholders, as a user does."""
    for file in (path, path.with_suffix(".csv")):
        file.write_text(re.sub(rf"{FILL_IN}(:[^,\n]*)?", "thing", file.read_text()))


def draft(tmp_path, folder="knee", **options):
    return draft_dataset(tmp_path / folder, tmp_path / "knee.yaml", progress=False, **options)


# --- from a folder to a check without issues ---


def test_an_nnunet_folder_needs_only_texts(tmp_path):
    write_nnunet(tmp_path / "knee")
    drafted = draft(tmp_path)
    spec = load_spec(tmp_path / "knee.yaml")
    assert (spec.layout, spec.channels, spec.overlapping) == ("nnunet", ("T1", "T2"), False)
    assert [(c.name, c.codes) for c in spec.classes] == [("femur", (1,)), ("tibia", (2,))]
    issues = check_dataset(spec, tmp_path)
    assert [issue.problem.partition(" under")[0] for issue in issues] == [
        f"is a draft: row {row} still holds 'FILL IN'" for row in (1, 2)
    ]
    assert drafted.to_fill == [f"{tmp_path / 'knee.csv'}: 10 texts about the appearance of each class"]
    fill_in(tmp_path / "knee.yaml")
    assert check_dataset(spec, tmp_path) == []


def test_regions_become_overlapping_classes(tmp_path):
    write_nnunet(tmp_path / "knee", labels={"joint": [1, 2], "tibia": 2})
    draft(tmp_path)
    spec = load_spec(tmp_path / "knee.yaml")
    assert spec.overlapping
    assert [(c.name, c.codes) for c in spec.classes] == [("joint", (1, 2)), ("tibia", (2,))]


def test_a_decathlon_folder_keeps_its_names_and_sections(tmp_path):
    sections = {"training": ["amos_0001", "amos_0002"], "validation": ["amos_0401"]}
    write_dataset(AMOS, tmp_path, sections)
    draft(tmp_path, "amos22")
    spec = load_spec(tmp_path / "knee.yaml")
    assert (spec.layout, spec.split["test"], spec.folder) == ("dataset_json", "validation", "amos22")
    assert {c.codes[0]: c.name for c in spec.classes}[8] == "arota"
    fill_in(tmp_path / "knee.yaml")
    assert check_dataset(spec, tmp_path) == []


def test_a_file_of_several_channels_keeps_their_names(tmp_path):
    write_dataset(BRAIN, tmp_path, {"training": ["BRATS_001", "BRATS_002"]})
    draft(tmp_path, BRAIN.folder)
    spec = load_spec(tmp_path / "knee.yaml")
    assert spec.channels == ("FLAIR", "T1w", "T1gd", "T2w") and spec.modality == "MR"


@pytest.mark.parametrize(
    ("files", "images", "label", "channels"),
    [
        (("{}_image", "{}_label"), ("{case}_image",), "{case}_label", ["MR"]),
        (("{}", "{}_seg"), ("{case}",), "{case}_seg", ["MR"]),
        (("images/{}", "labels/{}"), ("images/{case}",), "labels/{case}", ["MR"]),
        (("imagesTr/{}_0000", "labelsTr/{}"), ("imagesTr/{case}_0000",), "labelsTr/{case}", ["MR"]),
        (("scans/{}", "masks/mask_{}"), ("scans/{case}",), "masks/mask_{case}", ["MR"]),
        (("{}/scan", "{}/segmentation"), ("{case}/scan",), "{case}/segmentation", ["MR"]),
        (
            ("{0}/{0}_t1", "{0}/{0}_t2", "{0}/{0}_seg"),
            ("{case}/{case}_t1", "{case}/{case}_t2"),
            "{case}/{case}_seg",
            ["t1", "t2"],
        ),
        (
            ("flair/{}", "t1/{}", "Ground-Truth/{}"),
            ("flair/{case}", "t1/{case}"),
            "Ground-Truth/{case}",
            ["flair", "t1"],
        ),
    ],
)
def test_files_are_paired_by_their_names(tmp_path, files, images, label, channels):
    for seed, case in enumerate(("P1_left", "P1_right", "P10")):
        for i, name in enumerate(files):
            array = labels(seed) if i == len(files) - 1 else image(10 * seed + i)
            save(tmp_path / "knee" / f"{name.format(case)}.nii.gz", array)
    draft(tmp_path)
    raw = yaml.safe_load((tmp_path / "knee.yaml").read_text())
    found = raw["layout"]["image"]
    assert (found if isinstance(found, list) else [found]) == [f"{pattern}.nii.gz" for pattern in images]
    assert raw["layout"]["label"] == f"{label}.nii.gz" and raw["channels"] == channels
    with pytest.raises(BipvlError, match=r"is a draft: 'classes' still holds 'FILL IN'"):
        load_spec(tmp_path / "knee.yaml")
    fill_in(tmp_path / "knee.yaml")
    spec = load_spec(tmp_path / "knee.yaml")
    assert [case.id for case in list_cases(spec, tmp_path)] == ["P10", "P1_left", "P1_right"]
    assert check_dataset(spec, tmp_path) == []


def test_unused_scans_are_reported(tmp_path):
    for i in range(3):
        save(tmp_path / f"knee/scans/P{i}.nii.gz", image(i))
        save(tmp_path / f"knee/masks/P{i}.nii.gz", labels(i))
    save(tmp_path / "knee/old/average.nii.gz", image())
    assert detect_layout(tmp_path / "knee").unused == ("old/average.nii.gz",)
    draft(tmp_path)
    text = (tmp_path / "knee.yaml").read_text()
    assert "# Unused, since they belong to no case: 1 scans, such as old/average" in text


# --- suggested values ---


def suggested(tmp_path, array, affine=None, label=None):
    for i in range(3):
        save(tmp_path / f"knee/P{i}.nii.gz", array + np.float32(i), affine)
        save(tmp_path / f"knee/P{i}_seg.nii.gz", labels(i, array.shape) if label is None else label, affine)
    draft(tmp_path)
    return yaml.safe_load((tmp_path / "knee.yaml").read_text())


def test_spacing_and_crop_follow_the_axes_of_the_working_grid(tmp_path):
    """Stored axes: head (3 mm), front (0.5 mm), left (0.7 mm); the working grid has right, front, head."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 3.0, 0.5, -0.7, 1
    raw = suggested(tmp_path, image(shape=(8, 70, 130)), affine)
    assert raw["spacing"] == [0.7, 0.5, 3.0]
    assert raw["crop"] == [96, 64, 32]
    assert raw["nsd_tolerance"] == 3.0


def test_ct_is_guessed_from_air_and_its_window_from_labelled_voxels(tmp_path):
    label, ct = np.zeros(SHAPE, np.int16), image(low=-1000, high=-900)
    label[2:5, 2:5, 2:5] = 1
    ct[label == 1] = image(low=33, high=61)[label == 1]
    raw = suggested(tmp_path, ct, label=label)
    assert raw["modality"] == "CT"
    low, high = raw["intensity"]["window"]
    assert 30 <= low <= 35 and 60 <= high <= 65 and low % 5 == high % 5 == 0


def test_mr_is_standardised(tmp_path):
    raw = suggested(tmp_path, image(low=-3, high=4))
    assert raw["modality"] == "MR" and raw["intensity"] == {"zscore": "nonzero"}


def test_a_comment_gives_the_cases_and_the_volume_of_each_code(tmp_path):
    label = np.zeros((10, 10, 10), np.int16)
    label[:5], label[0, 0, 0] = 1, 4
    suggested(tmp_path, image(shape=(10, 10, 10)), np.diag([2.0, 2, 2, 1]), label)
    text = (tmp_path / "knee.yaml").read_text()
    assert "{name: FILL IN 1, codes: [1]}  # in 3 of 3 cases, median volume 3.99 ml" in text
    assert "{name: FILL IN 4, codes: [4]}  # in 3 of 3 cases, median volume 0.008 ml" in text


# --- invalid folders: one sentence, and no file is written ---


def no_scans(folder):
    (folder / "notes.txt").touch()


def dicom_alone(folder):
    (folder / "series").mkdir()
    (folder / "series/1.dcm").touch()


def images_alone(folder):
    save(folder / "P1.nii.gz", image())


def labels_alone(folder):
    save(folder / "P1_seg.nii.gz", labels())


def an_image_without_its_label(folder):
    for i in range(3):
        save(folder / f"P{i}.nii.gz", image(i))
        save(folder / f"P{i}_seg.nii.gz", labels(i))
    (folder / "P2_seg.nii.gz").unlink()


def broken_labels(folder):
    save(folder / "P1.nii.gz", image())
    save(folder / "P1_seg.nii.gz", labels() + np.float32(0.5))


def negative_labels(folder):
    save(folder / "P1.nii.gz", image())
    save(folder / "P1_seg.nii.gz", labels() - np.int16(1))


def an_image_as_label(folder):
    save(folder / "P1.nii.gz", image())
    save(folder / "P1_seg.nii.gz", np.arange(504, dtype=np.int16).reshape(SHAPE))


def empty_labels(folder):
    save(folder / "P1.nii.gz", image())
    save(folder / "P1_seg.nii.gz", np.zeros(SHAPE, np.int16))


def mixed_grids(folder):
    save(folder / "P1.nii.gz", image())
    save(folder / "P1_seg.nii.gz", labels(), np.diag([2.0, 1, 1, 1]))


def mixed_channels(folder):
    for i in range(2):
        save(folder / f"P{i}.nii.gz", image(i, (*SHAPE, i + 2)))
        save(folder / f"P{i}_seg.nii.gz", labels(i))


def several_labels(folder):
    for name, array in (("P1", image()), ("P1_seg", labels()), ("P1_mask", labels(1))):
        save(folder / f"{name}.nii.gz", array)


def a_code_that_json_does_not_name(folder):
    write_nnunet(folder, labels={"femur": 1})


def a_json_of_another_form(folder):
    save(folder / "P1.nii.gz", image())
    (folder / "dataset.json").write_text(json.dumps({"files": []}))


def a_broken_json(folder):
    save(folder / "P1.nii.gz", image())
    (folder / "dataset.json").write_text("{")


def a_json_that_lists_a_missing_scan(folder):
    save(folder / "P1.nii.gz", image())
    (folder / "dataset.json").write_text(json.dumps(dataset_json(AMOS, {"training": ["amos_0001"]})))


INVALID = {
    no_scans: "knee: holds no scan (.nii.gz or .nii); give another",
    dicom_alone: "knee: holds only DICOM files; convert them to NIfTI with dcm2niix",
    images_alone: "but no label map (file or folder name with label, mask, seg); add the label maps",
    labels_alone: "but no images with the same ids, such as P1; add the images",
    an_image_without_its_label: "P2_seg.nii.gz: file not found",
    broken_labels: "P1_seg.nii.gz: holds 0.5, but a label map holds whole numbers",
    negative_labels: "P1_seg.nii.gz: holds -1, but a label map holds whole numbers",
    an_image_as_label: "P1_seg.nii.gz: holds 504 different values",
    empty_labels: "knee: holds label maps of background only; label the cases first",
    mixed_grids: "P1_seg.nii.gz: is not on the grid of its image (spacing",
    mixed_channels: "some images have 2 channels, others 3; give all images the same channels",
    several_labels: "several label maps per case, {case}_mask.nii.gz and {case}_seg.nii.gz; merge them",
    a_code_that_json_does_not_name: "dataset.json: has no label with the codes [2]",
    a_json_of_another_form: "dataset.json: has neither 'training'",
    a_broken_json: "dataset.json: not readable as JSON",
    a_json_that_lists_a_missing_scan: "amos_0001.nii.gz: file not found",
}


@pytest.mark.parametrize(("corrupt", "sentence"), INVALID.items(), ids=[f.__name__ for f in INVALID])
def test_an_invalid_folder_is_reported_and_nothing_is_written(tmp_path, monkeypatch, corrupt, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "knee").mkdir()
    corrupt(tmp_path / "knee")
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["init-dataset", "knee"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    message = result.stderr.splitlines()[-1]
    assert message.startswith("bipvl: ") and sentence in message and "; " in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["knee.yaml", "knee.csv"])
def test_existing_files_are_not_overwritten(tmp_path, name):
    write_nnunet(tmp_path / "knee")
    (tmp_path / name).write_text("mine")
    with pytest.raises(BipvlError, match=rf"{name}: exists already and is not overwritten; give another"):
        draft(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["knee", name])
    assert (tmp_path / name).read_text() == "mine"


def test_the_command_reports_its_findings_and_the_next_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        save(tmp_path / f"My Knees/P{i}.nii.gz", image(i))
        save(tmp_path / f"My Knees/P{i}_seg.nii.gz", labels(i))
    result = CliRunner().invoke(app, ["init-dataset", "My Knees"])
    assert result.exit_code == 0, result.output
    assert "3 cases; MR, channels: MR; label codes: 0, 1, 2" in result.stdout
    assert "my_knees.yaml: the names of 2 classes" in result.stdout
    assert "my_knees.csv: 10 texts" in result.stdout
    assert result.stdout.splitlines()[-1] == "then: bipvl check my_knees.yaml --data-root ."
    checked = CliRunner().invoke(app, ["check", "my_knees.yaml", "--data-root", "."])
    assert checked.exit_code == 1 and "my_knees.yaml: is a draft" in checked.stderr


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    write_nnunet(tmp_path / "knee")
    one = draft(tmp_path)
    for name in ("knee.yaml", "knee.csv"):
        (tmp_path / name).unlink()
    assert draft(tmp_path) == one


def test_label_maps_are_read_with_their_scaling(tmp_path):
    save(tmp_path / "knee/P1.nii.gz", image())
    scaled = nib.Nifti1Image(labels().astype(np.uint8), np.eye(4))
    scaled.header.set_slope_inter(100, 0)
    nib.save(scaled, tmp_path / "knee/P1_seg.nii.gz")
    assert draft(tmp_path).spec.known_codes == (0, 100, 200)


def test_patterns_are_printed_as_one_sentence():
    patterns = Patterns(image=("a/{case}.nii", "b/{case}.nii"), label="{case}_s.nii")
    assert str(patterns) == "image: a/{case}.nii, b/{case}.nii; label: {case}_s.nii"
