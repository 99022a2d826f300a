"""Every form of a scan gives the same labels on its own grid; bad input gives one clear message."""

import inspect
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from data_files import write_prompts
from dicom_files import write_series
from hypothesis import given, settings
from hypothesis import strategies as st
from test_inversion import BRAIN, HEART, Oracle, affine_of, levels_of, rotation, save_scan, truth_of

import bipvl
from bipvl.common.errors import BipvlError
from bipvl.data.prompts import PromptTable, default_prompts, read_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.deploy.inputs import scans_at, targets_of
from bipvl.deploy.segment import segment_files
from bipvl.engine import predict, scan_grid
from bipvl.engine.build import build_network
from bipvl.engine.run import Run

SHAPE = (30, 25, 33)
OBLIQUE = affine_of(rotation(0.2, 0.3), (1.5, 1.5, 1.5))
VALUES = 40 * (np.rint(levels_of(SHAPE)) + 1)


def oracle(spec: DatasetSpec = HEART, spacing: tuple[float, ...] = (1.5, 1.5, 1.5)) -> Oracle:
    return Oracle(spec, spacing, crop=24)


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """(variant, dataset) → a run with random weights, created once."""
    root = tmp_path_factory.mktemp("untrained")

    def make(variant: str, dataset: str = "mmwhs_ct") -> Path:
        run = Run.plan(
            profile="smoke", dataset=dataset, variant=variant, seed=0, data_root=root / "data", root=root
        )
        if not run.model_folder.is_dir():
            run.claim()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                build_network(run.variant, run.spec, run.config).save_pretrained(run.model_folder)
        return run.directory

    return make


# --- forms of a scan ---


def test_a_file_an_image_and_an_array_give_the_same_result(tmp_path):
    scan = save_scan(tmp_path / "scan.nii.gz", np.rint(levels_of(SHAPE)), OBLIQUE)
    image = nib.load(scan)
    results = [
        bipvl.segment(form, oracle(), progress=False)
        for form in (scan, str(scan), image, (image.get_fdata(), image.affine))
    ]
    for result in results:
        assert np.array_equal(result.labels.dataobj, truth_of(levels_of(SHAPE)))
        assert np.array_equal(result.labels.affine, image.affine)
    counts = [int((truth_of(levels_of(SHAPE)) == code).sum()) for code in HEART.decoded_codes]
    volumes = results[0].volumes.set_index("class")
    assert volumes["voxels"].tolist() == counts and sum(counts) > 0
    np.testing.assert_allclose(volumes["ml"], np.array(counts) * 1.5**3 / 1000, rtol=1e-6)
    assert set(volumes["seed"]) == {3} and set(volumes["cohort"]) == {"synthetic"}


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)], ids=["axial", "sagittal", "coronal"])
@pytest.mark.parametrize("turn", [(0.0, 0.0), (0.2, 0.3)], ids=["straight", "oblique"])
def test_a_dicom_series_gives_the_same_labels_as_nifti(tmp_path, order, turn):
    """Slices are rescaled one by one, and ordered by their positions, not by their file names."""
    affine = affine_of(rotation(*turn) @ np.eye(3)[:, order], (1.4, 1.1, 2.0))
    values = np.rint(40 * (levels_of(SHAPE) + 1) / 4) * 4
    write_series(tmp_path / "series", values, affine, slope=2)
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), tmp_path / "scan.nii.gz")
    from_series, from_file = (
        bipvl.segment(tmp_path / name, oracle(spacing=(1.5, 1.5, 2.0)), progress=False)
        for name in ("series", "scan.nii.gz")
    )
    np.testing.assert_allclose(from_series.labels.affine, from_file.labels.affine, atol=1e-4)
    assert np.array_equal(from_series.labels.dataobj, from_file.labels.dataobj)
    assert (from_file.volumes["voxels"] > 100).sum() == 3


