"""Corruptions of files, voxels, headers and codes, with the messages that the check must report."""

import gzip
import shutil

import nibabel as nib
import numpy as np
from corrupting import Place, corruption, moved
from data_files import SHAPE, image_of, label_of, save

# --- missing and surplus files ---


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "file not found; copy it there"))
def image_missing(place):
    place.case()[0].unlink()


@corruption("msd_brain", ("labelsTr/BRATS_001.nii.gz", "file not found; copy it there"))
def label_missing(place):
    place.case()[1].unlink()


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "file not found"))
def image_is_a_folder(place):
    place.case()[0].unlink()
    place.case()[0].mkdir()


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "file not found"))
def label_is_a_broken_link(place):
    place.case()[1].unlink()
    place.case()[1].symlink_to(place.root / "nowhere.nii.gz")


@corruption(
    "amos22", ("imagesTr/amos_0009.nii.gz", "belongs to no case; list it in dataset.json, or move it")
)
def image_not_listed(place):
    save(place.folder / "imagesTr" / "amos_0009.nii.gz", image_of(place.spec, seed=9))


@corruption("mmwhs_mr", ("mr_train_1001.nii.gz", "belongs to no case; name it ID_image.nii.gz"))
def scan_without_a_part_in_its_name(place):
    save(place.folder / "mr_train_1001.nii.gz", image_of(place.spec, seed=9))


@corruption("mmwhs_mr", ("mr_train_1009_image.nii", "belongs to no case"))
def image_not_compressed_beside_the_others(place):
    save(place.folder / "mr_train_1009_image.nii", image_of(place.spec, seed=9))


@corruption(
    "amos22", ("/amos22", "is not a folder; check the data root, since AMOS22 (abdominal CT) is expected")
)
def folder_missing(place):
    shutil.rmtree(place.folder)


@corruption("mmwhs_ct", ("/mmwhs/ct_train", "holds no case of MM-WHS (cardiac CT)"))
def folder_empty(place):
    shutil.rmtree(place.folder)
    place.folder.mkdir()


# --- files that are not readable ---


@corruption(
    "mmwhs_ct", ("ct_train_1001_image.nii.gz", "the file is empty (0 bytes); download or export it again")
)
def image_of_no_bytes(place):
    place.case()[0].write_bytes(b"")


@corruption("msd_brain", ("labelsTr/BRATS_001.nii.gz", "not readable as NIfTI"))
def label_cut_short(place):
    label = place.case()[1]
    label.write_bytes(label.read_bytes()[:-20])


@corruption("amos22", ("imagesTr/amos_0001.nii.gz", "not readable as NIfTI"))
def checksum_missing(place):
    """All voxels are present, but their checksum is not."""
    image = place.case()[0]
    image.write_bytes(image.read_bytes()[:-8])


@corruption("amos22", ("imagesTr/amos_0001.nii.gz", "not readable as NIfTI (CRC check failed"))
def checksum_wrong(place):
    image = place.case()[0]
    raw = image.read_bytes()
    image.write_bytes(raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:])


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def image_is_text(place):
    place.case()[0].write_text("<html>404 Not Found</html>")


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def image_is_compressed_text(place):
    place.case()[0].write_bytes(gzip.compress(b"not a scan " * 99))


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def image_named_gz_but_not_compressed(place):
    image = place.case()[0]
    image.write_bytes(gzip.decompress(image.read_bytes()))


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def trailing_bytes(place):
    image = place.case()[0]
    image.write_bytes(image.read_bytes() + b"and something else")


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def header_only(place):
    image = place.case()[0]
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes())[:352]))


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "more than the file can hold"))
def header_claiming_terabytes(place):
    place.edit_bytes(place.case()[0], 42, np.array([32767, 32767, 32767], "<i2").tobytes())


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def header_with_an_unknown_type(place):
    place.edit_bytes(place.case()[0], 70, np.array([9999], "<i2").tobytes())


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def header_with_negative_sizes(place):
    place.edit_bytes(place.case()[0], 42, np.array([-9, 8, 7], "<i2").tobytes())


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "not readable as NIfTI"))
def image_of_another_format(place):
    scan = nib.MGHImage(image_of(place.spec), np.eye(4))
    place.case()[0].write_bytes(gzip.compress(scan.to_bytes()))


