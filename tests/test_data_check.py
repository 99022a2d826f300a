"""What the check finds in a whole data set, what it accepts, and its tolerances.

Single issues are in the catalogue of test_corruptions.py.
"""

import re
from concurrent.futures.process import BrokenProcessPool

import nibabel as nib
import numpy as np
import pytest
from data_files import SHAPE, dataset_json, image_of, label_of, save, write_dataset, write_prompts
from typer.testing import CliRunner

from bipvl.__main__ import app
from bipvl.common.errors import BipvlError
from bipvl.data.checks import dataset as check
from bipvl.data.checks.case import CT_RANGE, CT_SPAN
from bipvl.data.checks.dataset import check_dataset, issue_table
from bipvl.data.scans import AFFINE_TOLERANCE, FORM_TOLERANCE, read_scan
from bipvl.data.spec import load_spec

AMOS, HEART, BRAIN = load_spec("amos22"), load_spec("mmwhs_ct"), load_spec("msd_brain")
IDS = [f"ct_train_{i}" for i in range(1001, 1004)]


@pytest.fixture
def heart(tmp_path):
    folder = write_dataset(HEART, tmp_path, {"training": IDS})
    write_prompts(HEART, tmp_path / "heart.csv")
    return folder


def issues(tmp_path, spec=HEART, prompts="heart.csv", **options):
    return check_dataset(spec, tmp_path, tmp_path / prompts, **options)


def test_a_valid_data_set_has_no_issues(tmp_path, heart):
    assert issues(tmp_path) == []


def corrupt(tmp_path, heart):
    (heart / "ct_train_1001_label.nii.gz").unlink()
    save(heart / "ct_train_1002_label.nii.gz", np.full(SHAPE, 7, np.int16))
    save(heart / "ct_train_1003_label.nii.gz", np.zeros(SHAPE, np.int16), np.diag([2.0, 1, 1, 1]))
    save(heart / "ct_train_1003.nii.gz", image_of(HEART))
    (tmp_path / "heart.csv").write_text("Title\n")


def test_all_issues_of_all_cases_are_found_at_once(tmp_path, heart):
    corrupt(tmp_path, heart)
    found = [(issue.file.name, issue.problem.split(",")[0]) for issue in issues(tmp_path)]
    assert found == [
        ("heart.csv", "lacks the columns Shape"),
        ("ct_train_1003.nii.gz", "belongs to no case"),
        ("ct_train_1001_label.nii.gz", "file not found"),
        ("ct_train_1002_label.nii.gz", "holds the undeclared codes 7 (declared: 0"),
        ("ct_train_1003_label.nii.gz", "holds background only"),
        (
            "ct_train_1003_label.nii.gz",
            "is not on the grid of its image (spacing 2 x 1 x 1 mm instead of 1 x 1 x 1)",
        ),
    ]
    assert all(issue.fix for issue in issues(tmp_path))


def test_several_processes_find_the_same_in_the_same_order(tmp_path, heart):
    corrupt(tmp_path, heart)
    several, one = (issues(tmp_path, workers=workers) for workers in (2, 1))
    assert [*map(str, several)] == [*map(str, one)]


def test_a_killed_process_is_reported(tmp_path, heart, monkeypatch):
    class Killed(check.ProcessPoolExecutor):
        def map(self, *_, **__):
            raise BrokenProcessPool

    monkeypatch.setattr(check, "ProcessPoolExecutor", Killed)
    with pytest.raises(BipvlError, match="lack of memory; give fewer --workers"):
        issues(tmp_path, workers=2)


def test_few_bytes_are_read_by_one_process(tmp_path, heart, monkeypatch):
    monkeypatch.setattr(check, "ProcessPoolExecutor", None)
    assert issues(tmp_path) == []
    monkeypatch.setattr(check, "SMALL", 0)
    with pytest.raises(TypeError):
        issues(tmp_path)


