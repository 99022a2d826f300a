"""Scans of one's own, segmented: ``bipvl.segment`` and what it gives back; ``bipvl segment`` writes it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from nibabel.spatialimages import SpatialImage
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_csv
from bipvl.data.labels import decode
from bipvl.data.prompt_edits import Texts, edited
from bipvl.data.prompts import COLUMNS, PromptTable, check_prompts, named_classes, read_prompts
from bipvl.data.scans import grid_fault, image_fault, open_scan
from bipvl.data.spec import DatasetSpec
from bipvl.deploy.dicom import read_series, series_slices
from bipvl.deploy.dicom_seg import check_seg, write_seg
from bipvl.deploy.exported_run import open_run
from bipvl.deploy.inputs import Scan, files_of, is_alone, name_of, scans_at, stem, targets_of
from bipvl.deploy.result import Probabilities, Segmentation
from bipvl.engine.predict import (
    Segmenter,
    labels_on_grid,
    on_grid_of,
    slabs,
    to_probabilities_,
)
from bipvl.engine.run import Run
from bipvl.engine.variants import Variant, prompt_texts

ORIGIN = ("cohort", "profile", "dataset", "variant", "seed")
"""What a run's config says of where its results come from."""

Prompts = str | Path | PromptTable | None
Model = str | Path | Run | Segmenter
Image = Scan | SpatialImage
"""A scan on disk, or in memory."""


def segment(
    image: str | Path | SpatialImage | tuple[Any, Any],
    model: Model,
    prompts: Prompts = None,
    *,
    probabilities: bool = False,
    progress: bool = True,
) -> Segmentation | list[Segmentation]:
    """Segment a scan with a trained run.

    Args:
        image: a NIfTI file, the folder of a DICOM series, a nibabel image, or (array, affine) with voxels
            H × W × D, or H × W × D × M where the dataset has M channels, and an affine 4 × 4 in mm. Where
            each channel has a file of its own (NAME_0000.nii.gz, …), any of them. Of a folder of NIfTI files
            each scan is segmented: a list in the order of their names.
        model: the folder of a trained or exported run, a Run, or a Segmenter, which many calls can share.
        prompts: a prompt CSV or table instead of the dataset's own.
        probabilities: keep those of the classes too.

    Raises:
        BipvlError: whatever is wrong with the scan, the run or the prompts, in one sentence.

    Example:
        >>> result = bipvl.segment("scan.nii.gz", "runs/quick/amos22/bipvlseg/seed0")  # doctest: +SKIP
        >>> result.volumes[["class", "ml"]], result.labels.get_fdata()  # doctest: +SKIP
    """
    in_memory = isinstance(image, (SpatialImage, tuple))
    scans = [_as_image(image)] if in_memory else scans_at(image, _channels_of(model))
    segmenter = open_model(model, prompts)
    found = [*segment_each(scans, segmenter, prompts, probabilities=probabilities, progress=progress)]
    return found[0] if in_memory or is_alone(image, scans) else found


