from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case
from bipvl.data.spec import load_spec
from bipvl.data.splits import PARTS, listed_parts, make_split, read_split, write_split

AMOS, HEART, BRAIN = load_spec("amos22"), load_spec("mmwhs_ct"), load_spec("msd_brain")


def cases_of(count, section="training", start=1):
    return [Case(f"case_{start + i:04}", Path("i"), Path("l"), section, position=i) for i in range(count)]


def sizes(split):
    return len(split.train), len(split.val), len(split.test)


def test_the_amos_test_cases_are_the_benchmarks_validation_section():
    validation = cases_of(100, "validation", start=301)
    split = make_split(AMOS, cases_of(200) + validation, seed=42)
    assert sizes(split) == (180, 20, 100)
    assert split.test == tuple(case.id for case in validation)


def test_heart_and_brain_have_the_released_shares():
    assert sizes(make_split(HEART, cases_of(20), seed=42)) == (14, 2, 4)
    assert sizes(make_split(BRAIN, cases_of(484), seed=42)) == (349, 39, 96)


def test_the_hippocampus_parts_follow_a_hash_of_the_ids():
    listed = listed_parts(load_spec("msd_hippocampus"))
    ids = sorted((i for part in PARTS for i in listed[part]), key=lambda i: sha256(i.encode()).hexdigest())
    assert len(ids) == 260
    expected = {"test": ids[:52], "val": ids[52:73], "train": ids[73:]}
    assert {part: sorted(listed[part]) for part in PARTS} == {p: sorted(expected[p]) for p in PARTS}


def test_openkbp_has_the_challenges_parts_and_an_unknown_patient_is_named():
    spec = load_spec("openkbp")
    listed = listed_parts(spec)
    assert {part: len(listed[part]) for part in PARTS} == {"train": 99, "val": 16, "test": 50}
    for part, numbers in (("train", range(1, 201)), ("val", range(201, 241)), ("test", range(241, 341))):
        assert {int(i.removeprefix("pt_")) for i in listed[part]} <= set(numbers)
    cases = [Case(i, Path("i"), Path("l")) for part in PARTS for i in listed[part] if i != "pt_001"]
    with pytest.raises(BipvlError, match=r"OpenKBP .*: has no case pt_001, named in 'split'"):
        make_split(spec, cases, seed=42)


@given(st.integers(3, 60), st.integers(0, 2**32 - 1), st.randoms())
def test_a_split_is_complete_disjoint_and_the_same_for_the_same_seed(count, seed, random):
    cases = cases_of(count)
    shuffled = random.sample(cases, count)
    split = make_split(HEART, cases, seed)
    parts = [*split.train, *split.val, *split.test]
    assert sorted(parts) == [case.id for case in cases]
    assert min(sizes(split)) >= 1
    assert make_split(HEART, shuffled, seed) == split


def test_another_seed_is_another_split():
    assert make_split(HEART, cases_of(20), seed=1).test != make_split(HEART, cases_of(20), seed=2).test


@given(st.integers(8, 40), st.integers(0, 2**32 - 1))
def test_a_patient_is_never_in_two_parts(count, seed):
    cases = [replace(case, patient=f"P{i // 2}") for i, case in enumerate(cases_of(count))]
    split = make_split(HEART, cases, seed)
    patient = {case.id: case.patient for case in cases}
    parts = [{patient[i] for i in ids} for ids in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == (count + 1) // 2
    assert sorted([*split.train, *split.val, *split.test]) == [case.id for case in cases]


def test_a_written_split_with_a_patient_in_two_parts_is_reported(tmp_path):
    cases, path = cases_of(20), tmp_path / "split.json"
    split = make_split(HEART, cases, seed=42)
    write_split(split, path)
    shared = (split.train[0], split.test[0])
    with pytest.raises(BipvlError, match=r"split.json: has the patient P in two parts"):
        read_split(path, [replace(case, patient="P") if case.id in shared else case for case in cases])


@pytest.mark.parametrize("seed", [0, 42])
def test_the_brain_test_cases_are_monais_validation_section(seed):
    from monai.apps import DecathlonDataset

    cases = [
        replace(case, position=(7 * i) % 23) for i, case in enumerate(cases_of(23))
    ]  # the file's own order
    listed = [case.id for case in sorted(cases, key=lambda case: case.position)]
    state = np.random.RandomState(seed)
    stub = SimpleNamespace(section="validation", val_frac=0.2, randomize=state.shuffle)
    assert make_split(BRAIN, cases, seed).test == tuple(
        sorted(DecathlonDataset._split_datalist(stub, listed))
    )


@pytest.mark.parametrize(
    "spec, cases", [(HEART, cases_of(2)), (HEART, []), (AMOS, cases_of(5)), (AMOS, cases_of(5, "validation"))]
)
def test_too_few_cases_are_reported(spec, cases):
    with pytest.raises(BipvlError, match=r"too few for training, validation and test"):
        make_split(spec, cases, seed=0)


def test_a_split_is_read_as_it_was_written(tmp_path):
    cases = cases_of(20)
    split = make_split(HEART, cases, seed=42)
    path = tmp_path / "runs" / "split.json"
    write_split(split, path)
    assert read_split(path, cases) == split
    assert [p.name for p in path.parent.iterdir()] == ["split.json"]


def test_a_split_of_other_data_or_with_a_leak_is_reported(tmp_path):
    cases, path = cases_of(20), tmp_path / "split.json"
    split = make_split(HEART, cases, seed=42)
    write_split(split, path)
    with pytest.raises(BipvlError, match=rf"split.json: names {split.test[0]}, which"):
        read_split(path, [case for case in cases if case.id != split.test[0]])
    write_split(replace(split, train=(*split.train, split.test[0])), path)
    with pytest.raises(BipvlError, match=f"split.json: has {split.test[0]} more than once"):
        read_split(path, cases)
    path.write_text('{"train": []}')
    with pytest.raises(BipvlError, match=r"split.json: is not a split"):
        read_split(path, cases)
    with pytest.raises(BipvlError, match=r"absent.json: file not found"):
        read_split(tmp_path / "absent.json", cases)