def test_prompts_are_checked_even_if_the_folder_is_missing(tmp_path):
    write_prompts(HEART, tmp_path / "brain.csv")
    found = issues(tmp_path, BRAIN, "brain.csv")
    assert "has 7 rows" in {issue.problem for issue in found}
    assert "is not a folder" in found[-1].problem


# --- what is accepted ---


def test_other_files_in_the_folders_are_ignored(tmp_path):
    sections = {"training": ["amos_0001", "amos_0002"], "validation": ["amos_0401"]}
    folder = write_dataset(AMOS, tmp_path, sections)
    write_prompts(AMOS, tmp_path / "amos.csv")
    save(folder / "imagesTr" / "amos_0507.nii.gz", image_of(AMOS))  # an MR of AMOS, excluded by its number
    save(folder / "imagesTs" / "amos_0300.nii.gz", image_of(AMOS))
    (folder / "imagesTr" / "._amos_0001.nii.gz").write_bytes(b"what macOS leaves behind")
    (folder / "imagesTr" / "notes.txt").touch()
    assert issues(tmp_path, AMOS, "amos.csv") == []


def test_a_listed_unlabelled_scan_may_be_among_the_others(tmp_path):
    folder = write_dataset(BRAIN, tmp_path, {"training": ["BRATS_001", "BRATS_002"]})
    write_prompts(BRAIN, tmp_path / "brain.csv")
    save(folder / "imagesTr" / "BRATS_003.nii.gz", image_of(BRAIN))
    (issue,) = issues(tmp_path, BRAIN, "brain.csv")
    assert issue.problem == "belongs to no case"
    content = dataset_json(BRAIN, {"training": ["BRATS_001", "BRATS_002"]})
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace(content["test"][0], "./imagesTr/BRATS_003.nii.gz"))
    assert issues(tmp_path, BRAIN, "brain.csv") == []


def test_a_second_code_of_a_class_may_be_missing_everywhere(tmp_path, heart):
    for i in IDS:
        path = heart / f"{i}_label.nii.gz"
        label = np.asanyarray(nib.load(path).dataobj)
        save(path, np.where(label == 421, 420, label).astype(np.int16))
    assert issues(tmp_path) == []


def test_missing_classes_are_reported_only_if_all_label_maps_are_readable(tmp_path, heart):
    for seed, i in enumerate(IDS[1:]):
        save(heart / f"{i}_label.nii.gz", np.int16(500) * (image_of(HEART, seed=seed) > 90))
    (heart / "ct_train_1001_label.nii.gz").write_bytes(b"no scan")
    (issue,) = issues(tmp_path)
    assert issue.file.name.endswith("ct_train_1001_label.nii.gz")


def test_one_patient_may_have_two_cases_with_the_same_labels(tmp_path, heart):
    save(heart / "ct_train_1002_label.nii.gz", label_of(HEART))
    (issue,) = issues(tmp_path)
    assert "holds the same labels as ct_train_1001_label.nii.gz" in issue.problem
    one_patient = HEART.model_copy(update={"patient": r"(ct_train)_"})
    assert issues(tmp_path, one_patient) == []


def test_codes_may_be_stored_as_floats_and_scans_uncompressed_or_scaled(tmp_path):
    folder = write_dataset(BRAIN, tmp_path, {"training": ["BRATS_001", "BRATS_002"]})
    write_prompts(BRAIN, tmp_path / "brain.csv")
    save(folder / "labelsTr/BRATS_001.nii.gz", label_of(BRAIN).astype(np.float64)[..., None])
    image = nib.Nifti1Image(image_of(BRAIN), np.eye(4))
    image.header.set_data_dtype(np.int16)
    nib.save(image, folder / "imagesTr/BRATS_001.nii")
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace("imagesTr/BRATS_001.nii.gz", "imagesTr/BRATS_001.nii"))
    (folder / "imagesTr/BRATS_001.nii.gz").unlink()
    assert issues(tmp_path, BRAIN, "brain.csv") == []