def segment_files(
    image: str | Path,
    model: Model,
    output: str | Path,
    prompts: Prompts = None,
    *,
    probabilities: bool = False,
    dicom_seg: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Segment what lies at a path and write it: ``bipvl segment``. Returns the files written.

    A scan's label map is written with its facts and probabilities (``Segmentation.save``). The volumes of a
    scan lie beside it (.csv), those of a folder together in volumes.csv. ``dicom_seg``: of a DICOM series
    also a DICOM segmentation (.dcm).

    Raises:
        BipvlError: as ``segment``, or an output in the way of a scan; of all that is told before the first
            scan is segmented nothing is written.
    """
    scans = scans_at(image, _channels_of(model))
    targets = targets_of(image, scans, output)
    segmenter = open_model(model, prompts)
    if dicom_seg:
        check_seg(scans, segmenter.spec)
    beside = targets[0].with_name(f"{stem(targets[0])}.csv")
    table = beside if is_alone(image, scans) else Path(output) / "volumes.csv"
    volumes = []
    each = segment_each(scans, segmenter, prompts, probabilities=probabilities, progress=progress)
    for scan, target, result in zip(scans, targets, each, strict=True):
        if dicom_seg:
            write_seg(result, scan, target.with_name(f"{stem(target)}.dcm"))
        volumes.append(result.volumes)
        write_csv(table, pd.concat(volumes))  # whole at any time
        result.save(target)
    return [*targets, table]


def open_model(model: Model, prompts: Prompts = None) -> Segmenter:
    """A segmenter that reads these prompts, checked before the network is loaded where that can be.

    Raises:
        BipvlError: no run, no trained network, prompts that do not fit the run, its classes or its encoder.
    """
    run = _run(model)
    texts, spec = channels(run.spec, run.variant, prompts)  # before the network, which takes longer
    segmenter = model if isinstance(model, Segmenter) else Segmenter(run=run)
    if prompts is None:
        return segmenter
    check_lengths(texts, segmenter.network, _source(prompts))
    return segmenter.with_texts(texts, spec)


def _run(model: Model) -> Run:
    if isinstance(model, Segmenter):
        return model.run
    return model if isinstance(model, Run) else open_run(model)


def _channels_of(model: Model) -> int:
    return len(_run(model).spec.channels)


def channels(spec: DatasetSpec, variant: Variant, prompts: Prompts) -> tuple[Texts, DatasetSpec]:
    """What the prompts make of a run: the texts that its network reads, and the classes of its channels.

    The one place that ties prompts to classes: channel c is ``spec.classes[c]``, written with the code
    ``spec.decoded_codes[c]``, of the spec that is returned. Of the prompted head the rows make the channels;
    of all others they must be the dataset's classes in order, and that spec is the dataset's own.
    """
    if prompts is None:
        return prompt_texts(variant, spec), spec
    if not variant.language:
        raise BipvlError(f"the variant '{variant.name}' reads no prompts; leave them out")
    table = prompts if isinstance(prompts, PromptTable) else read_prompts(prompts)
    if variant.options.get("head") == "prompted":
        spec = replace(spec, classes=named_classes(table, spec, _source(prompts)))
    else:
        check_prompts(table, spec, _source(prompts))
    return edited(table.segments(), variant.prompts), spec


def check_lengths(texts: Texts, network: Any, source: str) -> None:
    """A BipvlError that names row and column where a class's texts are longer than the encoder reads."""
    most = network.text.config.max_position_embeddings - 2  # a token at each end
    for number, row in enumerate(texts, start=1):
        sizes = [
            len(network.tokenizer(f"{text}.", add_special_tokens=False, verbose=False)["input_ids"])
            for text in row
        ]
        if sum(sizes) > most:
            longest = sizes.index(max(sizes))
            raise BipvlError(
                f"{source} is too long for the text encoder: row {number} ('{row[0][:60]}') has {sum(sizes)} "
                f"tokens and {most} fit; shorten its column {COLUMNS[longest]} ({max(sizes)} tokens)"
            )


def segment_each(
    scans: Sequence[Image],
    segmenter: Segmenter,
    prompts: Prompts = None,
    *,
    probabilities: bool = False,
    progress: bool = True,
) -> Iterator[Segmentation]:
    """Segment one scan after another, each when it is asked for; all headers are checked before the first."""
    for scan in scans:
        check_header(scan, segmenter.spec)
    source = _source(prompts)
    if prompts is None and segmenter.texts != prompt_texts(segmenter.run.variant, segmenter.run.spec):
        source = "texts given to the Segmenter"
    for scan in tqdm(scans, "segment", unit="scan", disable=not progress or len(scans) == 1):
        yield _segmented(scan, segmenter, source, probabilities, progress)


def check_header(scan: Image, spec: DatasetSpec) -> None:
    """What can be told of a scan without its voxels: a sentence where it is not of the dataset's kind."""
    if fault := image_fault(spec, *_place(scan)):
        raise BipvlError(f"{_name(scan)} {fault[0]}; {fault[1]}.")


def _place(scan: Image) -> tuple[tuple[int, ...], np.ndarray]:
    """By its headers, a scan's shape with the channels first, and its affine."""
    if isinstance(scan, tuple):
        return _common_place(scan)
    if isinstance(scan, Path) and scan.is_dir():
        slices = series_slices(scan)
        return (1, *slices[0].size[:2], len(slices)), np.eye(4)
    image = scan if isinstance(scan, SpatialImage) else open_scan(scan)
    shape = image.shape
    return (*shape[3:], *shape[:3]) if len(shape) > 3 else (1, *shape), image.affine


def _common_place(files: tuple[Path, ...]) -> tuple[tuple[int, ...], np.ndarray]:
    """Of a file a channel; a BipvlError where they do not lie on one grid."""
    first, *others = map(open_scan, files)
    for path, other in zip(files[1:], others, strict=True):
        if fault := grid_fault(first.shape, first.affine, other.shape, other.affine, beside="first channel"):
            raise BipvlError(f"{path} {fault[0]}; {fault[1]}.")
    return (len(files), *first.shape), first.affine


def _segmented(
    scan: Image, segmenter: Segmenter, source: str, probabilities: bool, progress: bool
) -> Segmentation:
    spec = segmenter.spec
    in_memory = isinstance(scan, SpatialImage)
    files = () if in_memory else files_of(scan)
    if files and files[0].is_file():
        image = nib.load(files[0])
        prepared = segmenter.read(files)
    else:
        image = scan if in_memory else read_series(scan)
        prepared = segmenter.read(image, _name(scan))
    grid = on_grid_of(np.broadcast_to(np.int16(0), image.shape[:3]), image)
    del image  # of a series these are the voxels, which are no longer needed
    working = to_probabilities_(segmenter.predict(prepared, progress=progress), overlapping=spec.overlapping)
    target = torch.as_tensor(prepared.meta["original_affine"])  # as it was read: MONAI mends some headers
    encoded = labels_on_grid(
        working, prepared.affine, target, grid.shape, overlapping=spec.overlapping
    ).numpy()
    labels = on_grid_of(_codes(spec, encoded), grid)
    name = "scan" if isinstance(scan, SpatialImage) else name_of(scan)
    names = [c.name for c in spec.classes]
    return Segmentation(
        scan=name,
        labels=labels,
        volumes=_volumes(name, encoded, labels.affine, segmenter, source),
        facts=_facts(_name(scan), segmenter, source),
        probabilities=Probabilities(working, prepared.affine, names, labels) if probabilities else None,
    )


def _codes(spec: DatasetSpec, encoded: np.ndarray) -> np.ndarray:
    """Native codes H × W × D, int16; slab by slab, since looking codes up takes eight bytes a voxel."""
    codes = np.empty(encoded.shape[1:], np.int16)
    for rows in slabs(codes.shape):
        codes[rows] = decode(spec, encoded[:, rows])
    return codes


def _volumes(
    name: str, encoded: np.ndarray, affine: np.ndarray, segmenter: Segmenter, source: str
) -> pd.DataFrame:
    spec = segmenter.spec
    ml = abs(np.linalg.det(affine[:3, :3])) / 1000  # of a voxel
    masks = encoded if spec.overlapping else (encoded[0] == c + 1 for c in range(spec.num_classes))
    table = pd.DataFrame({"scan": name, "class": [c.name for c in spec.classes], "code": spec.decoded_codes})
    table["voxels"] = [int(np.count_nonzero(mask)) for mask in masks]
    table["ml"] = table["voxels"] * ml
    origin = {key: segmenter.config[key] for key in ORIGIN} | {"dataset": spec.name}
    return table.assign(**origin, prompts=source)


def _facts(scan: str, segmenter: Segmenter, source: str) -> dict[str, Any]:
    """What is written beside a label map."""
    spec, run = segmenter.spec, segmenter.run
    codes = {"0": "background"} | {
        str(code): c.name for c, code in zip(spec.classes, spec.decoded_codes, strict=True)
    }
    read = {c.name: row for c, row in zip(spec.classes, segmenter.texts, strict=True)}
    return {
        "scan": scan,
        "labels": dict(sorted(codes.items(), key=lambda item: int(item[0]))),
        "overlapping": "a voxel holds the innermost of its classes" if spec.overlapping else False,
        "run": str(run.directory),
        **{key: run.config[key] for key in ORIGIN},
        "prompts": {"from": source, "texts": read} if run.variant.language else None,
    }


def _source(prompts: Prompts) -> str:
    """What to call the prompts."""
    if isinstance(prompts, PromptTable):
        return f"the prompt table '{prompts.name}'"
    return str(prompts) if prompts is not None else "the dataset's own"


def _name(scan: Image) -> str:
    """What to call a scan in a sentence."""
    if isinstance(scan, tuple):
        return f"{scan[0]} … {scan[-1].name}"
    return str(scan) if isinstance(scan, Path) else scan.get_filename() or "the image in memory"


def _as_image(image: SpatialImage | tuple[Any, Any]) -> SpatialImage:
    if isinstance(image, SpatialImage):
        return image
    voxels, affine = image if len(image) == 2 else (None, None)
    place = np.asarray(affine, float) if np.shape(affine) == (4, 4) else np.zeros((4, 4))
    if not (np.isfinite(place).all() and abs(np.linalg.det(place)) > 1e-9):
        raise BipvlError(
            "an array needs its place: give (array, affine), an affine of 4 × 4 that can be inverted"
        )
    return nib.Nifti1Image(np.asarray(voxels, np.float32), place)
