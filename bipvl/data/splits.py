"""Which cases are trained on, which choose the best epoch, which are tested: drawn once and written down."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from bipvl.data.layouts import Case, list_cases, read_json
from bipvl.data.spec import DatasetSpec
from bipvl.errors import BipvlError
from bipvl.files import write_json


@dataclass(frozen=True)
class Split:
    """Case ids, sorted, none in two parts."""

    dataset: str
    seed: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def make_split(spec: DatasetSpec, cases: Sequence[Case], seed: int) -> Split:
    """Draw a split by the dataset's rule. The same cases and seed give the same split.

    A share is drawn as MONAI's DecathlonDataset draws its "validation" section (section order, rounded down):
    with the same seed the test cases are the very same. The val share follows; each part has a case at least.
    Where the dataset's YAML tells patients apart, they are drawn in place of cases: none is in two parts.

    Raises:
        BipvlError: too few cases for three parts.
    """
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
        parts = [tuple(content[part]) for part in ("train", "val", "test")]
        split = Split(content["dataset"], content["seed"], *parts)
        ids = [i for part in parts for i in part]
        if not all(isinstance(i, str) for i in ids):
            raise TypeError(ids)
    except (KeyError, TypeError) as error:
        raise BipvlError(
            f"{path} is not a split (dataset, seed, train, val, test); delete it to redraw."
        ) from error
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise BipvlError(f"{path} has {', '.join(twice)} more than once; a case may be in one part only.")
    if gone := sorted(set(ids) - {case.id for case in cases}):
        raise BipvlError(
            f"{path} names {', '.join(gone[:5])}{' …' if len(gone) > 5 else ''}, which the dataset has not; "
            "was it drawn on other data? Delete it to redraw, or restore the cases."
        )
    person = {case.id: case.person for case in cases}
    people = [{person[i] for i in part} for part in parts]
    if torn := sorted(set.union(*(a & b for a, b in combinations(people, 2)))):
        raise BipvlError(
            f"{path} has the patient {torn[0]} in two parts; delete it to redraw, which keeps patients whole."
        )
    return split
