"""Snapshots of the aligned image and text vectors of each class, taken during training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from monai.networks import eval_mode
from monai.transforms import ResizeWithPadOrCrop
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path
from bipvl.engine.run import Run
from bipvl.model.losses import TEMPERATURE, class_summary

FOLDER = "embeddings"
"""Below a run's directory."""


@dataclass(frozen=True)
class Snapshot:
    """A network's vectors in the shared space, averaged over validation cases.

    Attributes:
        step: training steps done.
        cases: number of validation cases.
        visual: N × D, not normalised.
        text: N × (K + 1) × D, not normalised.
    """

    step: int
    cases: int
    visual: Tensor
    text: Tensor

    def similarity(self, temperature: float = TEMPERATURE) -> Tensor:
        """Cosine of each class's global text vector (rows) with each class's visual vector (columns): N × N.

        The global vector weights a class's texts as the global alignment does, at its temperature.
        """
        visual, text = F.normalize(self.visual, dim=-1), F.normalize(self.text, dim=-1)
        return class_summary(visual, text, temperature=temperature) @ visual.T


def take_snapshot(
    run: Run, network: nn.Module, prompts: Any, cases: Sequence[Mapping], step: int, accelerator: Accelerator
) -> None:
    """Write ``embeddings/step-00000042.safetensors``, if the network reads prompts.

    The same weights give the same bytes: nothing is random. The network stays in training or evaluation mode.
    """
    if not (run.variant.language and accelerator.is_main_process):
        return
    vectors = aligned_vectors(network, prompts, (case["image"] for case in cases), run.config["crop"])
    with atomic_path(run.directory / FOLDER / f"step-{step:08d}.safetensors") as temporary:
        save_file(vectors, temporary, metadata={"cases": str(len(cases))})


def aligned_vectors(
    network: nn.Module, prompts: Any, images: Iterable[Tensor], crop: Sequence[int]
) -> dict[str, Tensor]:
    """``visual`` N × D and ``text`` N × (K + 1) × D: means over the centre crops of images M × H × W × D."""
    device, centre = next(network.parameters()).device, ResizeWithPadOrCrop(crop)
    found: dict[str, list[Tensor]] = {"visual": [], "text": []}
    with eval_mode(network):
        for image in images:
            output = network(centre(image)[None].as_subclass(Tensor).to(device), prompts)
            for name, vectors in found.items():
                vectors.append(getattr(output, name)[0].float().cpu())
    return {name: torch.stack(vectors).mean(0) for name, vectors in found.items()}


def read_snapshots(folder: str | Path) -> list[Snapshot]:
    """Read all snapshots in a run's folder, in the order of their steps.

    Raises:
        BipvlError: there is none.
    """
    place = Path(folder) / FOLDER
    if snapshots := [_read(path) for path in sorted(place.glob("step-*.safetensors"))]:
        return snapshots
    raise BipvlError("holds no snapshot of the shared space", "delete the run and train it again", place)


def _read(path: Path) -> Snapshot:
    with safe_open(path, framework="pt") as file:
        return Snapshot(
            step=int(path.stem.removeprefix("step-")),
            cases=int(file.metadata()["cases"]),
            visual=file.get_tensor("visual"),
            text=file.get_tensor("text"),
        )
