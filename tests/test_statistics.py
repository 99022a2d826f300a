"""Tables of scores, tested on values computed by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
from score_files import study, write_metrics, write_runs

from bipvl.analysis.statistics import (
    LONG,
    case_means,
    class_values,
    interval,
    main_table,
    median_case,
    provenance,
    read_runs,
)
from bipvl.analysis.studies import study_folders
from bipvl.analysis.tables import main_table_latex, main_table_markdown
from bipvl.common.errors import BipvlError

LV, RV, LA = "left ventricle", "right ventricle", "left atrium"


def scores(dice, miss=False):
    """The rows of one case and class."""
    flag = "miss" if miss else ""
    return [("dice", dice, flag), ("hd95_mm", 10 * (1 - dice), flag), ("nsd", dice / 2, flag)]


def rows(values):
    """{(case, class): dice} → rows; a Dice of 0 is a miss."""
    return [(*key, m, v, f) for key, dice in values.items() for m, v, f in scores(dice, dice == 0)]


@pytest.fixture
def table(tmp_path):
    """Two cases; in "b" the left atrium is in neither mask; two seeds of bipvlseg; a mean atlas."""
    ours = {("a", RV): 0.6, ("a", LV): 0.8, ("a", LA): 0.0, ("b", LV): 0.5, ("b", RV): 0.7}
    again = {key: min(1, dice + 0.2) for key, dice in ours.items()}
    other = dict.fromkeys(ours, 0.4)
    write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows(ours))
    write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows(again), seed=1)
    write_metrics(tmp_path, "mmwhs_ct", "swin_unetr_v2", rows(other))
    write_metrics(tmp_path, "mmwhs_ct", "mean_atlas", rows(other))
    folders, missing = study_folders(study(seeds=(0, 1)), tmp_path)
    assert [folder.relative_to(tmp_path).as_posix() for folder in missing] == [
        "quick/mmwhs_ct/swin_unetr_v2/seed1"
    ]
    return read_runs(folders)


def test_long_table_keeps_the_order_of_the_study_and_of_the_classes(table):
    assert list(table.columns) == LONG
    assert len(table) == 4 * 5 * 3 * 2
    assert list(dict.fromkeys(table["variant"])) == ["bipvlseg", "swin_unetr_v2", "mean_atlas"]
    assert list(dict.fromkeys(table["class"])) == [LV, RV, LA]
    assert set(table["cohort"]) == {"synthetic"}
    assert set(table["flag"]) == {"", "miss"}


def test_case_mean_is_over_classes_then_over_seeds(table):
    means = case_means(table).set_index(["variant", "case"])
    first = (0.8 + 0.6 + 0.0) / 3
    assert means.loc[("bipvlseg", "a"), "value"] == pytest.approx((first + first + 0.2) / 2)
    assert means.loc[("bipvlseg", "b"), "value"] == pytest.approx((0.6 + 0.8) / 2)  # two classes, not three
    assert means.loc[("bipvlseg", "a"), "seeds"] == "0 1"
    assert means.loc[("swin_unetr_v2", "a"), "seeds"] == "0"


def test_class_value_is_the_mean_over_seeds(table):
    values = class_values(table).set_index(["variant", "case", "class"])["value"]
    assert values["bipvlseg", "a", LV] == pytest.approx(0.9)
    assert ("bipvlseg", "b", LA) not in values.index


def test_main_table_by_hand(table):
    main = main_table(table).set_index("variant")
    assert list(main.index) == ["bipvlseg", "swin_unetr_v2", "mean_atlas"]
    a, b = (1.4 / 3 + 2.0 / 3) / 2, 0.7
    assert main.loc["bipvlseg", "dice"] == pytest.approx((a + b) / 2)
    assert main.loc["bipvlseg", "hd95_mm"] == pytest.approx(10 * (1 - (a + b) / 2))
    assert main.loc["bipvlseg", "nsd"] == pytest.approx((a + b) / 4)
    assert main.loc["bipvlseg", "missed"] == 1
    assert main.loc["bipvlseg", "cases"] == 2
    assert (
        main.loc["bipvlseg", "dice_low"] <= main.loc["bipvlseg", "dice"] <= main.loc["bipvlseg", "dice_high"]
    )
    assert main.loc["swin_unetr_v2", ["dice", "dice_low", "dice_high"]].tolist() == pytest.approx([0.4] * 3)


def test_interval_of_degenerate_values():
    assert all(math.isnan(bound) for bound in (*interval([]), *interval([0.5]), *interval([0.1, math.nan])))
    assert interval([0.4, 0.4, 0.4]) == (0.4, 0.4)
    low, high = interval([0.0, 1.0])
    assert 0 <= low < high <= 1


def test_interval_is_deterministic_and_close_to_the_normal_one():
    values = np.random.default_rng(1).normal(0.7, 0.1, 60)
    low, high = interval(values)
    half = 1.96 * values.std(ddof=1) / 60**0.5
    assert (low, high) == interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.004)
    assert high == pytest.approx(values.mean() + half, abs=0.004)


def test_median_case_is_the_lower_of_two(table):
    ours = case_means(table)
    assert median_case(ours[ours["variant"] == "bipvlseg"]) == "a"


def test_markdown_has_the_best_network_in_bold_and_the_provenance(table):
    text = main_table_markdown(main_table(table))
    lines = text.splitlines()
    assert len(lines) == 2 + 3 + 2
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert "**0.633**" in lines[2] and "MM-WHS (cardiac CT)" in lines[2]
    assert "**" not in lines[3] + lines[4]
    assert lines[-1].startswith("Synthetic cohort, profile quick, seeds 0, 1.")


def test_one_case_has_no_interval_in_the_table(tmp_path):
    folder = write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows({("a", LV): 0.5}))
    line = main_table_markdown(main_table(read_runs({"mmwhs_ct": [folder]}))).splitlines()[2]
    assert "0.500 |" in line and "–" not in line and "**" not in line


def test_latex_escapes_special_characters(table):
    text = main_table_latex(main_table(table))
    assert r"95 \% bootstrap" in text and r"\textbf{0.633}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert not set("↑↓×–") & set(text)


def test_provenance_names_both_cohorts(table):
    mixed = case_means(table)
    mixed.loc[mixed.index[0], "cohort"] = "real"
    assert provenance(mixed).startswith("Synthetic cohort and real cohort, profile quick")


def test_error_without_any_run_names_the_folder_and_the_command(tmp_path):
    with pytest.raises(
        BipvlError,
        match=r"quick: has no metrics\.csv of the study 'main'; create it with: make reproduce PROFILE=quick",
    ):
        study_folders(study(), tmp_path)


def test_study_without_seeds_has_all_runs_on_disk(tmp_path):
    write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows({("a", LV): 0.5}), seed=7)
    (tmp_path / "quick").rename(tmp_path / "smoke")
    folders, missing = study_folders(study(profile="smoke", seeds=()), tmp_path)
    assert [folder.name for folder in folders["mmwhs_ct"]] == ["seed7"]
    assert missing == []


def test_wrong_files_are_errors(tmp_path):
    folder = write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows({("a", "spleen"): 0.5}))
    with pytest.raises(
        BipvlError, match="has scores of 'spleen', which is not a class of the data set; evaluate"
    ):
        read_runs({"mmwhs_ct": [folder]})
    (folder / "metrics.csv").write_text("case,dice\na,1\n")
    with pytest.raises(BipvlError, match=r"metrics.csv: has the columns case, dice instead of case, class"):
        read_runs({"mmwhs_ct": [folder]})


def test_two_cohorts_of_one_data_set_are_an_error(tmp_path):
    one = write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows({("a", LV): 0.5}))
    two = write_metrics(tmp_path, "mmwhs_ct", "swin_unetr_v2", rows({("a", LV): 0.5}), cohort="real")
    with pytest.raises(BipvlError, match="mmwhs_ct: mixes runs on synthetic and on real data; delete"):
        read_runs({"mmwhs_ct": [one, two]})


def test_case_may_have_the_name_na(tmp_path):
    folder = write_metrics(tmp_path, "mmwhs_ct", "bipvlseg", rows({("NA", LV): 0.5, ("007", LV): 0.5}))
    assert set(read_runs({"mmwhs_ct": [folder]})["case"]) == {"NA", "007"}


def test_every_data_set_keeps_its_own_rows(tmp_path):
    write_runs(tmp_path, "mmwhs_mr")
    write_runs(tmp_path, "msd_brain", cases=3)
    folders, _ = study_folders(study(["msd_brain", "mmwhs_mr"]), tmp_path)
    main = main_table(read_runs(folders))
    assert list(main["dataset"]) == ["msd_brain"] * 3 + ["mmwhs_mr"] * 3
    assert list(main["cases"]) == [3] * 3 + [4] * 3


def test_tables_and_figures_do_not_import_torch():
    code = (
        "import bipvl.analysis.tables, bipvl.figures, sys; assert not {'torch', 'monai'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
