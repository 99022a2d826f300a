"""One's own scans: whatever they come as, the same labels on their own grid, or one clear sentence."""

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
from bipvl.engine import predict
from bipvl.engine.run import Run
from bipvl.engine.variants import build_network

SHAPE = (30, 25, 33)
OBLIQUE = affine_of(rotation(0.2, 0.3), (1.5, 1.5, 1.5))
VALUES = 40 * (np.rint(levels_of(SHAPE)) + 1)


class Known(Oracle):
    """The oracle as a run that could be told of."""

    def __init__(self, spec: DatasetSpec = HEART, spacing: tuple[float, ...] = (1.5, 1.5, 1.5)) -> None:
        super().__init__(spec, spacing, crop=24)
        origin = {"cohort": "synthetic", "profile": "quick", "seed": 3}
        self.config |= origin | {"dataset": spec.name, "variant": "swin_unetr_v2"}
        self.run, self.texts = Run(Path("runs/known"), self.config), default_prompts(spec).segments()


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """(variant, dataset) → a run with random weights, made once."""
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


# --- whatever a scan comes as ---


def test_a_file_an_image_and_an_array_are_one_scan(tmp_path):
    scan = save_scan(tmp_path / "scan.nii.gz", np.rint(levels_of(SHAPE)), OBLIQUE)
    image = nib.load(scan)
    results = [
        bipvl.segment(form, Known(), progress=False)
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
def test_a_dicom_series_is_the_same_volume_as_nifti(tmp_path, order, turn):
    """Rescaled slice by slice, and told by positions, not by file names."""
    affine = affine_of(rotation(*turn) @ np.eye(3)[:, order], (1.4, 1.1, 2.0))
    values = np.rint(40 * (levels_of(SHAPE) + 1) / 4) * 4
    write_series(tmp_path / "series", values, affine, slope=2)
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), tmp_path / "scan.nii.gz")
    from_series, from_file = (
        bipvl.segment(tmp_path / name, Known(spacing=(1.5, 1.5, 2.0)), progress=False)
        for name in ("series", "scan.nii.gz")
    )
    np.testing.assert_allclose(from_series.labels.affine, from_file.labels.affine, atol=1e-4)
    assert np.array_equal(from_series.labels.dataobj, from_file.labels.dataobj)
    assert (from_file.volumes["voxels"] > 100).sum() == 3


def test_a_series_taken_from_the_other_end_is_the_same_in_the_world(tmp_path):
    """A left-handed grid: DICOM has no such, so its slices come in the other order."""
    mirrored = OBLIQUE @ np.diag((1, 1, -1, 1))
    write_series(tmp_path / "series", VALUES, mirrored)
    labels = bipvl.segment(tmp_path / "series", Known(), progress=False).labels
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


def unplaced(file: Path) -> None:
    import pydicom

    ds = pydicom.dcmread(file)
    del ds.ImagePositionPatient
    ds.save_as(file)


STRAIGHT = affine_of(np.eye(3), 1.5)
SERIES_FAULTS = {
    "two_series": (lambda folder, files: other_series(folder), "holds 2 DICOM series"),
    "a_slice_missing": (lambda folder, files: files[5].unlink(), "lacks slices or is spaced unevenly"),
    "uneven": (lambda folder, files: shifted(files, 5, (0, 0, 0.4)), "lacks slices or is spaced unevenly"),
    "twice": (lambda folder, files: shifted(files, 5, (0, 0, 1.5)), "two slices at one place"),
    "a_note": (lambda folder, files: (folder / "notes.txt").write_text("x"), "cannot be read as slices"),
    "no_scan": (lambda folder, files: [f.write_text("x") for f in files], "holds no scan"),
    "one_slice": (lambda folder, files: [f.unlink() for f in files[1:]], "a single slice"),
    "tilted": (
        lambda folder, files: [shifted(files, k, (0, 0.3 * k, 0)) for k in range(len(files))],
        "tilted gantry",
    ),
    "a_slice_of_another_size": (
        lambda folder, files: write_series(folder, VALUES[:9, :9, :3], STRAIGHT),
        "several sizes",
    ),
    "cut_short": (
        lambda folder, files: files[3].write_bytes(files[3].read_bytes()[:-600]),
        "cannot be read as slices",
    ),
    "without_a_place": (lambda folder, files: unplaced(files[3]), "does not say where its slice lies"),
}


