"""Write labels as a DICOM segmentation (SEG) that refers to their series, with highdicom."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.common.extras import missing_extra_explained
from bipvl.common.files import atomic_path
from bipvl.data.spec import DatasetSpec
from bipvl.deploy.dicom import series_slices
from bipvl.deploy.inputs import ScanFiles, files_of
from bipvl.deploy.result import Segmentation


def check_seg(scans: Sequence[ScanFiles], spec: DatasetSpec) -> None:
    """Raise a BipvlError if the labels of these scans cannot be written as SEG."""
    if files := [file for scan in scans for file in files_of(scan) if not file.is_dir()]:
        fix = "give the folder of a series, or leave out --dicom-seg"
        raise BipvlError("not a DICOM series, which a DICOM segmentation must refer to", fix, files[0])
    if spec.overlapping:
        problem = f"the classes of {spec.title} overlap, which --dicom-seg does not support"
        raise BipvlError(problem, "leave it out")


def write_seg(result: Segmentation, folder: Path, path: Path) -> None:
    """Write one segment per class; each call makes a new instance, with its own UID and time.

    Raises:
        BipvlError: the series lacks an attribute that a SEG copies, or highdicom is not installed.
    """
    with missing_extra_explained():
        import highdicom
        import pydicom
    source = [pydicom.dcmread(s.file, stop_before_pixels=True) for s in series_slices(folder)]
    facts = result.facts
    try:
        seg = highdicom.seg.Segmentation(
            source_images=source,
            pixel_array=_frames(result),
            segmentation_type="BINARY",
            segment_descriptions=_segments(result),
            series_instance_uid=highdicom.UID(),
            series_number=int(source[0].SeriesNumber or 0) + 100,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="bipvl",
            manufacturer_model_name=f"{facts['variant']} on {facts['dataset']}"[:64],
            software_versions=version("bipvl"),
            device_serial_number=f"{facts['profile']}, {facts['cohort']}, seed {facts['seed']}"[:64],
        )
    except AttributeError as error:
        problem = f"the slices lack an attribute that a DICOM segmentation copies ({error})"
        raise BipvlError(problem, "export the series again, or leave out --dicom-seg", folder) from error
    with atomic_path(path) as temporary:
        seg.save_as(temporary)


def _frames(result: Segmentation) -> np.ndarray:
    """Slices × rows × columns of segment numbers: 1 for the first class, and so on."""
    codes = result.volumes["code"].to_numpy()
    numbers = np.zeros(codes.max() + 1, np.uint8)
    numbers[codes] = np.arange(1, len(codes) + 1)
    return np.stack([numbers[plane] for plane in np.asarray(result.labels.dataobj).T])


def _segments(result: Segmentation) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    scheme = "99BIPVL"  # of the class codes; DICOM reserves names that start with 99 for private schemes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"BiPVL-Seg {result.facts['variant']}"[:64],
        version=version("bipvl"),
        family=codes.cid7162.ArtificialIntelligence,
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=row["class"][:64],
            segmented_property_category=Code("123037004", "SCT", "Anatomical Structure"),
            segmented_property_type=Code(str(row["code"]), scheme, row["class"][:64]),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, (_, row) in enumerate(result.volumes.iterrows(), start=1)
    ]
