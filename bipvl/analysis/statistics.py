"""Tables from the runs' metrics.csv files: one long table, means with intervals, the main table."""

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.engine.variants import MEAN_ATLAS

METRICS = ("dice", "hd95_mm", "nsd")
LONG = ["cohort", "profile", "dataset", "variant", "seed", "case", "class", "metric", "grid", "value", "flag"]
ORIGIN = ["cohort", "profile", "dataset", "variant"]


def read_runs(folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """Read run folders by data set → the long table (columns LONG), each data set's mean atlas last.

    Rows keep the given order of runs, and the data set's order of classes.

    Raises:
        BipvlError: a file with other columns; an unknown class; two cohorts of one data set.
    """
    return pd.concat(map(_read_dataset, folders.values()), ignore_index=True)


def _read_dataset(folders: Sequence[Path]) -> pd.DataFrame:
    home = folders[0].parents[1]
    configs = [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in folders]
    if len({config["cohort"] for config in configs}) > 1:
        raise BipvlError("mixes runs on synthetic and on real data", "delete those of one of them", home)
    atlas = home / MEAN_ATLAS / "seed0"
    if (atlas / "metrics.csv").is_file():
        of_atlas = {"variant": MEAN_ATLAS, "title": MEAN_ATLAS, "seed": 0}
        folders, configs = [*folders, atlas], [*configs, configs[0] | of_atlas]
    parts = []
    for folder, config in zip(folders, configs, strict=True):
        origin = {"cohort": config["cohort"], "profile": config["profile"], "dataset": home.name}
        part = _read_metrics(folder / "metrics.csv")
        # Other tools' predictions appear under their title, since a figure is drawn from its table alone.
        shown = config.get("title", config["variant"])
        parts.append(part.assign(**origin, variant=shown, seed=config["seed"])[LONG])
    rank = {c.name: row for row, c in enumerate(load_spec(configs[0]["dataset"]).classes)}
    rows = pd.concat([part.sort_values("class", key=lambda c: c.map(rank), kind="stable") for part in parts])
    if unknown := sorted(set(rows["class"]) - set(rank)):
        problem = f"has scores of '{unknown[0]}', which is not a class of the data set"
        raise BipvlError(problem, "evaluate its runs again", home)
    return rows


def _read_metrics(path: Path) -> pd.DataFrame:
    """One metrics.csv; the name "NA" of a case or class stays a text."""
    table = pd.read_csv(path, dtype={"case": str, "class": str, "flag": str}, keep_default_na=False)
    columns, expected = ", ".join(table), ", ".join(LONG[5:])
    if columns != expected:
        problem = f"has the columns {columns} instead of {expected}"
        raise BipvlError(problem, "evaluate the run again", path)
    return table.astype({"value": float})


def class_values(table: pd.DataFrame, metric: str = "dice", grid: str = "scan") -> pd.DataFrame:
    """One value per variant, case and class (mean over seeds): ORIGIN, seeds, case, class, value."""
    return _over_seeds(table[(table["metric"] == metric) & (table["grid"] == grid)], ["case", "class"])


def case_means(table: pd.DataFrame, metric: str = "dice", grid: str = "scan") -> pd.DataFrame:
    """One value per variant and case (mean over classes, then over seeds): ORIGIN, seeds, case, value.

    A class that is in neither mask has no row and does not count in the mean.
    """
    rows = table[(table["metric"] == metric) & (table["grid"] == grid)]
    means = rows.groupby([*ORIGIN, "seed", "case"], sort=False, as_index=False)["value"].mean()
    return _over_seeds(means, ["case"])


def _over_seeds(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    seeds = rows.groupby(ORIGIN)["seed"].agg(lambda s: " ".join(str(k) for k in sorted(set(s))))
    means = rows.groupby([*ORIGIN, *keys], sort=False, as_index=False)["value"].mean()
    return means.merge(seeds.rename("seeds"), on=ORIGIN)[[*ORIGIN, "seeds", *keys, "value"]]


def median_case(means: pd.DataFrame) -> str:
    """The case with the median value (the lower of two) in rows of ``case_means``."""
    return means.sort_values(["value", "case"])["case"].iloc[(len(means) - 1) // 2]


def interval(values: Sequence[float], *, level: float = 0.95, resamples: int = 9999) -> tuple[float, float]:
    """Bootstrap interval (BCa) of the mean of ``values``, one per case.

    NaN for fewer than two cases or a value that is not finite; equal values give the value itself. The
    percentile interval replaces an undefined BCa interval.
    """
    values = np.asarray(values, float)
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"n_resamples": resamples, "method": method, "rng": np.random.default_rng(0)}
            found = bootstrap((values,), np.mean, confidence_level=level, **options).confidence_interval
        if np.isfinite(found).all():
            break
    return float(found.low), float(found.high)


def summarise(values: pd.DataFrame) -> pd.DataFrame:
    """Per variant (ORIGIN, seeds): mean over cases, its 95 % interval (low, high) and number of cases."""
    keys, rows = [*ORIGIN, "seeds"], []
    for key, group in values.groupby(keys, sort=False):
        low, high = interval(group["value"].to_numpy())
        rows.append((*key, group["value"].mean(), low, high, group["case"].nunique()))
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "cases"])


def main_table(table: pd.DataFrame, grid: str = "scan") -> pd.DataFrame:
    """The main table: one row per data set and variant, including the mean atlas.

    Each metric is the mean over test cases of the case's mean over classes, with its 95 % interval
    (``_low``, ``_high``); ``missed`` and ``false_positive`` count case × class pairs over all seeds.
    """
    parts = []
    for metric in METRICS:
        names = {"mean": metric, "low": f"{metric}_low", "high": f"{metric}_high"}
        parts.append(summarise(case_means(table, metric, grid)).rename(columns=names))
    rows = reduce(pd.merge, parts)
    scored = table[(table["metric"] == "dice") & (table["grid"] == grid)]
    for column, flag in (("missed", "miss"), ("false_positive", "false_positive")):
        count = (scored["flag"] == flag).groupby([scored[key] for key in ORIGIN]).sum()
        rows = rows.merge(count.rename(column), on=ORIGIN)
    return rows.assign(grid=grid)


def provenance(table: pd.DataFrame) -> str:
    """A sentence with the cohort, profile and seeds of a table, for the captions of figures and tables."""
    cohorts = " and ".join(f"{c} cohort" for c in sorted(set(table["cohort"]), reverse=True))
    words = f"{cohorts.capitalize()}, profile {', '.join(sorted(set(table['profile'])))}"
    if "seeds" not in table:
        return f"{words}."
    trained = table[table["variant"] != MEAN_ATLAS] if "variant" in table else table
    seeds = sorted({int(s) for text in trained["seeds"] for s in str(text).split()})
    return f"{words}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
