"""The split of a data set into training, validation and test cases: drawn once and written to a file."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, list_cases, read_json
from bipvl.data.spec import DatasetSpec

SPLIT_SEED = 42
"""The release's seed, for every split: runs with different seeds share their test cases."""
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Sorted case ids, none in two parts."""

    dataset: str
    seed: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def make_split(spec: DatasetSpec, cases: Sequence[Case], seed: int) -> Split:
    """Draw a split by the data set's rule, or take the one that it lists; the same cases give the same split.

    A test share is drawn as MONAI's DecathlonDataset draws its "validation" section (in section order,
    rounded down), so the same seed gives the same test cases. The validation share follows; each part gets
    at least one case. If the YAML identifies patients, patients are drawn instead of cases.

    Args:
        seed: used unless the data set's rule has its own.

    Raises:
        BipvlError: there are too few cases for three parts, or a listed split does not fit the cases.
    """
    if (listed := listed_parts(spec)) is not None:
        for issue in split_issues(listed, cases):
            raise issue.at(spec.title)
        return Split(spec.name, seed, *(tuple(sorted(listed[part])) for part in PARTS))
    rule = spec.split
    seed = rule.get("seed", seed)
    pool = sorted((case for case in cases if case.section == "training"), key=lambda case: case.position)
    people: dict[str, list[str]] = {}
    for case in pool:
        people.setdefault(case.person, []).append(case.id)
    drawn = [*people.values()]
    np.random.RandomState(seed).shuffle(order := np.arange(len(drawn)))
    drawn = [drawn[i] for i in order]
    if rule["test"] == "validation":
        test = [[case.id] for case in cases if case.section == "validation"]
    else:
        count = max(1, int(len(drawn) * rule["test"]))
        test, drawn = drawn[:count], drawn[count:]
    count = max(1, round(len(drawn) * rule["val"]))
    val, train = drawn[:count], drawn[count:]
    if not (train and val and test):
        fix = "add cases"
        raise BipvlError(f"{len(cases)} cases are too few for training, validation and test", fix, spec.title)
    return Split(spec.name, seed, *(tuple(sorted(chain(*part))) for part in (train, val, test)))


def listed_parts(spec: DatasetSpec) -> dict[str, tuple[str, ...]] | None:
    """The case ids of each part, if the data set's YAML or a file that it names lists them; else None.

    Raises:
        BipvlError: the file is missing, not readable, or does not list the three parts.
    """
    if "train" in spec.split:
        return spec.split
    if (path := spec.split.get("file")) is None:
        return None
    parts = _read_parts_csv(path) if path.suffix.lower() == ".csv" else read_json(path)
    if not all(_are_ids(parts.get(part)) for part in PARTS):
        raise BipvlError(
            "does not list the case ids of train, val and test, at least one each",
            'write {"train": ["a", "b"], "val": ["c"], "test": ["d"]} as JSON, or the columns case and part '
            "as CSV",
            path,
        )
    return {part: tuple(parts[part]) for part in PARTS}


def split_issues(parts: Mapping[str, Sequence[str]], cases: Sequence[Case]) -> Iterator[BipvlError]:
    """All issues of the parts that a data set lists."""
    ids = [i for part in PARTS for i in parts[part]]
    if unknown := _unknown(ids, cases):
        fix = "correct 'split' in the data set's YAML, or add the files"
        yield BipvlError(f"has no case {_some(unknown)}, named in 'split'", fix)
    if left := sorted({case.id for case in cases} - {*ids}):
        problem = f"has {len(left)} cases in no part of 'split', such as {left[0]}"
        yield BipvlError(problem, "add each to 'split' in the data set's YAML")
    if repeated := _repeated(ids):
        problem = f"has {_some(repeated)} more than once in 'split'"
        yield BipvlError(problem, "put each case in one part only")
    elif shared := _shared_patients([parts[part] for part in PARTS], cases):
        problem = f"has the patient {shared[0]} in two parts of 'split'"
        yield BipvlError(problem, "put all cases of a patient in one part")


def split_cases(
    path: str | Path, spec: DatasetSpec, data_root: str | Path
) -> tuple[list[Case], list[Case], list[Case]]:
    """The training, validation and test cases of a data set, by its written split.

    Raises:
        BipvlError: the split is missing, or it does not fit the cases.
    """
    if not Path(path).is_file():
        raise BipvlError("file not found", "prepare the data set first, which writes its split", path)
    cases = {case.id: case for case in list_cases(spec, data_root)}
    split = read_split(path, list(cases.values()))
    train, val, test = ([cases[i] for i in ids] for ids in (split.train, split.val, split.test))
    return train, val, test


def write_split(split: Split, path: str | Path) -> None:
    """Write a split as JSON."""
    write_json(path, asdict(split))


def read_split(path: str | Path, cases: Sequence[Case]) -> Split:
    """Read a split and check it against the cases.

    Raises:
        BipvlError: the file is no split, names a case that does not exist, or has a case or a patient in two
            parts.
    """
    path = Path(path)
    content = read_json(path)
    try:
        parts = [tuple(content[part]) for part in PARTS]
        split = Split(content["dataset"], content["seed"], *parts)
        ids = [i for part in parts for i in part]
        if not all(parts) or not all(isinstance(i, str) for i in ids):
            raise TypeError(ids)
    except (KeyError, TypeError) as error:
        fix = "delete it to draw a new one"
        raise BipvlError("is not a split (dataset, seed, train, val, test)", fix, path) from error
    if repeated := _repeated(ids):
        raise BipvlError(f"has {_some(repeated)} more than once", "put each case in one part only", path)
    if unknown := _unknown(ids, cases):
        problem = f"names {_some(unknown)}, which the data set does not have (was it drawn on other data?)"
        raise BipvlError(problem, "delete it to draw a new one, or restore the cases", path)
    if shared := _shared_patients(parts, cases):
        fix = "delete it to draw a new one, which keeps patients in one part"
        raise BipvlError(f"has the patient {shared[0]} in two parts", fix, path)
    return split


def _read_parts_csv(path: Path) -> dict[str, list[str]]:
    """Part → case ids of a CSV with the columns case and part."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [*csv.DictReader(file, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fix = "write a CSV with the columns case and part"
        raise BipvlError(f"not readable as CSV ({error})", fix, path) from error
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for number, row in enumerate(rows, start=1):
        case, part = ((row.get(name) or "").strip() for name in ("case", "part"))
        if not case or part not in parts:
            problem = f"has no case and part (train, val or test) in row {number}"
            raise BipvlError(problem, "write both below the header case,part", path)
        parts[part].append(case)
    return parts


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, str) for i in value)


def _repeated(ids: Sequence[str]) -> list[str]:
    return sorted(i for i, count in Counter(ids).items() if count > 1)


def _unknown(ids: Sequence[str], cases: Sequence[Case]) -> list[str]:
    return sorted(set(ids) - {case.id for case in cases})


def _shared_patients(parts: Sequence[Sequence[str]], cases: Sequence[Case]) -> list[str]:
    """The patients with cases in two parts."""
    person = {case.id: case.person for case in cases}
    people = [{person[i] for i in part if i in person} for part in parts]
    return sorted(set.union(*(a & b for a, b in combinations(people, 2))))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
