"""Training crops as a pure function of (seed, index), including order, position and augmentation.

So the crops do not depend on the number of workers or processes, and a resumed training needs no sampler
state.
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
    """A 31-bit seed from any words and numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1


class CachedCases(PersistentDataset):
    """Prepared cases on disk; a file that a killed process left incomplete is written again.

    (MONAI moves files from the system's temporary folder, which may be on another disk, to the cache.)
    """

    def _cachecheck(self, item_transformed: Any) -> Any:
        try:
            return super()._cachecheck(item_transformed)
        except (EOFError, OSError, RuntimeError):  # an empty file, one cut within, one cut near its end
            name = self.hash_func(item_transformed).decode() + self.transform_hash
            if not (cached := Path(self.cache_dir, f"{name}.pt")).is_file():
                raise
            cached.unlink()
            return super()._cachecheck(item_transformed)


def prepared(
    spec: DatasetSpec, cases: Sequence[Case], spacing: Sequence[float], cache: Path
) -> PersistentDataset:
    """Cases on the working grid as plain tensors {"image", "label"}, cached on disk.

    The cache's folder is named by a hash of the spec and the spacing, so different ones never mix.
    """
    key = json.dumps([repr(spec), list(spacing)], default=str)
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:12]
    items = [case.paths for case in cases]
    return CachedCases(items, prepare_transform(spec, spacing), cache_dir=folder)


def nested_share(cases: Dataset, share: float) -> Dataset:
    """A share of the cases, at least one; smaller shares are subsets of larger ones, whatever the seed."""
    order = random.Random(derive_seed("share")).sample(range(len(cases)), len(cases))
    return cases if share == 1 else Subset(cases, sorted(order[: max(1, round(share * len(cases)))]))


class TrainingCrops(Dataset):
    """``length`` random crops; crop i belongs to epoch i // n, which visits each of the n cases once."""

    def __init__(
        self, *, cases: Dataset, spec: DatasetSpec, crop: Sequence[int], length: int, seed: int
    ) -> None:
        self.cases, self.length, self.seed = cases, length, seed
        self.transform = random_transform(spec, crop)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        count = len(self.cases)
        epoch, position = divmod(i, count)
        order = random.Random(derive_seed(self.seed, "epoch", epoch)).sample(range(count), count)
        case = self.cases[order[position]]
        self.transform.set_random_state(seed=derive_seed(self.seed, "crop", i))
        sample = self.transform({key: case[key] for key in ("image", "label")})
        return {key: value.contiguous() for key, value in sample.items()}
