"""The tables of the reading test, from its runs' files."""

from pathlib import Path

import pandas as pd

from bipvl.analysis.studies import Study, no_seeds, reading_folders
from bipvl.common.errors import BipvlError

ORIGIN = ["cohort", "profile", "study", "variant", "seed", "steps"]


def reading_table(study: Study, runs: str | Path, name: str) -> pd.DataFrame:
    """One of the tables "history", "scores" and "changes" over all runs of a study.

    Raises:
        BipvlError: a run is missing, or the study does not run at the profile.
    """
    if not study.seeds:
        raise no_seeds(study.name, study.profile)
    parts = []
    for folder in reading_folders(study, runs):
        if not (path := folder / f"{name}.csv").is_file():
            command = f"make reproduce PROFILE={study.profile} STUDY={study.name}"
            raise BipvlError("is missing", f"create it with: {command}", path)
        parts.append(pd.read_csv(path))
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(cohort="synthetic", profile=study.profile, study=study.name)
    return table[[*ORIGIN, *(column for column in table if column not in ORIGIN)]]


def reading_summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per variant and test: mean over kinds, lowest and highest seed.

    Columns variant, test, value, low, high, seeds; the test is a wording, whose value is the Dice, or "absent
    ball", whose value is the share of empty masks, which are right.
    """
    scores = scores.assign(
        test=scores["wording"].where(scores["present"], "absent ball"),
        value=scores["dice"].where(scores["present"], scores["empty"]),
    )
    by_seed = scores.groupby(["variant", "test", "seed"], sort=False)["value"].mean()
    grouped = by_seed.groupby(["variant", "test"], sort=False)
    return grouped.agg(value="mean", low="min", high="max", seeds="count").reset_index()