@pytest.mark.parametrize(("spoil", "told"), SERIES_FAULTS.values(), ids=SERIES_FAULTS)
def test_a_series_that_is_no_volume_is_told(tmp_path, spoil, told):
    folder = tmp_path / "series"
    spoil(folder, write_series(folder, VALUES[..., :12], STRAIGHT))
    with pytest.raises(BipvlError, match=told) as error:
        segment_files(folder, Known(), tmp_path / "out" / "labels.nii.gz", progress=False)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_positions_may_be_written_rounded(tmp_path):
    files = write_series(tmp_path / "series", VALUES, STRAIGHT)
    for k in range(len(files)):
        shifted(files, k, (0, 0, 0.05 * (-1) ** k))
    assert bipvl.segment(tmp_path / "series", Known(), progress=False).labels.shape == SHAPE


def test_a_dicom_segmentation_holds_each_class_on_the_slices_of_its_series(tmp_path):
    import highdicom
    import pydicom

    files = write_series(tmp_path / "series", VALUES, OBLIQUE)
    output = tmp_path / "out" / "mask.nii.gz"
    segment_files(tmp_path / "series", Known(), output, dicom_seg=True, progress=False)
    seg = highdicom.seg.segread(output.with_name("mask.dcm"))
    assert [s.SegmentLabel for s in seg.SegmentSequence] == [c.name for c in HEART.classes]
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    found = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    codes = np.array([0, *HEART.decoded_codes])[found]  # slices × rows × columns
    assert np.array_equal(codes.T, truth_of(levels_of(SHAPE)))
    with pytest.raises(BipvlError, match="is no DICOM series"):
        segment_files(output, Known(), tmp_path / "other.nii.gz", dicom_seg=True, progress=False)


# --- what is written, and where ---


def test_a_folder_is_segmented_scan_by_scan(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, size in (("b.nii.gz", 20), ("a.nii", 24)):
        save_scan(scans / name, np.rint(levels_of((size,) * 3)), OBLIQUE)
    (scans / "a.json").write_text("{}")
    segment_files(scans, Known(), tmp_path / "out", progress=False)
    assert written(tmp_path / "out") == ["a.json", "a.nii.gz", "b.json", "b.nii.gz", "volumes.csv"]
    volumes = pd.read_csv(tmp_path / "out" / "volumes.csv")
    assert volumes["scan"].drop_duplicates().tolist() == ["a", "b"]
    for name, scan in (("a", "a.nii"), ("b", "b.nii.gz")):
        labels = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert labels.shape == nib.load(scans / scan).shape
        counts = [int((labels.get_fdata() == code).sum()) for code in HEART.decoded_codes]
        assert volumes.loc[volumes["scan"] == name, "voxels"].tolist() == counts
    results = bipvl.segment(scans, Known(), progress=False)
    assert [result.scan for result in results] == ["a", "b"]


def test_the_sidecar_says_what_the_codes_mean_and_where_they_come_from(tmp_path):
    scan = save_scan(tmp_path / "scan.nii", np.rint(levels_of((20,) * 3)), OBLIQUE)
    segment_files(scan, Known(), tmp_path / "out" / "mask.nii.gz", progress=False)
    facts = json.loads((tmp_path / "out" / "mask.json").read_text())
    names = dict(zip(HEART.decoded_codes, (c.name for c in HEART.classes), strict=True))
    assert facts["labels"] == {"0": "background"} | {str(k): names[k] for k in sorted(names)}
    assert (facts["profile"], facts["cohort"], facts["seed"]) == ("quick", "synthetic", 3)
    assert facts["scan"] == str(scan) and facts["prompts"] is None
    assert written(tmp_path / "out") == ["mask.csv", "mask.json", "mask.nii.gz"]


def test_the_same_command_writes_the_same_bytes(tmp_path):
    scan = save_scan(tmp_path / "scan.nii", levels_of((20,) * 3), OBLIQUE)
    for _ in range(2):
        segment_files(scan, Known(), tmp_path / "out" / "m.nii.gz", probabilities=True, progress=False)
        (tmp_path / "out").rename(tmp_path / f"out{len([*tmp_path.iterdir()])}")
    first, second = sorted(tmp_path.glob("out*"))
    assert written(first) == written(second)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in written(first))


