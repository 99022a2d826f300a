"""From a network and a case to labels: sliding window, then back onto the scan's own grid."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from nibabel.spatialimages import SpatialImage
from torch import Tensor, nn
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path
from bipvl.data.labels import decode
from bipvl.data.prompt_edits import Texts
from bipvl.data.scans import image_fault, kind_fault, read_scan
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import Pipeline, paths_of, prepare_transform
from bipvl.engine.run import Run
from bipvl.engine.variants import Variant, load_network, prompt_texts

Predictor = Callable[[Tensor], Tensor]
"""Crop B × M × H × W × D → logits B × C × H × W × D."""

Files = str | Path | Sequence[str | Path]
"""A scan's NIfTI file, or its files, a channel each."""

SLAB = 2**23
"""Values that are worked on at once, whatever the size of the scan."""


def make_predictor(network: nn.Module, variant: Variant, prompts: Sequence[Sequence[str]]) -> Predictor:
    """The network as a function of the image alone; what the prompts alone decide is computed here, once."""
    network.eval().to(memory_format=torch.channels_last_3d)  # convolutions take less time so
    if not variant.language:
        return network.predict
    with torch.inference_mode():
        state = network.encode_prompts(prompts)
    return lambda volume: network.predict(volume, state)


@torch.inference_mode()
def predict_volume(
    predictor: Predictor,
    image: Tensor,
    *,
    crop: Sequence[int],
    overlap: float,
    at_once: int,
    device: torch.device,
    progress: bool = False,
) -> Tensor:
    """Logits C × H × W × D on the working grid for an image M × H × W × D (kept on the image's device).

    Args:
        at_once: windows in a batch. Of small ones torch's CPU convolution takes up to twice as long alone.
    """
    inferer = SlidingWindowInferer(
        roi_size=crop,
        sw_batch_size=at_once,
        overlap=overlap,
        mode="gaussian",
        sw_device=device,
        device=image.device,
    )
    total = count_windows(image.shape[1:], crop, overlap)
    with tqdm(total=total, desc="windows", unit="window", leave=False, disable=not progress) as bar:

        def counted(window: Tensor) -> Tensor:
            bar.update(len(window))
            return predictor(window)

        return inferer(image[None].as_subclass(Tensor), counted)[0]


def to_labels(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Logits C × H × W × D → labels as in training: class index 1 × H × W × D, or binary C × H × W × D."""
    if overlapping:
        return (logits > 0).to(torch.uint8)
    return logits.argmax(0, keepdim=True).to(torch.uint8)


def to_grid(
    logits: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int], *, overlapping: bool
) -> Tensor:
    """Labels on another grid: each channel's probability is resampled linearly, then the class chosen.

    What lies outside the working grid is background.
    """
    probabilities = logits.sigmoid() if overlapping else logits.softmax(0)
    return labels_on_grid(probabilities, affine, target_affine, shape, overlapping=overlapping)


@torch.inference_mode()
def to_probabilities_(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Logits C × H × W × D become probabilities in place, so that a large scan's are in memory once."""
    for rows in slabs(logits[0].shape, channels=len(logits)):
        part = logits[:, rows]
        part.copy_(part.sigmoid() if overlapping else part.softmax(0))
    return logits


def labels_on_grid(
    probabilities: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int], *, overlapping: bool
) -> Tensor:
    """Probabilities C × h × w × d → labels on another grid: 1 × H × W × D, or binary C × H × W × D, uint8.

    Slab by slab: however large the scan, its own grid holds labels alone.
    """
    labels = torch.zeros(len(probabilities) if overlapping else 1, *shape, dtype=torch.uint8)
    for rows in slabs(shape, channels=len(probabilities)):
        part = labels[:, rows]
        p = resampled(probabilities, affine, shifted(target_affine, rows.start), part.shape[1:])
        if overlapping:
            part[:] = p > 0.5
            continue
        best = p[0]
        for c, channel in enumerate(p[1:], start=1):
            part[0][channel > best] = c
            best = torch.maximum(best, channel)
    return labels


def channel_on_grid(
    probability: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int]
) -> Tensor:
    """One channel's probabilities h × w × d on another grid, H × W × D; 0 outside the working grid."""
    out = torch.zeros(*shape)
    for rows in slabs(shape):
        part = out[rows]
        part[:] = resampled(probability[None], affine, shifted(target_affine, rows.start), part.shape)[0]
    return out


def resampled(volume: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int]) -> Tensor:
    """C × h × w × d on another grid, linearly; 0 outside."""
    resample = SpatialResample(
        mode="bilinear", padding_mode="zeros", align_corners=False, dtype=torch.float32
    )
    moved = MetaTensor(volume, affine=affine)
    return resample(moved, dst_affine=target_affine, spatial_size=tuple(shape)).as_subclass(Tensor)