# --- dimensions, channels, values of the image ---


@corruption(
    "msd_brain", ("imagesTr/BRATS_001.nii.gz", "has 3 channels, but MSD Task01 (brain tumour MR) has 4")
)
def channel_missing(place):
    save(place.case()[0], image_of(place.spec)[..., :3])


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "has 2 channels"))
def channel_too_many(place):
    save(place.case()[0], np.stack([image_of(place.spec)] * 2, -1))


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "has 2 spatial axes, but a scan has three"))
def image_of_one_slice(place):
    save(place.case()[0], image_of(place.spec)[:, :, 0])


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "has 4 spatial axes"))
def image_of_five_axes(place):
    save(place.case()[0], np.stack([image_of(place.spec)[..., None]] * 2, -1))


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "holds values of type"))
def image_in_colour(place):
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(place.case()[0], np.zeros(SHAPE, rgb))


@corruption("mmwhs_mr", ("mr_train_1001_image.nii.gz", "holds values of type complex64"))
def image_of_complex_numbers(place):
    save(place.case()[0], image_of(place.spec).astype(np.complex64))


@corruption("mmwhs_mr", ("mr_train_1001_image.nii.gz", "holds 1 voxels that are not finite"))
def image_with_a_nan(place):
    image = image_of(place.spec)
    image[1, 2, 3] = np.nan
    save(place.case()[0], image)


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "holds 56 voxels that are not finite"))
def image_with_an_infinite_plane(place):
    image = image_of(place.spec)
    image[4] = -np.inf
    save(place.case()[0], image)


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "holds 504 voxels that are not finite"))
def image_with_no_finite_voxel(place):
    save(place.case()[0], np.full(SHAPE, np.nan, np.float32))


@corruption("mmwhs_ct", ("ct_train_1001_image.nii.gz", "holds only the value -1024"))
def image_of_one_value(place):
    save(place.case()[0], np.full(SHAPE, -1024, np.int16))


@corruption("msd_brain", ("imagesTr/BRATS_001.nii.gz", "holds only the value 0 in channel T1gd"))
def channel_of_one_value(place):
    image = image_of(place.spec)
    image[..., 2] = 0
    save(place.case()[0], image)


@corruption("amos22", ("imagesTr/amos_0001.nii.gz", "outside the range of a CT in HU"))
def hounsfield_units_as_unsigned_numbers(place):
    save(place.case()[0], (image_of(place.spec) - 1024).astype(np.int16).astype(np.uint16))


@corruption("amos22", ("imagesTr/amos_0001.nii.gz", "outside the range of a CT in HU"))
def hounsfield_units_far_below_air(place):
    image = image_of(place.spec)
    image[0, 0, 0] = -99999
    save(place.case()[0], image)


@corruption(
    "amos22",
    ("imagesTr/amos_0001.nii.gz", "too small a range for a CT in HU; export it in HU, neither scaled nor"),
)
def hounsfield_units_scaled_to_one(place):
    save(place.case()[0], image_of(place.spec) / 200)


@corruption("amos22", ("imagesTr/amos_0001.nii.gz", "outside the range of a CT in HU"))
def hounsfield_units_scaled_by_the_header(place):
    """The stored numbers are right, but the header's scaling makes them wrong."""
    place.edit_header(place.case()[0], lambda scan: scan.header.set_data_dtype(np.int16))
    place.edit_bytes(place.case()[0], 112, np.array([1000], "<f4").tobytes())


# --- the grid ---


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "has 9 x 8 x 6 voxels, but its image has 9 x 8 x 7"))
def label_of_another_shape(place):
    save(place.case()[1], label_of(place.spec, (9, 8, 6)))


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "(spacing 1 x 1 x 2 mm instead of 1 x 1 x 1)"))
def label_of_another_spacing(place):
    save(place.case()[1], label_of(place.spec), moved(z2=2))


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "is not on the grid of its image (origin 5 mm off)"))
def label_of_another_origin(place):
    save(place.case()[1], label_of(place.spec), moved(x3=3, y3=4))


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "(axes turned by 180 degrees)"))
def label_of_another_direction(place):
    save(place.case()[1], label_of(place.spec), moved(x0=-1, y1=-1))


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "(axes turned by 3 degrees)"))
def label_turned_slightly(place):
    c, s = np.cos(np.radians(3)), np.sin(np.radians(3))
    save(place.case()[1], label_of(place.spec), moved(x0=c, x1=-s, y0=s, y1=c))


