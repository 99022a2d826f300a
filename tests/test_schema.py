"""``bipvl.common.schema``: a mistake in a YAML file names the key and the nearest right one."""

import pickle

import pytest
from pydantic import Field, field_validator

from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.common.schema import Schema, read_yaml, validate


class Training(Schema):
    lr: float = Field(gt=0, description="a positive number")
    steps: int = 1


class Profile(Schema):
    crop: list[int] | tuple[int, int] = Field([8, 8], description="two whole numbers")
    training: Training
    studies: dict[str, Training] = Field(default_factory=dict)

    @field_validator("crop")
    @classmethod
    def _small(cls, value: list[int]) -> list[int]:
        if max(value) > 64:
            raise ValueError("is larger than 64; make it smaller")
        return value


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"training": {"lr": 1, "step": 3}}, "own.yaml: there is no key 'training.step'; use one of: steps"),
        ({"training": {}}, "own.yaml: 'training.lr' is missing; set it to a positive number"),
        ({"training": {"lr": -1}}, "own.yaml: 'training.lr' is -1; it must be a positive number"),
        ({"training": {"lr": "fast"}}, "own.yaml: 'training.lr' is 'fast'; it must be a positive number"),
        (
            {"training": {"lr": 1.0}, "crop": ["a", 2]},
            "own.yaml: 'crop' is ['a', 2]; it must be two whole numbers",
        ),
        (
            {"training": {"lr": 1.0}, "crop": [99, 2]},
            "own.yaml: 'crop' is larger than 64; make it smaller",
        ),
        (
            {"training": {"lr": 1.0}, "studies": {"main": {"lr": 0.0}}},
            "own.yaml: 'studies.main.lr' is 0.0; it must be a positive number",
        ),
        ({"trainin": {}}, "own.yaml: there is no key 'trainin'; use one of: training"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(content, sentence):
    with pytest.raises(BipvlError) as error:
        validate(Profile, content, "own.yaml")
    assert str(error.value) == sentence


def test_right_content_becomes_a_model():
    assert validate(Profile, {"training": {"lr": 1}}).training.lr == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a: [", "not readable as YAML"), ("- a", "holds no mapping"), ("", "holds no mapping")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, problem):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(BipvlError, match=rf"own\.yaml: {problem}"):
        read_yaml(path)
    with pytest.raises(BipvlError, match=r"none\.yaml: file not found"):
        read_yaml(tmp_path / "none.yaml")


def test_an_error_keeps_its_parts_between_processes():
    error = pickle.loads(pickle.dumps(BipvlError("'crop' is missing", "add it").at("own.yaml")))
    assert (error.problem, error.fix, error.file) == ("'crop' is missing", "add it", "own.yaml")
    assert str(error.at("other.yaml")) == "own.yaml: 'crop' is missing; add it"


@pytest.mark.parametrize(
    ("known", "fix"),
    [({"quick": 1, "paper": 2}, "choose one of: quick"), ({}, "none is defined yet")],
)
def test_an_unknown_name_is_reported_with_the_nearest_known_one(known, fix):
    with pytest.raises(BipvlError) as error:
        choose("profile", "quik", known)
    assert str(error.value) == f"there is no profile 'quik'; {fix}"
