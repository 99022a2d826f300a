import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bipvl.common.errors import BipvlError
from bipvl.data.labels import class_indices, decode, encode, innermost
from bipvl.data.spec import load_spec

AMOS, HEART, BRAIN = load_spec("amos22"), load_spec("mmwhs_ct"), load_spec("msd_brain")
SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, max_side=5)


def codes_of(spec, codes=None):
    return arrays.arrays(np.int16, SHAPES, elements=st.sampled_from(codes or spec.known_codes))


def test_heart_codes_become_the_index_of_their_name():
    codes = np.array([0, 500, 600, 420, 421, 550, 205, 820, 850], np.float32).reshape(9, 1, 1)
    encoded = encode(HEART, codes, "x")
    assert encoded.shape == (1, 9, 1, 1) and encoded.dtype == np.uint8
    names = ["background", *(c.name for c in HEART.classes)]
    assert [names[i] for i in encoded.ravel()] == [
        "background",
        "left ventricle",
        "right ventricle",
        "left atrium",
        "left atrium",
        "right atrium",
        "myocardium of the left ventricle",
        "ascending aorta",
        "pulmonary artery",
    ]


def test_brain_masks_follow_the_codes():
    encoded = encode(BRAIN, np.array([0, 1, 2, 3]).reshape(4, 1, 1), "x")
    channels = {c.name: channel.ravel().tolist() for c, channel in zip(BRAIN.classes, encoded, strict=True)}
    assert channels == {
        "tumour core": [0, 0, 1, 1],
        "whole tumour": [0, 1, 1, 1],
        "enhancing tumour": [0, 0, 0, 1],
    }


@given(codes_of(AMOS))
def test_amos_codes_survive_the_round_trip(codes):
    assert np.array_equal(decode(AMOS, encode(AMOS, codes, "x")), codes)


@given(codes_of(BRAIN))
def test_brain_codes_survive_the_round_trip(codes):
    assert np.array_equal(decode(BRAIN, encode(BRAIN, codes, "x")), codes)


@given(codes_of(HEART))
def test_heart_codes_survive_except_the_stray_one(codes):
    assert np.array_equal(decode(HEART, encode(HEART, codes, "x")), np.where(codes == 421, 420, codes))


@given(arrays.arrays(np.uint8, st.tuples(st.just(3), *[st.integers(1, 4)] * 3), elements=st.integers(0, 1)))
def test_of_nested_classes_the_innermost_wins(channels):
    core, whole, enhancing = channels > 0
    expected = np.select([enhancing, core, whole], [3, 2, 1], 0)
    assert np.array_equal(decode(BRAIN, channels), expected)
    names = np.array(["background", *(c.name for c in BRAIN.classes)])
    assert np.array_equal(names[innermost(BRAIN, channels)] == "whole tumour", expected == 1)
    assert np.array_equal(innermost(BRAIN, channels), class_indices(BRAIN, expected))


@pytest.mark.parametrize(
    "spec, codes, problem",
    [
        (AMOS, [0, 16], "undeclared codes 16 "),
        (AMOS, [0, -1], "undeclared codes -1 "),
        (HEART, [0, 1, 7], "undeclared codes 1, 7 "),
        (BRAIN, [0, 4], "undeclared codes 4 "),
        (AMOS, [0, 70000], "undeclared codes 70000 "),
        (AMOS, [0, 0.5], "not whole numbers, such as 0.5"),
        (AMOS, [0, np.nan], "not whole numbers, such as nan"),
        (AMOS, [0, np.inf], "not whole numbers, such as inf"),
    ],
)
def test_an_undeclared_code_is_refused_by_file_and_code(spec, codes, problem):
    with pytest.raises(BipvlError) as error:
        encode(spec, np.array(codes).reshape(-1, 1, 1), "labels/scan.nii.gz")
    assert str(error.value).startswith("labels/scan.nii.gz: holds ") and problem in str(error.value)


def test_a_label_of_four_axes_is_refused():
    with pytest.raises(BipvlError, match=r"labels/scan.nii.gz: has 4 axes.*; keep one 3D volume"):
        encode(AMOS, np.zeros((2, 2, 2, 2)), "labels/scan.nii.gz")
