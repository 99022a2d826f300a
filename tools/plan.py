"""Plan a profile's runs: what is missing, and GPU-hours and memory estimated from counted operations.

python -m tools.plan PROFILE=quick STUDY=all DATA_ROOT= VERBOSE=0 -- OPTIONS_OF_SNAKEMAKE
"""

import gc
import multiprocessing
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import dropwhile, takewhile
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from bipvl.analysis.cost_keys import Cost, cost_key
from bipvl.analysis.outlook import detections
from bipvl.analysis.studies import Experiments, Study, load_experiments, reading_folders
from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, list_cases, read_json
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.splits import PARTS, SPLIT_SEED, Split, listed_parts, make_split
from bipvl.engine.data_root import check_data_root
from bipvl.engine.profiles import dataset_settings, get_profile, profile_name
from bipvl.engine.variants import VARIANTS
from bipvl.engine.windows import count_windows
from bipvl.model.text_sources import REVISIONS, source_path
from tools.make_variables import check
from tools.plan_steps import Step, dry_run

WIDTH = 110
"""Columns of the text."""
SHOWN_MISSING = 8
SHOWN_STEPS = 5
"""What one screen has room for; VERBOSE=1 shows the rest."""
GPU = "A100 40 GB"
PEAK = 312e12
"""Operations per second in half precision (dense, tensor cores), from NVIDIA's data sheet."""
UTILISATION = 0.1
"""The reached fraction of PEAK. nnU-Net's developers measured 41.1 s for 250 steps of two 128³ patches on MSD
Task03 with this GPU (expected_epoch_times.md in their repository). At 5.72 · 10¹² operations per step as
counted here, that is a fraction of 0.11; attention and a batch size of 1 lower it."""

SECTIONS = {
    "amos22": {"training": 200, "validation": 100},
    "mmwhs_ct": {"training": 20},
    "mmwhs_mr": {"training": 20},
    "msd_brain": {"training": 484},
}
"""Labelled cases of each benchmark with a synthetic cohort, for planning without the data; the other built-in
data sets list theirs."""
VOLUMES = {"msd_brain": (240, 240, 155), "msd_hippocampus": (35, 50, 36), "openkbp": (114, 66, 105)}
VOLUME = (240, 240, 200)
"""Voxels of a real scan on the working grid, as of an abdominal CT; VOLUMES lists exceptions."""


@dataclass(frozen=True, order=True)
class Job:
    """One run of a study."""

    dataset: str
    variant: str
    seed: int

    def is_done(self, runs: Path) -> bool:
        """Whether the run has been evaluated; ``runs`` is the profile's folder."""
        return (runs / self.dataset / self.variant / f"seed{self.seed}" / "metrics.csv").is_file()


def jobs_of(study: Study) -> list[Job]:
    """The runs that a study trains, that is, without external predictions."""
    return [
        Job(dataset, variant, seed)
        for dataset in study.datasets
        for variant, seed in study.runs(dataset)
        if variant in VARIANTS
    ]


def planned_split(spec: DatasetSpec, profile: str, data_root: str | Path | None) -> Split:
    """The split that preparing a data set will draw; without the data, of as many placeholder cases."""
    try:
        cases = list_cases(spec, data_root) if data_root else _placeholder_cases(spec, profile)
    except BipvlError:
        cases = _placeholder_cases(spec, profile)
    return make_split(spec, cases, SPLIT_SEED)


def _placeholder_cases(spec: DatasetSpec, profile: str) -> list[Case]:
    no_file = Path()
    if (listed := listed_parts(spec)) is not None:
        return [Case(i, no_file, no_file) for part in PARTS for i in listed[part]]
    cohort, sections = get_profile(profile, spec.name).cohort, SECTIONS[spec.name]
    if cohort:
        from bipvl.data.synthetic.benchmarks import BENCHMARKS

        benchmark = BENCHMARKS[spec.name]
        sections = Counter(row.section for row in benchmark.rows(cohort.cases or benchmark.cases))
    return [
        Case(f"{section}_{i:04}", no_file, no_file, section, i)
        for section, count in sections.items()
        for i in range(count)
    ]


