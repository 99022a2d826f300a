"""From a trained network and a prepared image to logits, by sliding windows."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn
from tqdm.auto import tqdm

from bipvl.data.prompt_edits import Texts
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import prepare_transform
from bipvl.engine.build import load_network
from bipvl.engine.run import Run
from bipvl.engine.variants import Variant, prompt_texts
from bipvl.engine.windows import count_windows

Predictor = Callable[[Tensor], Tensor]
"""Crop B × M × H × W × D → logits B × C × H × W × D."""


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
        crop, at_once, overlap, mode="gaussian", sw_device=device, device=image.device
    )
    total = count_windows(image.shape[1:], crop, overlap)
    with tqdm(total=total, desc="windows", unit="window", leave=False, disable=not progress) as bar:

        def counted(window: Tensor) -> Tensor:
            bar.update(len(window))
            return predictor(window)

        return inferer(image[None].as_subclass(Tensor), counted)[0]


def to_labels(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Logits C × H × W × D → labels as in training: class index 1 × H × W × D, or binary C × H × W × D."""
    labels = logits > 0 if overlapping else logits.argmax(0, keepdim=True)
    return labels.to(torch.uint8)


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
        run.check_has_network()
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
