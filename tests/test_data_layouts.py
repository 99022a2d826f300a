import json

import pytest
from data_files import write_dataset

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import cohort_of, list_cases
from bipvl.data.spec import load_spec

AMOS, HEART, BRAIN = load_spec("amos22"), load_spec("mmwhs_mr"), load_spec("msd_brain")
SECTIONS = {"training": ["amos_0009", "amos_0001", "amos_0507"], "validation": ["amos_0500", "amos_0600"]}


@pytest.fixture
def amos(tmp_path):
    return write_dataset(AMOS, tmp_path, SECTIONS)


def edit(folder, change):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_amos_keeps_the_ct_of_both_sections_and_skips_mr(tmp_path, amos):
    cases = list_cases(AMOS, tmp_path)
    assert [(c.id, c.section, c.position) for c in cases] == [
        ("amos_0001", "training", 1),
        ("amos_0009", "training", 0),
        ("amos_0500", "validation", 0),
    ]
    assert cases[2].image == amos / "imagesVa/amos_0500.nii.gz"
    assert cases[2].label == amos / "labelsVa/amos_0500.nii.gz"


def test_heart_files_are_paired_by_id(tmp_path):
    folder = write_dataset(HEART, tmp_path, {"training": ["mr_train_1002", "mr_train_1001"]})
    (folder / "._mr_train_1001_image.nii.gz").write_bytes(b"left by macOS")
    cases = list_cases(HEART, tmp_path)
    assert [c.id for c in cases] == ["mr_train_1001", "mr_train_1002"]
    assert cases[0].image.name == "mr_train_1001_image.nii.gz"
    assert cases[0].label.name == "mr_train_1001_label.nii.gz"


def test_brain_reads_the_labelled_section_only(tmp_path):
    write_dataset(BRAIN, tmp_path, {"training": ["BRATS_002", "BRATS_001"]})
    assert [c.id for c in list_cases(BRAIN, tmp_path)] == ["BRATS_001", "BRATS_002"]


def test_the_spelling_of_amos_labels_is_accepted(tmp_path, amos):
    def real_names(content):
        content["labels"] |= {"4": "gall bladder", "8": "arota", "9": "postcava"}

    edit(amos, real_names)
    assert len(list_cases(AMOS, tmp_path)) == 3


def test_the_first_issue_of_a_dataset_json_is_raised(tmp_path, amos):
    """All issues are in the catalogue of test_corruptions.py."""
    edit(amos, lambda content: content["labels"].update({"2": "left kidney", "16": "appendix"}))
    with pytest.raises(BipvlError, match=r"amos22/dataset\.json: calls label 2 'left kidney'; expected"):
        list_cases(AMOS, tmp_path)
    edit(amos, lambda content: content["labels"].pop("15"))
    with pytest.raises(BipvlError, match=r"must have 'labels' that name the codes \[1, 2"):
        list_cases(AMOS, tmp_path)


def test_a_data_set_without_cases_is_reported(tmp_path, amos):
    edit(amos, lambda content: (content["training"].clear(), content["validation"].clear()))
    with pytest.raises(
        BipvlError, match=r"amos22: holds no case of AMOS22 .*; arrange the files in the layout"
    ):
        list_cases(AMOS, tmp_path)


@pytest.mark.parametrize("missing", ["image", "label"])
def test_half_a_pair_is_reported(tmp_path, missing):
    folder = write_dataset(HEART, tmp_path, {"training": ["mr_train_1001", "mr_train_1002"]})
    (folder / f"mr_train_1002_{missing}.nii.gz").unlink()
    with pytest.raises(BipvlError, match=f"mr_train_1002_{missing}.nii.gz: file not found"):
        list_cases(HEART, tmp_path)


def test_a_missing_root_and_a_missing_or_broken_dataset_json_are_reported(tmp_path):
    with pytest.raises(BipvlError, match=r"absent/amos22: is not a folder"):
        list_cases(AMOS, tmp_path / "absent")
    (tmp_path / "amos22").mkdir()
    with pytest.raises(BipvlError, match=r"amos22/dataset.json: file not found"):
        list_cases(AMOS, tmp_path)
    (tmp_path / "amos22/dataset.json").write_text("{")
    with pytest.raises(BipvlError, match=r"amos22/dataset.json: not readable as JSON"):
        list_cases(AMOS, tmp_path)


def test_folders_may_be_links_to_another_disk(tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "root"
    folder = write_dataset(BRAIN, disk, {"training": ["BRATS_001"]})
    (root / BRAIN.folder).mkdir(parents=True)
    for name in ("imagesTr", "labelsTr", "dataset.json"):
        (root / BRAIN.folder / name).symlink_to(folder / name)
    assert [c.id for c in list_cases(BRAIN, root)] == ["BRATS_001"]


def test_the_cohort_is_real_unless_the_root_says_synthetic(tmp_path):
    assert cohort_of(tmp_path) == "real"
    (tmp_path / "cohort.json").write_text('{"cohort": "synthetic"}')
    assert cohort_of(tmp_path) == "synthetic"
    (tmp_path / "cohort.json").write_text("{}")
    with pytest.raises(BipvlError, match=r"cohort.json: does not say .*; delete it if these are real data"):
        cohort_of(tmp_path)