def test_a_left_handed_grid_gives_the_same_labels_in_the_world(tmp_path):
    """DICOM has no left-handed grids, so the slices come in reverse order."""
    mirrored = OBLIQUE @ np.diag((1, 1, -1, 1))
    write_series(tmp_path / "series", VALUES, mirrored)
    labels = bipvl.segment(tmp_path / "series", oracle(), progress=False).labels
    assert np.array_equal(labels.get_fdata()[..., ::-1], truth_of(levels_of(SHAPE)))
    last = mirrored @ (0, 0, SHAPE[2] - 1, 1)
    np.testing.assert_allclose(labels.affine[:3, 3], last[:3], atol=1e-4)


def other_series(folder: Path) -> None:
    write_series(folder, VALUES[..., :4], OBLIQUE, series="two")


def shifted(files: list[Path], at: int, by: tuple[float, float, float]) -> None:
    import pydicom

    ds = pydicom.dcmread(files[at])
    ds.ImagePositionPatient = [float(a) + b for a, b in zip(ds.ImagePositionPatient, by, strict=True)]
    ds.save_as(files[at])


def without_position(file: Path) -> None:
    import pydicom

    ds = pydicom.dcmread(file)
    del ds.ImagePositionPatient
    ds.save_as(file)


STRAIGHT = affine_of(np.eye(3), 1.5)
BROKEN_SERIES = {
    "two_series": (lambda folder, files: other_series(folder), "holds 2 DICOM series"),
    "missing_slice": (lambda folder, files: files[5].unlink(), "slices are missing or unevenly spaced"),
    "uneven": (lambda folder, files: shifted(files, 5, (0, 0, 0.4)), "slices are missing or unevenly spaced"),
    "duplicated_slice": (lambda folder, files: shifted(files, 5, (0, 0, 1.5)), "two slices at one position"),
    "text_file": (lambda folder, files: (folder / "notes.txt").write_text("x"), "cannot be read as slices"),
    "no_scan": (lambda folder, files: [f.write_text("x") for f in files], "no scan in this folder"),
    "single_slice": (lambda folder, files: [f.unlink() for f in files[1:]], "a single slice"),
    "tilted": (
        lambda folder, files: [shifted(files, k, (0, 0.3 * k, 0)) for k in range(len(files))],
        "tilted gantry",
    ),
    "slice_of_another_size": (
        lambda folder, files: write_series(folder, VALUES[:9, :9, :3], STRAIGHT),
        "several sizes",
    ),
    "cut_short": (
        lambda folder, files: files[3].write_bytes(files[3].read_bytes()[:-600]),
        "cannot be read as slices",
    ),
    "no_position": (lambda folder, files: without_position(files[3]), "has no position"),
}


@pytest.mark.parametrize(("spoil", "problem"), BROKEN_SERIES.values(), ids=BROKEN_SERIES)
def test_a_series_that_is_not_a_volume_is_reported(tmp_path, spoil, problem):
    folder = tmp_path / "series"
    spoil(folder, write_series(folder, VALUES[..., :12], STRAIGHT))
    with pytest.raises(BipvlError, match=problem) as error:
        segment_files(folder, oracle(), tmp_path / "out" / "labels.nii.gz", progress=False)
    assert folder in (error.value.file, error.value.file.parent)
    assert error.value.fix and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_positions_may_be_rounded(tmp_path):
    files = write_series(tmp_path / "series", VALUES, STRAIGHT)
    for k in range(len(files)):
        shifted(files, k, (0, 0, 0.05 * (-1) ** k))
    assert bipvl.segment(tmp_path / "series", oracle(), progress=False).labels.shape == SHAPE


def test_a_dicom_segmentation_has_each_class_on_the_slices_of_its_series(tmp_path):
    import highdicom
    import pydicom

    files = write_series(tmp_path / "series", VALUES, OBLIQUE)
    output = tmp_path / "out" / "mask.nii.gz"
    segment_files(tmp_path / "series", oracle(), output, dicom_seg=True, progress=False)
    seg = highdicom.seg.segread(output.with_name("mask.dcm"))
    assert [s.SegmentLabel for s in seg.SegmentSequence] == [c.name for c in HEART.classes]
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    found = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    codes = np.array([0, *HEART.decoded_codes])[found]  # slices × rows × columns
    assert np.array_equal(codes.T, truth_of(levels_of(SHAPE)))
    with pytest.raises(BipvlError, match=r"mask\.nii\.gz: not a DICOM series.*; give the folder of a series"):
        segment_files(output, oracle(), tmp_path / "other.nii.gz", dicom_seg=True, progress=False)


