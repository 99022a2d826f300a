"""Volumes with four balls, large or small, bright or dark, of which a prompt names one: a test of reading.

All four kinds are in every volume, so that only the prompt says which ball is the target.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from bipvl.data.prompt_edits import Texts

SIDE = 32
"""Voxels per side of a volume."""
RADII = {"large": 6.0, "small": 3.0}
"""Mean radius in voxels; each ball's is up to SPREAD smaller or larger."""
SPREAD = 0.5
LEVELS = {"bright": 1.0, "dark": -1.0}
"""Mean intensity; the surroundings have 0."""
NOISE = 0.1
GAP = 1.0
"""Voxels between two balls, and between a ball and the border, at least."""


@dataclass(frozen=True)
class Kind:
    """A size and an intensity."""

    size: str
    level: str

    @property
    def name(self) -> str:
        """For tables and figures."""
        return f"{self.size} {self.level} ball"


KINDS = tuple(Kind(size, level) for level in LEVELS for size in RADII)

WORDINGS = {
    "as trained": ("{size} {level} ball", "size: {size}", "intensity: {level}"),
    "other order": ("ball, {level} and {size}", "intensity: {level}", "size: {size}"),
    "synonyms": ("{size} {level} sphere", "extent: {size}", "grey value: {level}"),
    "title alone": ("{size} {level} ball", "", ""),
}
"""Name of a wording → its title and concepts; only the first is trained with."""
SYNONYMS = {"large": "big", "small": "little", "bright": "light", "dark": "black"}
"""The words of the wording "synonyms"; none of them is in a prompt of the training."""


def prompt(kind: Kind, wording: str = "as trained") -> Texts:
    """The texts of one class that name a kind of ball: its title and its concepts."""
    words = {"size": kind.size, "level": kind.level}
    if wording == "synonyms":
        words = {key: SYNONYMS[word] for key, word in words.items()}
    texts = [text.format(**words) for text in WORDINGS[wording]]
    return [[texts[0].capitalize(), *(text for text in texts[1:] if text)]]


def volume_of(seed: int, index: int, absent: Kind | None = None) -> tuple[Tensor, Tensor]:
    """Volume ``index`` of a seed: image 1 × 32 × 32 × 32 and the masks of KINDS, 4 × 32 × 32 × 32, boolean.

    Args:
        absent: a kind that is left out; its mask is empty. Everything else stays as it is with it.
    """
    generator = np.random.default_rng((seed, index))
    radii = np.array([RADII[kind.size] for kind in KINDS]) + generator.uniform(-SPREAD, SPREAD, len(KINDS))
    while not _apart(centres := _centres(generator, radii), radii):
        pass
    axes = np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij")
    places = np.stack(axes, -1)[None] - centres[:, None, None, None]  # 4 × 32 × 32 × 32 × 3
    masks = (places**2).sum(-1) <= radii[:, None, None, None] ** 2
    masks[[kind == absent for kind in KINDS]] = False
    image = generator.normal(0, NOISE, (SIDE,) * 3)
    image += sum(LEVELS[kind.level] * mask for kind, mask in zip(KINDS, masks, strict=True))
    return torch.from_numpy(image[None]).float(), torch.from_numpy(masks)


def _centres(generator: np.random.Generator, radii: np.ndarray) -> np.ndarray:
    low = radii[:, None] + GAP
    return generator.uniform(low, SIDE - 1 - low, (len(radii), 3))


def _apart(centres: np.ndarray, radii: np.ndarray) -> bool:
    pairs = combinations(range(len(radii)), 2)
    return all(np.linalg.norm(centres[i] - centres[j]) > radii[i] + radii[j] + GAP for i, j in pairs)
