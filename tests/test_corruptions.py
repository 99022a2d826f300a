"""A catalogue of bad inputs, each made from a tiny valid cohort: the check reports each in one sentence.

All go through the command line. The corruptions are in corruptions_of_scans.py and corruptions_of_lists.py.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import corruptions_of_lists
import corruptions_of_scans
import numpy as np
import pytest
import yaml
from corrupting import CATALOGUE, KNEE, SECTIONS, Place
from data_files import save, write_dataset, write_prompts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from bipvl.__main__ import app
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.data.prompts import read_prompts
from bipvl.data.scans import read_scan
from bipvl.data.spec import load_spec


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory) -> Path:
    """A tiny valid cohort of each data set with prompts, and one of a user with its YAML."""
    base = tmp_path_factory.mktemp("cohorts")
    for name, sections in SECTIONS.items():
        root = base / name
        root.mkdir()
        if name == "knee":
            (root / "knee.yaml").write_text(yaml.safe_dump(KNEE))
        spec = load_spec(root / "knee.yaml" if name == "knee" else name)
        write_dataset(spec, root, sections)
        write_prompts(spec, root / "prompts.csv")
        shutil.copy(root / "prompts.csv", root / "knee.csv")
    return base


@pytest.fixture
def place_of(cohorts, tmp_path) -> Callable[[str], Place]:
    def copy(name: str) -> Place:
        shutil.copytree(cohorts / name, root := tmp_path / name)
        dataset = str(root / "knee.yaml") if name == "knee" else name
        return Place(root, dataset, load_spec(dataset))

    return copy


def check(place: Place, *options: object) -> Result:
    """Run ``bipvl check`` in this process."""
    line = ["check", place.dataset, "--data-root", place.root, "--prompts", place.prompts, *options]
    return CliRunner().invoke(app, [str(word) for word in line], prog_name="bipvl")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(result: Result) -> list[tuple[str, str, str]]:
    """The rows of the table of issues: file, problem, fix."""
    header, *lines, _ = (re.split(r" {2,}", line) for line in result.stderr.splitlines())
    assert header == ["file", "problem", "fix"]
    assert all(len(line) == 3 and all(line) for line in lines)
    return [tuple(line) for line in lines]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_valid_cohort_has_no_issues(place_of, name):
    result = check(place_of(name))
    assert result.exit_code == 0, result.output
    assert f"{sum(map(len, SECTIONS[name].values()))} cases, no issues" in result.stdout


def test_the_catalogue_is_complete():
    """Each corruption of both modules is registered under a distinct name."""
    modules = (corruptions_of_lists, corruptions_of_scans)
    entered = {case.id for case in CATALOGUE}
    assert len(entered) == len(CATALOGUE) >= 60
    assert {case.values[1].__module__ for case in CATALOGUE} == {module.__name__ for module in modules}


@pytest.mark.parametrize(("name", "corrupt", "expected", "options"), CATALOGUE)
def test_each_corruption_is_reported_by_file_problem_and_fix(place_of, name, corrupt, expected, options):
    place = place_of(name)
    corrupt(place)
    before = contents(place.root)
    result = check(place, *(option.format(root=place.root) for option in options))
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert contents(place.root) == before, "something was written"
    found = rows(result)
    assert len(found) == len(expected), result.stderr
    for (path, problem, fix), (file, fragment) in zip(found, expected, strict=True):
        assert path.startswith(str(place.root)) and file in path
        assert fragment in f"{problem}; {fix}"
    assert f"{len(expected)} issues, listed above; " in result.stderr.splitlines()[-1]


# --- the data set's YAML ---

YAML_ISSUES = {
    "no_file": (None, "file not found"),
    "empty": ("", "holds no mapping"),
    "a_list": ("- name: knee", "holds no mapping"),
    "a_sentence": ("Knees, please", "holds no mapping"),
    "unclosed_bracket": ("name: [knee", "not readable as YAML"),
    "tabs": ("name: knee\n\ttitle: Knees", "not readable as YAML"),
    "binary": (bytes(range(256)), "not readable as YAML"),
    "another_encoding": ("title: Köpfe".encode("latin-1"), "not readable as YAML"),
    "python_object": ("name: !!python/object/apply:os.system [ls]", "not readable as YAML"),
    "invalid_date": ("title: 2024-13-45", "not readable as YAML"),
    "invalid_number": ("nsd_tolerance: !!int two", "not readable as YAML"),
    "nested_deeply": ("[" * 1000, "not readable as YAML"),
    "repeated_field": ("name: a\nname: b", "the key 'name' is there twice"),
    "unknown_field": ({"spacings": [1, 1, 1]}, "there is no key 'spacings'; use one of: spacing"),
    "missing_field": ({"spacing": ...}, "'spacing' is missing; set it to three positive numbers (mm)"),
    "two_spacings": ({"spacing": [1, 1]}, "'spacing' is [1, 1]; it must be three positive numbers"),
    "a_spacing_of_0": ({"spacing": [1, 1, 0]}, "'spacing' is [1, 1, 0]; it must be three positive"),
    "an_infinite_spacing": (
        {"spacing": [1, 1, float("inf")]},
        "'spacing' is [1, 1, inf]; it must be three positive numbers",
    ),
    "huge_number": ({"nsd_tolerance": 10**400}, "it must be a positive number"),
    "a_folder_from_the_root": (
        {"folder": "/etc"},
        "'folder' is '/etc'; it must be the data set's folder below",
    ),
    "a_folder_outside": ({"folder": "knee/../../other"}, "it must be the data set's folder below"),
    "a_code_of_two": (
        {"classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [1]}]},
        "'classes' gives one code to two classes; correct it",
    ),
    "a_code_twice": (
        {"classes": [{"name": "femur", "codes": [1, 1]}, {"name": "tibia", "codes": [2]}]},
        "'classes.0.codes' is [1, 1]; it must be a list of distinct codes",
    ),
    "two_classes_of_a_name": (
        {"classes": [{"name": "femur", "codes": [1]}, {"name": "Femur", "codes": [2]}]},
        "with distinct names and aliases",
    ),
    "an_alias_of_another_class": (
        {"classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [2], "aliases": ["femur"]}]},
        "with distinct names and aliases",
    ),
    "the_background_as_a_class": (
        {"classes": [{"name": "all", "codes": [0]}]},
        "'classes.0.codes' is [0]; it",
    ),
    "code_names_of_other_codes": (
        {"code_names": {7: ["femur"]}},
        "'code_names' names the codes [7]; name exactly the codes [1, 2]",
    ),
    "a_channel_twice": ({"channels": ["PD", "PD"]}, "'channels' is ['PD', 'PD']; it must be a list"),
    "a_share_of_all": ({"split": {"test": 1, "val": 0.1}}, "; it must be {test: validation or a share"),
    "sections_where_none_are": (
        {"layout": "paired_files"},
        "'split' takes the test cases from a section",
    ),
    "a_broken_patient_rule": (
        {"patient": "(P"},
        "'patient' is '(P'; it must be a regular expression with one group",
    ),
    "a_patient_rule_of_no_group": ({"patient": "P"}, "'patient' is 'P'; it must be a regular"),
}


@pytest.mark.parametrize(("change", "expected"), YAML_ISSUES.values(), ids=YAML_ISSUES)
def test_a_wrong_yaml_is_reported_in_one_sentence(place_of, change, expected):
    place = place_of("knee")
    if change is None:
        place.yaml.unlink()
    elif isinstance(change, dict):
        kept = {key: value for key, value in (KNEE | change).items() if value is not ...}
        place.yaml.write_text(yaml.safe_dump(kept))
    else:
        place.yaml.write_bytes(change.encode() if isinstance(change, str) else change)
    before = contents(place.root)
    result = check(place)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(f"bipvl: {place.yaml}") and expected in sentence
    assert "Traceback" not in result.output
    assert contents(place.root) == before


# --- any content of a file loads or is reported ---

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=4)
    ),
    max_leaves=9,
)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(field=st.sampled_from(sorted(KNEE)), value=VALUES)
def test_any_value_in_a_yaml_loads_or_is_reported(tmp_path, field, value):
    path = tmp_path / "knee.yaml"
    path.write_text(yaml.safe_dump(KNEE | {field: value}))
    try:
        spec = load_spec(path)
    except BipvlError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert spec.num_classes > 0


@FEW
@given(raw=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_as_yaml_json_csv_or_scan_load_or_are_reported(tmp_path, raw):
    for name, read in (
        ("a.yaml", load_spec),
        ("a.json", read_json),
        ("a.csv", read_prompts),
        ("a.nii.gz", read_scan),
    ):
        path = tmp_path / name
        path.write_bytes(raw)
        try:
            read(path)
        except BipvlError as error:
            assert str(error).startswith(str(path))


@FEW
@given(data=st.data())
def test_a_changed_byte_in_a_scan_is_reported_or_changes_nothing(tmp_path, data):
    path = save(tmp_path / "scan.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    whole, raw = read_scan(path), bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        scan = read_scan(path)
    except BipvlError as error:
        assert str(error).startswith(str(path))
    else:  # the time or name in gzip's own header
        assert np.array_equal(scan.stored, whole.stored) and np.array_equal(scan.affine, whole.affine)


@FEW
@given(data=st.data())
def test_a_truncated_scan_is_reported(tmp_path, data):
    path = save(tmp_path / "scan.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(BipvlError, match=r"scan\.nii\.gz: (the file is empty|not readable)"):
        read_scan(path)