def slabs(shape: Sequence[int], channels: int = 1) -> Iterator[slice]:
    """Rows of the first axis, together all, with SLAB values at most in so many channels (or one row)."""
    rows = max(SLAB // (channels * prod(shape[1:])), 1)
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def shifted(affine: Tensor, rows: int) -> Tensor:
    """The affine of a volume without its first rows."""
    shift = torch.eye(4, dtype=affine.dtype)
    shift[0, 3] = rows
    return affine @ shift


# All that places a NIfTI file: both transforms, which of them hold, and the units.
_PLACE = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
_PLACE += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")


def on_grid_of(values: np.ndarray, grid: np.ndarray | SpatialImage | str | Path) -> nib.Nifti1Image:
    """Values H × W × D as an image on a scan's grid.

    ``grid``: the scan or its file, of which all that places it is kept bit for bit, or an affine (mm).
    """
    if isinstance(grid, np.ndarray):
        image = nib.Nifti1Image(values, grid)
        image.header.set_xyzt_units("mm")
        return image
    scan = nib.Nifti1Image.from_image(grid if isinstance(grid, SpatialImage) else nib.load(grid))
    image = nib.Nifti1Image(values, scan.affine)
    for field in _PLACE:
        image.header[field] = scan.header[field]
    return image


def save_image(image: nib.Nifti1Image, path: str | Path) -> None:
    """A NIfTI file, whole or not at all."""
    if not str(path).endswith((".nii", ".nii.gz")):
        raise BipvlError(f"{path} cannot be written: give a name that ends in .nii.gz or .nii")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def save_labels(codes: np.ndarray, grid: np.ndarray | str | Path, path: str | Path) -> None:
    """Native codes H × W × D as a NIfTI file on a scan's grid (as ``on_grid_of``)."""
    save_image(on_grid_of(codes.astype(np.int16), grid), path)


class Segmenter:
    """A trained run, ready to segment scans of its dataset's kind.

    ``texts``: N × (K + 1), in place of those that it was trained with.
    """

    def __init__(self, *, run: Run, texts: Texts | None = None, device: torch.device | None = None) -> None:
        if not run.model_folder.is_dir():
            raise BipvlError(f"{run.directory} holds no trained network (no model folder); train it first")
        from accelerate import Accelerator

        self.run = run
        self.spec: DatasetSpec = run.spec
        self.config: dict[str, Any] = run.config
        self.device = device or Accelerator().device
        self.network = load_network(run.variant, run.model_folder).to(self.device)
        self.texts = texts or prompt_texts(run.variant, self.spec)
        self.predictor = make_predictor(self.network, run.variant, self.texts)
        self.prepare = prepare_transform(self.spec, self.config["spacing"])

    def with_texts(self, texts: Texts, spec: DatasetSpec | None = None) -> "Segmenter":
        """The same network reading other texts, of these classes; nothing is loaded again."""
        other = copy.copy(self)
        other.texts, other.spec = texts, spec or self.spec
        other.predictor = make_predictor(self.network, self.run.variant, texts)
        return other

    def read(self, image: Files | SpatialImage, name: str = "the image") -> MetaTensor:
        """A scan, as NIfTI or in memory (H × W × D or H × W × D × M; its name), prepared: M × h × w × d.

        ``meta["original_affine"]`` is the scan's as it was read.
        """
        if isinstance(image, SpatialImage):
            after_loading = Pipeline(self.prepare.transforms[1:])
            return after_loading({"image": in_memory(self.spec, image, name)})["image"]
        for path in paths_of(image):  # to its last byte: damage shows in a checksum alone
            if fault := kind_fault(read_scan(Path(path))):
                raise BipvlError(f"{path} {fault[0]}; {fault[1]}.")
        return self.prepare({"image": image})["image"]

    def predict(self, prepared: Tensor, *, progress: bool = False) -> Tensor:
        """A prepared image M × h × w × d → logits C × h × w × d on its grid."""
        return predict_volume(
            self.predictor,
            prepared,
            crop=self.config["crop"],
            overlap=self.config["overlap"]["test"],
            at_once=self.config["training"]["batch_size"],
            device=self.device,
            progress=progress,
        )

    def segment(self, image: Files, output: str | Path) -> None:
        """Segment one NIfTI scan; the labels are written in the dataset's own codes on the scan's grid."""
        prepared, first = self.read(image), paths_of(image)[0]
        labels = to_grid(
            self.predict(prepared),
            prepared.affine,
            torch.as_tensor(prepared.meta["original_affine"]),  # as it was read: MONAI mends some headers
            nib.load(first).shape[:3],
            overlapping=self.spec.overlapping,
        )
        save_labels(decode(self.spec, labels.numpy()), first, output)


def in_memory(spec: DatasetSpec, image: SpatialImage, name: str) -> MetaTensor:
    """An image in memory as ``LoadCased`` reads a file: M × H × W × D, float32, on its own grid.

    Raises:
        BipvlError: other channels or axes than the dataset's, a voxel that is not finite.
    """
    voxels = np.array(image.get_fdata(dtype=np.float32, caching="unchanged"))  # a copy: it may be changed
    voxels = voxels[None] if voxels.ndim <= 3 else np.moveaxis(voxels, -1, 0)
    if fault := image_fault(spec, voxels.shape, image.affine):
        raise BipvlError(f"{name} {fault[0]}; {fault[1]}.")
    if not np.isfinite(voxels).all():
        raise BipvlError(f"{name} holds voxels that are not finite; replace them by the background.")
    meta = {"filename_or_obj": name, "original_affine": image.affine}
    return MetaTensor(torch.from_numpy(voxels), affine=torch.as_tensor(image.affine), meta=meta)


def count_windows(shape: Iterable[int], crop: Iterable[int], overlap: float) -> int:
    """The windows that MONAI's sliding-window inferer lays over a volume; sizes in voxels."""
    return prod(
        ceil(max(size - side, 0) / max(int(side * (1 - overlap)), 1)) + 1
        for size, side in zip(shape, crop, strict=True)
    )
