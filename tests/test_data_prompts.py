import re

import pytest
from data_files import write_prompts

from bipvl.common.errors import BipvlError
from bipvl.data.prompts import COLUMNS, CONCEPTS, default_prompts, read_prompts
from bipvl.data.spec import dataset_names, load_spec

HEART, BRAIN = load_spec("mmwhs_ct"), load_spec("msd_brain")


@pytest.fixture
def csv(tmp_path):
    return write_prompts(HEART, tmp_path / "heart.csv")


def test_segments_name_each_concept(tmp_path):
    path = tmp_path / "liver.csv"
    path.write_text(",".join(COLUMNS) + '\nLiver in a CT Image,"Wedge, large.",Right,Bright,Smooth,Even\n')
    table = read_prompts(path)
    assert table.segments() == [
        [
            "Liver in a CT Image",
            "Shape: Wedge, large.",
            "Location: Right",
            "Appearance/Density: Bright",
            "Contour/Symmetry: Smooth",
            "Internal Texture: Even",
        ]
    ]


def test_a_byte_order_mark_blanks_column_order_and_extra_columns_are_ignored(tmp_path, csv):
    lines = [line.split(",") for line in csv.read_text().splitlines()]
    text = "\r\n".join(" ,".join(["note", *reversed(line)]) + " " for line in lines) + "\r\n,,,,,,\r\n"
    other = tmp_path / "other.csv"
    other.write_text(text, encoding="utf-8-sig")
    assert read_prompts(other, HEART).rows == read_prompts(csv, HEART).rows


def test_titles_may_use_a_class_s_other_name(tmp_path):
    path = write_prompts(BRAIN, tmp_path / "brain.csv")
    path.write_text(path.read_text().replace("Tumour", "Tumor"))
    assert len(read_prompts(path, BRAIN).rows) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: [lines[0].replace("Shape", "Form"), *lines[1:]], "lacks the columns Shape"),
        (lambda lines: lines[:-1], "has 6 rows"),
        (lambda lines: [*lines, lines[-1]], "has 8 rows"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "row 1, 'Right Ventricle in a CT Image'"),
        (lambda lines: [lines[0], *reversed(lines[1:])], "does not contain 'left ventricle'"),
        # the myocardium's title contains "left ventricle" too: found at the other end of the swap
        (lambda lines: [lines[0], lines[5], *lines[2:5], lines[1], *lines[6:]], "row 5, 'Left Ventricle"),
        (
            lambda lines: [lines[0], lines[1].replace(",s,", ",,"), *lines[2:]],
            "row 1 has no text under Shape",
        ),
        (lambda lines: [lines[0], lines[1].rsplit(",", 1)[0], *lines[2:]], "no text under Internal Texture"),
        (lambda lines: [], "lacks the columns Title"),
    ],
)
def test_a_wrong_table_is_reported(csv, change, message):
    csv.write_text("\n".join(change(csv.read_text().splitlines())))
    with pytest.raises(BipvlError) as error:
        read_prompts(csv, HEART)
    assert str(csv) in str(error.value) and message in str(error.value)


def test_a_missing_and_an_undecodable_file_are_reported(tmp_path):
    with pytest.raises(BipvlError, match=r"absent.csv: not readable as CSV"):
        read_prompts(tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes("Title,œsophage".encode("utf-16"))
    with pytest.raises(BipvlError, match=r"latin.csv: is not UTF-8 text; save it as"):
        read_prompts(tmp_path / "latin.csv")


def test_the_parotid_glands_are_told_apart_by_side_alone():
    right, left = default_prompts(load_spec("openkbp")).segments()[2:4]
    swap = {"right": "left", "left": "right", "Right": "Left", "Left": "Right"}
    side = re.compile(rf"\b({'|'.join(swap)})\b")
    assert [side.sub(lambda found: swap[found[0]], text) for text in right] == left
    assert sum(a != b for a, b in zip(right, left, strict=True)) >= 3


@pytest.mark.parametrize("name", dataset_names())
def test_the_shipped_prompts_follow_the_shipped_classes(name):
    spec = load_spec(name)
    segments = default_prompts(spec).segments()
    assert [len(texts) for texts in segments] == [1 + len(CONCEPTS)] * spec.num_classes