# --- output files ---


def test_each_scan_in_a_folder_is_segmented(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, size in (("b.nii.gz", 20), ("a.nii", 24)):
        save_scan(scans / name, np.rint(levels_of((size,) * 3)), OBLIQUE)
    (scans / "a.json").write_text("{}")
    segment_files(scans, oracle(), tmp_path / "out", progress=False)
    assert written(tmp_path / "out") == ["a.json", "a.nii.gz", "b.json", "b.nii.gz", "volumes.csv"]
    volumes = pd.read_csv(tmp_path / "out" / "volumes.csv")
    assert volumes["scan"].drop_duplicates().tolist() == ["a", "b"]
    for name, scan in (("a", "a.nii"), ("b", "b.nii.gz")):
        labels = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert labels.shape == nib.load(scans / scan).shape
        counts = [int((labels.get_fdata() == code).sum()) for code in HEART.decoded_codes]
        assert volumes.loc[volumes["scan"] == name, "voxels"].tolist() == counts
    results = bipvl.segment(scans, oracle(), progress=False)
    assert [result.scan for result in results] == ["a", "b"]


def test_the_json_file_names_the_codes_the_run_and_the_scan(tmp_path):
    scan = save_scan(tmp_path / "scan.nii", np.rint(levels_of((20,) * 3)), OBLIQUE)
    segment_files(scan, oracle(), tmp_path / "out" / "mask.nii.gz", progress=False)
    facts = json.loads((tmp_path / "out" / "mask.json").read_text())
    names = dict(zip(HEART.decoded_codes, (c.name for c in HEART.classes), strict=True))
    assert facts["labels"] == {"0": "background"} | {str(k): names[k] for k in sorted(names)}
    assert (facts["profile"], facts["cohort"], facts["seed"]) == ("quick", "synthetic", 3)
    assert facts["scan"] == str(scan) and facts["prompts"] is None
    assert written(tmp_path / "out") == ["mask.csv", "mask.json", "mask.nii.gz"]
    with pytest.raises(BipvlError, match=r"mask\.png: cannot be written .* ends in \.nii\.gz"):
        bipvl.segment(scan, oracle(), progress=False).save(tmp_path / "out" / "mask.png")
    assert written(tmp_path / "out") == ["mask.csv", "mask.json", "mask.nii.gz"]


def test_the_same_command_writes_the_same_bytes(tmp_path):
    scan = save_scan(tmp_path / "scan.nii", levels_of((20,) * 3), OBLIQUE)
    for _ in range(2):
        segment_files(scan, oracle(), tmp_path / "out" / "m.nii.gz", probabilities=True, progress=False)
        (tmp_path / "out").rename(tmp_path / f"out{len([*tmp_path.iterdir()])}")
    first, second = sorted(tmp_path.glob("out*"))
    assert written(first) == written(second)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in written(first))


def test_the_labels_are_the_most_probable_classes(tmp_path):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of(SHAPE), OBLIQUE)
    result = bipvl.segment(scan, oracle(), probabilities=True, progress=False)
    assert [*result.probabilities] == [c.name for c in HEART.classes]
    each = np.stack([image.get_fdata() for image in result.probabilities.values()])
    best = np.concatenate([1 - each.sum(0, keepdims=True), each]).argmax(0)
    inside = each.sum(0) > 0  # the working grid ends at the body surface
    codes = np.array([0, *HEART.decoded_codes])[best]
    assert np.mean(codes[inside] == result.labels.get_fdata()[inside]) > 0.9999
    result.save(tmp_path / "out" / "mask.nii.gz")
    files = written(tmp_path / "out" / "mask_probabilities")
    assert len(files) == HEART.num_classes
    code, name = HEART.decoded_codes[0], HEART.classes[0].name
    saved = nib.load(tmp_path / "out" / "mask_probabilities" / f"{code:02d}_{name.replace(' ', '_')}.nii.gz")
    np.testing.assert_allclose(saved.get_fdata(), each[0], atol=1e-6)
    assert bipvl.segment(scan, oracle(), progress=False).probabilities is None


