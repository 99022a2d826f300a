"""The data check: every fault of every case, found before hours are spent on training."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from bipvl.common.errors import BipvlError
from bipvl.data.checks.case import Finding, check_case
from bipvl.data.issues import Fault
from bipvl.data.layouts import Case, cohort_of, extra_files, survey
from bipvl.data.prompts import prompt_faults
from bipvl.data.spec import DatasetSpec
from bipvl.data.splits import PARTS, listed_parts, read_split, split_faults

SMALL = 2**25
"""Bytes on disk up to which a dataset is read by one process: starting several takes about as long."""

Found = Sequence[tuple[Case, Finding]]


def check_dataset(
    spec: DatasetSpec,
    data_root: str | Path,
    prompts: str | Path | None = None,
    *,
    split: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[Fault]:
    """All faults of a dataset and its prompts, in the same order every time; empty where all is well.

    Every byte is read. Two cases are one where their images hold the same values in the same shape, whatever
    their type on disk, their compression and their headers are; one turned or resampled is not recognised.

    Tolerances: ``scans.AFFINE_TOLERANCE``, ``scans.FORM_TOLERANCE``, ``case_check.CT_RANGE`` and ``CT_SPAN``.

    Args:
        prompts: instead of the YAML's.
        split: a written split, whose parts are then held against copies and patients; without it those that
            the YAML lists, or the sections of a benchmark whose validation section is the test set.
        workers: processes, each with one file in memory; without it as many as cores, or one for few bytes.
    """
    faults = [*prompt_faults(prompts or spec.prompts, spec), *_cohort_faults(data_root)]
    cases, undeclared = survey(spec, data_root)
    parts, wrong_parts = _parts(spec, cases, split, data_root)
    faults += [*undeclared, *extra_files(spec, data_root), *wrong_parts]
    findings = _check_cases(spec, cases, workers or _workers(cases))
    bar = tqdm(findings, f"checking {spec.name}", len(cases), unit="case", disable=None if progress else True)
    found = [*zip(cases, bar, strict=True)]
    faults += [fault for _, finding in found for fault in finding.faults]
    return [
        *faults,
        *_copies(found, parts),
        *_torn_patients(cases, parts),
        *_absent_classes(spec, found, data_root),
    ]


def _check_cases(spec: DatasetSpec, cases: Sequence[Case], workers: int) -> Iterator[Finding]:
    """In the cases' order; a case at a time goes to a process that is free."""
    check = partial(check_case, spec)
    if workers == 1:
        yield from map(check, cases)
        return
    # Spawned, since forking a process whose threads hold locks (torch has such) may hang.
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts) as pool:
            yield from pool.map(check, cases)
    except BrokenProcessPool as error:
        raise BipvlError(
            "a process that read the data was killed, most likely for lack of memory; give fewer --workers"
        ) from error


def _leave_interrupts() -> None:
    """Ctrl-C is the first process's to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _workers(cases: Sequence[Case]) -> int:
    files = (path for case in cases for path in case.files.values() if os.path.isfile(path))
    if sum(path.stat().st_size for path in files) <= SMALL:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, len(cases))


def _cohort_faults(data_root: str | Path) -> list[Fault]:
    try:
        cohort_of(data_root)
    except BipvlError as error:
        return [Fault.told(Path(data_root) / "cohort.json", error)]
    return []


def _parts(
    spec: DatasetSpec, cases: Sequence[Case], split: str | Path | None, data_root: str | Path
) -> tuple[dict[str, str], list[Fault]]:
    """The part of the split that each case is in, where one is known, and what is wrong with the split."""
    if split is None:
        return _declared_parts(spec, cases, str(Path(data_root) / spec.folder))
    try:
        drawn = read_split(split, cases)
    except BipvlError as error:
        return {}, [Fault.told(split, error)]
    parts = {i: part for part in PARTS for i in getattr(drawn, part)}
    left = [case.id for case in cases if case.id not in parts]
    told = f"leaves out {len(left)} cases of the dataset, such as {left[0]}" if left else ""
    return parts, [Fault(str(split), told, "delete it to redraw, or take them out")] if left else []


def _declared_parts(
    spec: DatasetSpec, cases: Sequence[Case], folder: str
) -> tuple[dict[str, str], list[Fault]]:
    """As `_parts`, of what the dataset's YAML says."""
    try:
        listed = listed_parts(spec)
    except BipvlError as error:
        return {}, [Fault.told(spec.split["file"], error)]
    if listed is None:
        fixed = spec.split["test"] == "validation"
        return {case.id: case.section for case in cases if fixed}, []
    if faults := [Fault(folder, *told) for told in split_faults(listed, cases)]:
        return {}, faults
    return {i: part for part in PARTS for i in listed[part]}, []


def _copies(found: Found, parts: Mapping[str, str]) -> Iterator[Fault]:
    """Images that are there twice, and label maps that stand beside the images of two patients."""
    images: dict[str, Case] = {}
    labels: dict[str, Case] = {}
    for case, finding in found:
        image, label = finding.image.digest, finding.label.digest if finding.label.codes else None
        if image and (first := images.setdefault(image, case)) is not case:
            told = f"holds the same voxels as {first.image.name}{_where(first, case, parts)}"
            yield Fault(str(case.image), told, "remove one of the two cases")
        elif label and (first := labels.setdefault(label, case)).person != case.person:
            told = f"holds the same labels as {first.label.name}, beside another image"
            fix = "give each image its own, or tell by 'patient' in the dataset's YAML that both are of one"
            yield Fault(str(case.label), told, fix)


def _torn_patients(cases: Sequence[Case], parts: Mapping[str, str]) -> Iterator[Fault]:
    """Patients who are trained on and tested on. A drawn split has none, since patients are drawn whole."""
    first_of: dict[str, Case] = {}
    for case in cases:
        first = first_of.setdefault(case.person, case)
        if where := _where(first, case, parts):
            told = f"is of the patient {case.person}, as {first.image.name} is{where}"
            yield Fault(str(case.image), told, "put all cases of a patient into one part")


def _where(first: Case, second: Case, parts: Mapping[str, str]) -> str:
    """In which parts of the split two cases are, if in two."""
    here, there = parts.get(second.id), parts.get(first.id)
    return f", across splits ({here} and {there})" if here and there and here != there else ""


def _absent_classes(spec: DatasetSpec, found: Found, data_root: str | Path) -> Iterator[Fault]:
    """Classes with no voxel of their own in any case; told only where every label map could be read.

    A class's second code may be absent: MM-WHS has a stray one in a single case.
    """
    codes = [finding.label.codes for _, finding in found]
    if not codes or None in codes:
        return
    present = frozenset().union(*codes)
    own = spec.own_codes if spec.overlapping else [set(c.codes) for c in spec.classes]
    absent = [(c.name, min(k)) for c, k in zip(spec.classes, own, strict=True) if not present & k]
    if absent:
        names = ", ".join(f"{name} ({code})" for name, code in absent)
        yield Fault(
            str(Path(data_root) / spec.folder),
            f"has no case with a voxel of {names}",
            "add cases that show it, or take the class out of the dataset's YAML and its prompts",
        )
