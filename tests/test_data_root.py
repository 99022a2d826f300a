"""Where a profile's data are: what is said when they are missing."""

import pytest

from bipvl.common.errors import BipvlError
from bipvl.engine import quickstart
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


def test_the_quickstart_downloads_real_data_that_are_missing_and_only_those(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(quickstart, "fetch", lambda *arguments: asked.append(arguments) or 1 / 0)
    run = tmp_path / "runs" / "smoke" / "msd_hippocampus" / "bipvlseg" / "seed0"
    with pytest.raises(ZeroDivisionError):
        quickstart.trained_run(run, tmp_path)
    assert asked == [("msd_hippocampus", tmp_path)]
    (tmp_path / "Task04_Hippocampus").mkdir()
    with pytest.raises(BipvlError, match="Task04_Hippocampus"):
        quickstart.trained_run(run, tmp_path)
    assert len(asked) == 1


def test_the_quickstart_says_how_to_get_data_that_cannot_be_downloaded(tmp_path):
    with pytest.raises(BipvlError, match="must be downloaded by hand; follow: bipvl fetch amos22"):
        quickstart.trained_run(tmp_path / "runs" / "smoke" / "amos22" / "bipvlseg" / "seed0", tmp_path)
