"""What each study can decide, before anything is trained."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from bipvl.analysis.claims import planned_claims
from bipvl.analysis.comparisons import holm
from bipvl.analysis.effects import by_classes, gain_with_classes
from bipvl.analysis.studies import Experiments
from bipvl.analysis.verdicts import LEVEL, POWER, can_decide, detectable_effect, smallest_p
from bipvl.engine.profiles import profile_name

COLUMNS = ["study", "claims", "decidable", "cases", "spread", "detectable"]


def study_outlook(
    experiments: Experiments, cases: Mapping[str, int], spreads: Mapping[str, float]
) -> pd.DataFrame:
    """What the claims of each study can show with its numbers of test cases.

    Args:
        cases: number of test cases of each data set.
        spreads: study → standard deviation over cases of paired differences in Dice (``earlier_spreads``).

    Returns:
        One row (columns COLUMNS) per study that tests a claim.

        - claims: number of claims; decidable: those whose smallest p, with Holm's correction, is below LEVEL.
        - cases: number of test cases of the claim with the most.
        - detectable: difference in Dice (from 0 to 1) that a claim on these cases finds with a probability of
          80 %; infinity if it cannot be decided, NaN if the spread is not known.
    """
    families: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for claim, study, datasets in planned_claims(experiments):
        two_samples = claim.measure is gain_with_classes
        groups = by_classes(datasets) if two_samples else (datasets,)
        counts = [sum(cases[name] for name in group) for group in groups]
        families[study.name].append((sum(counts), smallest_p(*counts)))
    rows = []
    for study, family in families.items():
        count, tests = max(n for n, _ in family), len(family)
        decidable = int((holm([p for _, p in family]) < LEVEL).sum())
        spread = spreads.get(study, np.nan)
        found = detectable_effect(count, tests, spread) if can_decide(count, tests) else np.inf
        rows.append((study, tests, decidable, count, spread, found))
    return pd.DataFrame(rows, columns=COLUMNS)


def earlier_spreads(profile: str, figures: str | Path = "figures") -> tuple[dict[str, float], Path | None]:
    """Study → median spread of its claims in the claims table of earlier runs, and the table's path.

    The table is that of the profile, else the one of quick; ({}, None) if neither has a spread.
    """
    for name in dict.fromkeys([profile_name(profile), "quick"]):
        path = Path(figures, name, "claims.csv")
        with suppress(OSError, ValueError, KeyError):  # missing, damaged, or older than the column
            table = pd.read_csv(path).dropna(subset="spread")
            spreads = table[table["spread"] > 0].groupby("study")["spread"].median().to_dict()
            if spreads:
                return spreads, path
    return {}, None


def detections(
    experiments: Experiments, cases: Mapping[str, int], figures: str | Path = "figures"
) -> tuple[dict[str, str], str]:
    """What `make plan` shows: study → its detectable effect in Dice points, and a note.

    The effect is "nothing" if the study cannot decide its claims, "?" if no earlier run has a spread.
    """
    spreads, path = earlier_spreads(experiments.profile, figures)
    outlook = study_outlook(experiments, cases, spreads).set_index("study")
    shown = {study: _points(effect) for study, effect in outlook["detectable"].items()}
    note = f"Detects: the difference in Dice points that a claim shows in {POWER:.0%} of such experiments"
    note += f", with the spread in {path}" if path else ""
    return shown, note + '; "nothing": too few test cases for the claims; "?": unknown spread; "-": no claim.'


def _points(effect: float) -> str:
    if np.isinf(effect):
        return "nothing"
    return "?" if np.isnan(effect) else f"{100 * effect:.1f}"
