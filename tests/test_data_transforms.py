"""A model must see what the scan holds: geometry, labels and intensities survive the transforms."""

import pickle

import numpy as np
import pytest
import torch
from data_files import SHAPE, image_of, label_of, save
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from bipvl.common.errors import BipvlError
from bipvl.data.labels import encode
from bipvl.data.layouts import Case
from bipvl.data.spec import dataset_names, load_spec
from bipvl.data.transforms import load_native, prepare_transform, random_transform

AMOS, HEART, BRAIN = load_spec("amos22"), load_spec("mmwhs_mr"), load_spec("msd_brain")
CROP = (24, 16, 20)

# LPS-like, axes permuted, anisotropic; then the same turned by 0.3 rad about z and 0.2 about x
STRAIGHT = np.array([[0, -1.3, 0, 40], [-0.9, 0, 0, 25], [0, 0, -3.0, 300], [0, 0, 0, 1]])
_z = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
_x = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
OBLIQUE = STRAIGHT.copy()
OBLIQUE[:3, :3] = _z @ _x @ STRAIGHT[:3, :3]


def world(shape, affine):
    """World coordinates of every voxel, shape + (3,)."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def pair(tmp_path, spec, image=None, label=None, affine=None):
    return {
        "image": save(tmp_path / "image.nii.gz", image_of(spec) if image is None else image, affine),
        "label": save(tmp_path / "label.nii.gz", label_of(spec) if label is None else label, affine),
    }


def prepared(spec, shape=(30, 26, 22), seed=0):
    """A prepared case in memory with a small foreground block."""
    rng = np.random.default_rng(seed)
    label = np.zeros((spec.num_classes if spec.overlapping else 1, *shape), np.uint8)
    label[0, 3:9, 4:9, 5:9] = 1
    image = rng.uniform(0.1, 0.9, (len(spec.channels), *shape)).astype(np.float32)
    return {"id": "a", "image": MetaTensor(image), "label": MetaTensor(label)}


@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_world_coordinates_survive_orientation_spacing_and_cropping(tmp_path, affine):
    # The image is a linear function of the world coordinates, which resampling keeps; one side is air.
    shape, slope = (33, 29, 15), np.array([1.0, -2.0, 0.7])
    values = world(shape, affine) @ slope
    low, high = values.min() - 10, values.max() + 10
    values[:5] = low - 100
    label = np.zeros(shape, np.int16)
    label[10:20, 8:18, 4:12] = 6
    spec = AMOS.model_copy(update={"intensity": {"window": (low, high)}})
    item = prepare_transform(spec)(pair(tmp_path, AMOS, values.astype(np.float32), label, affine))

    image, label_out = item["image"], item["label"]
    assert image.shape == label_out.shape and torch.equal(image.affine, label_out.affine)
    assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), AMOS.spacing)
    assert np.abs(np.diag(image.affine[:3, :3].numpy())).min() > 0 and image.affine[0, 0] > 0

    at = world(image.shape[1:], image.affine.numpy())
    inside = at @ np.linalg.inv(affine)[:3, :3].T + np.linalg.inv(affine)[:3, 3]  # voxels of the scan
    clear = ((inside > [6, 0, 0]) & (inside < np.array(shape) - 1)).all(-1)
    assert clear.mean() > 0.5
    assert np.allclose(image[0].numpy()[clear] * (high - low) + low, (at @ slope)[clear], atol=0.05)
    assert inside[image[0].numpy() > 0][:, 0].min() > 3.9  # the air is cropped or 0

    nearest = np.rint(inside).astype(int)
    expected = ((nearest >= [10, 8, 4]) & (nearest < [20, 18, 12])).all(-1) * 6
    safe = (np.abs(inside - np.floor(inside) - 0.5) > 0.01).all(-1)  # not halfway between two voxels
    assert np.array_equal(label_out[0].numpy()[safe], expected[safe])


@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_a_prediction_returns_to_the_scan_by_its_affine(tmp_path, affine):
    label = np.zeros((40, 44, 24), np.int16)
    label[12:28, 12:30, 6:18] = 6
    files = pair(tmp_path, AMOS, image_of(AMOS, label.shape), label, affine)
    item = prepare_transform(AMOS, spacing=(0.8, 0.8, 1.0))(files)
    native = load_native(Case("a", files["image"], files["label"]))
    back = ResampleToMatch(mode="nearest")(item["label"], native["label"], padding_mode="zeros")
    truth = native["label"].numpy() == 6
    dice = 2 * (truth & (back.numpy() == 6)).sum() / (truth.sum() + (back.numpy() == 6).sum())
    assert dice > 0.98


def test_ct_is_windowed_and_cropped_to_what_is_above_air(tmp_path):
    hu = np.full((12, 12, 12), -1000, np.float32)
    hu[2:10, 3:9, 4:12] = 37.5
    hu[4, 4, 5] = 3000
    item = prepare_transform(AMOS, spacing=(1, 1, 1))(pair(tmp_path, AMOS, hu, (hu > 0).astype(np.int16)))
    assert item["image"].shape == item["label"].shape == (1, 8, 6, 8)
    assert np.allclose(np.unique(item["image"].numpy()), [0.5, 1.0])
    assert item["image"].dtype == torch.float32 and item["label"].dtype == torch.uint8


def test_mr_is_standardised_over_nonzero_voxels_per_channel(tmp_path):
    image = image_of(BRAIN) * np.array([1, 10, 100, 1000], np.float32)
    image[:2] = 0
    item = prepare_transform(BRAIN)(pair(tmp_path, BRAIN, image))
    assert item["image"].shape == (4, 7, 8, 7)
    assert np.allclose(item["image"].mean((1, 2, 3)), 0, atol=1e-4)
    assert np.allclose(item["image"].std((1, 2, 3), unbiased=False), 1, atol=1e-4)


@pytest.mark.parametrize("name", dataset_names())
def test_the_label_equals_the_result_of_encode(tmp_path, name):
    spec = load_spec(name)
    item = prepare_transform(spec, spacing=(1, 1, 1))(pair(tmp_path, spec))
    assert np.array_equal(item["label"].numpy(), encode(spec, label_of(spec), "x"))


def test_a_scan_without_a_label_can_be_prepared(tmp_path):
    item = prepare_transform(BRAIN)({"image": pair(tmp_path, BRAIN)["image"], "id": "mine"})
    assert set(item) == {"image", "id"}


def test_a_rounding_difference_of_affines_changes_nothing(tmp_path):
    files = pair(tmp_path, AMOS, image_of(AMOS, (16, 16, 16)), label_of(AMOS, (16, 16, 16)), STRAIGHT)
    save(files["label"], label_of(AMOS, (16, 16, 16)), STRAIGHT + 5e-4)
    item = prepare_transform(AMOS)(files)
    assert item["image"].shape == item["label"].shape and torch.equal(
        item["image"].affine, item["label"].affine
    )


def wrong(which, array, affine=None):
    return lambda files: save(files[which], array, affine)


@pytest.mark.parametrize(
    "corrupt, named, message",
    [
        (
            wrong("label", label_of(BRAIN, (9, 8, 6))),
            "label",
            "has 9 x 8 x 6 voxels, but its image has 9 x 8 x 7",
        ),
        (
            wrong("label", label_of(BRAIN), np.diag([1, 1, 1.1, 1])),
            "label",
            "is not on the grid of its image",
        ),
        (wrong("label", np.full(SHAPE, 4, np.int16)), "label", "undeclared codes 4"),
        (wrong("label", np.stack([label_of(BRAIN)] * 2, -1)), "label", "has 4 axes"),
        (wrong("image", image_of(BRAIN)[..., :3]), "image", "has 3 channels"),
        (wrong("image", image_of(BRAIN)[..., 0]), "image", "has 1 channels"),
        (wrong("image", image_of(BRAIN) * np.nan), "image", "not finite"),
        (wrong("image", image_of(BRAIN) * 0), "image", "is empty after intensity scaling"),
        (
            lambda files: files["image"].write_bytes(files["image"].read_bytes()[:600]),
            "image",
            "not readable as NIfTI",
        ),
        (lambda files: files["label"].write_bytes(b"no NIfTI"), "label", "not readable as NIfTI"),
        (lambda files: files["label"].unlink(), "label", "file not found"),
    ],
)
def test_bad_files_are_reported_by_name(tmp_path, corrupt, named, message):
    files = pair(tmp_path, BRAIN)
    corrupt(files)
    with pytest.raises(BipvlError) as error:
        prepare_transform(BRAIN)(files)
    assert str(error.value).startswith(str(files[named])) and message in str(error.value)


@pytest.mark.parametrize("name", dataset_names())
def test_the_seed_fixes_all_random_transforms(name):
    spec = load_spec(name)
    item, transform = prepared(spec), random_transform(spec, CROP)

    def draw(seed):
        torch.manual_seed(np.random.randint(2**31))
        transform.set_random_state(seed)
        return [transform(item) for _ in range(3)]

    first, again, other = draw(7), draw(7), draw(8)
    for key in ("image", "label"):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0]["image"], first[1]["image"])


@pytest.mark.parametrize("name", dataset_names())
@pytest.mark.parametrize("shape", [(30, 26, 22), (9, 40, 11)], ids=["larger", "smaller"])
def test_a_crop_has_the_crop_size_and_does_not_change_its_source(name, shape):
    spec = load_spec(name)
    item = prepared(spec, shape)
    before = item["image"].clone(), item["label"].clone(), len(item["image"].applied_operations)
    out = random_transform(spec, CROP).set_random_state(0)(item)
    assert set(out) == {"id", "image", "label"}
    assert out["image"].shape == (len(spec.channels), *CROP) and out["image"].dtype == torch.float32
    assert out["label"].shape == (spec.num_classes if spec.overlapping else 1, *CROP)
    assert out["label"].dtype == torch.uint8 and not isinstance(out["image"], MetaTensor)
    assert torch.equal(item["image"], before[0]) and torch.equal(item["label"], before[1])
    assert len(item["image"].applied_operations) == before[2]


@pytest.mark.parametrize("spec", [AMOS, BRAIN], ids=["softmax", "overlapping"])
def test_half_of_the_crops_are_centred_on_foreground(spec):
    # One foreground voxel in the first channel: a crop of 3 has it in its centre or, mostly, nowhere.
    item = prepared(spec, (30, 30, 30))
    item["label"][:] = 0
    item["label"][0, 15, 15, 15] = 1
    transform = random_transform(spec.model_copy(update={"augmentation": {}}), (3, 3, 3)).set_random_state(0)
    centred = [bool(transform(item)["label"][0, 1, 1, 1]) for _ in range(200)]
    assert 0.4 < np.mean(centred) < 0.6


def test_image_and_label_move_together():
    for spec in (AMOS, BRAIN):
        item = prepared(spec)
        item["image"] = MetaTensor(item["label"][:1].float().expand(len(spec.channels), -1, -1, -1).clone())
        moves = {k: v for k, v in spec.augmentation.items() if not k.startswith("intensity")}
        transform = random_transform(spec.model_copy(update={"augmentation": moves}), CROP).set_random_state(
            1
        )
        for _ in range(5):
            out = transform(item)
            assert ((out["image"][0] > 0.5) != (out["label"][0] > 0)).float().mean() < 0.005


def test_ct_is_rotated_about_the_last_axis_by_at_most_six_degrees():
    item = prepared(AMOS, CROP)
    turn = AMOS.model_copy(update={"augmentation": {"rotation_degrees": 6}})
    ramp = torch.arange(1.0, CROP[2] + 1).expand(1, *CROP)
    out = random_transform(turn, CROP).set_random_state(3)(item | {"image": MetaTensor(ramp.clone())})
    assert torch.allclose(out["image"][:, 6:-6, 5:-5], ramp[:, 6:-6, 5:-5], atol=1e-4)  # z stays z

    across = torch.arange(float(CROP[0]))[:, None, None].expand(1, *CROP)
    transform, angles = random_transform(turn, CROP).set_random_state(0), []
    for _ in range(40):
        out = transform(item | {"image": MetaTensor(across.clone())})["image"][0, 6:-6, 5:-5, 10]
        along = [torch.diff(out, dim=dim).mean().item() for dim in (0, 1)]
        angles.append(np.degrees(np.arctan2(*reversed(along))))
    assert 4 < np.abs(angles).max() <= 6.01


def test_heart_mr_is_scaled_and_shifted_but_never_flipped():
    item = prepared(HEART, CROP)
    transform = random_transform(HEART, CROP).set_random_state(0)
    source = item["image"].as_tensor()
    seen = set()
    for _ in range(30):
        out = transform(item)["image"]
        scale = (out.std() / source.std()).item()
        shift = (out - source * scale).mean().item()
        assert 0.9 <= scale <= 1.1 and abs(shift) <= 0.1001
        assert torch.allclose(out, source * scale + shift, atol=1e-4)
        seen.add((abs(scale - 1) > 1e-4, abs(shift) > 1e-4))
    assert len(seen) == 4  # independent, each with probability one half


def test_transforms_can_be_sent_to_a_worker():
    for spec in (AMOS, BRAIN):
        pickle.loads(pickle.dumps([prepare_transform(spec), random_transform(spec, CROP)]))


def test_native_loading_keeps_the_codes_and_the_grid(tmp_path):
    files = pair(tmp_path, HEART, affine=OBLIQUE)
    native = load_native(Case("mr_train_1001", files["image"], files["label"]))
    assert native["id"] == "mr_train_1001"
    assert np.array_equal(native["label"][0].numpy(), label_of(HEART))
    assert np.allclose(native["image"].affine, OBLIQUE, atol=1e-5)
    save(files["label"], label_of(HEART), STRAIGHT)
    with pytest.raises(BipvlError, match=r"label.nii.gz: is not on the grid of its image"):
        load_native(Case("mr_train_1001", files["image"], files["label"]))
