"""Prompt edits: each changes what its name says, and nothing else."""

import re

import pytest

from bipvl.common.errors import BipvlError
from bipvl.data.prompt_edits import EDITS, MISTYPED, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec


@pytest.fixture(params=["amos22", "mmwhs_ct", "msd_brain"])
def texts(request):
    return default_prompts(load_spec(request.param)).segments()


def test_every_edit_keeps_one_row_per_class_and_is_deterministic(texts):
    for name in EDITS:
        rows = edited(texts, name, seed=3)
        assert len(rows) == len(texts) and len({len(row) for row in rows}) == 1, name
        assert rows == edited(texts, name, seed=3), name
        sides = re.search(r"\b(left|right)\b", str(texts), re.IGNORECASE)
        assert (rows == texts) == (name == "full" or (name == "mirrored" and not sides)), name


def test_names_keeps_only_titles_and_empty_keeps_nothing(texts):
    assert edited(texts, "names") == [[row[0]] for row in texts]
    assert edited(texts, "empty") == [[""]] * len(texts)


def test_ambiguous_details_are_the_same_for_every_class(texts):
    rows = edited(texts, "ambiguous")
    assert [row[0] for row in rows] == [row[0] for row in texts]
    assert len({tuple(row[1:]) for row in rows}) == 1
    assert rows[0][1].startswith("Shape: ")


def test_other_details_come_from_another_class_and_titles_stay(texts):
    rows = edited(texts, "other_details", seed=1)
    assert [row[0] for row in rows] == [row[0] for row in texts]
    assert sorted(row[1:] for row in rows) == sorted(row[1:] for row in texts)
    assert all(new[1:] != old[1:] for new, old in zip(rows, texts, strict=True))


def test_shuffled_rows_move_every_class(texts):
    rows = edited(texts, "shuffled_rows", seed=1)
    assert sorted(rows) == sorted(texts)
    assert all(new != old for new, old in zip(rows, texts, strict=True))


def test_paraphrases_keep_the_whole_content(texts):
    for new, old in zip(edited(texts, "paraphrased"), texts, strict=True):
        assert old[0] in new[0]
        assert all(o.split(": ", 1)[1] in n for n, o in zip(new[1:], old[1:], strict=True))


def test_typing_errors_swap_letters_in_the_stated_share_of_words(texts):
    rows = edited(texts, "typing_errors", seed=0)
    before = [w for row in texts for text in row for w in text.split()]
    after = [w for row in rows for text in row for w in text.split()]
    assert all(sorted(a) == sorted(b) for a, b in zip(after, before, strict=True))
    long = [(a, b) for a, b in zip(after, before, strict=True) if len(b) >= 4]
    assert MISTYPED / 2 < sum(a != b for a, b in long) / len(long) < MISTYPED * 1.5


def test_mirroring_twice_restores_the_text_and_keeps_capitals():
    texts = default_prompts(load_spec("amos22")).segments()
    rows = edited(texts, "mirrored")
    assert rows[1][0].startswith("Left kidney") and rows[2][0].startswith("Right kidney")
    assert edited(rows, "mirrored") == texts


def test_an_unknown_edit_lists_the_nearest():
    with pytest.raises(BipvlError, match="no prompt edit 'shuffled_row'; choose one of: shuffled_rows"):
        edited([["a"]], "shuffled_row")
