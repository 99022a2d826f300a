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


def rename(code, name):
    return lambda content: content["labels"].update({code: name})


@pytest.mark.parametrize(
    "change, message",
    [
        (rename("2", "left kidney"), "calls label 2 'left kidney'; expected 'right kidney'"),
        (rename("16", "appendix"), "calls label 16 'appendix'"),
        (lambda c: c["labels"].pop("15"), "must have 'labels'"),
        (lambda c: c.pop("labels"), "must have 'labels'"),
        (
            lambda c: c["training"].append({"image": "./imagesTr/amos_0002.nii.gz"}),
            "lacks a path in entry 3 of 'training'",
        ),
        (lambda c: c["training"].append(c["training"][0]), "lists the case amos_0009 2 times"),
        (lambda c: c["validation"].append(c["training"][0]), "lists the case amos_0009 2 times"),
        (lambda c: c["training"][0].update(image="../../amos_0009.nii.gz"), "outside its own folder"),
        (lambda c: c["training"][0].update(image="/etc/amos_0009.nii.gz"), "outside its own folder"),
        (lambda c: c["training"][0].update(image="./imagesTr/scan.nii.gz"), "does not end in a number"),
        (lambda c: (c["training"].clear(), c["validation"].clear()), "holds no case"),
    ],
)
def test_a_wrong_dataset_json_is_reported(tmp_path, amos, change, message):
    edit(amos, change)
    with pytest.raises(BipvlError) as error:
        list_cases(AMOS, tmp_path)
    assert str(amos) in str(error.value) and message in str(error.value)


def test_brats_with_labels_2_and_3_swapped_is_refused(tmp_path):
    folder = write_dataset(BRAIN, tmp_path, {"training": ["BRATS_001"]})
    edit(folder, rename("2", "enhancing tumour"))
    with pytest.raises(
        BipvlError, match=r"calls label 2 'enhancing tumour'; expected 'non-enhancing tumour'"
    ):
        list_cases(BRAIN, tmp_path)


def test_channels_in_another_order_are_refused(tmp_path):
    folder = write_dataset(BRAIN, tmp_path, {"training": ["BRATS_001"]})
    edit(folder, lambda c: c["modality"].update({"0": "T1w", "1": "FLAIR"}))
    with pytest.raises(BipvlError, match=r"\['T1w', 'FLAIR', 'T1gd', 'T2w'\]; expected \['FLAIR'"):
        list_cases(BRAIN, tmp_path)


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
