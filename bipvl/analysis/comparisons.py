"""Whether variants differ: paired over the same test cases, with intervals, tests and Holm's correction."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from bipvl.analysis.statistics import LONG, case_means, interval
from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.engine.variants import MEAN_ATLAS

HOME = ["cohort", "profile", "dataset"]
"""What two variants must share for their cases to be the same cases."""
LOWER_IS_BETTER = {"hd95_mm"}
COLUMNS = [
    *HOME,
    *("variant", "reference", "metric", "grid", "seeds", "reference_seeds", "cases"),
    *("mean", "median", "low", "high"),
    *("difference", "difference_low", "difference_high", "nested_low", "nested_high"),
    *("seed_sd", "won", "p", "p_holm"),
]


def compare(
    table: pd.DataFrame,
    reference: str,
    metric: str = "dice",
    grid: str = "scan",
    *,
    resamples: int = 9999,
) -> pd.DataFrame:
    """Each dataset's variants against its ``reference`` variant, case by case; the mean atlas takes no part.

    A case's value is the mean over its classes, then over seeds, so that n is the number of cases and more
    seeds do not inflate it. Empty structures count as ``bipvl.engine.metrics`` scores them.

    Args:
        table: long (columns LONG), as ``read_runs`` gives it.
        resamples: of each bootstrap.

    Returns:
        A row (columns COLUMNS) per dataset and variant; none where there is nothing beside the reference.

        - mean, median, low, high: of the variant over cases, in the metric's unit (1, or mm). These intervals
          are 95 % bootstrap intervals (BCa) of the mean over cases.
        - difference, difference_low, difference_high: mean of variant − reference. Positive is a higher
          value, which for HD95 is worse.
        - nested_low, nested_high: 95 % interval of the difference over seeds and cases (``nested_interval``),
          of the seeds that both have; NaN with one.
        - seed_sd: standard deviation over these seeds of the mean difference; NaN with one.
        - won: share of cases where the variant is better (lower for HD95); a tie counts half.
        - p: Wilcoxon's signed-rank test, two-sided; it leaves equal cases out, and is 1 where all are equal.
        - p_holm: p with Holm's correction over all rows of this call.

        One case alone has neither intervals nor p: NaN.

    Raises:
        BipvlError: an unknown metric, grid or reference; a row that is there twice; a value that is no
            number; a dataset without the reference; a case that one run has and another has not.
    """
    choose("metric", metric, dict.fromkeys(table["metric"]))
    choose("grid", grid, dict.fromkeys(table["grid"]))
    rows = table[(table["metric"] == metric) & (table["grid"] == grid) & (table["variant"] != MEAN_ATLAS)]
    choose("variant", reference, dict.fromkeys(rows["variant"]))
    _check_rows(table)
    found = []
    for home, group in rows.groupby(HOME, sort=False):
        runs = _by_run(group)
        _check_cases(runs, "/".join(home[1:]), reference)
        found += _compare(group, runs, reference, resamples)
    result = pd.DataFrame(found, columns=COLUMNS)
    return result.assign(p_holm=holm(result["p"]))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction of a family of p values; NaN stays NaN and is no member of the family."""
    corrected = np.array(p, float)
    order = np.argsort(corrected)[: np.isfinite(corrected).sum()]  # NaN are last
    steps = corrected[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def paired(table: pd.DataFrame, variant: str, reference: str) -> pd.DataFrame:
    """Variant − reference on one dataset: the seeds that both have × cases.

    Args:
        table: long, of one dataset, metric and grid. A case's value is the mean over its classes.

    Raises:
        BipvlError: as ``compare``.
    """
    rows = table[table["variant"].isin([variant, reference])]
    _check_rows(rows)
    runs = _by_run(rows)
    _check_cases(runs, f"{table['profile'].iloc[0]}/{table['dataset'].iloc[0]}", reference)
    return _paired_runs(runs, variant, reference)


def nested_means(differences: np.ndarray, *, resamples: int = 9999, seed: int = 0) -> np.ndarray:
    """Bootstrap means of paired differences, S seeds × n cases → one a resample.

    Each resample draws S seeds, then n cases for them. The seeds share their test cases, and what a variant
    makes of a case comes again with every seed; so the drawn seeds share the drawn cases too (Owen 2007, The
    pigeonhole bootstrap). With cases drawn anew for each seed the interval would be too narrow, for cases
    would count once a seed. Means of S drawn seeds vary by only (S − 1)/S of what they should; the seeds'
    means are widened by as much before.
    """
    random = np.random.default_rng(seed)
    seeds, cases = differences.shape
    own = differences.mean(axis=1, keepdims=True) - differences.mean()
    widened = differences + own * (np.sqrt(seeds / max(seeds - 1, 1)) - 1)
    drawn_seeds, drawn_cases = (random.multinomial(n, [1 / n] * n, resamples) / n for n in (seeds, cases))
    return np.sum(drawn_seeds @ widened * drawn_cases, axis=1)


def nested_interval(differences: np.ndarray, *, resamples: int = 9999, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of ``nested_means``; NaN where there is one seed or one case.

    In made-up tables of 3 seeds and 20 cases it holds the true mean 94 times of 100 where seeds have no
    shift of their own, and 81 times where nothing but the seeds' shift varies: three tell little of others.
    """
    if min(differences.shape) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(nested_means(differences, resamples=resamples, seed=seed), [2.5, 97.5])
    return float(low), float(high)


def _paired_runs(runs: pd.DataFrame, variant: str, reference: str) -> pd.DataFrame:
    """``paired`` of (variant, seed) × case."""
    mine, theirs = runs.loc[variant], runs.loc[reference]
    shared = mine.index.intersection(theirs.index)
    return mine.loc[shared] - theirs.loc[shared]


def _by_run(rows: pd.DataFrame) -> pd.DataFrame:
    """A case's mean over its classes: (variant, seed) × case, NaN where the run does not score the case."""
    values = rows.groupby(["variant", "seed", "case"], sort=False)["value"].mean()
    return values.unstack("case")[rows["case"].unique()]


def _compare(
    rows: pd.DataFrame, runs: pd.DataFrame, reference: str, resamples: int
) -> list[dict[str, object]]:
    """The comparisons of one dataset.

    Args:
        rows: of one metric and grid; every run has the same cases.
        runs: the same as (variant, seed) × case.
    """
    shared = rows[[*HOME, "metric", "grid"]].iloc[0].to_dict()
    values = case_means(rows, shared["metric"], shared["grid"]).set_index("case")
    variants = dict(iter(values.groupby("variant", sort=False)))
    theirs = variants.pop(reference)
    shared |= {"reference": reference, "reference_seeds": theirs["seeds"].iloc[0]}
    results = []
    for name, mine in variants.items():
        by_seed = _paired_runs(runs, name, reference)
        low, high = nested_interval(by_seed.to_numpy(), resamples=resamples)
        own = {"variant": name, "seeds": mine["seeds"].iloc[0], "nested_low": low, "nested_high": high}
        own["seed_sd"] = by_seed.mean(axis=1).std(ddof=1)
        pairs = mine["value"].to_numpy(), theirs["value"].loc[mine.index].to_numpy()
        results.append(shared | own | _paired(*pairs, shared["metric"] in LOWER_IS_BETTER, resamples))
    return results


def _paired(mine: np.ndarray, theirs: np.ndarray, lower_is_better: bool, resamples: int) -> dict[str, float]:
    """What the values of two variants say, one a case, in the same order."""
    # Equal values may differ in the last bits when they are means of several; such a pair is a tie.
    difference = np.round(mine - theirs, 9)
    gain = -difference if lower_is_better else difference
    low, high = interval(mine, resamples=resamples)
    difference_low, difference_high = interval(difference, resamples=resamples)
    return {
        "cases": len(mine),
        "mean": mine.mean(),
        "median": np.median(mine),
        "low": low,
        "high": high,
        "difference": difference.mean(),
        "difference_low": difference_low,
        "difference_high": difference_high,
        "won": np.mean((gain > 0) + (gain == 0) / 2),
        "p": _p(difference),
    }


def _p(difference: np.ndarray) -> float:
    if len(difference) < 2:
        return float("nan")
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def _check_rows(table: pd.DataFrame) -> None:
    """No row twice, and a number in each; else a BipvlError that names the first."""
    keys = [column for column in LONG if column not in ("value", "flag")]
    for faulty, fault in (
        (table.duplicated(keys), "is there twice; leave one of its rows, or evaluate the run again"),
        (~np.isfinite(table["value"]), "has no finite value; evaluate the run again"),
    ):
        if faulty.any():
            row = table[faulty].iloc[0]
            what = f"{row['metric']} of '{row['class']}' in case '{row['case']}', {row['grid']} grid,"
            run = _run(f"{row['profile']}/{row['dataset']}", row["variant"], row["seed"])
            raise BipvlError(f"{run}: {what} {fault}.")


def _check_cases(runs: pd.DataFrame, where: str, reference: str) -> None:
    """Every run of a dataset scores the same cases, the reference's runs too; else a BipvlError."""
    if reference not in runs.index.get_level_values("variant"):
        raise BipvlError(
            f"{where} has no scores of the reference '{reference}' to compare with; "
            "run it there too, or leave the dataset out."
        )
    lacking = runs.isna()
    if lacking.any(axis=None):
        run = lacking.any(axis=1).idxmax()
        case = lacking.loc[run].idxmax()
        other = runs[case].first_valid_index()
        raise BipvlError(
            f"{_run(where, *run)} does not score case '{case}', which {_run(where, *other)} scores; "
            "evaluate both on the same test cases."
        )


def _run(where: str, variant: str, seed: int) -> str:
    """A run as its folder is called."""
    return f"{where}/{variant}/seed{seed}"
