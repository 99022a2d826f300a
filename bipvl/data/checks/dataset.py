"""Check a whole data set: report every issue of every case before hours are spent on training."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from bipvl.common.errors import BipvlError
from bipvl.data.checks.case import CaseReport, check_case
from bipvl.data.layouts import Case, cohort_of, extra_files, find_cases
from bipvl.data.prompts import prompt_issues
from bipvl.data.spec import DatasetSpec
from bipvl.data.splits import PARTS, listed_parts, read_split, split_issues

SMALL = 2**25
"""Largest data set, in bytes on disk, that one process reads: starting several takes about as long."""
WIDEST = 60
"""Characters to which `issue_table` pads a column."""

Reports = Sequence[tuple[Case, CaseReport]]


def check_dataset(
    spec: DatasetSpec,
    data_root: str | Path,
    prompts: str | Path | None = None,
    *,
    split: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[BipvlError]:
    """All issues of a data set and its prompts, always in the same order; empty if there are none.

    Every byte is read. Two cases are duplicates if their images hold the same values in the same shape,
    whatever their type on disk, compression and header; a flipped or resampled copy is not recognised.

    Tolerances: ``scans.AFFINE_TOLERANCE``, ``scans.FORM_TOLERANCE``, ``case.CT_RANGE`` and ``CT_SPAN``.

    Args:
        prompts: replaces the YAML's.
        split: a written split, whose parts are checked for duplicates and patients; None: the split that the
            YAML lists, or the benchmark's sections if its validation section is the test set.
        workers: processes, each with one file in memory; None: one per core, or one for a small data set.
    """
    issues = [*prompt_issues(prompts or spec.prompts, spec), *_cohort_issues(data_root)]
    cases, layout_issues = find_cases(spec, data_root)
    parts, part_issues = _parts(spec, cases, split, data_root)
    issues += [*layout_issues, *extra_files(spec, data_root), *part_issues]
    reports = _check_cases(spec, cases, workers or _workers(cases))
    bar = tqdm(reports, f"checking {spec.name}", len(cases), unit="case", disable=None if progress else True)
    found = [*zip(cases, bar, strict=True)]
    return [
        *issues,
        *(issue for _, report in found for issue in report.issues),
        *_duplicates(found, parts),
        *_shared_patients(cases, parts),
        *_missing_classes(spec, found, data_root),
    ]


def issue_table(issues: Sequence[BipvlError]) -> str:
    """The columns file, problem and fix, at least two spaces apart, aligned where texts are short."""
    rows = [("file", "problem", "fix"), *((str(i.file), i.problem, i.fix) for i in issues)]
    files, problems = (min(max(len(row[column]) for row in rows), WIDEST) for column in (0, 1))
    return "\n".join(f"{file:{files}}  {problem:{problems}}  {fix}" for file, problem, fix in rows)


def _check_cases(spec: DatasetSpec, cases: Sequence[Case], workers: int) -> Iterator[CaseReport]:
    """Check the cases, in order, in several processes."""
    check = partial(check_case, spec)
    if workers == 1:
        yield from map(check, cases)
        return
    # Spawned, since forking a process whose threads hold locks (as torch's do) may hang.
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts) as pool:
            yield from pool.map(check, cases)
    except BrokenProcessPool as error:
        problem = "a process that read the data was killed, most likely for lack of memory"
        raise BipvlError(problem, "give fewer --workers") from error


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _workers(cases: Sequence[Case]) -> int:
    files = (path for case in cases for path in case.files.values() if os.path.isfile(path))
    if sum(path.stat().st_size for path in files) <= SMALL:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, len(cases))


def _cohort_issues(data_root: str | Path) -> list[BipvlError]:
    try:
        cohort_of(data_root)
    except BipvlError as error:
        return [error]
    return []


def _parts(
    spec: DatasetSpec, cases: Sequence[Case], split: str | Path | None, data_root: str | Path
) -> tuple[dict[str, str], list[BipvlError]]:
    """Case id → part of the split, as far as it is known, and the issues of the split."""
    try:
        listed = listed_parts(spec) if split is None else asdict(read_split(split, cases))
    except BipvlError as error:
        return {}, [error]
    if listed is None:
        fixed = spec.split["test"] == "validation"
        return {case.id: case.section for case in cases if fixed}, []
    parts = {i: part for part in PARTS for i in listed[part]}
    if split is None:
        issues = [issue.at(Path(data_root) / spec.folder) for issue in split_issues(listed, cases)]
        return ({} if issues else parts), issues
    if left := [case.id for case in cases if case.id not in parts]:
        problem = f"leaves out {len(left)} cases of the data set, such as {left[0]}"
        return parts, [BipvlError(problem, "delete it to draw a new one, or remove these cases", split)]
    return parts, []


def _duplicates(found: Reports, parts: Mapping[str, str]) -> Iterator[BipvlError]:
    """Images that occur twice, and label maps that occur with images of two patients."""
    images: dict[str, Case] = {}
    labels: dict[str, Case] = {}
    for case, report in found:
        image, label = report.image.checksum, report.label.checksum if report.label.codes else None
        if image and (first := images.setdefault(image, case)) is not case:
            problem = f"holds the same voxels as {first.image.name}{_across(first, case, parts)}"
            yield BipvlError(problem, "remove one of the two cases", case.image)
        elif label and (first := labels.setdefault(label, case)).person != case.person:
            problem = f"holds the same labels as {first.label.name}, but the images differ"
            fix = "give each image its own, or add 'patient' to the YAML if both are of one patient"
            yield BipvlError(problem, fix, case.label)


def _shared_patients(cases: Sequence[Case], parts: Mapping[str, str]) -> Iterator[BipvlError]:
    """Patients with cases in two parts of a listed split; a drawn split has none."""
    first_of: dict[str, Case] = {}
    for case in cases:
        first = first_of.setdefault(case.person, case)
        if across := _across(first, case, parts):
            problem = f"is of the patient {case.person}, as is {first.image.name}{across}"
            yield BipvlError(problem, "put all cases of a patient in one part", case.image)


def _across(first: Case, second: Case, parts: Mapping[str, str]) -> str:
    """The parts of the split of two cases, if they differ."""
    here, there = parts.get(second.id), parts.get(first.id)
    return f", across splits ({here} and {there})" if here and there and here != there else ""


def _missing_classes(spec: DatasetSpec, found: Reports, data_root: str | Path) -> Iterator[BipvlError]:
    """Classes without a voxel of their own in any case; reported only if every label map is readable.

    A class's second code may be missing: MM-WHS has a stray one in a single case.
    """
    codes = [report.label.codes for _, report in found]
    if not codes or None in codes:
        return
    present = frozenset().union(*codes)
    own = zip(spec.classes, spec.own_codes, strict=True)
    if missing := [f"{c.name} ({min(codes)})" for c, codes in own if not present & codes]:
        fix = "add cases that show it, or remove the class from the data set's YAML and its prompts"
        folder = Path(data_root) / spec.folder
        yield BipvlError(f"has no case with a voxel of {', '.join(missing)}", fix, folder)