def test_values_are_those_that_nibabel_reads(tmp_path):
    image = nib.Nifti1Image(image_of(BRAIN), np.eye(4))
    image.header.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    expected = nib.load(tmp_path / "scan.nii.gz").get_fdata()
    planes = [expected[:, :, z, channel] for channel in range(4) for z in range(SHAPE[2])]
    assert scan.slope != 1
    for plane, truth in zip(scan.planes, planes, strict=True):
        np.testing.assert_allclose(plane.T, truth, rtol=1e-6)


# --- tolerances ---


def affine(**entries):
    made = np.eye(4)
    for place, value in entries.items():
        made["xyz".index(place[0]), int(place[1])] = value
    return made


@pytest.mark.parametrize(("share", "count"), [(0.9, 0), (1.1, 1)])
def test_a_label_may_be_off_by_the_tolerance(tmp_path, heart, share, count):
    save(heart / "ct_train_1001_label.nii.gz", label_of(HEART), affine(x3=share * AFFINE_TOLERANCE))
    assert len(issues(tmp_path)) == count


@pytest.mark.parametrize(("share", "count"), [(0.9, 0), (1.1, 1)])
def test_sform_and_qform_may_differ_by_the_tolerance(tmp_path, heart, share, count):
    image = nib.load(heart / "ct_train_1001_image.nii.gz")
    image.set_sform(np.eye(4), 1)
    image.set_qform(affine(z3=share * FORM_TOLERANCE), 1)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header), heart / "a.nii.gz")
    (heart / "a.nii.gz").replace(heart / "ct_train_1001_image.nii.gz")
    assert len(issues(tmp_path)) == count


@pytest.mark.parametrize("kind", ["sform", "qform"])
def test_one_of_sform_and_qform_is_enough(tmp_path, heart, kind):
    for part in ("image", "label"):
        path = heart / f"ct_train_1001_{part}.nii.gz"
        data = np.asanyarray(nib.load(path).dataobj)
        image = nib.Nifti1Image(data, affine(z3=3))
        image.set_sform(affine(z3=3) if kind == "sform" else None, int(kind == "sform"))
        image.set_qform(affine(z3=3) if kind == "qform" else None, int(kind == "qform"))
        nib.save(image, path)
    assert issues(tmp_path) == []


@pytest.mark.parametrize("ends", [CT_RANGE, (0, CT_SPAN)])
def test_a_ct_may_use_the_whole_range_of_hu(tmp_path, heart, ends):
    image = image_of(HEART).clip(*ends)
    image[0, 0, :2] = ends
    path = save(heart / "ct_train_1001_image.nii.gz", image)
    assert issues(tmp_path) == []
    image[0, 0, 1] += 1 if ends == CT_RANGE else -1
    save(path, image.clip(max=image[0, 0, 1]))
    (issue,) = issues(tmp_path)
    assert "in HU" in issue.problem


def test_the_help_states_the_tolerances():
    text = CliRunner().invoke(app, ["check", "--help"]).output
    for number in (AFFINE_TOLERANCE, FORM_TOLERANCE, *CT_RANGE, CT_SPAN):
        assert re.search(rf"(?<![\d.]){number:g}(?![\d.]*\d)", text), number


# --- the table ---


def test_the_table_has_aligned_columns():
    found = [
        BipvlError("file not found", "copy it there", "a.nii.gz"),
        BipvlError("is empty", "download it again", "longer.nii.gz"),
    ]
    lines = issue_table(found).splitlines()
    assert len({line.index(word) for line, word in zip(lines, ("fix", "copy", "download"), strict=True)}) == 1
    assert [re.split(r" {2,}", line) for line in lines] == [
        ["file", "problem", "fix"],
        *([issue.file, issue.problem, issue.fix] for issue in found),
    ]
