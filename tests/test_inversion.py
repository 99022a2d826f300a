"""Labels return to the scan's own grid in every orientation, also oblique, at 0.5 to 5 mm.

The network is an oracle that reads the class off the intensity; everything else is ``bipvl.segment`` from
file to file. If the working grid has the scan's spacing, labels must match in every voxel. Otherwise the
phantom is smooth (its intensity falls linearly from a point), so that resampling loses almost nothing, and
the Dice of every class must be above 0.99.
"""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import bipvl
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.transforms import prepare_transform
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run

HEART = load_spec("mmwhs_ct")  # one class per voxel, window 0 to 400
# 4 channels, nested classes
BRAIN = load_spec("msd_brain").model_copy(update={"intensity": {"window": (0, 400)}})
ORIENTATIONS = [
    np.array([[sign * (row == axis) for axis, sign in zip(order, signs, strict=True)] for row in range(3)])
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
SPACINGS = [(0.5, 0.5, 5.0), (0.7, 3.3, 0.7), (1.7, 2.5, 0.5), (1.3, 0.9, 1.1), (5.0, 2.0, 2.5)]
PLACE = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x")
PLACE += ("qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")


class Oracle(Segmenter):
    """Intensity 40 (l + 1) is level l, and class c contains the levels nearest to c; unsure near borders.

    Overlapping classes have one channel each, in the order of their rows, and contain levels above 1/2.
    """

    def __init__(self, spec: DatasetSpec, spacing: tuple[float, ...], crop: int = 32) -> None:
        self.spec, self.device = spec, torch.device("cpu")
        self.config = {"crop": (crop, crop - 4, crop + 4), "overlap": {"test": 0.25}}
        self.config |= {"training": {"batch_size": 2}, "variant": "swin_unetr_v2", "dataset": spec.name}
        self.config |= {"cohort": "synthetic", "profile": "quick", "seed": 3}
        self.run, self.texts = Run(Path("runs/oracle"), self.config), default_prompts(spec).segments()
        self.prepare = prepare_transform(spec, spacing)

    def predictor(self, crops: torch.Tensor) -> torch.Tensor:
        levels = 10 * crops - 1
        if self.spec.overlapping:
            return 4 * (levels[:, : self.spec.num_classes] - 0.5)
        return -2 * (levels - torch.arange(self.spec.out_channels).view(-1, 1, 1, 1)) ** 2


def rotation(about_x: float, about_z: float) -> np.ndarray:
    (cx, sx), (cz, sz) = ((np.cos(angle), np.sin(angle)) for angle in (about_x, about_z))
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, cx, -sx], [0, sx, cx]]


def affine_of(linear: np.ndarray, spacing: Any) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = linear * spacing
    affine[:3, 3] = (-31.7, 18.3, 402.9)
    return affine


OBLIQUE = affine_of(rotation(0.2, 0.3) @ ORIENTATIONS[13], 1.5)


def levels_of(shape: tuple[int, ...]) -> np.ndarray:
    """Three concentric classes about a point beside the centre, then body (0) and air (−1)."""
    at = np.moveaxis(np.indices(shape), 0, -1) / (np.array(shape) - 1)
    r = np.linalg.norm((at - (0.52, 0.47, 0.5)) / (0.42, 0.40, 0.41), axis=-1)
    return np.where(r < 1.1, np.minimum(5.1 - 5 * r, 3), -1)


def truth_of(levels: np.ndarray, spec: DatasetSpec = HEART) -> np.ndarray:
    """Label codes; the brain's classes are nested in this order."""
    codes = (1, 2, 3) if spec.overlapping else spec.decoded_codes
    return np.array([0, *codes])[np.rint(levels).clip(0).astype(int)]


def save_scan(
    path: Path,
    levels: np.ndarray,
    affine: np.ndarray = OBLIQUE,
    *,
    sform: int = 1,
    qform: int = 1,
    **fields: Any,
) -> Path:
    """Write sform and qform with these codes, then set the given header fields."""
    scan = nib.Nifti1Image(
        (40 * (levels + 1)).astype(np.float32), None
    )  # no affine, so the header is not changed
    scan.header.set_qform(affine, qform)
    scan.header.set_sform(affine, sform)
    for field, value in fields.items():
        scan.header[field] = value
    nib.save(scan, path)
    return path


def segmented(oracle: Oracle, scan: Path) -> np.ndarray:
    """The labels of a scan; their geometry must equal the scan's bit for bit."""
    output = scan.with_name("labels.nii")
    bipvl.segment(scan, oracle, progress=False).save(output)
    found, wanted = nib.load(output), nib.load(scan)
    assert np.array_equal(found.affine, wanted.affine)
    for field in PLACE:
        assert found.header[field].tobytes() == wanted.header[field].tobytes(), field
    assert found.get_data_dtype() == np.int16 and found.shape == wanted.shape[:3]
    return np.asarray(found.dataobj)


