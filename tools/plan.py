"""What a profile's runs would take: what is missing, and GPU-hours and memory from counted operations.

python tools/plan.py PROFILE STUDY [DATA_ROOT]
"""

import multiprocessing
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from bipvl.analysis.studies import Experiments, Study, check_data_root, load_experiments
from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, list_cases, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.splits import Split, make_split
from bipvl.engine.predict import count_windows
from bipvl.engine.run import dataset_settings, get_profile
from bipvl.engine.variants import VARIANTS
from bipvl.model.text import REVISIONS, source_path

if TYPE_CHECKING:
    from bipvl.analysis.costs import Cost

GPU = "A100 40 GB"
PEAK = 312e12
"""Its operations a second in half precision (tensor cores, dense), by NVIDIA's data sheet."""
UTILISATION = 0.1
"""The share of PEAK that is reached. nnU-Net's developers measured 41.1 s for 250 steps on MSD's Task03 on
this GPU (their expected_epoch_times.md): two 128³ patches and 5.72 · 10¹² operations a step as counted here,
a share of 0.11. Attention and a batch of one do not help."""

SECTIONS = {
    "amos22": {"training": 200, "validation": 100},
    "mmwhs_ct": {"training": 20},
    "mmwhs_mr": {"training": 20},
    "msd_brain": {"training": 484},
}
"""Cases with labels that a benchmark lists, where it is not at hand to be counted."""
VOLUMES = {"msd_brain": (240, 240, 155)}
VOLUME = (240, 240, 200)
"""Voxels of a real scan on the working grid, where VOLUMES says nothing: an abdominal CT's."""


@dataclass(frozen=True, order=True)
class Job:
    """A run of a study."""

    dataset: str
    variant: str
    seed: int

    def is_done(self, runs: Path) -> bool:
        """Whether it has been scored; ``runs`` is the profile's folder."""
        return (runs / self.dataset / self.variant / f"seed{self.seed}" / "metrics.csv").is_file()


def jobs_of(study: Study) -> list[Job]:
    """The runs that a study trains: others' predictions cost nothing."""
    return [
        Job(dataset, variant, seed)
        for dataset in study.datasets
        for variant, seed in study.runs(dataset)
        if variant in VARIANTS
    ]


def parts(spec: DatasetSpec, profile: str, data_root: str | Path | None) -> Split:
    """The split of a dataset as it would be drawn: of the cases at hand, else of as many made-up ones."""
    from bipvl.engine.prepare import SPLIT_SEED

    try:
        cases = list_cases(spec, data_root) if data_root else _listed(spec, profile)
    except BipvlError:
        cases = _listed(spec, profile)
    return make_split(spec, cases, SPLIT_SEED)


def _listed(spec: DatasetSpec, profile: str) -> list[Case]:
    cohort, sections = get_profile(profile).get("cohort"), SECTIONS[spec.name]
    if cohort:
        from bipvl.data.synthetic.benchmarks import BENCHMARKS

        benchmark = BENCHMARKS[spec.name]
        sections = Counter(row.section for row in benchmark.rows(cohort.get("cases") or benchmark.cases))
    nowhere = Path()
    return [
        Case(f"{section}_{i:04}", nowhere, nowhere, section, i)
        for section, count in sections.items()
        for i in range(count)
    ]


def operations(cost: "Cost", split: Split, settings: Mapping[str, Any]) -> float:
    """All of a run's: its training steps, its validations, its test (a window: a forward pass)."""
    training, overlap, crop = settings["training"], settings["overlap"], settings["crop"]
    volume = settings.get("cohort", {}).get("size") or VOLUMES.get(split.dataset, VOLUME)
    steps = training["epochs"] * ceil(len(split.train) / training["batch_size"])
    validated = training["validations"] * len(split.val) * count_windows(volume, crop, overlap["validation"])
    tested = len(split.test) * count_windows(volume, crop, overlap["test"])
    return steps * cost.step + (validated + tested) * cost.forward / training["batch_size"]


def gpu_hours(operations: float) -> float:
    """Hours on one GPU of the kind that is assumed."""
    return operations / (PEAK * UTILISATION) / 3600


