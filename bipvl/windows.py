"""How many windows cover a volume: told before any is computed."""

from collections.abc import Iterable
from math import ceil, prod


def count_windows(shape: Iterable[int], crop: Iterable[int], overlap: float) -> int:
    """The windows that MONAI's sliding-window inferer lays over a volume; sizes in voxels."""
    return prod(
        ceil(max(size - side, 0) / max(int(side * (1 - overlap)), 1)) + 1
        for size, side in zip(shape, crop, strict=True)
    )
