"""From a trained network and a prepared image to logits, by sliding windows."""

import copy
from collections.abc import Callable, Iterable, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from nibabel.spatialimages import SpatialImage
from torch import Tensor, nn
from tqdm.auto import tqdm

from bipvl.common.errors import BipvlError
from bipvl.data.prompt_edits import Texts
from bipvl.data.scans import image_issue, kind_issue, read_scan
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import Pipeline, paths_of, prepare_transform
from bipvl.engine.build import load_network
from bipvl.engine.run import Run
from bipvl.engine.variants import Variant, prompt_texts

Predictor = Callable[[Tensor], Tensor]
"""Crop B × M × H × W × D → logits B × C × H × W × D."""

Files = str | Path | Sequence[str | Path]
"""A scan's NIfTI file, or one file per channel."""


def make_predictor(network: nn.Module, variant: Variant, prompts: Sequence[Sequence[str]]) -> Predictor:
    """The network as a function of the image alone; the prompts are encoded once, here."""
    network.eval().to(memory_format=torch.channels_last_3d)  # makes convolutions faster
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
    """Logits C × H × W × D for an image M × H × W × D on the working grid (kept on the image's device).

    Args:
        crop: size of a window, voxels.
        overlap: of neighbouring windows, as a share of the crop.
        at_once: windows per batch. PyTorch's CPU convolution takes up to twice as long per window when small
            windows come one at a time.
        device: where the network computes.
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


def count_windows(shape: Iterable[int], crop: Iterable[int], overlap: float) -> int:
    """How many windows MONAI's sliding-window inferer places over a volume; sizes in voxels."""
    return prod(
        ceil(max(size - side, 0) / max(int(side * (1 - overlap)), 1)) + 1
        for size, side in zip(shape, crop, strict=True)
    )


def to_labels(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Logits C × H × W × D → labels as in training: class index 1 × H × W × D, or binary C × H × W × D."""
    if overlapping:
        return (logits > 0).to(torch.uint8)
    return logits.argmax(0, keepdim=True).to(torch.uint8)


class Segmenter:
    """A trained run, loaded for prediction; ``bipvl.segment`` takes it in place of the run's folder.

    Args:
        run: a trained run.
        texts: N × (K + 1) texts to use instead of those that the run was trained with.
        device: where the network computes; by default an accelerator if there is one.

    Raises:
        BipvlError: the run has no trained network.
    """

    def __init__(self, *, run: Run, texts: Texts | None = None, device: torch.device | None = None) -> None:
        if not run.model_folder.is_dir():
            raise BipvlError("no trained network (no model folder)", "train it first", run.directory)
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
        """The same network with other texts and, if given, the classes of ``spec``; loads nothing again."""
        other = copy.copy(self)
        other.texts, other.spec = texts, spec or self.spec
        other.predictor = make_predictor(self.network, self.run.variant, texts)
        return other

    def read(self, image: Files | SpatialImage, name: str = "the image") -> MetaTensor:
        """Read and prepare a scan: M × h × w × d on the working grid.

        Args:
            image: NIfTI files, or an image in memory, H × W × D or H × W × D × M.
            name: of an image in memory, for error messages.

        Raises:
            BipvlError: an unreadable file, or an image that does not fit the data set.
        """
        if isinstance(image, SpatialImage):
            after_loading = Pipeline(self.prepare.transforms[1:])
            return after_loading({"image": _in_memory(self.spec, image, name)})["image"]
        for path in paths_of(image):  # read to the end: only the gzip checksum reveals some damage
            if issue := kind_issue(read_scan(Path(path))):
                raise issue.at(path)
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


def _in_memory(spec: DatasetSpec, image: SpatialImage, name: str) -> MetaTensor:
    """An image in memory as ``LoadCased`` returns a file: M × H × W × D, float32, on its own grid.

    Raises:
        BipvlError: channels or axes that do not fit the data set, or a voxel that is not finite.
    """
    voxels = np.array(image.get_fdata(dtype=np.float32, caching="unchanged"))  # a copy that we may change
    voxels = voxels[None] if voxels.ndim <= 3 else np.moveaxis(voxels, -1, 0)
    if issue := image_issue(spec, voxels.shape, image.affine):
        raise issue.at(name)
    if not np.isfinite(voxels).all():
        raise BipvlError("holds voxels that are not finite", "replace them by the background", name)
    meta = {
        "filename_or_obj": name,
        "original_affine": image.affine,
        "spatial_shape": voxels.shape[1:],
    }
    return MetaTensor(torch.from_numpy(voxels), affine=torch.as_tensor(image.affine), meta=meta)
