"""Accuracy and cost of each variant of a study: counted, or measured while its runs were made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bipvl.analysis.statistics import case_means, read_runs, summarise
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.engine.run import Run
from bipvl.engine.variants import MEAN_ATLAS

COSTS = ["dataset", "variant", "language", "parameters", "operations", "seconds", "memory_gib", "machine"]
OF_MACHINE = ["seconds", "memory_gib", "machine"]
"""Columns that differ between two runs of the same training."""


def trained_runs(folders: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    """The run folders (by data set) without other tools' predictions, whose costs are unknown."""
    trained = {d: [f for f in group if "external" not in Run.open(f).config] for d, group in folders.items()}
    return {dataset: group for dataset, group in trained.items() if group}


def efficiency(folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """One row per data set and variant, from run folders by data set (:func:`trained_runs`).

    - dice, low, high, cases: mean over test cases of each case's mean over classes, with its 95 % interval.
    - language: whether the network reads prompts.
    - parameters; operations to predict one window (``bipvl.analysis.costs``).
    - seconds: evaluation time per volume, from the scan's file to its scores; mean over seeds.
    - memory_gib: peak of the training process, on the accelerator if there was one; maximum over seeds.
    - machine: the hardware of the last two.

    Raises:
        BipvlError: a run whose manifest does not have the time and memory of its phases.
    """
    scores = read_runs(folders)
    networks = scores[scores["variant"] != MEAN_ATLAS]
    dice = summarise(case_means(networks)).rename(columns={"mean": "dice"})
    seeds: dict[Path, list[Run]] = {}
    for run in (Run.open(folder) for group in folders.values() for folder in group):
        seeds.setdefault(run.directory.parent, []).append(run)
    cases = networks.groupby(["dataset", "variant", "seed"])["case"].nunique()
    rows = [_row(group, cases) for group in seeds.values()]
    return dice.merge(pd.DataFrame(rows, columns=COSTS), on=["dataset", "variant"])


def _row(seeds: Sequence[Run], cases: pd.Series) -> tuple:
    """One variant's row (columns COSTS), from its runs with different seeds."""
    from bipvl.analysis.costs import measure, window_operations

    run = seeds[0]
    key, network = (run.directory.parents[1].name, run.variant.name), (run.variant, run.spec, run.config)
    phases = [_phases(run) for run in seeds]
    seconds = [
        phase["evaluate"]["seconds"] * phase["evaluate"]["processes"] / cases[*key, run.config["seed"]]
        for run, phase in zip(seeds, phases, strict=True)
    ]
    memory = max(phase["train"]["peak_memory_gib"] for phase in phases)
    machines = "; ".join(sorted({_machine(phase[name]) for phase in phases for name in phase}))
    counted = (measure(*network).parameters, window_operations(*network))
    return (*key, run.variant.language, *counted, sum(seconds) / len(seconds), memory, machines)


def _phases(run: Run) -> dict:
    path = run.directory / "manifest.json"
    phases = read_json(path)["phases"] if path.is_file() else {}
    for name in ("train", "evaluate"):
        if not {"seconds", "peak_memory_gib", "processes"} <= phases.get(name, {}).keys():
            fix = f"delete {run.directory} and train the run again"
            raise BipvlError(f"has no time and memory of '{name}'", fix, path)
    return {name: phases[name] for name in ("train", "evaluate")}


def _machine(phase: Mapping) -> str:
    """The accelerator, or the number of threads without one."""
    accelerator, threads = phase["hardware"]["accelerator"], phase["threads"]
    return f"{threads} thread{'s' * (threads > 1)}" if accelerator.startswith("0") else accelerator
