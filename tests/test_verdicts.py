"""Verdicts and what a study can decide, checked by enumeration, simulation and other formulas."""

from itertools import combinations, product
from math import inf, isnan, nan

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, nct, t, ttest_1samp, wilcoxon

from bipvl.analysis.comparisons import holm, mean_interval
from bipvl.analysis.effects import by_classes
from bipvl.analysis.outlook import detections, earlier_spreads, study_outlook
from bipvl.analysis.studies import load_experiments
from bipvl.analysis.verdicts import (
    LEVEL,
    MARGIN,
    can_decide,
    cases_needed,
    detectable_effect,
    equivalence_p,
    signed_rank_p,
    smallest_p,
    verdict,
)

CLEAR = {"low": 0.02, "high": 0.04, "low_90": 0.022, "high_90": 0.038, "p_holm": 0.01, "p_equivalence": 1.0}
CLOSE = {
    "low": -0.006,
    "high": 0.009,
    "low_90": -0.004,
    "high_90": 0.007,
    "p_holm": 0.5,
    "p_equivalence": 0.01,
}
REST = {"smallest_p": 0.001, "cohort": "real", "seeds": "0 1"}


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (CLEAR, "supported"),
        (CLEAR | {"p_holm": 0.05}, "undecided"),
        (CLEAR | {"low": 0.0}, "undecided"),
        (CLEAR | {"low": -0.04, "high": -0.02}, "contradicted"),
        (CLEAR | {"low": -0.04, "high": -0.02, "p_holm": 0.06}, "undecided"),
        (CLOSE, "equivalent"),
        (CLOSE | {"high_90": 0.0101}, "undecided"),
        (CLOSE | {"low_90": -0.0101}, "undecided"),
        (CLOSE | {"p_equivalence": 0.05}, "undecided"),
        # A difference that is certain but small is still a difference.
        (CLOSE | {"low": 0.001, "p_holm": 0.01}, "supported"),
        (CLEAR | {"smallest_p": 0.05}, "cannot be decided"),
        (CLOSE | {"smallest_p": 0.125}, "cannot be decided"),
        (dict.fromkeys(CLEAR, nan), "undecided"),
        (CLEAR | {"cohort": "synthetic"}, "supported (synthetic cohort)"),
        (CLEAR | {"seeds": "3"}, "supported (one seed)"),
        (CLOSE | {"cohort": "synthetic", "seeds": 0}, "equivalent (synthetic cohort, one seed)"),
    ],
)
def test_verdict_by_the_rule(row, word):
    assert verdict(pd.Series(REST | row)) == word


@pytest.mark.parametrize("cases", [2, 3, 5, 8])
def test_smallest_p_of_signed_ranks_by_enumeration(cases):
    ranks = np.arange(1, cases + 1)
    sums = np.array([ranks @ np.array(signs) for signs in product([0, 1], repeat=cases)])
    two_sided = [min(1, 2 * min((sums >= s).mean(), (sums <= s).mean())) for s in sums]
    assert smallest_p(cases) == pytest.approx(min(two_sided)) == signed_rank_p(ranks / 100)


@pytest.mark.parametrize(("one", "other"), [(1, 3), (3, 3), (4, 6)])
def test_smallest_p_of_two_samples_by_enumeration(one, other):
    sums = np.array([sum(ranks) for ranks in combinations(range(one + other), one)])
    two_sided = [min(1, 2 * min((sums >= s).mean(), (sums <= s).mean())) for s in sums]
    exact = mannwhitneyu(np.arange(one), one + np.arange(other)).pvalue
    assert smallest_p(one, other) == pytest.approx(min(two_sided)) == pytest.approx(exact)


def test_enough_cases_by_hand():
    assert smallest_p(1) == 1
    assert [can_decide(n, 1) for n in (5, 6)] == [False, True]  # 2/32 = 0.0625, 2/64 = 0.03125
    assert [can_decide(n, 4) for n in (7, 8)] == [False, True]  # 8/128 = 0.0625, 8/256 = 0.03125
    for tests in (1, 2, 3, 4, 10, 13):
        needed = cases_needed(tests)
        for cases in (needed - 1, needed):
            assert (
                can_decide(cases, tests)
                == (cases == needed)
                == (holm([smallest_p(cases)] * tests)[0] < LEVEL)
            )


def share_equivalent(differences):
    """The share of tables (rows of differences) that are equivalent by the rule, and by two t tests.

    A difference from 0 is not looked for, since it would come first.
    """
    found, other = [], []
    for row in differences:
        low, high = mean_interval(row[None], level=0.9, resamples=199)
        measured = CLOSE | {"low_90": low, "high_90": high, "p_equivalence": equivalence_p(row)}
        found.append(verdict(pd.Series(REST | measured)) == "equivalent")
        tests = ((-MARGIN, "greater"), (MARGIN, "less"))
        other.append(all(ttest_1samp(row, m, alternative=side).pvalue < LEVEL for m, side in tests))
    return np.mean(found), np.mean(other)