def test_volumes_of_nested_classes_include_the_inner_ones(tmp_path):
    """A voxel of the label map holds the innermost class, but each volume is that of the entire class."""
    levels = np.rint(levels_of(SHAPE))
    stack = np.stack([40 * (np.where(levels >= c, 1, 0) + 1) * (levels > -1) for c in (2, 1, 3, 1)], -1)
    nib.save(nib.Nifti1Image(stack.astype(np.float32), OBLIQUE), tmp_path / "brain.nii.gz")
    result = bipvl.segment(tmp_path / "brain.nii.gz", oracle(BRAIN), progress=False)
    assert np.array_equal(result.labels.dataobj, np.clip(levels, 0, 3))
    assert result.volumes["voxels"].tolist() == [int((levels >= c).sum()) for c in (2, 1, 3)]
    array = bipvl.segment((stack, OBLIQUE.astype(np.float32)), oracle(BRAIN), progress=False)
    assert np.array_equal(array.labels.dataobj, result.labels.dataobj)


def write_channels(folder: Path, name: str) -> list[Path]:
    """A brain as in nnU-Net: one file per channel, with different values."""
    levels = np.rint(levels_of(SHAPE))
    files = [folder / f"{name}_{channel:04}.nii.gz" for channel in range(4)]
    folder.mkdir(exist_ok=True)
    for number, file in zip((2, 1, 3, 1), files, strict=True):
        values = 40 * (np.where(levels >= number, 1, 0) + 1) * (levels > -1)
        nib.save(nib.Nifti1Image(values.astype(np.float32), OBLIQUE), file)
    return files