def estimate(
    jobs: Iterable[Job], profile: str, data_root: str | Path | None, runs: str | Path
) -> pd.DataFrame:
    """A row a job: dataset, variant, seed, hours (on the assumed GPU), gib, stand_in.

    Costs that have been counted are kept in ``runs/costs.json``.
    """
    jobs = sorted(set(jobs))
    specs = {job.dataset: load_spec(job.dataset) for job in jobs}
    settings = {name: dataset_settings(profile, spec) for name, spec in specs.items()}
    splits = {name: parts(spec, profile, data_root) for name, spec in specs.items()}
    costs = _costs({(job.variant, job.dataset) for job in jobs}, profile, Path(runs) / "costs.json")
    rows = []
    for job in jobs:
        cost, name = costs[job.variant, job.dataset], job.dataset
        hours = gpu_hours(operations(cost, splits[name], settings[name]))
        rows.append((name, job.variant, job.seed, hours, cost.memory_gib, cost.stand_in))
    return pd.DataFrame(rows, columns=["dataset", "variant", "seed", "hours", "gib", "stand_in"])


def _costs(pairs: set[tuple[str, str]], profile: str, path: Path) -> dict[tuple[str, str], "Cost"]:
    """The cost of each variant on each dataset; what costs the same is counted once, and kept in a file."""
    from bipvl.analysis.costs import Cost, alike

    specs = {dataset: load_spec(dataset) for _, dataset in pairs}
    settings = {name: dataset_settings(profile, spec) for name, spec in specs.items()}
    keys = {(v, d): alike(VARIANTS[v], specs[d], settings[d]) for v, d in sorted(pairs)}
    known = read_json(path) if path.is_file() else {}
    first = {key: pair for pair, key in reversed(keys.items()) if key not in known}
    for key, cost in _counted(first, profile):
        known[key] = asdict(cost)
        write_json(path, known)
    return {pair: Cost(**known[key]) for pair, key in keys.items()}


def _counted(pairs: Mapping[str, tuple[str, str]], profile: str) -> Iterator[tuple[str, "Cost"]]:
    """The costs of variants on datasets by the same keys, counted on all cores."""
    if not pairs:
        return
    workers = min(os.cpu_count() or 1, len(pairs))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bipvl.analysis.costs", "bipvl.engine.train"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_quietly) as pool:
        counted = pool.map(_cost, ((*pair, profile) for pair in pairs.values()))
        yield from zip(pairs, tqdm(counted, "counting operations", total=len(pairs)), strict=True)


def _quietly() -> None:
    import torch

    torch.set_num_threads(1)


