"""What a GPU does not do the same way twice, by name, and how to forbid it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NONDETERMINISTIC = {
    "torch.nn.AdaptiveAvgPool3d": "its gradient: the universal head; class embeddings, unless a crop's "
    "bottleneck is 3 × 3 × 3 as with the paper's 96³",
    "torch.nn.functional.interpolate, trilinear": "its gradient: the decoder of SegResNet",
}
"""Operations of the networks for which torch has no deterministic form on a GPU → where they are met.

All others have one, if a slower one, which ``forbidden_nondeterminism`` turns on. On CPUs all are
deterministic for a number of threads.
"""


@contextmanager
def forbidden_nondeterminism(forbid: bool = True) -> Iterator[None]:
    """In the block, operations take their deterministic form; one without any is a RuntimeError of its name.

    Enter it before the first work on a GPU: cuBLAS reads its setting once.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if forbid:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(before or forbid)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