def test_probabilities_decide_the_labels(tmp_path):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of(SHAPE), OBLIQUE)
    result = bipvl.segment(scan, Known(), probabilities=True, progress=False)
    assert [*result.probabilities] == [c.name for c in HEART.classes]
    each = np.stack([image.get_fdata() for image in result.probabilities.values()])
    best = np.concatenate([1 - each.sum(0, keepdims=True), each]).argmax(0)
    inside = each.sum(0) > 0  # the working grid ends at the body's edge
    codes = np.array([0, *HEART.decoded_codes])[best]
    assert np.mean(codes[inside] == result.labels.get_fdata()[inside]) > 0.9999
    result.save(tmp_path / "out" / "mask.nii.gz")
    files = written(tmp_path / "out" / "mask_probabilities")
    assert len(files) == HEART.num_classes
    code, name = HEART.decoded_codes[0], HEART.classes[0].name
    saved = nib.load(tmp_path / "out" / "mask_probabilities" / f"{code:02d}_{name.replace(' ', '_')}.nii.gz")
    np.testing.assert_allclose(saved.get_fdata(), each[0], atol=1e-6)
    assert bipvl.segment(scan, Known(), progress=False).probabilities is None


def test_nested_classes_of_a_scan_of_four_channels_count_whole(tmp_path):
    """Its classes lie inside one another: a voxel holds the innermost, and each volume is the whole class."""
    levels = np.rint(levels_of(SHAPE))
    stack = np.stack([40 * (np.where(levels >= c, 1, 0) + 1) * (levels > -1) for c in (2, 1, 3, 1)], -1)
    nib.save(nib.Nifti1Image(stack.astype(np.float32), OBLIQUE), tmp_path / "brain.nii.gz")
    result = bipvl.segment(tmp_path / "brain.nii.gz", Known(BRAIN), progress=False)
    assert np.array_equal(result.labels.dataobj, np.clip(levels, 0, 3))
    assert result.volumes["voxels"].tolist() == [int((levels >= c).sum()) for c in (2, 1, 3)]
    array = bipvl.segment((stack, OBLIQUE.astype(np.float32)), Known(BRAIN), progress=False)
    assert np.array_equal(array.labels.dataobj, result.labels.dataobj)


def write_channels(folder: Path, name: str) -> list[Path]:
    """A brain as nnU-Net has it, a file a channel, each of other values."""
    levels = np.rint(levels_of(SHAPE))
    files = [folder / f"{name}_{channel:04}.nii.gz" for channel in range(4)]
    folder.mkdir(exist_ok=True)
    for number, file in zip((2, 1, 3, 1), files, strict=True):
        values = 40 * (np.where(levels >= number, 1, 0) + 1) * (levels > -1)
        nib.save(nib.Nifti1Image(values.astype(np.float32), OBLIQUE), file)
    return files


def test_a_file_a_channel_is_the_same_scan_as_one_file(tmp_path):
    files = write_channels(tmp_path / "scans", "a_b")
    write_channels(tmp_path / "scans", "c")
    stack = np.stack([nib.load(file).get_fdata() for file in files], -1)
    stacked = tmp_path / "scans" / "d_0002.nii.gz"  # a scan's name may end so too
    nib.save(nib.Nifti1Image(stack.astype(np.float32), OBLIQUE), stacked)
    segment_files(tmp_path / "scans", Known(BRAIN), tmp_path / "out", progress=False)
    wanted = bipvl.segment((stack, OBLIQUE), Known(BRAIN), progress=False).labels
    for name in ("a_b", "c", "d_0002"):
        labels = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert np.array_equal(labels.dataobj, wanted.dataobj)
        assert np.allclose(labels.affine, OBLIQUE)
    assert pd.read_csv(tmp_path / "out" / "volumes.csv")["scan"].unique().tolist() == ["a_b", "c", "d_0002"]
    facts = json.loads((tmp_path / "out" / "a_b.json").read_text())
    assert facts["scan"] == f"{files[0]} … a_b_0003.nii.gz"
    one = bipvl.segment(files[2], Known(BRAIN), progress=False)  # any of them
    assert one.scan == "a_b" and np.array_equal(one.labels.dataobj, wanted.dataobj)
    Known(BRAIN).segment(files, tmp_path / "again.nii.gz")
    assert np.array_equal(nib.load(tmp_path / "again.nii.gz").dataobj, wanted.dataobj)
    # Of one channel, each file is a scan of its own.
    assert scans_at(tmp_path / "scans") == sorted((tmp_path / "scans").iterdir())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: f[2].unlink(), r"x_0002\.nii\.gz is missing: x_0000\.nii\.gz holds one of 4 channels"),
        (lambda f: save_scan(f[1], np.ones((9, 9, 9)), OBLIQUE), r"x_0001\.nii\.gz is 9 x 9 x 9 voxels"),
        (
            lambda f: save_scan(f[3], np.ones(SHAPE), OBLIQUE * 2),
            r"x_0003\.nii\.gz lies elsewhere than its first channel",
        ),
        (lambda f: f[1].write_bytes(f[1].read_bytes()[:-9]), r"x_0001\.nii\.gz cannot be read as NIfTI"),
    ],
    ids=["missing", "smaller", "elsewhere", "cut_short"],
)
def test_channels_that_are_no_scan_are_told(tmp_path, spoil, told):
    spoil(write_channels(tmp_path / "scans", "x"))
    with pytest.raises(BipvlError, match=told):
        segment_files(tmp_path / "scans", Known(BRAIN), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


# --- large scans ---


def test_in_slabs_the_labels_are_the_same_and_no_more_than_a_slab_is_resampled(tmp_path, monkeypatch):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of(SHAPE), affine_of(rotation(0.1, 0.4), 1.3))
    whole = bipvl.segment(scan, Known(), probabilities=True, progress=False)
    sizes = []
    resampled = predict.resampled
    monkeypatch.setattr(predict, "resampled", lambda *a: sizes.append(resampled(*a)) or sizes[-1])
    slab = 4 * SHAPE[1] * SHAPE[2] * HEART.out_channels  # four rows
    monkeypatch.setattr(predict, "SLAB", slab)
    parts = bipvl.segment(scan, Known(), probabilities=True, progress=False)
    assert np.array_equal(parts.labels.dataobj, whole.labels.dataobj)
    assert len(sizes) == 8 and max(size.numel() for size in sizes) == slab
    name = HEART.classes[1].name
    found, wanted = (r.probabilities[name].get_fdata() for r in (parts, whole))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_probabilities_are_made_in_place_part_by_part(monkeypatch):
    monkeypatch.setattr(predict, "SLAB", 50)
    logits = torch.randn(3, 7, 4, 5)
    wanted = logits.softmax(0)
    found = predict.to_probabilities_(logits, overlapping=False)
    assert found is logits
    torch.testing.assert_close(found, wanted)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(3, 30)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.8]), st.integers(1, 3))
