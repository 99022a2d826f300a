"""Which GPU operations are not deterministic, and how to forbid them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NONDETERMINISTIC = {
    "torch.nn.AdaptiveAvgPool3d": "its gradient: the universal head; class embeddings, unless a crop's "
    "bottleneck is 3 × 3 × 3 as with the paper's 96³",
    "torch.nn.functional.interpolate, trilinear": "its gradient: the decoder of SegResNet",
}
"""Operations without a deterministic form on a GPU → where the networks use them.

All others have one, though slower, which ``forbidden_nondeterminism`` turns on. On CPUs all operations are
deterministic for a fixed number of threads.
"""


@contextmanager
def forbidden_nondeterminism(forbid: bool = True) -> Iterator[None]:
    """Use deterministic operations in the block; one without such a form raises a RuntimeError that names it.

    Enter the block before the first GPU operation: cuBLAS reads its setting once.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if forbid:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(before or forbid)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
