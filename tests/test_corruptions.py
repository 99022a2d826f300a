"""A catalogue of bad inputs, each made from a good tiny cohort: the check tells each in one sentence.

All go through the command line. The corruptions stand in corruptions_of_scans.py and corruptions_of_lists.py.
"""

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
    """A good tiny cohort of each dataset, with prompts, and an own one with its YAML."""
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


def check(place: Place, *words: object) -> Result:
    """Run ``bipvl check`` in this process."""
    line = ["check", place.dataset, "--data-root", place.root, "--prompts", place.prompts, *words]
    return CliRunner().invoke(app, [str(word) for word in line], prog_name="bipvl")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(result: Result) -> list[str]:
    """The rows of the table of faults, blanks run together."""
    assert result.stderr.splitlines()[0].split() == ["file", "fault", "fix"]
    return [" ".join(row.split()) for row in result.stderr.splitlines()[1:-1]]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_good_cohort_has_no_fault(place_of, name):
    result = check(place_of(name))
    assert result.exit_code == 0, result.output
    assert f"{sum(map(len, SECTIONS[name].values()))} cases, no fault" in result.stdout


def test_the_catalogue_is_whole():
    """Each corruption of both modules has entered itself, under a name of its own."""
    modules = (corruptions_of_lists, corruptions_of_scans)
    entered = {case.id for case in CATALOGUE}
    assert len(entered) == len(CATALOGUE) >= 60
    assert {case.values[1].__module__ for case in CATALOGUE} == {module.__name__ for module in modules}


@pytest.mark.parametrize(("name", "spoil", "told", "words"), CATALOGUE)
def test_a_corruption_is_told_in_a_sentence(place_of, name, spoil, told, words):
    place = place_of(name)
    spoil(place)
    before = contents(place.root)
    result = check(place, *(word.format(root=place.root) for word in words))
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert contents(place.root) == before, "something was written"
    found = rows(result)
    assert len(found) == len(told), result.stderr
    for row, (file, fragment) in zip(found, told, strict=True):
        assert row.startswith(str(place.root)), "the sentence begins with the file"
        assert file in row.split()[0] and fragment in row
        assert "; " in row and row.endswith("."), "what is wrong; what to do."
    assert f"{len(told)} listed above" in result.stderr.splitlines()[-1]


# --- the dataset's YAML: nothing is read on before it is right ---

YAML_FAULTS = {
    "no_file": (None, "cannot be read as YAML"),
    "empty": ("", "holds no fields"),
    "a_list": ("- name: knee", "holds no fields"),
    "a_sentence": ("Knees, please", "holds no fields"),
    "not_closed": ("name: [knee", "cannot be read as YAML"),
    "tabs": ("name: knee\n\ttitle: Knees", "cannot be read as YAML"),
    "binary": (bytes(range(256)), "cannot be read as YAML"),
    "of_another_encoding": ("title: Köpfe".encode("latin-1"), "cannot be read as YAML"),
    "with_a_python_object": ("name: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
    "with_a_day_that_is_none": ("title: 2024-13-45", "cannot be read as YAML"),
    "with_a_number_that_is_none": ("nsd_tolerance: !!int two", "cannot be read as YAML"),
    "nested_without_end": ("[" * 1000, "cannot be read as YAML"),
    "with_a_field_twice": ("name: a\nname: b", "the field 'name' is there twice"),
    "with_an_unknown_field": ({"spacings": [1, 1, 1]}, "unknown field 'spacings'; did you mean 'spacing'"),
    "without_a_field": ({"spacing": ...}, "lacks spacing"),
    "with_two_spacings": ({"spacing": [1, 1]}, "'spacing' must be three positive numbers"),
    "with_a_spacing_of_0": ({"spacing": [1, 1, 0]}, "'spacing' must be three positive numbers"),
    "with_an_infinite_spacing": (
        {"spacing": [1, 1, float("inf")]},
        "'spacing' must be three positive numbers",
    ),
    "with_a_number_beyond_all": ({"nsd_tolerance": 10**400}, "'nsd_tolerance' must be a positive number"),
    "with_a_folder_from_the_root": ({"folder": "/etc"}, "'folder' must be the dataset's folder below"),
    "with_a_folder_outside": ({"folder": "knee/../../other"}, "'folder' must be the dataset's folder below"),
    "with_a_code_of_two": (
        {"classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [1]}]},
        "gives one code to two classes",
    ),
    "with_a_code_twice": (
        {"classes": [{"name": "femur", "codes": [1, 1]}, {"name": "tibia", "codes": [2]}]},
        "'classes' must be",
    ),
    "with_two_classes_of_a_name": (
        {"classes": [{"name": "femur", "codes": [1]}, {"name": "Femur", "codes": [2]}]},
        "'classes' must be",
    ),
    "with_an_alias_of_another_class": (
        {"classes": [{"name": "femur", "codes": [1]}, {"name": "tibia", "codes": [2], "aliases": ["femur"]}]},
        "'classes' must be",
    ),
    "with_the_background_as_a_class": ({"classes": [{"name": "all", "codes": [0]}]}, "'classes' must be"),
    "with_code_names_of_other_codes": (
        {"code_names": {7: ["femur"]}},
        "'code_names' must name the codes [1, 2]",
    ),
    "with_a_channel_twice": ({"channels": ["PD", "PD"]}, "'channels' must be"),
    "with_a_share_of_all": ({"split": {"test": 1, "val": 0.1}}, "'split' must be"),
    "with_sections_where_none_are": (
        {"layout": "paired_files"},
        "'split' takes the test cases from a section",
    ),
    "with_a_broken_patient_rule": (
        {"patient": "(P"},
        "'patient' must be a regular expression with one group",
    ),
    "with_a_patient_rule_of_no_group": ({"patient": "P"}, "'patient' must be a regular expression with one"),
}


@pytest.mark.parametrize(("change", "told"), YAML_FAULTS.values(), ids=YAML_FAULTS)
def test_a_yaml_is_told_in_a_sentence(place_of, change, told):
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
    assert sentence.startswith(f"bipvl: {place.yaml}") and told in sentence
    assert "Traceback" not in result.output
    assert contents(place.root) == before


# --- whatever is in a file, it is told ---

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
def test_any_value_in_a_yaml_loads_or_is_told(tmp_path, field, value):
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
def test_any_bytes_as_yaml_json_csv_or_scan_are_told(tmp_path, raw):
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
def test_a_byte_changed_in_a_scan_is_told_or_changes_nothing(tmp_path, data):
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
def test_a_scan_cut_anywhere_is_told(tmp_path, data):
    path = save(tmp_path / "scan.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    raw = path.read_bytes()
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(BipvlError, match=r"scan\.nii\.gz (is empty|cannot be read)"):
        read_scan(path)
