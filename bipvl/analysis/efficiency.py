"""What each variant of a study costs, beside what it scores: counted, or measured as its runs were made."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from bipvl.analysis.statistics import ORIGIN, case_means, read_runs, summarise
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.engine.run import Run
from bipvl.engine.variants import MEAN_ATLAS

MEASURED = ["dataset", "variant", "language", "parameters", "operations", "seconds", "memory_gib", "machine"]


def own_runs(folders: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    """The run folders (by dataset) of networks that were trained here; what others' took is not known."""
    own = {d: [f for f in group if "external" not in Run.open(f).config] for d, group in folders.items()}
    return {dataset: group for dataset, group in own.items() if group}


def efficiency(folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """A row a dataset and variant, from run folders by dataset (:func:`own_runs`).

    - dice, low, high, cases: mean over test cases of each case's mean over classes, its 95 % interval.
    - language: whether the network reads prompts.
    - parameters; operations of the prediction of one window (``bipvl.analysis.costs``).
    - seconds: of the evaluation, a volume, from the scan's file to its scores; mean over seeds.
    - memory_gib: peak of the process that trained, of the accelerator where there was one; largest of seeds.
    - machine: what the last two were measured on.

    Raises:
        BipvlError: a run whose manifest does not tell what its phases took.
    """
    scores = read_runs(folders)
    own = scores[scores["variant"] != MEAN_ATLAS]
    dice = summarise(case_means(own), [*ORIGIN, "seeds"]).rename(columns={"mean": "dice"})
    runs = [Run.open(folder) for group in folders.values() for folder in group]
    cases = own.groupby(["dataset", "variant", "seed"])["case"].nunique()
    rows = [_row(list(group), cases) for group in _grouped(runs)]
    return dice.merge(pd.DataFrame(rows, columns=MEASURED), on=["dataset", "variant"])


def _grouped(runs: Iterable[Run]) -> Iterable[Iterable[Run]]:
    """Runs that differ in their seed alone, together."""
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.directory.parent, []).append(run)
    return groups.values()


def _row(seeds: Sequence[Run], cases: pd.Series) -> tuple:
    """One variant's row (columns MEASURED)."""
    from bipvl.analysis.costs import measure, window_operations

    run, home = seeds[0], (seeds[0].directory.parents[1].name, seeds[0].variant.name)
    what = (run.variant, run.spec, run.config)
    phases = [_phases(run) for run in seeds]
    seconds = [
        phase["evaluate"]["seconds"] * phase["evaluate"]["processes"] / cases[*home, run.config["seed"]]
        for run, phase in zip(seeds, phases, strict=True)
    ]
    memory = max(phase["train"]["peak_memory_gib"] for phase in phases)
    machines = "; ".join(sorted({_machine(phase[name]) for phase in phases for name in phase}))
    means = (sum(seconds) / len(seconds), memory, machines)
    return (*home, run.variant.language, measure(*what).parameters, window_operations(*what), *means)


def _phases(run: Run) -> dict:
    path = run.directory / "manifest.json"
    phases = read_json(path)["phases"] if path.is_file() else {}
    for name in ("train", "evaluate"):
        if not {"seconds", "peak_memory_gib", "processes"} <= phases.get(name, {}).keys():
            raise BipvlError(
                f"{path} does not tell what '{name}' took; delete {run.directory} and make the run anew"
            )
    return {name: phases[name] for name in ("train", "evaluate")}


def _machine(phase: Mapping) -> str:
    """The accelerator, or the threads where there is none."""
    accelerator, threads = phase["hardware"]["accelerator"], phase["threads"]
    return f"{threads} thread{'s' * (threads > 1)}" if accelerator.startswith("0") else accelerator
