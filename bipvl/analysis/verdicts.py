"""Verdicts on claims, and what a study can decide: smallest p, equivalence and detectable effect."""

from functools import cache
from math import ceil, comb, log2, pi, sqrt

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import nct, t, wilcoxon

LEVEL = 0.05
"""A p below it is small: for a difference with Holm's correction, for equivalence without."""
MARGIN = 0.01
"""A smaller difference in mean Dice (1 Dice point) is no difference that matters."""
POWER = 0.8
RULE = (
    "Supported: the 95 % interval is above 0 and p is below 0.05. "
    "Contradicted: the 95 % interval is below 0 and p is below 0.05. "
    "Equivalent: neither, and the difference is smaller than 1 Dice point: the 90 % interval lies within ±1, "
    "and two one-sided tests against −1 and +1 give p below 0.05. "
    "Undecided: these data show none of the three. "
    "Cannot be decided: there are too few test cases for the number of claims of the study, so that even the "
    "clearest difference has no p below 0.05 (see the smallest p)."
)


def smallest_p(cases: int, others: int | None = None) -> float:
    """The smallest p that a two-sided test can give: all differences, or all ranks, on one side.

    Args:
        cases: number n of pairs (Wilcoxon's signed-rank test, 2 / 2^n), or of the first sample.
        others: number m of the second, independent sample (Mann-Whitney test, 2 / C(n + m, n)).
    """
    return min(1.0, 2.0 ** (1 - cases) if others is None else 2 / comb(cases + others, cases))


def can_decide(cases: int, tests: int) -> bool:
    """Whether each of ``tests`` claims on ``cases`` pairs can have a p below LEVEL with Holm's correction.

    If all claims have the smallest p, Holm's correction multiplies each by their number.
    """
    return tests * smallest_p(cases) < LEVEL


def cases_needed(tests: int) -> int:
    """The smallest number of pairs for which ``can_decide`` holds."""
    return 1 + ceil(log2(tests / LEVEL) + 1e-9)


def signed_rank_p(differences: np.ndarray, alternative: str = "two-sided") -> float:
    """p of Wilcoxon's signed-rank test without ties; 1 if all differences are 0, NaN for a single case."""
    if len(differences) < 2:
        return float("nan")
    return float(wilcoxon(differences, alternative=alternative).pvalue) if differences.any() else 1.0


def equivalence_p(differences: np.ndarray) -> float:
    """The larger p of two one-sided signed-rank tests: differences above −MARGIN, and below +MARGIN."""
    above, below = np.round(differences + MARGIN, 9), np.round(differences - MARGIN, 9)
    return max(signed_rank_p(above, "greater"), signed_rank_p(below, "less"))


def detectable_effect(cases: int, tests: int, spread: float) -> float:
    """The mean difference that Wilcoxon's signed-rank test finds with a probability of 80 % (POWER).

    The level is LEVEL / ``tests``, the strictest step of Holm's correction. Differences are taken as normally
    distributed. Up to 50 cases the effect is found by simulation (2000 tables, always the same ones); for
    more it is that of a t test with 3/π as many cases, the asymptotic relative efficiency.

    Args:
        cases: number of pairs.
        tests: number of claims in the family.
        spread: standard deviation over cases of the differences; the result has its unit.

    Returns:
        Infinity if ``can_decide`` is false.
    """
    return spread * _standardised_effect(cases, tests) if can_decide(cases, tests) else float("inf")


@cache
def _standardised_effect(cases: int, tests: int) -> float:
    """``detectable_effect`` for a spread of 1."""
    level = LEVEL / tests
    differences = np.random.default_rng(0).standard_normal((2000, cases)) if cases <= 50 else None
    efficient = 3 / pi * cases
    threshold = t.isf(level / 2, efficient - 1)

    def missing_power(effect: float) -> float:
        if differences is None:
            return POWER - nct.sf(threshold, efficient - 1, effect * sqrt(efficient))
        return POWER - np.mean(wilcoxon(differences + effect, axis=1).pvalue < level)

    return brentq(missing_power, 0, 10 if cases <= 50 else 2, xtol=1e-3)


def verdict(row: pd.Series) -> str:
    """The verdict by RULE; in brackets whether the cohort is synthetic and whether there is one seed.

    Args:
        row: low, high, low_90, high_90, p_holm, p_equivalence, smallest_p, cohort and seeds, as in the claims
            table; NaN decides nothing.
    """
    notes = ["synthetic cohort"] if row["cohort"] == "synthetic" else []
    notes += ["one seed"] if len(str(row["seeds"]).split()) == 1 else []
    return f"{_word(row)} ({', '.join(notes)})" if notes else _word(row)


def _word(row: pd.Series) -> str:
    if row["smallest_p"] >= LEVEL:
        return "cannot be decided"
    if row["p_holm"] < LEVEL and (row["low"] > 0 or row["high"] < 0):
        return "supported" if row["low"] > 0 else "contradicted"
    within = row["low_90"] >= -MARGIN and row["high_90"] <= MARGIN
    return "equivalent" if within and row["p_equivalence"] < LEVEL else "undecided"
