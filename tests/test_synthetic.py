"""Synthetic cohorts: file layout, anatomy in world coordinates, and reproducible bytes."""

import json
import socket
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bipvl.common.errors import BipvlError
from bipvl.data.synthetic import GENERATOR_VERSION, synthesize
from bipvl.engine.data_root import synthetic_cohort

AMOS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "liver": 6,
    "aorta": 8,
    "inferior vena cava": 9,
    "right adrenal gland": 11,
    "left adrenal gland": 12,
    "bladder": 14,
}
HEART_CODES = {205, 420, 500, 550, 600, 820, 850}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cohort of each data set, made without network access."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a synthetic cohort needs no network")

    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        synthesize("amos22", root, cases=5, size=(44, 44, 44), progress=False)
        synthesize("mmwhs_ct", root, cases=3, size=(24, 24, 24), progress=False)
        synthesize("mmwhs_mr", root, cases=3, size=(24, 24, 24), progress=False)
        synthesize("msd_brain", root, cases=4, size=(32, 32, 32), progress=False)
    return root


def pairs(root: Path, dataset: str) -> list[tuple[nib.Nifti1Image, nib.Nifti1Image]]:
    """Every image of a data set with its label."""
    if dataset.startswith("mmwhs"):
        images = sorted((root / "mmwhs" / f"{dataset[-2:]}_train").glob("*_image.nii.gz"))
        paths = [(image, Path(str(image).replace("_image", "_label"))) for image in images]
    else:
        folder = root / {"amos22": "amos22", "msd_brain": "Task01_BrainTumour"}[dataset]
        index = json.loads((folder / "dataset.json").read_text())
        entries = index["training"] + index.get("validation", [])
        paths = [(folder / entry["image"], folder / entry["label"]) for entry in entries]
    return [(nib.load(image), nib.load(label)) for image, label in paths]


def centre_of_mass(label: nib.Nifti1Image, code: int) -> np.ndarray:
    """Centre of mass of a structure in RAS+ world millimetres."""
    voxels = np.argwhere(np.asarray(label.dataobj) == code)
    return nib.affines.apply_affine(label.affine, voxels).mean(0)