def run_operations(cost: Cost, split: Split, settings: Mapping[str, Any]) -> float:
    """Operations of a run: training steps, and forward passes for all windows of validations and test."""
    training, overlap, crop = settings["training"], settings["overlap"], settings["crop"]
    volume = VOLUMES.get(split.dataset, VOLUME)
    if "cohort" in settings and split.dataset in SECTIONS:
        volume = settings["cohort"]["size"]
    steps = training["epochs"] * ceil(len(split.train) / training["batch_size"])
    validated = training["validations"] * len(split.val) * count_windows(volume, crop, overlap["validation"])
    tested = len(split.test) * count_windows(volume, crop, overlap["test"])
    return steps * cost.step + (validated + tested) * cost.forward / training["batch_size"]


def gpu_hours(operations: float) -> float:
    """Hours on one GPU."""
    return operations / (PEAK * UTILISATION) / 3600


def estimate(
    jobs: Iterable[Job], profile: str, data_root: str | Path | None, runs: str | Path
) -> pd.DataFrame:
    """One row per job: dataset, variant, seed, hours (on GPU), gib, stand_in.

    Counted costs are cached in ``runs/costs.json``.
    """
    jobs = sorted(set(jobs))
    specs = {name: load_spec(name) for name in {job.dataset for job in jobs}}
    settings = {name: dataset_settings(profile, spec) for name, spec in specs.items()}
    splits = {name: planned_split(spec, profile, data_root) for name, spec in specs.items()}
    costs = _costs({(job.variant, job.dataset) for job in jobs}, profile, Path(runs) / "costs.json")
    rows = []
    for job in jobs:
        cost, name = costs[job.variant, job.dataset], job.dataset
        hours = gpu_hours(run_operations(cost, splits[name], settings[name]))
        rows.append((name, job.variant, job.seed, hours, cost.memory_gib, cost.stand_in))
    return pd.DataFrame(rows, columns=["dataset", "variant", "seed", "hours", "gib", "stand_in"])


def _costs(pairs: set[tuple[str, str]], profile: str, path: Path) -> dict[tuple[str, str], Cost]:
    """The cost of each variant on each data set; equal costs are counted once and cached in a file."""
    specs = {name: load_spec(name) for name in {dataset for _, dataset in pairs}}
    settings = {name: dataset_settings(profile, spec) for name, spec in specs.items()}
    keys = {(v, d): cost_key(VARIANTS[v], specs[d], settings[d]) for v, d in sorted(pairs)}
    known = read_json(path) if path.is_file() else {}
    new = {key: pair for pair, key in reversed(keys.items()) if key not in known}
    if new:
        known |= {key: asdict(cost) for key, cost in _count(new, profile)}
        write_json(path, known)
    return {pair: Cost(**known[key]) for pair, key in keys.items()}


def _count(pairs: Mapping[str, tuple[str, str]], profile: str) -> Iterator[tuple[str, Cost]]:
    """The costs of (variant, data set) pairs under the same keys, counted on all cores."""
    workers = min(os.cpu_count() or 1, len(pairs))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bipvl.analysis.costs"])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread) as pool:
        counted = pool.map(_cost, ((*pair, profile) for pair in pairs.values()))
        shown = tqdm(counted, "counting operations", total=len(pairs), disable=None)
        yield from zip(pairs, shown, strict=True)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # the garbage collector need not look through the imported packages again and again


def _cost(arguments: tuple[str, str, str]) -> Cost:
    from bipvl.analysis.costs import measure

    variant, dataset, profile = arguments
    spec = load_spec(dataset)
    return measure(VARIANTS[variant], spec, dataset_settings(profile, spec))


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""File names of a text encoder's weights; one of them is enough."""


def find_missing(
    experiments: Experiments, studies: Iterable[Study], data_root: str | Path | None
) -> list[str]:
    """Everything that the studies need and that is missing, one sentence each."""
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
        if get_profile(profile).cohort:  # synthetic cohorts are generated when needed
            datasets = [name for name in datasets if name not in SECTIONS]
        folders = ", ".join(load_spec(name).folder for name in datasets)
        return [f"data: no DATA_ROOT is given; it must hold {folders}"] if datasets else []
    missing = []
    for name in datasets:
        try:
            list_cases(load_spec(name), data_root)
        except BipvlError as error:
            missing.append(f"data: {error}")
    return missing


