"""Comparisons of variants, tested on values computed by hand and on simulated differences."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, wilcoxon

from bipvl.analysis.comparisons import COLUMNS, compare, holm, nested_interval, paired
from bipvl.analysis.statistics import LONG, interval, main_table
from bipvl.common.errors import BipvlError
from bipvl.engine.variants import MEAN_ATLAS

OURS, OTHER = "bipvlseg", "swin_unetr_v2"


def long(values, variant, seed=0, metric="dice", dataset="mmwhs_ct"):
    """One value per case, of one class → rows of the long table."""
    head = ("synthetic", "quick", dataset, variant, seed)
    rows = [(*head, f"case_{i}", "spleen", metric, "scan", float(v), "") for i, v in enumerate(values)]
    return pd.DataFrame(rows, columns=LONG)


def join(*parts):
    return pd.concat(parts, ignore_index=True)


def only(table, **options):
    """The one row of a comparison with OURS."""
    result = compare(table, OURS, **options)
    assert list(result.columns) == COLUMNS and len(result) == 1
    return result.iloc[0]


def test_one_comparison_by_hand():
    ours, other = [0.8, 0.7, 0.9, 0.6, 0.5], [0.7, 0.72, 0.6, 0.55, 0.5]
    row = only(join(long(ours, OURS), long(other, OTHER), long([0.1] * 5, MEAN_ATLAS)))
    assert (row["variant"], row["reference"], row["metric"], row["grid"]) == (OTHER, OURS, "dice", "scan")
    assert (row["cases"], row["seeds"], row["reference_seeds"]) == (5, "0", "0")
    assert row["mean"] == pytest.approx(3.07 / 5) and row["median"] == 0.6
    assert row["difference"] == pytest.approx((-0.1 + 0.02 - 0.3 - 0.05 + 0) / 5)
    assert row["won"] == (1 + 0.5) / 5  # one tie
    # Ranks of 0.02, 0.05, 0.1, 0.3 without the tie: their positive sum is 1; 4 of 16 sums are as extreme.
    assert row["p"] == row["p_holm"] == pytest.approx(4 / 16)
    assert (row["low"], row["high"]) == interval(other)
    difference = np.subtract(other, ours)
    assert row[["difference_low", "difference_high"]].tolist() == pytest.approx(interval(difference))
    assert row[["seed_sd", "nested_low", "nested_high"]].isna().all()


def test_p_equals_scipys_for_many_cases():
    ours, other = np.random.default_rng(0).normal([[0.7], [0.72]], 0.1, (2, 60))
    row = only(join(long(ours, OURS), long(other, OTHER)), resamples=99)
    assert row["p"] == pytest.approx(wilcoxon(other, ours).pvalue)
    assert (row["low"], row["high"]) == interval(other, resamples=99) != interval(other)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last is raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([math.nan, 0.02]).tolist() == pytest.approx([math.nan, 0.02], nan_ok=True)
    assert holm([]).tolist() == []


def test_holms_correction_is_over_all_rows_of_a_call():
    ours = np.linspace(0.5, 0.8, 8)
    better, mixed = ours + np.linspace(0.01, 0.08, 8), ours + 0.01 * np.array([1, -2, 3, -4, 5, -6, 7, -8])
    table = join(
        *(long(ours, OURS, dataset=d) for d in ("mmwhs_ct", "mmwhs_mr")),
        *(long(better, OTHER, dataset=d) for d in ("mmwhs_ct", "mmwhs_mr")),
        long(mixed, "no_fusion", dataset="mmwhs_mr"),
    )
    result = compare(table, OURS).set_index(["dataset", "variant"])
    assert list(result.index) == [("mmwhs_ct", OTHER), ("mmwhs_mr", OTHER), ("mmwhs_mr", "no_fusion")]
    assert result["p"].tolist()[:2] == pytest.approx([2 / 2**8] * 2)
    assert result["p_holm"].tolist() == pytest.approx([6 / 2**8, 6 / 2**8, result["p"].iloc[2]])


def test_seeds_are_averaged_per_case_and_do_not_increase_n():
    ours, other = np.array([0.5, 0.6, 0.9]), np.array([0.7, 0.65, 0.8])
    once = join(long(ours, OURS), long(other, OTHER))
    shifts = (-0.01, 0.0, 0.04)
    thrice = join(
        *(long(ours, OURS, seed) for seed in range(3)),
        *(long(other + shift, OTHER, seed) for seed, shift in enumerate(shifts)),
    )
    row = only(thrice)
    assert (row["cases"], row["seeds"]) == (3, "0 1 2")
    assert row["p"] == only(once)["p"]
    assert row["difference"] == pytest.approx(only(once)["difference"] + 0.01)
    assert row["seed_sd"] == pytest.approx(np.std(shifts, ddof=1))


def test_only_shared_seeds_count_in_the_spread_over_seeds():
    table = join(
        *(long([0.5, 0.6], OURS, s) for s in range(3)), *(long([0.6, 0.7], OTHER, s) for s in (0, 5))
    )
    row = only(table)
    assert (row["seeds"], row["reference_seeds"]) == ("0 5", "0 1 2")
    assert row[["seed_sd", "nested_low", "nested_high"]].isna().all()
    assert list(paired(table, OTHER, OURS).index) == [0]


def test_nested_interval_of_two_seeds_with_a_constant_shift_by_hand():
    # One in four draws has the lower seed twice, one the higher; deviations of 0.5 are widened by √2.
    low, high = nested_interval(np.array([[0.0] * 5, [1.0] * 5]))
    assert (low, high) == pytest.approx((0.5 - 0.5**0.5, 0.5 + 0.5**0.5))


def test_nested_interval_of_equal_seeds_is_the_interval_over_cases():
    differences = np.random.default_rng(0).normal(0.02, 0.05, 30)
    over_cases = bootstrap((differences,), np.mean, method="percentile", rng=1).confidence_interval
    for seeds in (2, 5):
        found = nested_interval(np.tile(differences, (seeds, 1)))
        assert found == pytest.approx(over_cases, abs=0.001)
    table = join(
        *(long(differences, OURS, s) for s in range(2)), *(long(np.zeros(30), OTHER, s) for s in range(2))
    )
    assert tuple(-only(table)[["nested_high", "nested_low"]]) == pytest.approx(over_cases, abs=0.001)


def test_lower_distance_wins():
    values = {OURS: [5, 5, 5, 5], OTHER: [4, 3, 5, 9]}
    row = only(join(*(long(v, name, metric="hd95_mm") for name, v in values.items())), metric="hd95_mm")
    assert row["won"] == (2 + 0.5) / 4
    assert row["difference"] == 0.25


def test_means_of_equal_values_are_ties_despite_rounding():
    ours = join(*(long([v, v], OURS, s) for s, v in enumerate((0.1, 0.2, 0.3))))
    other = join(*(long([v, v], OTHER, s) for s, v in enumerate((0.3, 0.2, 0.1))))
    row = only(join(ours, other))
    assert row[["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert (row["won"], row["p"], row["p_holm"]) == (0.5, 1, 1)


def test_false_positive_class_counts_as_in_the_main_table():
    both = [long([0.8, 0.6, 0.7], OURS), long([0.8, 0.6, 0.7], OTHER)]
    false_positive = long([0.0], OTHER).assign(**{"class": "liver", "flag": "false_positive"})
    table = join(*both, false_positive)
    row = only(table)
    assert row["difference"] == pytest.approx((0.4 - 0.8) / 3)
    rest = [table.assign(metric=metric) for metric in ("hd95_mm", "nsd")]
    shown = main_table(join(table, *rest)).set_index("variant").loc[OTHER]
    assert row[["mean", "low", "high"]].tolist() == shown[["dice", "dice_low", "dice_high"]].tolist()


def test_one_case_has_neither_interval_nor_p():
    row = only(join(long([0.5], OURS), long([0.7], OTHER)))
    assert row["difference"] == pytest.approx(0.2) and row["won"] == 1
    assert row[["low", "high", "difference_low", "difference_high", "p", "p_holm"]].isna().all()


def test_reference_alone_gives_no_rows():
    result = compare(long([0.5], OURS), OURS)
    assert list(result.columns) == COLUMNS and len(result) == 0


def test_case_that_one_run_lacks_is_an_error():
    ours, other = long([0.5, 0.6], OURS), long([0.5, 0.6], OTHER)
    lacks = "mmwhs_ct/{}/seed{}: does not score case 'case_1', which quick/mmwhs_ct/{}/seed0 scores; evaluate"
    with pytest.raises(BipvlError, match=lacks.format(OTHER, 0, OURS)):
        compare(join(ours, other[:1]), OURS)
    with pytest.raises(BipvlError, match=lacks.format(OURS, 0, OTHER)):
        compare(join(ours[:1], other), OURS)
    with pytest.raises(BipvlError, match=lacks.format(OTHER, 1, OURS)):
        compare(join(ours, other, long([0.5], OTHER, seed=1)), OURS)


def test_duplicate_row_is_an_error():
    table = join(long([0.5, 0.6], OURS), long([0.5, 0.6], OTHER, seed=3))
    again = table[3:].assign(value=0.9)
    message = (
        "quick/mmwhs_ct/swin_unetr_v2/seed3: dice of 'spleen' in case 'case_1', scan grid, has two rows; rem"
    )
    with pytest.raises(BipvlError, match=message):
        compare(join(table, again), OURS)
    compare(join(table, again.assign(grid="working")), OURS)


def test_value_that_is_not_finite_is_an_error():
    with pytest.raises(
        BipvlError, match=r"swin_unetr_v2/seed0: dice of 'spleen' in case 'case_1'.*no finite value; evaluate"
    ):
        compare(join(long([0.5, 0.6], OURS), long([0.5, math.nan], OTHER)), OURS)


def test_unknown_names_and_a_data_set_without_the_reference_are_errors():
    table = join(long([0.5, 0.6], OURS), long([0.5, 0.6], OTHER), long([0.1, 0.1], MEAN_ATLAS))
    with pytest.raises(BipvlError, match="no variant 'bipvlsge'; choose one of: bipvlseg"):
        compare(table, "bipvlsge")
    with pytest.raises(BipvlError, match="no variant 'mean_atlas'"):
        compare(table, MEAN_ATLAS)
    with pytest.raises(BipvlError, match="no metric 'hd95'; choose one of: dice"):
        compare(table, OURS, metric="hd95")
    with pytest.raises(BipvlError, match="no grid 'voxel'; choose one of: scan"):
        compare(table, OURS, grid="voxel")
    with pytest.raises(
        BipvlError, match="quick/msd_brain: no scores of the reference 'bipvlseg' to compare with; run it"
    ):
        compare(join(table, long([0.5], OTHER, dataset="msd_brain")), OURS)


TABLES, CASES, SEEDS = 200, 20, 3
EFFECT = 0.03
TOLERANCE = 3 * (0.05 * 0.95 / TABLES) ** 0.5
"""How far a rate of 0.05 may be exceeded in TABLES tables: three standard errors, 0.046."""


def simulated_values(random, effects):
    """Variants × seeds × cases; standard deviations: cases 0.15, variant on a case 0.02, seed 0.01.

    A variant's seeds share its effect on a case, so counting seeds as cases would give too small p values.
    """
    n = len(effects)
    cases = random.normal(0.7, 0.15, CASES)
    level = cases + np.array(effects)[:, None, None] + random.normal(0, 0.02, (n, 1, CASES))
    return level + random.normal(0, 0.01, (n, SEEDS, CASES))


def simulate(effects):
    """The comparisons of all tables; column "table" has the table's number."""
    random = np.random.default_rng(0)
    empty = join(*(long(np.zeros(CASES), variant, seed) for variant in effects for seed in range(SEEDS)))
    results = []
    for k in range(TABLES):
        table = empty.assign(value=simulated_values(random, list(effects.values())).ravel())
        results.append(compare(table, OURS, resamples=499).assign(table=k))
    return pd.concat(results)