@corruption(
    "mmwhs_ct", ("ct_train_1001_image.nii.gz", "an sform and a qform that put its corners up to 2 mm apart")
)
def sform_and_qform_with_two_origins(place):
    place.edit_header(place.case()[0], lambda scan: scan.set_qform(moved(z3=2), 1))
    place.edit_header(place.case()[0], lambda scan: scan.set_sform(np.eye(4), 1))


@corruption("msd_brain", ("labelsTr/BRATS_001.nii.gz", "an sform and a qform that put its corners"))
def sform_and_qform_with_two_directions(place):
    place.edit_header(place.case()[1], lambda scan: scan.set_qform(np.diag([-1.0, -1, 1, 1]), 1))
    place.edit_header(place.case()[1], lambda scan: scan.set_sform(np.eye(4), 1))


@corruption(
    "mmwhs_ct",
    ("ct_train_1001_image.nii.gz", "has an affine that cannot be inverted"),
    ("ct_train_1001_label.nii.gz", "is not on the grid of its image"),
)
def image_with_slices_of_thickness_zero(place):
    place.edit_header(place.case()[0], lambda scan: (scan.set_sform(moved(z2=0), 1), scan.set_qform(None, 0)))


# --- codes ---


@corruption(
    "mmwhs_ct", ("ct_train_1001_label.nii.gz", "holds labels that are not whole numbers, such as 102.5")
)
def label_interpolated(place):
    save(place.case()[1], label_of(place.spec).astype(np.float32) / 2)


@corruption("amos22", ("labelsTr/amos_0001.nii.gz", "holds the undeclared codes 16 (declared: 0, 1, 2"))
def code_undeclared(place):
    label = label_of(place.spec)
    label[0, 0, 0] = 16
    save(place.case()[1], label)


@corruption("msd_brain", ("labelsTr/BRATS_001.nii.gz", "holds the undeclared codes -1, 4"))
def code_of_an_older_release(place):
    """BraTS of other years codes the enhancing tumour as 4."""
    label = label_of(place.spec)
    label[label == 3] = 4
    label[0, 0, 0] = -1
    save(place.case()[1], label)


@corruption(
    "mmwhs_ct", ("ct_train_1001_label.nii.gz", "holds labels that are not whole numbers, such as nan")
)
def code_nan(place):
    label = label_of(place.spec).astype(np.float32)
    label[0, 0, 0] = np.nan
    save(place.case()[1], label)


@corruption(
    "mmwhs_ct", ("ct_train_1001_label.nii.gz", "holds background only; label the case, or leave it out")
)
def label_of_background_only(place):
    save(place.case()[1], np.zeros(SHAPE, np.int16))


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "has 4 axes, but a label map has three"))
def label_in_channels(place):
    save(place.case()[1], np.stack([label_of(place.spec)] * 2, -1))


@corruption("mmwhs_ct", ("ct_train_1001_label.nii.gz", "holds values of type"))
def label_in_colour(place):
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(place.case()[1], np.zeros(SHAPE, rgb))


def without(place: Place, code: int) -> None:
    """Remove a code from every label map."""
    for i in range(1, 4):
        label = np.asanyarray(nib.load(place.case(i)[1]).dataobj).copy()
        label[label == code] = 0
        save(place.case(i)[1], label)


@corruption("mmwhs_mr", ("/mmwhs/mr_train", "has no case with a voxel of pulmonary artery (850); add cases"))
def class_missing_everywhere(place):
    without(place, 850)


@corruption("msd_brain", ("/Task01_BrainTumour", "has no case with a voxel of whole tumour (1)"))
def own_code_of_an_outer_class_missing_everywhere(place):
    without(place, 1)