def _missing_text(profile: str, variants: Iterable[str]) -> list[str]:
    """The text encoders that are neither on this machine nor on a reachable hub."""
    default = get_profile(profile).language.text
    sources = {VARIANTS[v].options.get("text", default) for v in variants if VARIANTS[v].language}
    missing, unreachable = [], ""
    for text in sorted(sources):
        try:
            path = source_path(text)
            if _is_local(path) or (not unreachable and _on_hub(path)):
                continue
        except BipvlError as error:  # the package that holds it is not installed
            missing.append(f"text encoder: {error}")
            continue
        except Exception as error:  # each cause (no network, proxy, HF_HUB_OFFLINE) has its own class
            unreachable = f"the hub cannot be reached ({type(error).__name__})"
        missing.append(f"text encoder: {path} is not here, and {unreachable or 'not on the hub'}")
    return missing


def _is_local(path: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(path, name, revision=REVISIONS.get(path)) for name in WEIGHTS)
    return Path(path).is_dir() or any(isinstance(file, str) for file in cached)


def _on_hub(path: str) -> bool:
    from huggingface_hub import file_exists

    return any(file_exists(path, name, revision=REVISIONS.get(path)) for name in WEIGHTS)


def plan(
    profile: str,
    study: str,
    data_root: str | Path | None,
    runs: str | Path = "runs",
    *,
    options: Sequence[str] = (),
    verbose: bool = False,
) -> str:
    """The plan as text: what is missing, the runs, GPU-hours and memory, the first steps.

    Args:
        options: of snakemake, for its dry run; without them no steps are listed.
        verbose: list all steps, and explain the estimate.

    Raises:
        BipvlError: an unknown profile or study; a data root that is not a folder, or is empty.
    """
    experiments = load_experiments(profile)
    studies = experiments.select(study)
    if data_root:
        check_data_root(profile, data_root)
    jobs = {s.name: jobs_of(s) for s in studies if s.datasets}
    readings = {s.name: folders for s in studies if (folders := reading_folders(s, runs))}
    all_jobs = {job for of_study in jobs.values() for job in of_study}
    to_do = {job for job in all_jobs if not job.is_done(Path(runs) / profile_name(profile))}
    with ThreadPoolExecutor() as pool:  # the hub and snakemake answer while operations are counted
        missing = pool.submit(find_missing, experiments, studies, data_root)
        steps = pool.submit(dry_run, options) if options else None
        table = estimate(to_do, profile, data_root, runs)
    datasets = [d for d in experiments.datasets if any(d == job.dataset for job in all_jobs)]
    variants = len({job.variant for job in all_jobs})
    sentences = [
        f"Profile {profile}, study {study}: {len(all_jobs)} runs ({variants} variants, {len(datasets)} data "
        f"sets), {len(all_jobs - to_do)} of them done."
    ]
    if verbose:
        sentences.append(
            "Order: first all data sets are prepared, then the runs start by data set "
            f"({', '.join(datasets)}); the notebooks of a study start when its runs are done."
        )
    lines = [textwrap.fill(sentence, WIDTH) for sentence in sentences]
    lines += _missing_lines(missing.result(), verbose)
    names = {name for of_any in experiments.studies.values() for name in of_any.datasets}
    cases = {name: len(planned_split(load_spec(name), profile, data_root).test) for name in names}
    lines += ["", *_estimate_lines(jobs, table, to_do, detections(experiments, cases), verbose)]
    for name, folders in readings.items():
        done = sum((folder / "scores.csv").is_file() for folder in folders)
        lines.append(f"{name}: {len(folders)} short trainings on drawn volumes, {done} of them done.")
    if steps:
        lines += ["", *_step_lines(steps.result(), verbose)]
    return "\n".join(lines)


