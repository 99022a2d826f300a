"""Conversion of OpenKBP's CSV files: orientation, HU, label codes, and damaged files."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from data_files import write_openkbp_patient

from bipvl.common.errors import BipvlError
from bipvl.data.openkbp import FILES, ORGANS, checksum, listed_patients, read_patient
from bipvl.data.spec import load_spec

SPEC = load_spec("openkbp")
REAL = Path(os.environ.get("BIPVL_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIRST, LAST = (0, 0, 0), (127, 127, 127)


@pytest.fixture
def patient(tmp_path):
    """CSV files with each organ in one voxel, where the cord also claims the brainstem's."""
    places = {organ: [(code, 2 * code, 3 * code)] for code, organ in enumerate(ORGANS, start=1)}
    places["SpinalCord"] += [(5, 6, 7)]
    places["Brainstem"] += [(5, 6, 7)]
    return write_openkbp_patient(tmp_path / "pt_1", {FIRST: 24.0, (5, 6, 7): 1040.0, LAST: 3976.0}, places)


def test_a_patient_is_converted_to_hu_and_codes_on_the_patients_axes(patient):
    image, label = read_patient(patient)
    hu, codes = np.asarray(image.dataobj), np.asarray(label.dataobj)
    assert (hu[FIRST], hu[5, 6, 7], hu[LAST]) == (-976, 40, 2976)
    assert (hu != -1000).sum() == 3
    assert [codes[c, 2 * c, 3 * c] for c in range(1, 6)] == [1, 2, 3, 4, 5]
    assert codes[5, 6, 7] == 2 and (codes > 0).sum() == 6
    for scan in (image, label):
        assert nib.aff2axcodes(scan.affine) == ("P", "L", "I")
        assert scan.header.get_zooms() == (4, 3, 2)
        np.testing.assert_allclose(scan.affine @ [63.5, 63.5, 63.5, 1], [0, 0, 0, 1])


def test_the_files_follow_the_label_codes_of_the_data_set():
    words = [name.replace(" gland", "").replace(" ", "") for name in (c.name for c in SPEC.classes)]
    assert [organ.lower() for organ in ORGANS] == words
    assert [c.codes for c in SPEC.classes] == [(1,), (2,), (3,), (4,), (5,)]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ct.csv", ",data\n2097152,5.0\n", "lists voxels that are not whole numbers below 2097152"),
        ("Mandible.csv", ",data\n-1,\n", "lists voxels that are not whole numbers below 2097152"),
        ("Mandible.csv", ",data\n1.5,\n", "lists voxels that are not whole numbers below 2097152"),
        ("Mandible.csv", ",data\nfive,\n", "lists voxels that are not whole numbers below 2097152"),
        ("Mandible.csv", ",data\n7,\n8,\n7,\n", "lists the voxel 7 twice"),
        ("Mandible.csv", ",data\n", "lists no voxel"),
        ("Mandible.csv", "", "not readable as CSV"),
        ("Mandible.csv", "<html>404</html>", "has no column 'data'"),
        ("ct.csv", ",data\n7,40000.0\n", "holds values that are not whole numbers from 0 to 32767"),
        ("ct.csv", ",data\n7,1.5\n", "holds values that are not whole numbers from 0 to 32767"),
        ("ct.csv", ",data\n7,bone\n", "holds values that are not whole numbers from 0 to 32767"),
        ("ct.csv", ",data\n7,\n", "holds values that are not whole numbers from 0 to 32767"),
        ("voxel_dimensions.csv", "4.0\n3.0\n", "does not hold three positive numbers"),
        ("voxel_dimensions.csv", "4.0\n3.0\n-2.0\n", "does not hold three positive numbers"),
        ("voxel_dimensions.csv", "wide\n", "does not hold numbers"),
        ("LeftParotid.csv", None, "file not found"),
    ],
)
def test_a_damaged_file_is_named_with_its_problem(patient, file, text, message):
    (patient / file).unlink() if text is None else (patient / file).write_text(text)
    with pytest.raises(BipvlError, match=rf"pt_1/{file}: {message}"):
        read_patient(patient)


def test_the_checksum_depends_on_voxels_codes_and_spacing(patient):
    known = {checksum(*read_patient(patient))}
    for file, text in [
        ("ct.csv", ",data\n7,8.0\n"),
        ("Mandible.csv", ",data\n7,\n"),
        ("voxel_dimensions.csv", "4\n3\n1"),
    ]:
        (patient / file).write_text(text)
        known.add(checksum(*read_patient(patient)))
    assert len(known) == 4


@pytest.mark.skipif(
    not ((REAL / "OpenKBP").is_dir() and (REAL / "OpenKBP_source").is_dir()),
    reason="no patients: set BIPVL_REAL_DATA to a folder with OpenKBP and OpenKBP_source",
)
def test_real_patients_become_the_scans_that_results_are_made_from():
    patients = listed_patients(SPEC.split["file"])
    complete = [p for p in patients if all((REAL / "OpenKBP_source" / p.folder / f).is_file() for f in FILES)]
    assert complete
    for patient in complete:
        found = read_patient(REAL / "OpenKBP_source" / patient.folder)
        assert checksum(*found) == patient.sha256
        for kind, scan in zip(("imagesTr", "labelsTr"), found, strict=True):
            expected = nib.load(REAL / "OpenKBP" / kind / f"{patient.case}.nii.gz")
            np.testing.assert_array_equal(np.asarray(scan.dataobj), np.asarray(expected.dataobj))
            np.testing.assert_array_equal(scan.header["srow_x"], expected.header["srow_x"])
            assert scan.header == expected.header
