"""A program for several processes: python train_and_evaluate.py DATA_ROOT RUNS BATCH_SIZE VARIANT …

Trains each variant at the profile smoke in double precision, with BATCH_SIZE samples per step and process,
and evaluates the first one. In single precision, AdamW turns the rounding error of a zero gradient into a
full step.
"""

import sys
from pathlib import Path

import torch

from bipvl.engine import train
from bipvl.engine.evaluate import evaluate
from bipvl.engine.run import Run


class Doubled(torch.utils.data.Dataset):
    """Cases with images in double precision."""

    def __init__(self, cases):
        self.cases = cases

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, i):
        return self.cases[i] | {"image": self.cases[i]["image"].double()}


def in_double_precision():
    build, forward, prepared = train.build_network, train.Learner.forward, train.prepared
    torch.set_default_dtype(torch.float64)
    train.build_network = lambda *args: build(*args).double()
    train.Learner.forward = lambda self, volume, *args: forward(self, volume.double(), *args)
    train.prepared = lambda *args: Doubled(prepared(*args))


def main(data_root, root, batch_size, *variants):
    torch.set_num_threads(1)
    in_double_precision()
    where = {"profile": "smoke", "dataset": "mmwhs_ct", "data_root": Path(data_root), "root": Path(root)}
    runs = [Run.plan(**where, variant=variant, seed=0) for variant in variants]
    for run in runs:
        run.config["training"] |= {"batch_size": int(batch_size), "epochs": 3, "validations": 1}
        train.train(run, data_root, progress=False)
    torch.set_default_dtype(torch.float32)
    evaluate(runs[0], data_root, progress=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
