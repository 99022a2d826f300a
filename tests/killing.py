"""Kill (SIGKILL) and resume trainings."""

import multiprocessing
import random
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm
from warm_processes import start

from bipvl.engine.run import Run

RESULTS = ("config.json", "history.csv", "model/*", "embeddings/*")
"""Files of a run that must have the same bytes, however often a training was killed."""


def train_in_process(run: Run, data_root: Path) -> multiprocessing.Process:
    """Start or resume a training in a new process."""
    return start(_train, run.directory, run.config, data_root)


def train_with_kills(run: Run, data_root: Path, moments: Iterable[float]) -> int:
    """Train to the end, with a kill ``moments`` seconds after each start; returns the kills that hit."""
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
    assert process.exitcode == 0, f"the resumed training ended with {process.exitcode}"
    return kills


def survive(kills: int, whole: Run, runs: Iterator[Run], data_root: Path, seed: int) -> list[int]:
    """Train run after run, each killed up to four times at random moments, until there were ``kills`` kills.

    ``whole`` is trained first, without kills. Returns the kills of each training that ended with its bytes.
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
    """Seconds of a training without kills and imports."""
    start(int).join()
    begin = time.monotonic()
    train_with_kills(run, data_root, [])
    return time.monotonic() - begin


def results(run: Run) -> dict[str, bytes]:
    """File name → bytes of a run's results."""
    paths = sorted(path for pattern in RESULTS for path in run.directory.glob(pattern))
    return {str(path.relative_to(run.directory)): path.read_bytes() for path in paths}


def _train(directory: Path, config: dict, data_root: Path) -> None:
    import torch
    from transformers.utils import logging

    from bipvl.engine.train import train

    logging.disable_progress_bar()  # it would disturb the bar of the kills
    torch.set_num_threads(1)
    train(Run(directory, config), data_root, progress=False)