def worst_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    codes = np.unique(truth)
    assert len(codes) == 4 and np.isin(labels, codes).all()
    masks = [(labels == code, truth == code) for code in codes[1:]]
    return min(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in masks)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join(nib.aff2axcodes(affine_of(o, 1))))
def test_every_orientation_returns_to_the_voxel(tmp_path, orientation):
    """And the network sees each of them in the same orientation, as nibabel reorients it."""
    levels = np.rint(levels_of((30, 25, 33)))
    scan = save_scan(tmp_path / "scan.nii", levels, affine_of(rotation(0.2, 0.3) @ orientation, 1.5))
    oracle = Oracle(HEART, (1.5, 1.5, 1.5), crop=24)
    assert np.array_equal(segmented(oracle, scan), truth_of(levels))

    turned = nib.as_closest_canonical(nib.load(scan)).get_fdata() / 400
    body = tuple(slice(at.min(), at.max() + 1) for at in turned.nonzero())
    seen = oracle.prepare({"image": str(scan)})["image"]
    assert np.allclose(seen[0].numpy(), turned[body], atol=1e-4)


@pytest.mark.parametrize("number", range(48))
def test_every_orientation_returns_from_another_spacing(tmp_path, number):
    """0.5 to 5 mm, rotated by up to 34° about two axes, with a working grid of 1 mm."""
    spacing = SPACINGS[number % len(SPACINGS)]
    angles = np.random.default_rng(number).uniform(-0.6, 0.6, 2)
    levels = levels_of(tuple(max(32, round(48 / mm)) for mm in spacing))
    scan = save_scan(
        tmp_path / "scan.nii", levels, affine_of(rotation(*angles) @ ORIENTATIONS[number], spacing)
    )
    assert worst_dice(segmented(Oracle(HEART, (1.0, 1.0, 1.0)), scan), truth_of(levels)) > 0.99


@pytest.mark.parametrize("spec", [HEART, BRAIN], ids=["one class per voxel", "overlapping, 4 channels"])
@pytest.mark.parametrize("shape", [(49, 41, 57), (11, 9, 13), (67, 10, 23)], ids=str)
def test_any_shape_returns_to_the_voxel(tmp_path, spec, shape):
    """Shapes not divisible by the crop, smaller than it, or both; every channel stays in its place."""
    levels = np.rint(levels_of(shape))
    inside = {"tumour core": 1, "whole tumour": 0, "enhancing tumour": 2}
    channels = [levels - inside[c.name] for c in BRAIN.classes] + [np.zeros(shape)]
    image = np.stack(channels, -1).clip(-1) if spec.overlapping else levels
    scan = save_scan(tmp_path / "scan.nii", image)
    assert np.array_equal(segmented(Oracle(spec, (1.5, 1.5, 1.5), crop=20), scan), truth_of(levels, spec))


def test_overlapping_channels_return_from_thick_slices(tmp_path):
    levels = levels_of((96, 96, 32))
    image = np.stack([levels - 1, levels, levels - 2, levels], -1).clip(-1)
    scan = save_scan(tmp_path / "scan.nii", image, affine_of(rotation(0.2, 0.3), (0.5, 0.5, 5.0)))
    assert worst_dice(segmented(Oracle(BRAIN, (1.0, 1.0, 1.0)), scan), truth_of(levels, BRAIN)) > 0.99


SHEARED = affine_of(rotation(0.1, 0.2) @ [[1, 0, 0], [0, 1, 0.3], [0, 0, 1]], 1.5)  # as with a tilted gantry
HEADERS = {
    "only sform": {"sform": 1, "qform": 0},
    "only qform": {"sform": 0, "srow_x": 0, "srow_y": 0, "srow_z": 0},
    "neither": {"sform": 0, "qform": 0},
    "both, with different codes": {"sform": 4, "qform": 2},
    "sheared": {"affine": SHEARED, "qform": 0},
    "no unit": {"xyzt_units": 0},
    "seconds too": {"xyzt_units": 10},
    "pixdim of another spacing": {"qform": 0, "pixdim": (1, 3, 3, 3, 0, 0, 0, 0)},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_of_any_kind_are_kept(tmp_path, header):
    levels = np.rint(levels_of((30, 25, 33)))
    scan = save_scan(tmp_path / "scan.nii", levels, **header)
    spacing = 1.0 if header == HEADERS["neither"] else 1.5
    assert np.array_equal(segmented(Oracle(HEART, (spacing,) * 3), scan), truth_of(levels))


def test_scaled_integers_in_a_compressed_file_return_to_the_voxel(tmp_path):
    levels = np.rint(levels_of((30, 25, 33)))
    image = nib.Nifti1Image((4 * (levels + 1)).astype(np.int16), OBLIQUE)
    image.header.set_slope_inter(10, 0)
    nib.save(image, tmp_path / "scan.nii.gz")
    assert np.array_equal(
        segmented(Oracle(HEART, (1.5, 1.5, 1.5)), tmp_path / "scan.nii.gz"), truth_of(levels)
    )