@pytest.mark.parametrize("cases", [6, 20])
def test_difference_of_one_point_is_rarely_called_equivalent(cases):
    """In at most 5 % of 400 tables, plus two standard errors of this share (2.2 %)."""
    truth = MARGIN * np.tile([1, -1], 200)[:, None]
    found, by_t = share_equivalent(np.random.default_rng(0).normal(truth, 0.005, (400, cases)))
    assert 0.01 < found <= 0.072
    assert found <= by_t + 0.01


def test_no_difference_is_called_equivalent_where_the_spread_is_small():
    random = np.random.default_rng(0)
    found, by_t = share_equivalent(random.normal(0, 0.012, (200, 20)))
    assert found > 0.85
    assert found == pytest.approx(by_t, abs=0.06)
    assert share_equivalent(random.normal(0, 0.05, (50, 20)))[0] == 0


def test_equivalence_by_hand():
    # Above −0.01 all five shifted differences are positive: 1/32; below +0.01 as well.
    assert equivalence_p(np.array([0.001, -0.002, 0.003, 0.004, -0.005])) == pytest.approx(1 / 32)
    assert equivalence_p(np.full(6, MARGIN)) == 1
    assert equivalence_p(np.zeros(6)) == pytest.approx(1 / 64)
    assert isnan(equivalence_p(np.zeros(1)))


@pytest.mark.parametrize(("cases", "tests"), [(6, 1), (17, 2), (40, 5), (60, 3), (200, 4)])
def test_detectable_effect_is_found_in_80_percent_of_simulated_tables(cases, tests):
    effect = detectable_effect(cases, tests, 0.03)
    tables = np.random.default_rng(1).normal(effect, 0.03, (2000, cases))
    assert (wilcoxon(tables, axis=1).pvalue < LEVEL / tests).mean() == pytest.approx(0.8, abs=0.03)


def test_detectable_effect_agrees_with_the_t_tests_by_relative_efficiency():
    """Of the signed-rank test to the t test: 3/π for normal differences and many cases."""
    cases, tests, equal_n = 50, 4, 50 * 3 / np.pi
    effect = detectable_effect(cases, tests, 1.0)
    threshold = t.ppf(1 - LEVEL / tests / 2, equal_n - 1)
    assert nct.sf(threshold, equal_n - 1, effect * equal_n**0.5) == pytest.approx(0.8, abs=0.03)
    assert detectable_effect(5, 1, 0.03) == inf
    assert isnan(detectable_effect(6, 1, nan))


def test_outlook_says_before_training_which_studies_cannot_decide():
    quick = load_experiments("quick")
    few = study_outlook(quick, dict.fromkeys(quick.datasets, 4), {"main": 0.03, "fusion": 0.03})
    few = few.set_index("study")
    assert few.loc["fusion", ["claims", "decidable", "cases", "detectable"]].tolist() == [4, 0, 4, inf]
    assert few.loc["main", ["claims", "decidable", "cases"]].tolist() == [2, 2, 16]
    assert few.loc["main", "detectable"] == pytest.approx(detectable_effect(16, 2, 0.03))
    many = study_outlook(quick, dict.fromkeys(quick.datasets, 8), {}).set_index("study")
    assert many.loc["fusion", "decidable"] == 4
    assert isnan(many.loc["fusion", "detectable"])  # the spread is not known
    assert by_classes(["mmwhs_mr", "amos22", "msd_brain"]) == (["amos22"], ["mmwhs_mr", "msd_brain"])


def test_detections_are_in_dice_points_with_the_source_of_their_spread(tmp_path):
    (tmp_path / "quick").mkdir()
    spreads = pd.DataFrame({"study": ["main"], "spread": [0.03]})
    spreads.to_csv(tmp_path / "quick" / "claims.csv", index=False)
    quick = load_experiments("quick")
    for cases, fusion in ((4, "nothing"), (8, "?")):
        shown, note = detections(quick, dict.fromkeys(quick.datasets, cases), tmp_path)
        assert shown["main"] == f"{100 * detectable_effect(4 * cases, 2, 0.03):.1f}"
        assert shown["fusion"] == fusion
        assert "variance" not in shown  # another study tests its claim
        assert str(tmp_path / "quick" / "claims.csv") in note


def test_spread_comes_from_the_profiles_earlier_runs_else_from_those_of_quick(tmp_path):
    table = pd.DataFrame({"study": ["main", "fusion", "fusion", "fusion"], "spread": [nan, 0.01, 0.03, 0.0]})
    assert earlier_spreads("paper", tmp_path) == ({}, None)
    for name, factor in (("quick", 1), ("laptop", 2)):
        (tmp_path / name).mkdir()
        table.assign(spread=factor * table["spread"]).to_csv(tmp_path / name / "claims.csv", index=False)
    quick, laptop = (tmp_path / name / "claims.csv" for name in ("quick", "laptop"))
    assert earlier_spreads("paper", tmp_path) == ({"fusion": 0.02}, quick)
    assert earlier_spreads("laptop", tmp_path) == ({"fusion": 0.04}, laptop)
    laptop.write_text("claim,study\n")  # of an older version
    assert earlier_spreads("laptop", tmp_path)[1] == quick