def _missing_lines(missing: list[str], verbose: bool) -> list[str]:
    """One item per line, unless all of it is wanted."""
    if not missing:
        return ["Missing: nothing."]
    if verbose:
        wrap = {"width": WIDTH, "initial_indent": "- ", "subsequent_indent": "  "}
        return ["Missing:", *(textwrap.fill(item, **wrap) for item in missing)]
    lines = [textwrap.shorten(f"- {item}", WIDTH, placeholder=" …") for item in missing[:SHOWN_MISSING]]
    more = len(missing) - len(lines)
    return ["Missing:", *lines, *([f"- and {more} more; see them with VERBOSE=1"] if more else [])]


def _estimate_lines(
    jobs: Mapping[str, list[Job]],
    table: pd.DataFrame,
    to_do: set[Job],
    detected: tuple[Mapping[str, str], str],
    verbose: bool,
) -> list[str]:
    """A table with one row per study and one for all, and notes on the assumptions."""
    table = table.set_index(["dataset", "variant", "seed"])

    def row(name: str, of_study: Iterable[Job]) -> tuple:
        of_study = set(of_study)
        costs = table.loc[[(j.dataset, j.variant, j.seed) for j in sorted(of_study & to_do)]]
        gib = f"{costs['gib'].max():.1f}" if len(costs) else "-"
        done, hours = len(of_study) - len(costs), _hours(costs["hours"].sum())
        return name, len(of_study), done, hours, gib, detected[0].get(name, "-")

    rows = [row(name, of_study) for name, of_study in jobs.items()]
    rows.append(row("all, each run once", {job for of_study in jobs.values() for job in of_study}))
    header = ["study", "runs", "done", "GPU-hours", "memory (GiB)", "detects"]
    shown = pd.DataFrame(rows, columns=header)
    notes = [*(_notes(table, verbose) if to_do else []), detected[1]]
    return [shown.to_string(index=False), *(textwrap.fill(note, WIDTH) for note in notes)]


def _notes(table: pd.DataFrame, verbose: bool) -> list[str]:
    """The longest run, and what the numbers mean; ``table`` is indexed by data set, variant and seed."""
    longest = table["hours"].idxmax()
    peak = f"{UTILISATION:.0%} of its peak"
    notes = [f"Longest run: {longest[1]} on {longest[0]}, {_hours(table['hours'].max())} h."]
    if verbose:
        notes.append(
            f"GPU-hours of the runs to do are an estimate for one {GPU}: the counted operations of training "
            f"steps, validations and tests, at {peak} of {PEAK / 1e12:.0f} · 10¹² operations per second, "
            "which convolutional networks typically reach; the error may be a factor of two. Memory: "
            "weights, gradients, AdamW's moments and activations of a training step in single precision, "
            "for the largest run of a study that is to do."
        )
    else:
        notes.append(
            f"Estimate for the runs to do, on one {GPU} at {peak}; hours may be wrong by a factor of two."
        )
    if stand_ins := sorted(set(table["stand_in"]) - {""}):
        problem = "Substitutes counted for text encoders that are not on this machine"
        notes.append(f"{problem}: {'; '.join(stand_ins)}.")
    return notes


def _step_lines(steps: Sequence[Step], verbose: bool) -> list[str]:
    if not steps:
        return ["Steps: none; everything is up to date."]
    if verbose:
        return [f"All {len(steps)} steps, and why:", *(f"  {step}" for step in steps)]
    lines = [textwrap.shorten(str(step), WIDTH - 2, placeholder=" …") for step in steps[:SHOWN_STEPS]]
    head = f"First steps of {len(steps)}, and why (VERBOSE=1 lists all):"
    return [head, *(f"  {line}" for line in lines)]


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 0.05 else "< 0.1"


def main(arguments: Sequence[str]) -> None:
    """Print the plan for variables of the Makefile and, after ``--``, options of snakemake."""
    given = takewhile(lambda argument: argument != "--", arguments)
    values = {"PROFILE": "quick", "STUDY": "all", "VERBOSE": "0"} | dict(v.split("=", 1) for v in given)
    data_root, options = values.pop("DATA_ROOT", "") or None, [*dropwhile(lambda a: a != "--", arguments)][1:]
    check(values)
    verbose = values["VERBOSE"] == "1"
    print(plan(values["PROFILE"], values["STUDY"], data_root, options=options, verbose=verbose))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