def test_the_bar_counts_the_windows_however_many_go_at_once(shape, overlap, at_once):
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
    ("shape", "spec", "told"),
    [
        ((12, 12), HEART, "has 2 spatial axes, but a scan has three"),
        ((12, 12, 12, 5), HEART, "has 5 channels, but .* has 1"),
        ((12, 12, 12), BRAIN, "has 1 channels, but .* has 4"),
        ((12, 12, 12, 1, 2), HEART, "has 4 spatial axes"),
    ],
)
def test_a_scan_of_another_shape_is_told_in_a_file_and_in_memory(tmp_path, shape, spec, told):
    image = nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4))
    nib.save(image, tmp_path / "scan.nii.gz")
    for form in (tmp_path / "scan.nii.gz", image, (np.ones(shape), np.eye(4))):
        with pytest.raises(BipvlError, match=told):
            bipvl.segment(form, Known(spec), progress=False)
    with pytest.raises(BipvlError, match=r"scan\.nii\.gz has"):
        segment_files(tmp_path / "scan.nii.gz", Known(spec), tmp_path / "out.nii.gz", progress=False)
    assert written(tmp_path) == ["scan.nii.gz"]


def test_one_bad_scan_of_a_folder_is_told_before_the_first_is_segmented(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    save_scan(scans / "a.nii.gz", levels_of((20,) * 3), OBLIQUE)
    (scans / "b.nii.gz").write_bytes(b"no image")
    with pytest.raises(BipvlError, match=r"b\.nii\.gz cannot be read"):
        segment_files(scans, Known(), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_array_without_a_place_and_voxels_that_are_none_are_told():
    for affine in (None, np.eye(3), np.zeros((4, 4)), np.full((4, 4), np.nan)):
        with pytest.raises(BipvlError, match="affine of 4 × 4"):
            bipvl.segment((np.ones((8, 8, 8)), affine), Known())
    with pytest.raises(BipvlError, match="not finite"):
        bipvl.segment((np.full((8, 8, 8), np.nan), np.eye(4)), Known(), progress=False)


@pytest.mark.parametrize(
    ("image", "output", "told"),
    [
        ("missing", "out", "missing is missing"),
        ("notes.txt", "out.nii.gz", "of a DICOM series give the folder"),
        ("empty", "out", "empty holds no scan"),
        ("scans/a.nii.gz", "out.png", r"ends in \.nii\.gz or \.nii"),
        ("scans/a.nii.gz", "folder.nii.gz", r"ends in \.nii\.gz or \.nii"),
        ("scans/a.nii.gz", "scans/a.nii.gz", "the scan itself"),
        ("scans/a.nii.gz", "scans/../scans/a.nii", "the scan itself"),  # and its sidecar a.json
        ("scans", "scans", "the scan itself"),
        ("scans", "out.nii.gz", "is a folder of scans; give a folder"),
        ("scans", "notes.txt", "is a folder of scans; give a folder"),
        ("twins", "out", "would both become out/a.nii.gz"),
        ("series", "series/labels.nii.gz", "the folder of the series itself"),
    ],
)
def test_no_result_lies_in_the_way_of_a_scan(tmp_path, monkeypatch, image, output, told):
    monkeypatch.chdir(tmp_path)
    for name in ("scans/a.nii.gz", "twins/a.nii.gz", "twins/a.nii", "notes.txt", "series/1.dcm"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for name in ("empty", "folder.nii.gz"):
        Path(name).mkdir()
    with pytest.raises(BipvlError, match=told):
        targets_of(image, scans_at(image), output)


# --- runs and prompts ---


def test_a_folder_without_a_run_or_a_network_is_told(tmp_path, untrained):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((20,) * 3), OBLIQUE)
    with pytest.raises(BipvlError, match="holds no run"):
        segment_files(scan, tmp_path, tmp_path / "out.nii.gz")
    stopped = tmp_path / "stopped"
    shutil.copytree(untrained("swin_unetr_v2"), stopped, ignore=shutil.ignore_patterns("model"))
    with pytest.raises(BipvlError, match="holds no trained network"):
        segment_files(scan, stopped, tmp_path / "out.nii.gz")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["scan.nii.gz"]


def test_other_prompts_are_read_and_told_in_the_sidecar(tmp_path, untrained):
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
    ("change", "told"),
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
def test_prompts_that_do_not_fit_are_told(tmp_path, untrained, change, told):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((20,) * 3), OBLIQUE)
    rows = tuple(change([*default_prompts(HEART).rows]))
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    run = Run.open(untrained("bipvlseg"))
    for prompts in (tmp_path / "mine.csv", PromptTable("mine", rows)):
        with pytest.raises(BipvlError, match=told) as error:
            segment_files(scan, run, tmp_path / "out.nii.gz", prompts, progress=False)
        assert "mine" in str(error.value)
    assert written(tmp_path) == ["mine.csv", "scan.nii.gz"]


def test_of_the_prompted_head_rows_make_the_classes(tmp_path, untrained):
    scan = save_scan(tmp_path / "scan.nii.gz", VALUES, OBLIQUE)
    run = untrained("bipvlseg-prompted")
    rows = default_prompts(HEART).rows
    whole = bipvl.segment(scan, run, progress=False)
    turned = bipvl.segment(scan, run, PromptTable("turned", rows[::-1]), progress=False)
    same = np.asarray(whole.labels.dataobj) == np.asarray(turned.labels.dataobj)
    assert same.mean() > 0.999  # the codes go with the rows; but for rounding
    assert len(np.unique(whole.labels.dataobj)) > 2

    rib = dict.fromkeys(rows[0], "thin and bright") | {"Title": "A rib in a CT image"}
    some = bipvl.segment(scan, run, PromptTable("some", (rows[4], rows[0], rib)), progress=False)
    assert some.volumes[["class", "code"]].to_numpy().tolist() == [
        ["myocardium of the left ventricle", 205],
        ["left ventricle", 500],
        ["A rib in a CT image", 851],  # the highest of the dataset's is 850
    ]
    assert set(np.unique(some.labels.dataobj)) <= {0, 205, 500, 851}
    assert some.facts["labels"]["851"] == "A rib in a CT image"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ((), "'mine' has no row; give a row for each class to segment"),
        ((0, 1, 0), "names the class 'left ventricle' again in row 3"),
    ],
)
def test_rows_that_make_no_classes_are_told(tmp_path, untrained, rows, told):
    scan = save_scan(tmp_path / "scan.nii.gz", VALUES, OBLIQUE)
    table = PromptTable("mine", tuple(default_prompts(HEART).rows[row] for row in rows))
    with pytest.raises(BipvlError, match=told):
        bipvl.segment(scan, untrained("bipvlseg-prompted"), table, progress=False)


def test_prompts_for_a_network_without_language_are_not_ignored(tmp_path, untrained):
    scan = save_scan(tmp_path / "scan.nii.gz", levels_of((20,) * 3), OBLIQUE)
    with pytest.raises(BipvlError, match="'swin_unetr_v2' reads no prompts"):
        bipvl.segment(scan, untrained("swin_unetr_v2"), default_prompts(HEART))


def test_the_name_in_the_package_is_the_function():
    assert inspect.isfunction(bipvl.segment) and bipvl.segment.__module__ == "bipvl.deploy.segment"
