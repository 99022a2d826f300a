"""Train and evaluate in one of several processes that share each batch, on CPUs and in double precision.

In single precision, AdamW turns the rounding error of a zero gradient into a full step.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from bipvl.engine import train
from bipvl.engine.evaluate import evaluate
from bipvl.engine.run import Run

BATCH_SIZE = 2
"""Samples per step, of all processes together."""


class Doubled(torch.utils.data.Dataset):
    """Cases with images in double precision."""

    def __init__(self, cases):
        self.cases = cases

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, i):
        return self.cases[i] | {"image": self.cases[i]["image"].double()}


def train_and_evaluate(
    rank: int, processes: int, port: int, data_root: Path, root: Path, variants: Sequence[str]
) -> None:
    """Train each variant at the profile smoke, then evaluate the first, as process ``rank`` of several."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if processes > 1:  # as torchrun sets them
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
    torch.set_num_threads(1)
    _use_double_precision()
    where = {"profile": "smoke", "dataset": "mmwhs_ct", "data_root": data_root, "root": root}
    runs = [Run.plan(**where, variant=variant, seed=0) for variant in variants]
    for run in runs:
        run.config["training"] |= {"batch_size": BATCH_SIZE // processes, "epochs": 3, "validations": 1}
        train.train(run, data_root, progress=False)
    torch.set_default_dtype(torch.float32)
    evaluate(runs[0], data_root, progress=False)


def _use_double_precision() -> None:
    build, forward, prepared = train.build_network, train.Learner.forward, train.prepared
    torch.set_default_dtype(torch.float64)
    train.build_network = lambda *args: build(*args).double()
    train.Learner.forward = lambda self, volume, *args: forward(self, volume.double(), *args)
    train.prepared = lambda *args: Doubled(prepared(*args))
