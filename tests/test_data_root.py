"""Where a profile's data are: what is said when they are missing."""

import pytest

from bipvl.common.errors import BipvlError
from bipvl.engine.data_root import check_data_root

LAPTOP = ("msd_hippocampus", "openkbp")


def test_a_profile_on_real_data_says_how_to_fetch_them():
    fetch = "`bipvl fetch msd_hippocampus` and `bipvl fetch openkbp`, then add DATA_ROOT=data"
    with pytest.raises(
        BipvlError, match=f"'laptop' runs on real data; fetch them into the folder data with {fetch}"
    ):
        check_data_root("laptop", None, LAPTOP)


def test_a_data_set_that_is_not_there_is_named_with_its_command(tmp_path):
    (tmp_path / "Task04_Hippocampus").mkdir()
    check_data_root("laptop", tmp_path, LAPTOP[:1])
    with pytest.raises(
        BipvlError, match=f"holds no folder OpenKBP.*bipvl fetch openkbp --data-root {tmp_path}"
    ):
        check_data_root("laptop", tmp_path, LAPTOP)


def test_a_synthetic_profile_needs_no_data():
    check_data_root("quick", None, ("mmwhs_mr",))
