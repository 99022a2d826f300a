"""Segment scans with a trained run: ``bipvl.segment`` in Python and ``bipvl segment`` on the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from nibabel.spatialimages import SpatialImage
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_csv
from bipvl.data.scans import grid_issue, image_issue, kind_issue, open_scan, read_scan
from bipvl.data.transforms import Pipeline
from bipvl.deploy.dicom import read_series, series_affine, series_slices
from bipvl.deploy.dicom_seg import check_seg, write_seg
from bipvl.deploy.inputs import ScanFiles, files_of, is_alone, name_of, scans_at, stem
from bipvl.deploy.open_model import ModelSource, open_model, run_of
from bipvl.deploy.prompt_source import PromptSource, describe_prompts
from bipvl.deploy.request import check_request
from bipvl.deploy.result import Probabilities, Segmentation
from bipvl.engine.predict import Segmenter
from bipvl.engine.scan_grid import label_scan, on_grid_of
from bipvl.engine.variants import prompt_texts

ORIGIN = ("cohort", "profile", "dataset", "variant", "seed")
"""The entries of a run's configuration that say where its results come from."""

ScanSource = ScanFiles | SpatialImage
"""A scan on disk or in memory."""


def segment(
    image: str | Path | Sequence[str | Path] | SpatialImage | tuple[Any, Any],
    model: ModelSource,
    prompts: PromptSource = None,
    *,
    probabilities: bool = False,
    progress: bool = True,
) -> Segmentation | list[Segmentation]:
    """Segment a scan, or all scans in a folder, with a trained run.

    Args:
        image: a NIfTI file, a folder of them, the folder of a DICOM series, a list with one NIfTI file per
            channel, a nibabel image, or (array, affine): voxels H × W × D, or H × W × D × M if the data set
            has M channels, and an affine 4 × 4 in mm. If each channel is a file of its own by nnU-Net's
            names (NAME_0000.nii.gz, …), any one of them.
        model: the folder of a trained or exported run, a Run, or a Segmenter, which many calls can share.
        prompts: a prompt CSV or table to use instead of the data set's.
        probabilities: also keep the probability of each class.

    Returns:
        The result; for a folder of NIfTI files a list, in the order of the file names.

    Raises:
        BipvlError: a scan, run or prompts that cannot be used.

    Example:
        >>> result = bipvl.segment("scan.nii.gz", "runs/quick/amos22/bipvlseg/seed0")  # doctest: +SKIP
        >>> result.volumes[["class", "ml"]], result.labels.get_fdata()  # doctest: +SKIP
    """
    if isinstance(image, (str, Path)):
        scans: Sequence[ScanSource] = scans_at(image, len(run_of(model).spec.channels))
        alone = is_alone(image, scans)
    else:
        scans, alone = [_one_scan(image)], True
    segmenter = open_model(model, prompts)
    results = [*_segment_each(scans, segmenter, prompts, probabilities=probabilities, progress=progress)]
    return results[0] if alone else results