def covered(rows, effect, interval="difference"):
    """Share of the intervals that contain the true difference."""
    return rows[f"{interval}_low"].le(effect).mul(rows[f"{interval}_high"].ge(effect)).mean()


@pytest.mark.slow
def test_simulated_difference_is_found():
    """In 95 % of the tables, although cases vary five times as much."""
    rows = simulate({OURS: 0.0, "higher": EFFECT, "equal": 0.0}).set_index("variant")
    higher, equal = rows.loc["higher"], rows.loc["equal"]
    assert (higher["p_holm"] < 0.05).mean() >= 0.95
    assert higher["difference"].mean() == pytest.approx(EFFECT, abs=0.002)
    assert higher["won"].mean() > 0.7
    assert 0.90 <= covered(higher, EFFECT) <= 0.99
    assert 0.90 <= covered(higher, EFFECT, "nested") <= 0.99
    assert higher["nested_low"].gt(0).mean() >= 0.95
    assert (equal["p_holm"] < 0.05).mean() <= 0.05 + TOLERANCE


@pytest.mark.slow
def test_no_difference_is_found_without_one():
    """Three comparisons find a difference in at most 5 % of the tables; 5 % of the intervals miss 0."""
    rows = simulate(dict.fromkeys((OURS, "one", "two", "three"), 0.0))
    assert (rows.groupby("table")["p_holm"].min() < 0.05).mean() <= 0.05 + TOLERANCE
    assert 0.90 <= covered(rows, 0.0) <= 0.99
    assert 0.90 <= covered(rows, 0.0, "nested") <= 0.99
    assert rows["won"].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("seeds", "rate"), [(3, 0.85), (8, 0.90)])
def test_only_the_nested_interval_covers_the_truth_with_a_seed_effect(seeds, rate):
    """In 85 % of the tables with three seeds, and with the nominal rate with more."""
    random = np.random.default_rng(0)
    shape = (TABLES, seeds, CASES)
    shifts, noise = random.normal(0, 0.02, (TABLES, seeds, 1)), random.normal(0, 0.02, shape)
    nested, plain = (
        pd.DataFrame([function(part, resamples=499) for part in parts], columns=["d_low", "d_high"])
        for function, parts in ((nested_interval, shifts + noise), (interval, (shifts + noise).mean(axis=1)))
    )
    assert rate <= covered(nested, 0.0, "d") <= 0.99
    assert covered(plain, 0.0, "d") < 0.6