def test_one_file_per_channel_gives_the_same_result_as_one_file(tmp_path):
    files = write_channels(tmp_path / "scans", "a_b")
    write_channels(tmp_path / "scans", "c")
    stack = np.stack([nib.load(file).get_fdata() for file in files], -1)
    stacked = tmp_path / "scans" / "d_0002.nii.gz"  # a single file may have such a name too
    nib.save(nib.Nifti1Image(stack.astype(np.float32), OBLIQUE), stacked)
    segment_files(tmp_path / "scans", oracle(BRAIN), tmp_path / "out", progress=False)
    wanted = bipvl.segment((stack, OBLIQUE), oracle(BRAIN), progress=False).labels
    for name in ("a_b", "c", "d_0002"):
        labels = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert np.array_equal(labels.dataobj, wanted.dataobj)
        assert np.allclose(labels.affine, OBLIQUE)
    assert pd.read_csv(tmp_path / "out" / "volumes.csv")["scan"].unique().tolist() == ["a_b", "c", "d_0002"]
    facts = json.loads((tmp_path / "out" / "a_b.json").read_text())
    assert facts["scan"] == f"{files[0]} … a_b_0003.nii.gz"
    one = bipvl.segment(files[2], oracle(BRAIN), progress=False)  # any of the files
    assert one.scan == "a_b" and np.array_equal(one.labels.dataobj, wanted.dataobj)
    listed = bipvl.segment(files, oracle(BRAIN), progress=False)
    assert listed.scan == "a_b" and np.array_equal(listed.labels.dataobj, wanted.dataobj)
    # With one channel, each file is a scan.
    assert scans_at(tmp_path / "scans") == sorted((tmp_path / "scans").iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: f[2].unlink(),
            r"x_0002\.nii\.gz: file not found, but x_0000\.nii\.gz holds one of 4 channels; copy",
        ),
        (lambda f: save_scan(f[1], np.ones((9, 9, 9)), OBLIQUE), r"x_0001\.nii\.gz: has 9 x 9 x 9 voxels"),
        (
            lambda f: save_scan(f[3], np.ones(SHAPE), OBLIQUE * 2),
            r"x_0003\.nii\.gz: is not on the grid of its first channel",
        ),
        (
            lambda f: f[1].write_bytes(f[1].read_bytes()[:-9]),
            r"x_0001\.nii\.gz: not readable as NIfTI .*; download",
        ),
    ],
    ids=["missing", "smaller", "elsewhere", "cut_short"],
)
def test_channels_that_do_not_fit_together_are_reported(tmp_path, spoil, message):
    spoil(write_channels(tmp_path / "scans", "x"))
    with pytest.raises(BipvlError, match=message):
        segment_files(tmp_path / "scans", oracle(BRAIN), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


# --- large scans ---


def test_slabs_give_the_same_labels_and_limit_what_is_resampled_at_once(tmp_path, monkeypatch):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of(SHAPE), affine_of(rotation(0.1, 0.4), 1.3))
    whole = bipvl.segment(scan, oracle(), probabilities=True, progress=False)
    sizes = []
    resampled = scan_grid.resampled
    monkeypatch.setattr(scan_grid, "resampled", lambda *a: sizes.append(resampled(*a)) or sizes[-1])
    slab = 4 * SHAPE[1] * SHAPE[2] * HEART.out_channels  # four rows
    monkeypatch.setattr(scan_grid, "SLAB", slab)
    parts = bipvl.segment(scan, oracle(), probabilities=True, progress=False)
    assert np.array_equal(parts.labels.dataobj, whole.labels.dataobj)
    assert len(sizes) == 8 and max(size.numel() for size in sizes) == slab
    name = HEART.classes[1].name
    found, wanted = (r.probabilities[name].get_fdata() for r in (parts, whole))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_probabilities_replace_the_logits_in_place(monkeypatch):
    monkeypatch.setattr(scan_grid, "SLAB", 50)
    logits = torch.randn(3, 7, 4, 5)
    wanted = logits.softmax(0)
    found = scan_grid.to_probabilities_(logits, overlapping=False)
    assert found is logits
    torch.testing.assert_close(found, wanted)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(3, 30)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.8]), st.integers(1, 3))
def test_the_windows_are_counted_for_any_batch_size(shape, overlap, at_once):
    seen = []
    predictor = lambda crops: seen.extend(crops) or crops.clone()  # noqa: E731
    crop = (8, 12, 8)
    image = torch.rand(1, *shape)
    same = predict.predict_volume(
        predictor, image, crop=crop, overlap=overlap, at_once=at_once, device=torch.device("cpu")
    )
    assert predict.count_windows(shape, crop, overlap) == len(seen)
    torch.testing.assert_close(same, image)


# --- bad input ---


@pytest.mark.parametrize(
    ("shape", "spec", "problem"),
    [
        ((12, 12), HEART, "has 2 spatial axes, but a scan has three"),
        ((12, 12, 12, 5), HEART, "has 5 channels, but .* has 1"),
        ((12, 12, 12), BRAIN, "has 1 channels, but .* has 4"),
        ((12, 12, 12, 1, 2), HEART, "has 4 spatial axes"),
    ],
)
def test_a_scan_of_the_wrong_shape_is_reported_on_disk_and_in_memory(tmp_path, shape, spec, problem):
    image = nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4))
    nib.save(image, tmp_path / "scan.nii.gz")
    for form in (tmp_path / "scan.nii.gz", image, (np.ones(shape), np.eye(4))):
        with pytest.raises(BipvlError, match=problem):
            bipvl.segment(form, oracle(spec), progress=False)
    with pytest.raises(BipvlError, match=r"scan\.nii\.gz: has .*; (give|stack)"):
        segment_files(tmp_path / "scan.nii.gz", oracle(spec), tmp_path / "out.nii.gz", progress=False)
    assert written(tmp_path) == ["scan.nii.gz"]