def segment_files(
    image: str | Path,
    model: ModelSource,
    output: str | Path,
    prompts: PromptSource = None,
    *,
    probabilities: bool = False,
    dicom_seg: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Segment the scans at a path and write the results: ``bipvl segment``. Returns the main files written.

    Each label map comes with its facts and probabilities (``Segmentation.save``). The volumes of one scan
    are written beside it (.csv), those of a folder to volumes.csv in the output folder.

    Args:
        dicom_seg: for a DICOM series, also write a DICOM segmentation (.dcm).

    Raises:
        BipvlError: as ``segment``, or an output that would overwrite a scan. Paths, headers, run and prompts
            are checked before the first scan is segmented, so that nothing is written if they are wrong.
    """
    scans, targets = check_request(image, run_of(model), output, prompts)
    segmenter = open_model(model, prompts)
    if dicom_seg:
        check_seg(scans, segmenter.spec)
    beside = targets[0].with_name(f"{stem(targets[0])}.csv")
    table = beside if is_alone(image, scans) else Path(output) / "volumes.csv"
    volumes = []
    each = _segment_each(scans, segmenter, prompts, probabilities=probabilities, progress=progress)
    for scan, target, result in zip(scans, targets, each, strict=True):
        if dicom_seg:
            write_seg(result, scan, target.with_name(f"{stem(target)}.dcm"))
        volumes.append(result.volumes)
        write_csv(table, pd.concat(volumes))  # after each scan, so that an interruption loses no row
        result.save(target)
    return [*targets, table]


def _one_scan(image: Any) -> ScanSource:
    """An image in memory as a nibabel image; files of channels as their paths."""
    if isinstance(image, SpatialImage):
        return image
    if isinstance(image, (list, tuple)) and image and all(isinstance(p, (str, Path)) for p in image):
        files = tuple(map(Path, image))
        return files if len(files) > 1 else files[0]
    voxels, affine = image if len(image) == 2 else (None, None)
    matrix = np.asarray(affine, float) if np.shape(affine) == (4, 4) else np.zeros((4, 4))
    if not (np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-9):
        problem = "an array needs an affine of 4 × 4 that can be inverted"
        raise BipvlError(problem, "give both as (array, affine)")
    return nib.Nifti1Image(np.asarray(voxels, np.float32), matrix)


def _segment_each(
    scans: Sequence[ScanSource],
    segmenter: Segmenter,
    prompts: PromptSource,
    *,
    probabilities: bool,
    progress: bool,
) -> Iterator[Segmentation]:
    """Segment the scans one by one; the headers of all are checked before the first."""
    for scan in scans:
        if issue := image_issue(segmenter.spec, *_shape_and_affine(scan)):
            raise issue.at(_describe(scan))
    source = describe_prompts(prompts)
    if prompts is None and segmenter.texts != prompt_texts(segmenter.run.variant, segmenter.run.spec):
        source = "texts given to the Segmenter"
    for scan in tqdm(scans, "segment", unit="scan", disable=not progress or len(scans) == 1):
        yield _segment_one(scan, segmenter, source, probabilities, progress)


def _segment_one(
    scan: ScanSource, segmenter: Segmenter, source: str, probabilities: bool, progress: bool
) -> Segmentation:
    """A function of its own, so that a scan's tensors are freed before the next scan is read."""
    spec = segmenter.spec
    grid, prepared = _read(scan, segmenter)
    found = label_scan(spec, segmenter.predict(prepared, progress=progress), prepared)
    labels, names = on_grid_of(found.codes, grid), [c.name for c in spec.classes]
    name = "scan" if isinstance(scan, SpatialImage) else name_of(scan)
    kept = Probabilities(found.probabilities, prepared.affine, names, labels) if probabilities else None
    return Segmentation(
        scan=name,
        labels=labels,
        volumes=_volumes(name, found.labels.numpy(), labels.affine, segmenter, source),
        facts=_facts(_describe(scan), segmenter, source),
        probabilities=kept,
    )


def _shape_and_affine(scan: ScanSource) -> tuple[tuple[int, ...], np.ndarray]:
    """A scan's shape M × H × W × D and affine, from its headers."""
    if isinstance(scan, tuple):
        first, *others = map(open_scan, scan)
        for path, other in zip(scan[1:], others, strict=True):
            grids = (first.shape, first.affine), (other.shape, other.affine)
            if issue := grid_issue(*grids, reference="first channel"):
                raise issue.at(path)
        return (len(scan), *first.shape), first.affine
    if isinstance(scan, Path) and scan.is_dir():
        slices = series_slices(scan)
        return (1, *slices[0].size[:2], len(slices)), series_affine(slices)
    image = scan if isinstance(scan, SpatialImage) else open_scan(scan)
    shape = image.shape
    return (*shape[3:], *shape[:3]) if len(shape) > 3 else (1, *shape), image.affine


def _read(scan: ScanSource, segmenter: Segmenter) -> tuple[nib.Nifti1Image, MetaTensor]:
    """A scan's grid, as an image without memory for its voxels, and the prepared scan M × h × w × d."""
    if isinstance(scan, SpatialImage) or files_of(scan)[0].is_dir():
        image = scan if isinstance(scan, SpatialImage) else read_series(scan)
        loaded = {"image": _load_from_memory(image, _describe(scan))}
        prepared = Pipeline(segmenter.prepare.transforms[1:])(loaded)["image"]
    else:
        image = nib.load(files_of(scan)[0])
        for path in files_of(scan):  # read to the end: only the gzip checksum reveals some damage
            if issue := kind_issue(read_scan(path)):
                raise issue.at(path)
        prepared = segmenter.prepare({"image": files_of(scan)})["image"]
    return on_grid_of(np.broadcast_to(np.int16(0), image.shape[:3]), image), prepared


def _load_from_memory(image: SpatialImage, name: str) -> MetaTensor:
    """An image in memory as ``LoadCased`` returns a file: M × H × W × D, float32, on its own grid."""
    voxels = np.array(image.get_fdata(dtype=np.float32, caching="unchanged"))  # a copy that we may change
    voxels = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0)
    if not np.isfinite(voxels).all():
        raise BipvlError("holds voxels that are not finite", "replace them by the background", name)
    meta = {"filename_or_obj": name, "original_affine": image.affine, "spatial_shape": voxels.shape[1:]}
    return MetaTensor(torch.from_numpy(voxels), affine=torch.as_tensor(image.affine), meta=meta)


def _volumes(
    name: str, labels: np.ndarray, affine: np.ndarray, segmenter: Segmenter, source: str
) -> pd.DataFrame:
    """One row per class; ``labels`` as in training, so that nested classes count in full."""
    spec = segmenter.spec
    masks = labels if spec.overlapping else (labels[0] == c + 1 for c in range(spec.num_classes))
    table = pd.DataFrame({"scan": name, "class": [c.name for c in spec.classes], "code": spec.decoded_codes})
    table["voxels"] = [int(np.count_nonzero(mask)) for mask in masks]
    table["ml"] = table["voxels"] * (abs(np.linalg.det(affine[:3, :3])) / 1000)
    origin = {key: segmenter.config[key] for key in ORIGIN} | {"dataset": spec.name}
    return table.assign(**origin, prompts=source)


def _facts(scan: str, segmenter: Segmenter, source: str) -> dict[str, Any]:
    """The content of the .json file beside a label map."""
    spec, run = segmenter.spec, segmenter.run
    names = [c.name for c in spec.classes]
    labels = {0: "background"} | dict(sorted(zip(spec.decoded_codes, names, strict=True)))
    texts = dict(zip(names, segmenter.texts, strict=True))
    return {
        "scan": scan,
        "labels": {str(code): name for code, name in labels.items()},
        "overlapping": "a voxel holds the innermost of its classes" if spec.overlapping else False,
        "run": str(run.directory),
        **{key: run.config[key] for key in ORIGIN},
        "prompts": {"from": source, "texts": texts} if run.variant.language else None,
    }


def _describe(scan: ScanSource) -> str:
    """A scan in messages and results."""
    if isinstance(scan, tuple):
        return f"{scan[0]} … {scan[-1].name}"
    return str(scan) if isinstance(scan, Path) else scan.get_filename() or "the image in memory"
