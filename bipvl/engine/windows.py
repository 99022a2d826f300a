"""Counting sliding windows, without torch: plans are made before it is imported."""

from collections.abc import Iterable
from math import ceil, prod


def count_windows(shape: Iterable[int], crop: Iterable[int], overlap: float) -> int:
    """How many windows MONAI's sliding-window inferer places over a volume; sizes in voxels."""
    return prod(
        ceil(max(size - side, 0) / max(int(side * (1 - overlap)), 1)) + 1
        for size, side in zip(shape, crop, strict=True)
    )
