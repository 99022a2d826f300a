"""The effects that claims are about: differences in mean Dice with intervals and tests."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from bipvl.analysis.comparisons import mean_interval, nested_means, paired
from bipvl.analysis.statistics import case_means
from bipvl.analysis.verdicts import MARGIN, equivalence_p, signed_rank_p, smallest_p
from bipvl.data.spec import load_spec


class NotTestedError(Exception):
    """The reason why a claim is not tested."""


def difference(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """Variant − reference, paired over the test cases of all data sets together."""
    (reference,) = set(rows["variant"]) - {variant}
    pooled = rows.assign(case=rows["dataset"] + "/" + rows["case"], dataset="all")
    by_seed = paired(pooled, variant, reference).to_numpy()
    differences = np.round(by_seed.mean(axis=0), 9)  # rounding errors would hide ties
    low, high = mean_interval(by_seed, resamples=resamples)
    low_90, high_90 = mean_interval(by_seed, level=0.9, resamples=resamples)
    return {
        "reference": reference,
        "cases": len(differences),
        "effect": differences.mean(),
        "low": low,
        "high": high,
        "low_90": low_90,
        "high_90": high_90,
        "interval": "percentile over seeds and cases" if len(by_seed) > 1 else "BCa over cases",
        "spread": differences.std(ddof=1) if len(differences) > 1 else np.nan,
        "p": signed_rank_p(differences),
        "p_equivalence": equivalence_p(differences),
        "smallest_p": smallest_p(len(differences)),
    }


def difference_from_best(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """Variant − the reference with the highest mean on each data set.

    The best one is chosen by the same scores, which favours it.
    """
    others = case_means(rows[rows["variant"] != variant])
    means = others.groupby(["dataset", "variant"], sort=False)["value"].mean()
    best = [*means.groupby("dataset", sort=False).idxmax()]
    chosen = rows[pd.MultiIndex.from_frame(rows[["dataset", "variant"]]).isin(best)]
    ours = rows[rows["variant"] == variant]
    measured = difference(pd.concat([ours, chosen.assign(variant="best")]), variant, resamples)
    return measured | {"reference": ", ".join(f"{name} ({dataset})" for dataset, name in best)}


def gain_with_classes(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """The gain on the data sets with the most classes − the gain on the others.

    A gain is the mean of paired differences. The two samples of cases are independent; every case of the
    other data sets has the same weight.
    """
    (reference,) = set(rows["variant"]) - {variant}
    gains = {name: paired(group, variant, reference) for name, group in rows.groupby("dataset", sort=False)}
    groups = by_classes(gains)
    if not groups[1]:
        raise NotTestedError(f"{', '.join(groups[0])}: no data set has more classes than another")
    many, few = (np.hstack([gains[name].to_numpy() for name in names]) for names in groups)
    cases = many.shape[1], few.shape[1]
    resampled = nested_means(many, resamples=resamples) - nested_means(few, resamples=resamples, seed=1)
    low, low_90, high_90, high = (
        np.percentile(resampled, [2.5, 5, 95, 97.5]) if min(cases) > 1 else [np.nan] * 4
    )
    means = many.mean(axis=0), few.mean(axis=0)
    titles = (
        ", ".join(f"{name} ({load_spec(name).num_classes} classes)" for name in names) for names in groups
    )
    return {
        "reference": reference,
        "datasets": " compared with ".join(titles),
        "cases": sum(cases),
        "effect": many.mean() - few.mean(),
        "low": low,
        "high": high,
        "low_90": low_90,
        "high_90": high_90,
        "interval": f"percentile over {'seeds and ' if len(many) > 1 else ''}cases",
        "p": mannwhitneyu(*means).pvalue,
        "p_equivalence": max(
            mannwhitneyu(means[0] + MARGIN, means[1], alternative="greater").pvalue,
            mannwhitneyu(means[0] - MARGIN, means[1], alternative="less").pvalue,
        ),
        "smallest_p": smallest_p(*cases),
    }


def by_classes(datasets: Iterable[str]) -> tuple[list[str], list[str]]:
    """The data sets with the most classes, and the others."""
    classes = {name: load_spec(name).num_classes for name in datasets}
    most = [name for name in classes if classes[name] == max(classes.values())]
    return most, [name for name in classes if name not in most]
