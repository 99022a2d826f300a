"""Your own data: nnU-Net's layout, file patterns, listed splits, a fixed crop."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from data_files import SHAPE, save, write_nnunet, write_prompts

from bipvl.common.errors import BipvlError
from bipvl.data.checks.dataset import check_dataset
from bipvl.data.layouts import Case, list_cases
from bipvl.data.spec import load_spec
from bipvl.data.splits import make_split
from bipvl.data.transforms import load_native, prepare_transform
from bipvl.engine.checksums import case_checksums
from bipvl.engine.profiles import dataset_settings

KNEE = {
    "name": "knee",
    "title": "Knees",
    "modality": "MR",
    "channels": ["T1", "T2"],
    "folder": "knee",
    "layout": "nnunet",
    "classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [2]}],
    "spacing": [1, 1, 1],
    "intensity": {"zscore": "nonzero"},
    "split": {"test": 0.25, "val": 0.25},
    "prompts": "knee.csv",
    "nsd_tolerance": 1,
}


def spec_of(tmp_path, **changes):
    path = tmp_path / "knee.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (KNEE | changes).items() if v is not None}))
    spec = load_spec(path)
    write_prompts(spec, tmp_path / "knee.csv")
    return spec


def edit(folder, **changes):
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def knee(tmp_path):
    return write_nnunet(tmp_path / "knee")


def issues(tmp_path, spec):
    """File below the root and problem of each issue."""
    return [(str(i.file).removeprefix(str(tmp_path)), i.problem) for i in check_dataset(spec, tmp_path)]


# --- nnU-Net v2 ---


def test_nnunet_has_one_file_per_channel(tmp_path, knee):
    spec = spec_of(tmp_path)
    cases = list_cases(spec, tmp_path)
    assert [case.id for case in cases] == ["P1", "P2", "P3", "P4"]
    assert [p.name for p in cases[1].images] == ["P2_0000.nii.gz", "P2_0001.nii.gz"]
    assert cases[1].label == knee / "labelsTr/P2.nii.gz"
    assert list(cases[1].files) == list(case_checksums(cases)["P2"]) == ["image 1", "image 2", "label"]
    assert issues(tmp_path, spec) == []


def test_channels_are_stacked_in_order_on_the_scans_grid(tmp_path, knee):
    affine = np.diag([-2.0, 1, 1.5, 1])
    affine[:3, 3] = 5, -7, 9
    for path in knee.glob("*/P1*"):
        save(path, np.asanyarray(nib.load(path).dataobj), affine)
    case = list_cases(spec_of(tmp_path), tmp_path)[0]
    native = load_native(case)
    for channel, path in zip(native["image"], case.images, strict=True):
        np.testing.assert_array_equal(channel.numpy(), nib.load(path).get_fdata(dtype=np.float32))
    assert torch.equal(native["image"].affine, torch.as_tensor(affine))
    prepared = prepare_transform(spec_of(tmp_path), (2, 1, 1.5))(case.paths)
    assert prepared["image"].shape == (2, *SHAPE) and prepared["label"].shape == (1, *SHAPE)


def test_a_channel_of_another_grid_is_reported_by_check_and_by_loading(tmp_path, knee):
    spec, path = spec_of(tmp_path), knee / "imagesTr/P2_0001.nii.gz"
    save(path, np.ones((4, 8, 7), np.float32) * np.arange(7, dtype=np.float32))
    ((file, problem),) = issues(tmp_path, spec)
    assert file.endswith("P2_0001.nii.gz")
    assert problem == "has 4 x 8 x 7 voxels, but its first channel has 9 x 8 x 7"
    with pytest.raises(BipvlError, match=r"P2_0001\.nii\.gz: has 4 x 8 x 7 voxels, but its first channel"):
        load_native(list_cases(spec, tmp_path)[1])


def test_a_missing_and_a_surplus_channel_are_reported(tmp_path, knee):
    spec = spec_of(tmp_path)
    (knee / "imagesTr/P2_0001.nii.gz").rename(knee / "imagesTr/P2_0002.nii.gz")
    first, second = issues(tmp_path, spec)
    assert first[0].endswith("P2_0002.nii.gz") and first[1] == "belongs to no case"
    assert second[0].endswith("P2_0001.nii.gz") and second[1] == "file not found"
    with pytest.raises(BipvlError, match=r"P2_0001\.nii\.gz: file not found"):
        list_cases(spec, tmp_path)


def test_a_duplicate_has_all_channels_in_common(tmp_path, knee):
    spec = spec_of(tmp_path)
    first, second = (sorted((knee / "imagesTr").glob(f"P{i}*")) for i in (1, 3))
    second[0].write_bytes(first[0].read_bytes())
    assert issues(tmp_path, spec) == []
    second[1].write_bytes(first[1].read_bytes())
    ((file, problem),) = issues(tmp_path, spec)
    assert file.endswith("P3_0000.nii.gz") and "same voxels as P1_0000.nii.gz" in problem


REGIONS = [{"name": "joint", "codes": [1, 2]}, {"name": "tibia", "codes": [2]}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": {"background": 0, "tibia": 1, "femur": 2}}, "calls label 1 'tibia'; expected 'femur'"),
        ({"labels": {"background": 0, "femur": 1}}, "has no label for the codes [2]"),
        ({"labels": {"femur": 1, "tibia": 2, "fibula": 3}}, "calls label 3 'fibula'; Knees declares no such"),
        ({"labels": {"femur": 1, "tibia": "two"}}, "calls label two 'tibia'"),
        ({"labels": None}, "has no label for the codes [1, 2]"),
        ({"channel_names": {"0": "T2", "1": "T1"}}, "has the channels ['T2', 'T1']; expected ['T1', 'T2']"),
        ({"numTraining": 5}, "has the 'numTraining' 5, but there are 4 cases; add"),
        ({"file_ending": ".png"}, "has the 'file_ending' '.png'; convert the scans to NIfTI"),
        ({"dataset": {}}, "lists its files under 'dataset', which is not supported"),
    ],
)
def test_a_wrong_nnunet_json_is_reported(tmp_path, knee, changes, sentence):
    edit(knee, **changes)
    with pytest.raises(BipvlError) as error:
        list_cases(spec_of(tmp_path), tmp_path)
    assert str(error.value).startswith(str(knee / "dataset.json")) and sentence in str(error.value)


def test_regions_are_overlapping_classes(tmp_path):
    knee = write_nnunet(tmp_path / "knee", labels={"joint": [1, 2], "tibia": 2})
    spec = spec_of(tmp_path, classes=REGIONS, overlapping=True)
    assert issues(tmp_path, spec) == []
    label = prepare_transform(spec)(list_cases(spec, tmp_path)[0].paths)["label"]
    codes = nib.load(knee / "labelsTr/P1.nii.gz").get_fdata()
    assert label[0].sum() == (codes > 0).sum() and label[1].sum() == (codes == 2).sum()
    edit(knee, labels={"joint": [1, 3], "tibia": 2})
    with pytest.raises(BipvlError, match=r"calls label \[1, 3\] 'joint'; Knees declares no such label"):
        list_cases(spec, tmp_path)


# --- files by pattern ---


def scan(seed=0):
    return np.random.default_rng(seed).uniform(1, 9, SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        (
            {"image": "{case}_{channel}.nii.gz", "label": "{case}_seg.nii.gz"},
            ("P1_T1.nii.gz", "P1_T2.nii.gz", "P1_seg.nii.gz"),
        ),
        (
            {"image": ["scans/{case}.nii", "more/{case}_t2.nii"], "label": "./masks/m{case}.nii.gz"},
            ("scans/P1.nii", "more/P1_t2.nii", "masks/mP1.nii.gz"),
        ),
        (
            {"image": "{case}/{case}_{channel}.nii.gz", "label": "{case}/label.nii.gz"},
            ("P1/P1_T1.nii.gz", "P1/P1_T2.nii.gz", "P1/label.nii.gz"),
        ),
    ],
)
def test_files_are_found_by_patterns(tmp_path, layout, files):
    for seed, name in enumerate(files):
        save(tmp_path / "knee" / name, scan(seed))
    save(tmp_path / "knee/notes/other.nii.gz", scan())
    (tmp_path / "knee" / files[0]).with_name("._" + files[0].split("/")[-1]).write_bytes(b"left by macOS")
    (case,) = list_cases(spec_of(tmp_path, layout=layout), tmp_path)
    assert case.id == "P1"
    assert [str(p.relative_to(tmp_path / "knee")) for p in case.files.values()] == [*files]


def test_a_label_map_beside_its_image_is_not_mistaken_for_an_image(tmp_path):
    for name in ("P1", "P1_seg", "P2_seg"):
        save(tmp_path / f"knee/{name}.nii.gz", scan())
    spec = spec_of(tmp_path, channels=["PD"], layout={"image": "{case}.nii.gz", "label": "{case}_seg.nii.gz"})
    with pytest.raises(BipvlError, match=r"knee/P2\.nii\.gz: file not found"):
        list_cases(spec, tmp_path)
    save(tmp_path / "knee/P2.nii.gz", scan())
    assert [case.id for case in list_cases(spec, tmp_path)] == ["P1", "P2"]


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ({"image": "../{case}.nii.gz", "label": "{case}_seg.nii.gz"}, "that stay below the folder"),
        ({"image": "/etc/{case}.nii.gz", "label": "{case}_seg.nii.gz"}, "that stay below the folder"),
        ({"image": "a/../../{case}.nii.gz", "label": "{case}_seg.nii.gz"}, "that stay below the folder"),
        ({"image": "scan.nii.gz", "label": "{case}_seg.nii.gz"}, "; it must be one of dataset_json"),
        ({"image": "{id}.nii.gz", "label": "{case}_seg.nii.gz"}, "; it must be one of dataset_json"),
        ({"image": "{case}.png", "label": "{case}_seg.nii.gz"}, "; it must be one of dataset_json"),
        ({"image": "{case}.nii.gz"}, "; it must be one of dataset_json"),
        ({"image": ["{case}.nii.gz"] * 2, "label": "{case}_seg.nii.gz"}, "none of them twice"),
        ({"image": "{case}.nii.gz", "label": "{case}.nii.gz"}, "none of them twice"),
        (
            {"image": [f"{{case}}_{i}.nii.gz" for i in range(3)], "label": "{case}_s.nii"},
            "3 image patterns for 2",
        ),
    ],
)
def test_a_wrong_pattern_is_reported(tmp_path, layout, sentence):
    with pytest.raises(BipvlError) as error:
        spec_of(tmp_path, layout=layout)
    assert str(error.value).startswith(str(tmp_path / "knee.yaml")) and sentence in str(error.value)


def test_a_channel_that_would_leave_the_folder_is_reported(tmp_path):
    layout = {"image": "{case}_{channel}.nii.gz", "label": "{case}_s.nii"}
    with pytest.raises(BipvlError, match=r"the channel '\.\./T1' cannot be part of a file's name"):
        spec_of(tmp_path, channels=["../T1", "T2"], layout=layout)


# --- listed splits ---

LISTED = {"train": ["P3", "P1"], "val": ["P2"], "test": ["P4"]}


def write_split(tmp_path, form):
    if form == "list":
        return LISTED
    if form == "json":
        (tmp_path / "split.json").write_text(json.dumps(LISTED))
    else:
        rows = [f"{case},{part}" for part, cases in LISTED.items() for case in cases]
        (tmp_path / "split.csv").write_text("\n".join(["case,part", *rows]))
    return f"split.{form}"


@pytest.mark.parametrize("form", ["list", "json", "csv"])
def test_a_listed_split_is_used_unchanged(tmp_path, knee, form):
    spec = spec_of(tmp_path, split=write_split(tmp_path, form))
    split = make_split(spec, list_cases(spec, tmp_path), seed=0)
    assert (split.train, split.val, split.test) == (("P1", "P3"), ("P2",), ("P4",))
    assert issues(tmp_path, spec) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"test": ["P4", "P9"]}, "has no case P9, named in 'split'"),
        ({"test": ["P4", "P1"]}, "has P1 more than once in 'split'"),
        ({"train": ["P3"]}, "has 1 cases in no part of 'split', such as P1"),
    ],
)
def test_a_listed_split_that_does_not_fit_is_reported(tmp_path, knee, change, sentence):
    spec = spec_of(tmp_path, split=LISTED | change)
    with pytest.raises(BipvlError) as error:
        make_split(spec, list_cases(spec, tmp_path), seed=0)
    assert str(error.value).startswith(f"Knees: {sentence}; ")
    assert [problem for _, problem in issues(tmp_path, spec)] == [sentence]


def test_a_listed_split_with_a_patient_in_two_parts_is_reported(tmp_path, knee):
    spec = spec_of(tmp_path, split=LISTED)
    cases = [replace(case, patient="one") for case in list_cases(spec, tmp_path)]
    with pytest.raises(BipvlError, match=r"Knees: has the patient one in two parts of 'split'"):
        make_split(spec, cases, seed=0)


def test_a_duplicate_in_two_listed_parts_is_reported_with_both(tmp_path, knee):
    spec = spec_of(tmp_path, split=LISTED)
    for path in (knee / "imagesTr").glob("P1*"):
        (knee / "imagesTr" / path.name.replace("P1", "P4")).write_bytes(path.read_bytes())
    ((_, problem),) = issues(tmp_path, spec)
    assert problem.endswith("across splits (test and train)")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("split.json", '{"train": ["P1"]}', "does not list the case ids of train, val and test"),
        ("split.json", '{"train": [1], "val": ["P2"], "test": ["P4"]}', "does not list the case ids"),
        ("split.json", None, "file not found"),
        ("split.csv", None, "not readable as CSV"),
        ("split.csv", "case,part\nP1,training\n", "has no case and part (train, val or test) in row 1"),
        ("split.csv", "id,part\nP1,train\n", "has no case and part (train, val or test) in row 1"),
        ("split.csv", "case,part\nP1,train\n", "does not list the case ids"),
    ],
)
def test_a_wrong_split_file_is_reported(tmp_path, knee, name, text, sentence):
    if text is not None:
        (tmp_path / name).write_text(text)
    spec = spec_of(tmp_path, split=name)
    with pytest.raises(BipvlError) as error:
        make_split(spec, list_cases(spec, tmp_path), seed=0)
    assert str(error.value).startswith(str(tmp_path / name)) and sentence in str(error.value)
    ((file, _),) = issues(tmp_path, spec)
    assert file == f"/{name}"


@pytest.mark.parametrize(
    "split",
    [
        {"train": [1], "val": [2], "test": [3]},
        {"train": [], "val": ["a"], "test": ["b"]},
        {"train": ["a"], "val": ["b"]},
        {"test": 0.2, "val": 0.1, "seed": -1},
        {"test": 0.2, "val": 0.1, "sed": 1},
        "split.txt",
    ],
)
def test_a_wrong_split_is_reported(tmp_path, split):
    with pytest.raises(
        BipvlError, match=r"knee\.yaml: 'split' is .*; it must be \{test: validation or a share"
    ):
        spec_of(tmp_path, split=split)


def test_the_seed_of_the_yaml_draws_the_split(tmp_path):
    cases = [Case(f"P{i:02}", tmp_path, tmp_path, position=i) for i in range(20)]
    own = spec_of(tmp_path, split={"test": 0.2, "val": 0.1, "seed": 7})
    drawn = spec_of(tmp_path, split={"test": 0.2, "val": 0.1})
    assert make_split(own, cases, seed=1).test == make_split(drawn, cases, seed=7).test
    assert make_split(own, cases, seed=1).test != make_split(drawn, cases, seed=1).test


# --- a fixed crop ---


def test_a_fixed_crop_and_its_spacing_hold_at_every_profile(tmp_path):
    own = spec_of(tmp_path, crop=[64, 64, 32], spacing=[0.5, 0.5, 3])
    for profile in ("quick", "laptop", "paper"):
        settings = dataset_settings(profile, own)
        assert (settings["crop"], settings["spacing"]) == ([64, 64, 32], [0.5, 0.5, 3])
    assert dataset_settings("quick", spec_of(tmp_path))["crop"] != [64, 64, 32]


def test_cached_cases_do_not_depend_on_the_crop(tmp_path):
    assert repr(spec_of(tmp_path, crop=[64, 64, 32])) == repr(spec_of(tmp_path))


def test_a_crop_that_cannot_be_halved_is_reported(tmp_path):
    with pytest.raises(
        BipvlError, match=r"knee\.yaml: 'crop' is \[48, 64, 32\]; it must be three multiples of 32"
    ):
        spec_of(tmp_path, crop=[48, 64, 32])
    with pytest.raises(
        BipvlError, match=r"profile 'paper' cannot halve; make the sides of 'crop' multiples of 32"
    ):
        dataset_settings("paper", spec_of(tmp_path, crop=[32, 32, 32]))


def test_a_draft_is_refused(tmp_path):
    with pytest.raises(BipvlError, match=r"knee\.yaml: is a draft: 'classes' still holds 'FILL IN'"):
        spec_of(tmp_path, classes=[{"name": "FILL IN 1", "codes": [1]}])
