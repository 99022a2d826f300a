"""From a network and a case to labels: sliding window, then back onto the scan's own grid."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import SpatialResample
from torch import Tensor, nn

from bipvl.data.labels import decode
from bipvl.data.prompt_edits import Texts
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import prepare_transform
from bipvl.errors import BipvlError
from bipvl.files import atomic_path
from bipvl.runs import Run
from bipvl.variants import Variant, load_network, prompt_texts

Predictor = Callable[[Tensor], Tensor]
"""Crop B × M × H × W × D → logits B × C × H × W × D."""


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
    predictor: Predictor, image: Tensor, *, crop: Sequence[int], overlap: float, device: torch.device
) -> Tensor:
    """Logits C × H × W × D on the working grid for an image M × H × W × D (kept on the image's device)."""
    inferer = SlidingWindowInferer(
        roi_size=crop,
        sw_batch_size=1,
        overlap=overlap,
        mode="gaussian",
        sw_device=device,
        device=image.device,
    )
    return inferer(image[None].as_subclass(Tensor), predictor)[0]


def to_labels(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Logits C × H × W × D → labels as in training: class index 1 × H × W × D, or binary C × H × W × D."""
    if overlapping:
        return (logits > 0).to(torch.uint8)
    return logits.argmax(0, keepdim=True).to(torch.uint8)


def to_grid(
    logits: Tensor, affine: Tensor, target_affine: Tensor, shape: Sequence[int], *, overlapping: bool
) -> Tensor:
    """Labels on another grid: each channel's probability is resampled linearly, then the class chosen.

    One channel at a time, so that a scan of clinical size needs memory for two channels, not for all. What
    lies outside the working grid is background.
    """
    probabilities = logits.sigmoid() if overlapping else logits.softmax(0)
    resample = SpatialResample(
        mode="bilinear", padding_mode="zeros", align_corners=False, dtype=torch.float32
    )

    def on_target(channel: Tensor) -> Tensor:
        moved = MetaTensor(channel[None], affine=affine)
        return resample(moved, dst_affine=target_affine, spatial_size=tuple(shape))[0].as_subclass(Tensor)

    if overlapping:
        return torch.stack([on_target(p) > 0.5 for p in probabilities]).to(torch.uint8)
    best = on_target(probabilities[0])
    labels = torch.zeros(1, *shape, dtype=torch.uint8)
    for c, channel in enumerate(probabilities[1:], start=1):
        p = on_target(channel)
        labels[0][p > best] = c
        best = torch.maximum(best, p)
    return labels


# All that places a NIfTI file: both transforms, which of them hold, and the units.
_PLACE = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
_PLACE += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")


def save_labels(codes: np.ndarray, grid: np.ndarray | str | Path, path: str | Path) -> None:
    """Native codes H × W × D as a NIfTI file on a scan's grid.

    ``grid``: the scan's file, of which all that places it is kept bit for bit, or an affine (mm).
    """
    if not str(path).endswith((".nii", ".nii.gz")):
        raise BipvlError(f"{path} cannot be written: give a name that ends in .nii.gz or .nii")
    codes = codes.astype(np.int16)
    if isinstance(grid, np.ndarray):
        image = nib.Nifti1Image(codes, grid)
        image.header.set_xyzt_units("mm")
    else:
        scan = nib.Nifti1Image.from_image(nib.load(grid))
        image = nib.Nifti1Image(codes, scan.affine)
        for field in _PLACE:
            image.header[field] = scan.header[field]
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


class Segmenter:
    """A trained run, ready to segment scans of its dataset's kind.

    ``texts``: N × (K + 1), in place of those that it was trained with.
    """

    def __init__(self, *, run: Run, texts: Texts | None = None, device: torch.device | None = None) -> None:
        if not run.model_folder.is_dir():
            raise BipvlError(f"{run.directory} holds no trained network (no model folder); train it first")
        from accelerate import Accelerator

        self.spec: DatasetSpec = run.spec
        self.config: dict[str, Any] = run.config
        self.device = device or Accelerator().device
        network = load_network(run.variant, run.model_folder).to(self.device)
        self.predictor = make_predictor(network, run.variant, texts or prompt_texts(run.variant, self.spec))
        self.prepare = prepare_transform(self.spec, self.config["spacing"])

    def predict(self, prepared: Tensor) -> Tensor:
        """A prepared image M × h × w × d → logits C × h × w × d on its grid."""
        return predict_volume(
            self.predictor,
            prepared,
            crop=self.config["crop"],
            overlap=self.config["overlap"]["test"],
            device=self.device,
        )

    def segment(self, image: str | Path, output: str | Path) -> None:
        """Segment one NIfTI scan; the labels are written in the dataset's own codes on the scan's grid."""
        prepared = self.prepare({"image": str(image)})["image"]
        labels = to_grid(
            self.predict(prepared),
            prepared.affine,
            torch.as_tensor(prepared.meta["original_affine"]),  # as it was read: MONAI mends some headers
            nib.load(image).shape[:3],
            overlapping=self.spec.overlapping,
        )
        save_labels(decode(self.spec, labels.numpy()), image, output)
