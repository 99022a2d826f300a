"""Which cases are trained on, which choose the best epoch, which are tested: drawn once and written down."""

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
from bipvl.data.scans import Told
from bipvl.data.spec import DatasetSpec

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Case ids, sorted, none in two parts."""

    dataset: str
    seed: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def make_split(spec: DatasetSpec, cases: Sequence[Case], seed: int) -> Split:
    """Draw a split by the dataset's rule, or take the one that it lists. The same cases give the same split.

    A share is drawn as MONAI's DecathlonDataset draws its "validation" section (section order, rounded down):
    with the same seed the test cases are the very same. The val share follows; each part has a case at least.
    Where the dataset's YAML tells patients apart, they are drawn in place of cases: none is in two parts.

    Args:
        seed: where the dataset's rule has none of its own.

    Raises:
        BipvlError: too few cases for three parts, or a list that does not fit them.
    """
    if (listed := listed_parts(spec)) is not None:
        if told := next(split_faults(listed, cases), None):
            raise BipvlError(f"{spec.title} {told[0]}; {told[1]}.")
        return Split(spec.name, seed, *(tuple(sorted(listed[part])) for part in PARTS))
    seed = spec.split.get("seed", seed)
    pool = sorted((case for case in cases if case.section == "training"), key=lambda case: case.position)
    people: dict[str, list[str]] = {}
    for case in pool:
        people.setdefault(case.person, []).append(case.id)
    drawn = [*people.values()]
    np.random.RandomState(seed).shuffle(order := np.arange(len(drawn)))
    drawn = [drawn[i] for i in order]
    rule = spec.split
    if rule["test"] == "validation":
        test = [[case.id] for case in cases if case.section == "validation"]
    else:
        count = max(1, int(len(drawn) * rule["test"]))
        test, drawn = drawn[:count], drawn[count:]
    count = max(1, round(len(drawn) * rule["val"]))
    val, train = drawn[:count], drawn[count:]
    if not (train and val and test):
        raise BipvlError(
            f"{spec.title}: {len(cases)} cases are too few for training, validation and test; add some."
        )
    return Split(spec.name, seed, *(tuple(sorted(chain(*part))) for part in (train, val, test)))


def listed_parts(spec: DatasetSpec) -> dict[str, tuple[str, ...]] | None:
    """The case ids of each part where the dataset's YAML lists them, itself or in a file; else None.

    Raises:
        BipvlError: a file that is missing, cannot be read, or does not tell the three parts.
    """
    if "train" in spec.split:
        return spec.split
    if (path := spec.split.get("file")) is None:
        return None
    parts = _read_parts_csv(path) if path.suffix.lower() == ".csv" else read_json(path)
    if not all(_are_ids(parts.get(part)) for part in PARTS):
        raise BipvlError(
            f"{path} does not list the case ids of train, val and test, one at least each; write "
            '{"train": ["a", "b"], "val": ["c"], "test": ["d"]} as JSON, or columns case and part as CSV.'
        )
    return {part: tuple(parts[part]) for part in PARTS}


def split_faults(parts: Mapping[str, Sequence[str]], cases: Sequence[Case]) -> Iterator[Told]:
    """What is wrong with the parts that a dataset lists, and how to mend it."""
    ids = [i for part in PARTS for i in parts[part]]
    where = "'split' in the dataset's YAML"
    if gone := _gone(ids, cases):
        yield f"has no case {_some(gone)}, which 'split' names", f"correct {where}, or add the files"
    if left := sorted({case.id for case in cases} - {*ids}):
        yield f"has {len(left)} cases in no part of 'split', such as {left[0]}", f"add each to {where}"
    if twice := _twice(ids):
        yield f"has {_some(twice)} more than once in 'split'", "a case may be in one part only"
    elif torn := _torn([parts[part] for part in PARTS], cases):
        yield f"has the patient {torn[0]} in two parts of 'split'", "put all cases of a patient into one"


def split_cases(
    path: str | Path, spec: DatasetSpec, data_root: str | Path
) -> tuple[list[Case], list[Case], list[Case]]:
    """The training, validation and test cases of a dataset, by its written split.

    Raises:
        BipvlError: no split there, or it does not fit the cases.
    """
    if not Path(path).is_file():
        raise BipvlError(f"{path} is missing; prepare the dataset first, which writes its split.")
    cases = {case.id: case for case in list_cases(spec, data_root)}
    split = read_split(path, list(cases.values()))
    train, val, test = ([cases[i] for i in ids] for ids in (split.train, split.val, split.test))
    return train, val, test


def write_split(split: Split, path: str | Path) -> None:
    """Write a split as JSON."""
    write_json(path, asdict(split))


def read_split(path: str | Path, cases: Sequence[Case]) -> Split:
    """Read a split and hold it against the cases.

    Raises:
        BipvlError: not a split file, a case in two parts, a case that is not there, a patient in two parts.
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
        raise BipvlError(
            f"{path} is not a split (dataset, seed, train, val, test); delete it to redraw."
        ) from error
    if twice := _twice(ids):
        raise BipvlError(f"{path} has {', '.join(twice)} more than once; a case may be in one part only.")
    if gone := _gone(ids, cases):
        raise BipvlError(
            f"{path} names {_some(gone)}, which the dataset has not; "
            "was it drawn on other data? Delete it to redraw, or restore the cases."
        )
    if torn := _torn(parts, cases):
        raise BipvlError(
            f"{path} has the patient {torn[0]} in two parts; delete it to redraw, which keeps patients whole."
        )
    return split


def _read_parts_csv(path: Path) -> dict[str, list[str]]:
    """Part → case ids of a CSV with the columns case and part."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [*csv.DictReader(file, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BipvlError(f"{path} cannot be read as CSV ({error}); write columns case and part.") from error
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for number, row in enumerate(rows, start=1):
        case, part = ((row.get(name) or "").strip() for name in ("case", "part"))
        if not case or part not in parts:
            raise BipvlError(
                f"{path} has no case and part (train, val or test) in its row {number}; write both there, "
                "below the header case,part."
            )
        parts[part].append(case)
    return parts


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(i, str) for i in value)


def _twice(ids: Sequence[str]) -> list[str]:
    return sorted(i for i, count in Counter(ids).items() if count > 1)


def _gone(ids: Sequence[str], cases: Sequence[Case]) -> list[str]:
    return sorted(set(ids) - {case.id for case in cases})


def _torn(parts: Sequence[Sequence[str]], cases: Sequence[Case]) -> list[str]:
    """The patients with cases in two parts."""
    person = {case.id: case.person for case in cases}
    people = [{person[i] for i in part if i in person} for part in parts]
    return sorted(set.union(*(a & b for a, b in combinations(people, 2))))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
