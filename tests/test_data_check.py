import numpy as np
import pytest
from data_files import SHAPE, image_of, label_of, save, write_dataset, write_prompts

from bipvl.data.check import check_dataset
from bipvl.data.spec import load_spec

HEART, BRAIN = load_spec("mmwhs_ct"), load_spec("msd_brain")
IDS = [f"ct_train_{i}" for i in range(1001, 1004)]


@pytest.fixture
def heart(tmp_path):
    folder = write_dataset(HEART, tmp_path, {"training": IDS})
    write_prompts(HEART, tmp_path / "heart.csv")
    return folder


def faults(tmp_path, spec=HEART, prompts="heart.csv"):
    return check_dataset(spec, tmp_path, tmp_path / prompts)


def test_a_sound_dataset_has_no_fault(tmp_path, heart):
    assert faults(tmp_path) == []


def test_all_faults_of_all_cases_are_found_at_once(tmp_path, heart):
    (heart / "ct_train_1001_label.nii.gz").unlink()
    save(heart / "ct_train_1002_label.nii.gz", np.full(SHAPE, 7, np.int16))
    save(heart / "ct_train_1003_label.nii.gz", np.zeros(SHAPE, np.int16), np.diag([2.0, 1, 1, 1]))
    (tmp_path / "heart.csv").write_text("Title\n")
    found = [(fault.file.rsplit("/")[-1], fault.fault.split(",")[0]) for fault in faults(tmp_path)]
    assert found == [
        ("heart.csv", "lacks the columns Shape"),
        ("ct_train_1001_label.nii.gz", "is missing"),
        ("ct_train_1002_label.nii.gz", "holds the undeclared codes 7 (declared: 0"),
        ("ct_train_1003_label.nii.gz", "holds background only"),
        ("ct_train_1003_label.nii.gz", "lies elsewhere than its image (affines differ by up to 1 mm)"),
    ]
    assert all(fault.fix for fault in faults(tmp_path))


@pytest.mark.parametrize("kept", [0, 0.1, 0.7])
@pytest.mark.parametrize("which", ["image", "label"])
def test_a_file_cut_short_is_found(tmp_path, heart, which, kept):
    path = heart / f"ct_train_1002_{which}.nii.gz"
    save(path, np.random.default_rng(0).choice(np.array([0, 500], np.int16), SHAPE))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert [(f.file, f.fault[:14]) for f in faults(tmp_path)] == [(str(path), "cannot be read")]


@pytest.mark.parametrize(
    "image, told",
    [
        (np.ones((*SHAPE, 4), np.float32), "has 4 channels, but MM-WHS (cardiac CT) has 1 (CT)"),
        (np.ones(SHAPE[:2], np.float32), "has 2 spatial axes"),
        (np.full(SHAPE, np.nan, np.float32), "not finite"),
    ],
)
def test_a_wrong_image_is_found(tmp_path, heart, image, told):
    path = save(heart / "ct_train_1001_image.nii.gz", image)
    assert any(fault.file == str(path) and told in fault.fault for fault in faults(tmp_path))


def test_a_label_of_another_size_or_with_halves_is_found(tmp_path, heart):
    save(heart / "ct_train_1001_label.nii.gz", label_of(HEART, (9, 8, 6)))
    save(heart / "ct_train_1002_label.nii.gz", label_of(HEART).astype(np.float32) + 0.5)
    assert [fault.fault for fault in faults(tmp_path)] == [
        "is 9 x 8 x 6 voxels, but its image is 9 x 8 x 7",
        "holds labels that are not whole numbers, such as 0.5",
    ]


def test_brain_needs_four_channels(tmp_path):
    folder = write_dataset(BRAIN, tmp_path, {"training": ["BRATS_001", "BRATS_002"]})
    write_prompts(BRAIN, tmp_path / "brain.csv")
    assert faults(tmp_path, BRAIN, "brain.csv") == []
    save(folder / "imagesTr/BRATS_001.nii.gz", image_of(BRAIN)[..., :3])
    (fault,) = faults(tmp_path, BRAIN, "brain.csv")
    assert "has 3 channels" in fault.fault and "FLAIR, T1w, T1gd, T2w" in fault.fault


def test_a_fault_that_stops_the_listing_is_reported_beside_the_others(tmp_path):
    write_prompts(HEART, tmp_path / "brain.csv")
    found = faults(tmp_path, BRAIN, "brain.csv")
    assert [fault.fault[:13] for fault in found] == ["has 7 rows", "is not a fold"]
