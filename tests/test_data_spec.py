import subprocess
import sys

import pytest
import yaml

from bipvl.common.errors import BipvlError
from bipvl.data.spec import dataset_names, load_spec

USER = {
    "name": "knee",
    "title": "Knees",
    "modality": "MR",
    "channels": ["PD"],
    "folder": "knee",
    "layout": "paired_files",
    "classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [2, 7]}],
    "spacing": [1, 1, 1],
    "intensity": {"window": [0, 10]},
    "split": {"test": 0.2, "val": 0.1},
    "prompts": "knee.csv",
    "nsd_tolerance": 1,
}


def write(tmp_path, **changes):
    path = tmp_path / "knee.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (USER | changes).items() if v is not None}))
    return path


@pytest.mark.parametrize(
    "name, classes, channels",
    [
        ("amos22", 15, 16),
        ("mmwhs_ct", 7, 8),
        ("mmwhs_mr", 7, 8),
        ("msd_brain", 3, 3),
        ("msd_hippocampus", 2, 3),
        ("openkbp", 5, 6),
    ],
)
def test_the_background_is_a_channel_unless_classes_overlap(name, classes, channels):
    spec = load_spec(name)
    assert (spec.num_classes, spec.out_channels) == (classes, channels)


def test_heart_codes_follow_the_prompt_rows():
    codes = {c.name: c.codes for c in load_spec("mmwhs_ct").classes}
    assert list(codes.items()) == [
        ("left ventricle", (500,)),
        ("right ventricle", (600,)),
        ("left atrium", (420, 421)),
        ("right atrium", (550,)),
        ("myocardium of the left ventricle", (205,)),
        ("ascending aorta", (820,)),
        ("pulmonary artery", (850,)),
    ]
    assert load_spec("mmwhs_mr").classes == load_spec("mmwhs_ct").classes


def test_enhancing_tumour_is_code_3_inside_core_and_whole():
    codes = {c.name: set(c.codes) for c in load_spec("msd_brain").classes}
    assert codes == {"tumour core": {2, 3}, "whole tumour": {1, 2, 3}, "enhancing tumour": {3}}


def test_your_own_yaml_loads_with_its_prompts_beside_it(tmp_path):
    spec = load_spec(write(tmp_path))
    assert spec.prompts == tmp_path / "knee.csv"
    assert spec.known_codes == (0, 1, 2, 7) and spec.decoded_codes == (1, 2)


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(BipvlError, match=r"'mmwhs'.*mmwhs_ct"):
        load_spec("mmwhs")
    with pytest.raises(BipvlError, match=r"amos22.*mmwhs_ct.*mmwhs_mr.*msd_brain.*msd_hippocampus.*openkbp"):
        load_spec("zzz")


NESTED = {"overlapping": True, "code_names": {1: ["a"], 2: ["b"], 3: ["c"]}}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"spacing": [1, 1, -1]}, "'spacing' is [1, 1, -1]; it must be three positive"),
        ({"modality": "PET"}, "'modality' is 'PET'; it must be CT or MR"),
        ({"layout": "dicom"}, "'layout' is 'dicom'; it must be one of dataset_json, nnunet,"),
        ({"intensity": {"window": [10, 0]}}, "'intensity' is {'window': [10, 0]}; it must be {window"),
        ({"augmentation": {"flip": True}}, "'augmentation' is {'flip': True}; it must be a mapping"),
        ({"augmentation": {"zoom": [1]}}, "'augmentation' is {'zoom': [1]}; it must be a mapping"),
        ({"augmentation": {"flip_axes": 0.1}}, "'augmentation' is {'flip_axes': 0.1}; it must be"),
        ({"split": {"test": 1.5, "val": 0.1}}, "'split' is {'test': 1.5, 'val': 0.1}; it must be {test: "),
        ({"name": "a/b"}, "'name' is 'a/b'; it must be one word"),
        ({"case_numbers": [9, 1]}, "'case_numbers' is [9, 1]; it must be two whole numbers"),
        (
            {"classes": [{"name": "femur", "code": [1]}]},
            "there is no key 'classes.0.code'; use one of: codes",
        ),
        ({"classes": ["femur"]}, "'classes.0' is 'femur'; it must be a mapping of keys to values"),
        ({"layout": 5}, "'layout' is 5; it must be one of dataset_json"),
        ({"prompts": " "}, "'prompts' is ' '; it must be the prompt CSV's path"),
        (
            {"code_names": {1: ["femur"]}},
            "'code_names' names the codes [1]; name exactly the codes [1, 2, 7]",
        ),
        ({"overlapping": True, "layout": "dataset_json"}, "; name exactly the codes [1, 2, 7]"),
        (
            NESTED | {"classes": [{"name": "a", "codes": [1, 2]}, {"name": "b", "codes": [2, 3]}]},
            "nest each pair of classes or keep it apart",
        ),
        (
            NESTED
            | {"classes": [{"name": n, "codes": c} for n, c in [("a", [1, 2]), ("b", [1]), ("c", [2])]]},
            "a code of its own",
        ),
    ],
)
def test_a_wrong_yaml_is_reported_by_file_and_key(tmp_path, changes, message):
    """Further mistakes are in test_corruptions.py."""
    path = write(tmp_path, **changes)
    with pytest.raises(BipvlError) as error:
        load_spec(path)
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_a_file_without_a_mapping_is_reported(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(BipvlError, match=r"broken.yaml: (not readable as YAML|holds no mapping)"):
        load_spec(path)
    with pytest.raises(BipvlError, match=r"absent.yaml: file not found"):
        load_spec(tmp_path / "absent.yaml")


def test_reading_specs_cases_splits_and_prompts_needs_no_torch():
    modules = "checks.dataset, bipvl.data.layouts, bipvl.data.prompts, bipvl.data.splits"
    code = f"import sys, bipvl.data.{modules}; print({{'torch', 'monai'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_shipped_yaml_loads():
    assert [load_spec(name).name for name in dataset_names()] == dataset_names()
