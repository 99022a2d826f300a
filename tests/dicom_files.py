"""Write a volume as a DICOM series as a scanner does: one file per slice, names in no particular order."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
"""From NIfTI's axes to DICOM's."""


def write_series(
    folder: Path,
    values: np.ndarray,
    affine: np.ndarray,
    *,
    slope: float = 1,
    intercept: float = -1024,
    series: str = "one",
    **fields: object,
) -> list[Path]:
    """Write values H × W × D and return the files in the order of the slices.

    Odd slices are stored with twice the slope, so that a reader must rescale each slice on its own.

    Args:
        values: each is ``intercept`` plus a multiple of 2 × ``slope``.
        series: slices with the same name belong to one series.
        fields: further DICOM attributes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, uid = (generate_uid(entropy_srcs=["bipvl", word]) for word in ("study", series))
    files = []
    for k in range(values.shape[2]):
        scale = slope * (1 + k % 2)
        stored = (values[..., k].T - intercept) / scale  # rows × columns
        assert np.array_equal(stored, stored.astype(np.uint16))
        files.append(folder / f"{(k * 7) % values.shape[2]:03d}_{series}.dcm")
        ds = _slice(LPS @ affine, k, generate_uid(entropy_srcs=["bipvl", series, str(k)]))
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, uid
        ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["bipvl", "frame"])
        ds.RescaleSlope, ds.RescaleIntercept = _decimal(scale), _decimal(intercept)
        ds.Rows, ds.Columns = stored.shape
        ds.PixelData = stored.astype(np.uint16).tobytes()
        for name, value in fields.items():
            setattr(ds, name, value)
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def _slice(affine: np.ndarray, k: int, uid: str) -> Dataset:
    """The data set of slice k without its voxels; ``affine`` on DICOM's axes."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID = ds.PatientName = "phantom"
    ds.PatientBirthDate = ds.PatientSex = ds.StudyID = ds.AccessionNumber = ""
    ds.StudyDate, ds.StudyTime, ds.ReferringPhysicianName = "20260101", "120000", ""
    ds.SeriesNumber, ds.InstanceNumber = 1, k + 1
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    ds.ImageOrientationPatient = [_decimal(v) for v in (affine[:3, :2] / spacing[:2]).T.ravel()]
    ds.ImagePositionPatient = [_decimal(v) for v in (affine @ (0, 0, k, 1))[:3]]
    ds.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]  # between rows, between columns
    ds.SliceThickness = _decimal(spacing[2])
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    return ds


def _decimal(value: float) -> DSfloat:
    return DSfloat(value, auto_format=True)