def test_a_bad_scan_in_a_folder_is_reported_before_any_is_segmented(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    save_scan(scans / "a.nii.gz", levels_of((20,) * 3), OBLIQUE)
    (scans / "b.nii.gz").write_bytes(b"no image")
    with pytest.raises(BipvlError, match=r"b\.nii\.gz: not readable"):
        segment_files(scans, oracle(), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_array_without_a_valid_affine_or_with_nan_is_reported():
    for affine in (None, np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)):
        with pytest.raises(BipvlError, match=r"affine of 4 × 4 .*; give both as \(array, affine\)"):
            bipvl.segment((np.ones((8, 8, 8)), affine), oracle())
    with pytest.raises(BipvlError, match="holds voxels that are not finite; replace them"):
        bipvl.segment((np.full((8, 8, 8), np.nan), np.eye(4)), oracle(), progress=False)


@pytest.mark.parametrize(
    ("image", "output", "message"),
    [
        ("missing", "out", "^missing: file not found; give a NIfTI file"),
        ("notes.txt", "out.nii.gz", r"^notes\.txt: not a NIfTI file .* for a DICOM series give its folder"),
        ("empty", "out", "^empty: no scan in this folder; give the folder"),
        ("scans/a.nii.gz", "out.png", r"^out\.png: .* ends in \.nii\.gz or \.nii"),
        ("scans/a.nii.gz", "folder.nii.gz", r"^folder\.nii\.gz: .* ends in \.nii\.gz or \.nii"),
        ("scans/a.nii.gz", "scans/a.nii.gz", r"^scans/a\.nii\.gz: .* the scan itself; give another"),
        ("scans/a.nii.gz", "scans/../scans/a.nii", "the scan itself"),  # its a.json would be replaced
        ("scans", "scans", "the scan itself"),
        ("scans", "out.nii.gz", r"^out\.nii\.gz: .* scans is a folder of scans; give a folder"),
        ("scans", "notes.txt", r"^notes\.txt: .* scans is a folder of scans; give a folder"),
        ("twins", "out", r"^out/a\.nii\.gz: twins/a\.nii and .* both .*; rename one"),
        ("series", "series/labels.nii.gz", "the folder of the series itself; give another folder"),
    ],
)
def test_a_result_never_overwrites_a_scan(tmp_path, monkeypatch, image, output, message):
    monkeypatch.chdir(tmp_path)
    for name in ("scans/a.nii.gz", "twins/a.nii.gz", "twins/a.nii", "notes.txt", "series/1.dcm"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for name in ("empty", "folder.nii.gz"):
        Path(name).mkdir()
    with pytest.raises(BipvlError, match=message):
        targets_of(image, scans_at(image), output)


# --- runs and prompts ---


def test_a_folder_without_a_run_or_a_network_is_reported(tmp_path, untrained):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((20,) * 3), OBLIQUE)
    with pytest.raises(BipvlError, match="holds no run"):
        segment_files(scan, tmp_path, tmp_path / "out.nii.gz")
    stopped = tmp_path / "stopped"
    shutil.copytree(untrained("swin_unetr_v2"), stopped, ignore=shutil.ignore_patterns("model"))
    with pytest.raises(BipvlError, match=r"stopped: no trained network .*; train it first"):
        segment_files(scan, stopped, tmp_path / "out.nii.gz")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["scan.nii.gz"]


def test_other_prompts_are_used_and_recorded(tmp_path, untrained):
    run = untrained("bipvlseg")
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((24,) * 3), OBLIQUE)
    table = read_prompts(write_prompts(HEART, tmp_path / "mine.csv"))
    own = bipvl.segment(scan, run, probabilities=True, progress=False)
    segmenter = bipvl.Segmenter(run=Run.open(run))
    mine, same, again = (
        bipvl.segment(scan, model, prompts, probabilities=True, progress=False)
        for model, prompts in (
            (run, tmp_path / "mine.csv"),
            (segmenter, default_prompts(HEART)),
            (segmenter, table),
        )
    )
    name = HEART.classes[0].name
    first = [result.probabilities[name].get_fdata() for result in (own, same, mine, again)]
    assert np.array_equal(first[0], first[1]) and np.array_equal(first[2], first[3])
    assert not np.allclose(first[0], first[2], atol=1e-6)
    assert mine.facts["prompts"]["texts"][name] == table.segments()[0]
    assert mine.facts["prompts"]["from"] == str(tmp_path / "mine.csv")
    assert own.facts["prompts"]["from"] == "the dataset's own"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: [*rows, rows[0] | {"Title": "Spleen in a CT Image"}], "row 8, 'Spleen"),
        (lambda rows: [rows[0] | {"Title": "Spleen"}, *rows[1:]], "row 1, 'Spleen'"),
        (lambda rows: rows[:-1], "has 6 rows"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "row 1"),
        (lambda rows: [*rows[:2], rows[2] | {"Location": " "}, *rows[3:]], "row 3 has no text"),
        (
            lambda rows: [*rows[:2], rows[2] | {"Location": "left " * 2000}, *rows[3:]],
            r"row 3 .* its column Location \(200\d tokens\)",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_reported(tmp_path, untrained, change, problem):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((20,) * 3), OBLIQUE)
    rows = tuple(change([*default_prompts(HEART).rows]))
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    run = Run.open(untrained("bipvlseg"))
    for prompts in (tmp_path / "mine.csv", PromptTable("mine", rows)):
        with pytest.raises(BipvlError, match=problem) as error:
            segment_files(scan, run, tmp_path / "out.nii.gz", prompts, progress=False)
        assert "mine" in str(error.value.file) and error.value.fix
    assert written(tmp_path) == ["mine.csv", "scan.nii.gz"]