def test_file_layouts_match_the_benchmarks(root: Path) -> None:
    amos = json.loads((root / "amos22/dataset.json").read_text())
    assert amos["training"][0] == {
        "image": "./imagesTr/amos_0001.nii.gz",
        "label": "./labelsTr/amos_0001.nii.gz",
    }
    assert amos["validation"][0]["image"] == "./imagesVa/amos_0401.nii.gz"
    assert (amos["labels"]["9"], amos["labels"]["15"]) == ("postcava", "prostate/uterus")
    assert (root / "mmwhs/ct_train/ct_train_1001_image.nii.gz").exists()
    assert (root / "mmwhs/mr_train/mr_train_1003_label.nii.gz").exists()
    msd = json.loads((root / "Task01_BrainTumour/dataset.json").read_text())
    assert msd["modality"] == {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    counts = [len(pairs(root, name)) for name in ("amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain")]
    assert counts == [5, 3, 3, 4]
    left = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    assert left == ["Task01_BrainTumour", "amos22", "cohort.json", "mmwhs"]


def test_cohort_json_records_the_arguments(root: Path) -> None:
    record = json.loads((root / "cohort.json").read_text())
    assert record["cohort"] == "synthetic"
    assert record["generator_version"] == GENERATOR_VERSION
    assert record["datasets"]["amos22"] == {"seed": 0, "size": [44, 44, 44], "cases": 5}


@pytest.mark.parametrize(
    ("dataset", "codes"),
    [
        ("amos22", set(range(1, 16))),
        ("mmwhs_ct", HEART_CODES),
        ("mmwhs_mr", HEART_CODES),
        ("msd_brain", {1, 2, 3}),
    ],
)
def test_labels_hold_every_code_and_no_other(root: Path, dataset: str, codes: set[int]) -> None:
    found = {int(c) for _, label in pairs(root, dataset) for c in np.unique(np.asarray(label.dataobj))}
    assert found == codes | {0}


@pytest.mark.parametrize("dataset", ["amos22", "mmwhs_ct", "mmwhs_mr", "msd_brain"])
def test_image_and_label_share_a_grid_and_files_differ_in_orientation(root: Path, dataset: str) -> None:
    for image, label in pairs(root, dataset):
        assert image.shape[:3] == label.shape
        assert np.array_equal(image.affine, label.affine)
        assert np.allclose(image.get_sform(), image.get_qform(), atol=1e-4)
    everything = [image for name in ("amos22", "mmwhs_mr", "msd_brain") for image, _ in pairs(root, name)]
    assert len({nib.aff2axcodes(image.affine) for image in everything}) >= 3
    assert len({image.header.get_zooms()[:3] for image in everything}) == len(everything)


def test_organs_are_on_the_correct_side(root: Path) -> None:
    for _, label in pairs(root, "amos22"):
        at = {
            name: centre_of_mass(label, code)
            for name, code in AMOS.items()
            if (np.asarray(label.dataobj) == code).any()
        }
        assert at["liver"][0] > at["spleen"][0] + 60  # RAS+: x increases to the patient's right
        assert at["right kidney"][0] > at["left kidney"][0] + 60
        assert at["inferior vena cava"][0] > at["aorta"][0] + 10
        for side in ("right", "left"):
            assert at[f"{side} adrenal gland"][2] > at[f"{side} kidney"][2] + 25
        if "bladder" in at:
            assert at["bladder"][2] < at["right kidney"][2] - 60


def test_the_heart_points_left_and_forward(root: Path) -> None:
    for dataset in ("mmwhs_ct", "mmwhs_mr"):
        for _, label in pairs(root, dataset):
            assert (
                centre_of_mass(label, 550)[0] > centre_of_mass(label, 500)[0]
            )  # right atrium, left ventricle
            assert (
                centre_of_mass(label, 420)[1] < centre_of_mass(label, 600)[1]
            )  # left atrium behind the right ventricle
            assert (
                centre_of_mass(label, 820)[2] > centre_of_mass(label, 500)[2]
            )  # the aorta rises above the ventricle


def test_hounsfield_units_are_plausible(root: Path) -> None:
    for image, label in pairs(root, "amos22"):
        hu, codes = np.asarray(image.dataobj), np.asarray(label.dataobj)
        assert hu.dtype == np.int16
        assert 80 < np.median(hu[codes == AMOS["liver"]]) < 140
        assert np.median(hu[codes == AMOS["aorta"]]) > 150
        assert np.percentile(hu, 5) < -950  # air around the body
        fat = hu[(hu > -160) & (hu < -60)]
        assert fat.size > 0.03 * hu.size


def test_brain_is_stripped_and_tumour_parts_are_nested(root: Path) -> None:
    for image, label in pairs(root, "msd_brain"):
        volume, codes = np.asarray(image.dataobj), np.asarray(label.dataobj)
        assert volume.ndim == 4
        assert volume.shape[-1] == 4
        inside = (volume > 0).all(-1)
        assert np.array_equal(inside, (volume > 0).any(-1))
        assert 0.1 < inside.mean() < 0.4
        assert not codes[~inside].any()
        whole, core = codes > 0, np.isin(codes, (2, 3))
        assert 0 < core.sum() < whole.sum()
        flair, t1gd = volume[..., 0], volume[..., 2]
        assert np.median(flair[codes == 1]) > 1.2 * np.median(flair[inside & ~whole])
        if (codes == 3).any():  # not every tumour takes up contrast medium
            assert np.median(t1gd[codes == 3]) > 1.2 * np.median(t1gd[codes == 1])


def test_same_seed_gives_same_bytes_for_any_number_of_cases(tmp_path: Path) -> None:
    for name, cases, seed in (("a", 2, 3), ("b", 3, 3), ("c", 2, 4)):
        synthesize("mmwhs_mr", tmp_path / name, cases=cases, size=(16, 16, 16), seed=seed, progress=False)
    for kind in ("image", "label"):
        file = f"mmwhs/mr_train/mr_train_1001_{kind}.nii.gz"
        first, more, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == more
        assert first != other


def test_a_complete_cohort_is_kept_and_different_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(**changed: object) -> Path:
        return synthesize("mmwhs_ct", tmp_path, **{"cases": 2, "size": (16, 16, 16)} | changed)

    make(progress=False)
    file = tmp_path / "mmwhs/ct_train/ct_train_1001_image.nii.gz"
    stamp = file.stat().st_mtime_ns
    assert make() == tmp_path
    assert file.stat().st_mtime_ns == stamp
    assert "already holds this synthetic cohort" in "".join(capsys.readouterr())
    with pytest.raises(BipvlError, match=r"holds a synthetic cohort of .*choose another data root") as caught:
        make(seed=1)
    assert caught.value.file == tmp_path / "mmwhs/ct_train"


@pytest.mark.parametrize("name", ["msd_hippocampus", "openkbp"])
def test_a_data_set_without_a_synthetic_cohort_says_how_to_get_its_scans(tmp_path: Path, name: str) -> None:
    message = f"{name} has no synthetic cohort; download its scans with `bipvl fetch {name} --data-root data`"
    with pytest.raises(BipvlError, match=message):
        synthesize(name, tmp_path)
    with pytest.raises(BipvlError, match=message):
        synthetic_cohort("quick", name)


def test_real_data_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "amos22").mkdir()
    with pytest.raises(BipvlError, match="amos22: holds data that bipvl has not synthesized; choose another"):
        synthesize("amos22", tmp_path, size=(16, 16, 16))
    assert not (tmp_path / "cohort.json").exists()


@pytest.mark.parametrize(
    ("dataset", "arguments", "sentence"),
    [
        ("amos", {}, "no synthetic cohort 'amos'; choose one of: amos22"),
        ("amos22", {"cases": 1}, "1 cases cannot be split; ask for at least 2"),
        ("amos22", {"size": (64, 64)}, "three numbers"),
        ("amos22", {"size": (64, 64, 8)}, "too small"),
        ("amos22", {"seed": -1}, "seed -1 is negative; give 0 or more"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, dataset: str, arguments: dict, sentence: str) -> None:
    with pytest.raises(BipvlError, match=sentence):
        synthesize(dataset, tmp_path, **arguments)


def test_an_interrupted_cohort_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bipvl.data.synthetic.cohort.write_nifti", stop)
    with pytest.raises(KeyboardInterrupt):
        synthesize("mmwhs_ct", tmp_path, cases=2, size=(16, 16, 16), progress=False)
    assert not list(tmp_path.glob("mmwhs/*"))
    assert not list(tmp_path.glob("mmwhs/.ct_train.partial*"))
    assert not (tmp_path / "cohort.json").exists()
