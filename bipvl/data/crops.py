"""Training crops as a pure function of (seed, number): order, place and augmentation included.

So the same crops come with any number of workers or processes, and a resumed training needs no sampler state.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import PersistentDataset
from torch import Tensor
from torch.utils.data import Dataset, Subset

from bipvl.data.layouts import Case
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import prepare_transform, random_transform


def derive_seed(*parts: object) -> int:
    """A 31-bit seed from a few words and numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1


class Kept(PersistentDataset):
    """Prepared cases on disk; one that a killed process left half written is made anew.

    MONAI moves them there from the system's temporary folder, which may lie on another disk.
    """

    def _cachecheck(self, item_transformed: Any) -> Any:
        try:
            return super()._cachecheck(item_transformed)
        except (EOFError, OSError, RuntimeError):  # of an empty file, one cut within, one cut near its end
            name = self.hash_func(item_transformed).decode() + self.transform_hash
            if not (kept := Path(self.cache_dir, f"{name}.pt")).is_file():
                raise
            kept.unlink()
            return super()._cachecheck(item_transformed)


def prepared(
    spec: DatasetSpec, cases: Sequence[Case], spacing: Sequence[float], cache: Path
) -> PersistentDataset:
    """Cases on the working grid as plain tensors {"image", "label"}, kept on disk between uses.

    The cache's folder is named by what decides its content, so another spacing or spec never meets it.
    """
    decides = json.dumps([repr(spec), list(spacing)], default=str)
    folder = cache / hashlib.sha256(decides.encode()).hexdigest()[:12]
    items = [case.paths for case in cases]
    return Kept(items, prepare_transform(spec, spacing), cache_dir=folder)


def nested_share(cases: Dataset, share: float) -> Dataset:
    """A share of the cases, at least one; a smaller share lies within every larger one, whatever the seed."""
    order = random.Random(derive_seed("share")).sample(range(len(cases)), len(cases))
    return cases if share == 1 else Subset(cases, sorted(order[: max(1, round(share * len(cases)))]))


class TrainingCrops(Dataset):
    """``length`` random crops; crop i comes from epoch i // n, which visits each of the n cases once."""

    def __init__(
        self, *, cases: Dataset, spec: DatasetSpec, crop: Sequence[int], length: int, seed: int
    ) -> None:
        self.cases, self.length, self.seed = cases, length, seed
        self.transform = random_transform(spec, crop)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        epoch, place = divmod(i, len(self.cases))
        order = random.Random(derive_seed(self.seed, "epoch", epoch)).sample(
            range(len(self.cases)), len(self.cases)
        )
        case = self.cases[order[place]]
        self.transform.set_random_state(seed=derive_seed(self.seed, "crop", i))
        sample = self.transform({key: case[key] for key in ("image", "label")})
        return {key: value.contiguous() for key, value in sample.items()}
