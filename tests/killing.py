"""Trainings that are killed (SIGKILL) and started again, from processes that have imported all they need."""

import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from bipvl.engine.run import Run

RESULTS = ("config.json", "history.csv", "model/*", "embeddings/*")
"""What must have the same bytes, however often a training was killed."""


def start(target: Callable, *args: object) -> multiprocessing.Process:
    """A process of its own, forked from one that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bipvl.engine.train"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def train_in_process(run: Run, data_root: Path) -> multiprocessing.Process:
    """Start (or go on with) a training in a process of its own."""
    return start(_train, run.directory, run.config, data_root)


def train_with_kills(run: Run, data_root: Path, moments: Iterable[float]) -> int:
    """Train to the end, killed so many seconds after each start; returns the kills that hit it at work."""
    kills = 0
    for seconds in moments:
        process = train_in_process(run, data_root)
        process.join(seconds)
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
    process = train_in_process(run, data_root)
    process.join()
    assert process.exitcode == 0, f"the training that goes on ended with {process.exitcode}"
    return kills


def survive(kills: int, whole: Run, runs: Iterator[Run], data_root: Path, seed: int) -> list[int]:
    """Train one run after another, each killed up to four times at random moments, until killed so often.

    Returns the kills of each training that ended with the bytes of ``whole``, which is trained first,
    undisturbed.
    """
    seconds, draw, survived = seconds_of_training(whole, data_root), random.Random(seed), []
    with tqdm(total=kills, desc="trainings killed", unit="kill", file=sys.__stderr__) as bar:
        while bar.n < kills:
            run, moments = next(runs), [draw.uniform(0, seconds) for _ in range(min(4, kills - bar.n))]
            hits = train_with_kills(run, data_root, moments)
            survived += [hits] * (results(run) == results(whole))
            bar.update(hits)
    return survived


def seconds_of_training(run: Run, data_root: Path) -> float:
    """How long an undisturbed training takes, imports aside."""
    start(int).join()
    begin = time.monotonic()
    train_with_kills(run, data_root, [])
    return time.monotonic() - begin


def results(run: Run) -> dict[str, bytes]:
    """The bytes of a run's results by their names."""
    paths = sorted(path for pattern in RESULTS for path in run.directory.glob(pattern))
    return {str(path.relative_to(run.directory)): path.read_bytes() for path in paths}


def _train(directory: Path, config: dict, data_root: Path) -> None:
    import torch
    from transformers.utils import logging

    from bipvl.engine.train import train

    logging.disable_progress_bar()  # the text encoder's, beside that of the kills
    torch.set_num_threads(1)
    train(Run(directory, config), data_root, progress=False)