def _cost(arguments: tuple[str, str, str]) -> "Cost":
    from bipvl.analysis.costs import measure

    variant, dataset, profile = arguments
    spec = load_spec(dataset)
    return measure(VARIANTS[variant], spec, dataset_settings(profile, spec))


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of a text encoder, either of which will do."""


def missing(experiments: Experiments, studies: Iterable[Study], data_root: str | Path | None) -> list[str]:
    """What the studies need and is not at hand, a sentence each."""
    studies, profile = list(studies), experiments.profile
    datasets = [d for d in experiments.datasets if any(d in s.datasets for s in studies)]
    return [
        *_missing_data(datasets, profile, data_root),
        *_missing_text(profile, {variant for study in studies for variant in study.variants}),
        *(
            f"external '{other.name}': {other.folder} is not a folder; put its predictions there"
            for other in {other.name: other for study in studies for other in study.external}.values()
            if not other.folder.is_dir()
        ),
    ]


def _missing_data(datasets: list[str], profile: str, data_root: str | Path | None) -> list[str]:
    if data_root is None:
        if "cohort" in get_profile(profile):
            return []  # made when it is needed
        folders = ", ".join(load_spec(name).folder for name in datasets)
        return [f"data: no DATA_ROOT is given; it must hold {folders}"]
    told = []
    for name in datasets:
        try:
            list_cases(load_spec(name), data_root)
        except BipvlError as error:
            told.append(f"data: {error}")
    return told


def _missing_text(profile: str, variants: Iterable[str]) -> list[str]:
    """The text encoders that are neither on this machine nor on a hub that can be reached."""
    default = get_profile(profile)["language"]["text"]
    sources = {VARIANTS[v].options.get("text", default) for v in variants if VARIANTS[v].language}
    told, unreachable = [], ""
    for text in sorted(sources):
        try:
            path = source_path(text)
            if _at_hand(path) or (not unreachable and _on_hub(path)):
                continue
        except BipvlError as error:  # the packaged one is not installed
            told.append(f"text encoder: {error}")
            continue
        except Exception as error:  # no network, a proxy that refuses, HF_HUB_OFFLINE: each its own kind
            unreachable = f"the hub cannot be reached ({type(error).__name__})"
        told.append(f"text encoder: {path} is not on this machine, and {unreachable or 'not on the hub'}")
    return told


def _at_hand(path: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(path, name, revision=REVISIONS.get(path)) for name in WEIGHTS)
    return Path(path).is_dir() or any(isinstance(file, str) for file in cached)


def _on_hub(path: str) -> bool:
    from huggingface_hub import file_exists

    return any(file_exists(path, name, revision=REVISIONS.get(path)) for name in WEIGHTS)


def plan(profile: str, study: str, data_root: str | Path | None, runs: str | Path = "runs") -> str:
    """The plan in words: the runs, their order, what is missing, GPU-hours and memory.

    Raises:
        BipvlError: an unknown profile or study; a data root that is no folder, or an empty one.
    """
    experiments = load_experiments(profile)
    studies = experiments.select(study)
    if data_root:
        check_data_root(profile, data_root)
    jobs = {s.name: jobs_of(s) for s in studies}
    every = {job for of_study in jobs.values() for job in of_study}
    left = {job for job in every if not job.is_done(Path(runs) / profile)}
    lacking = missing(experiments, studies, data_root)
    datasets = [d for d in experiments.datasets if any(d == job.dataset for job in every)]
    variants = len({job.variant for job in every})
    said = [
        f"Profile {profile}, study {study}: {len(every)} runs ({variants} variants, {len(datasets)} data "
        f"sets), {len(every - left)} of them done.",
        f"Order: first the data sets are prepared, then trained on, those of {', '.join(datasets)} in this "
        "order; a study is drawn as soon as its runs are there.",
        "Missing:" if lacking else "Missing: nothing.",
    ]
    lines = [textwrap.fill(sentence, 110) for sentence in said]
    lines += [textwrap.fill(fault, 110, initial_indent="- ", subsequent_indent="  ") for fault in lacking]
    if left:
        lines += ["", *_estimated(jobs, estimate(left, profile, data_root, runs), left)]
    return "\n".join(lines)


def _estimated(jobs: Mapping[str, list[Job]], table: pd.DataFrame, left: set[Job]) -> list[str]:
    """A table a study and for all, and what it rests on."""
    table = table.set_index(["dataset", "variant", "seed"])

    def row(name: str, own: Iterable[Job]) -> tuple:
        own = set(own)
        mine = table.loc[[(j.dataset, j.variant, j.seed) for j in sorted(own & left)]]
        gib = f"{mine['gib'].max():.1f}" if len(mine) else "-"
        return name, len(own), len(mine), _hours(mine["hours"].sum()), gib

    rows = [row(name, own) for name, own in jobs.items()]
    rows.append(row("all, each run once", {job for own in jobs.values() for job in own}))
    header = ["study", "runs", "to do", "GPU-hours", "memory (GiB)"]
    longest = table["hours"].idxmax()
    stand_ins = sorted(set(table["stand_in"]) - {""})
    notes = (
        f"The longest run: {longest[1]} on {longest[0]}, {_hours(table['hours'].max())} h.",
        f"An estimate for one {GPU}: the operations of steps, validations and tests, as counted, at "
        f"{UTILISATION:.0%} of its {PEAK / 1e12:.0f} · 10¹² a second, which is what convolution networks "
        "reach there; expect a factor of two either way. Memory: weights, gradients, AdamW's moments and "
        "activations of a training step in single precision; the largest of a study's runs.",
        f"Counted in place of text encoders that are not on this machine: {'; '.join(stand_ins)}."
        if stand_ins
        else "",
    )
    shown = pd.DataFrame(rows, columns=header).to_string(index=False)
    return [shown, "", *(textwrap.fill(note, 110) for note in notes if note)]


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 0.05 else "< 0.1"


if __name__ == "__main__":
    try:
        profile, study, *root = sys.argv[1:]
        print(plan(profile, study, root[0] if root and root[0] else None))
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