def test_with_the_prompted_head_the_rows_define_the_classes(tmp_path, untrained):
    scan = save_scan(tmp_path / "scan.nii.gz", VALUES, OBLIQUE)
    run = untrained("bipvlseg-prompted")
    rows = default_prompts(HEART).rows
    whole = bipvl.segment(scan, run, progress=False)
    turned = bipvl.segment(scan, run, PromptTable("turned", rows[::-1]), progress=False)
    same = np.asarray(whole.labels.dataobj) == np.asarray(turned.labels.dataobj)
    assert same.mean() > 0.999  # the codes follow the rows; the rest is rounding
    assert len(np.unique(whole.labels.dataobj)) > 2

    rib = dict.fromkeys(rows[0], "thin and bright") | {"Title": "A rib in a CT image"}
    some = bipvl.segment(scan, run, PromptTable("some", (rows[4], rows[0], rib)), progress=False)
    assert some.volumes[["class", "code"]].to_numpy().tolist() == [
        ["myocardium of the left ventricle", 205],
        ["left ventricle", 500],
        ["A rib in a CT image", 851],  # the data set's highest code is 850
    ]
    assert set(np.unique(some.labels.dataobj)) <= {0, 205, 500, 851}
    assert some.facts["labels"]["851"] == "A rib in a CT image"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ((), "'mine': has no row; give one row for each class to segment"),
        ((0, 1, 0), "names the class 'left ventricle' again in row 3"),
    ],
)
def test_rows_that_define_no_classes_are_reported(tmp_path, untrained, rows, problem):
    scan = save_scan(tmp_path / "scan.nii.gz", VALUES, OBLIQUE)
    table = PromptTable("mine", tuple(default_prompts(HEART).rows[row] for row in rows))
    with pytest.raises(BipvlError, match=problem):
        bipvl.segment(scan, untrained("bipvlseg-prompted"), table, progress=False)


def test_prompts_for_a_network_without_language_are_an_error(tmp_path, untrained):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((20,) * 3), OBLIQUE)
    with pytest.raises(BipvlError, match="'swin_unetr_v2' reads no prompts"):
        bipvl.segment(scan, untrained("swin_unetr_v2"), default_prompts(HEART))


def test_bipvl_segment_is_the_function_not_the_module():
    assert inspect.isfunction(bipvl.segment) and bipvl.segment.__module__ == "bipvl.deploy.segment"
