"""Tuned learning rates: the file ``learning_rates.csv``, which ``make tune`` writes, and what a run takes.

One rule for all networks: each trains with every rate of RATES, seed 0, for a third of the profile's epochs,
and keeps the rate with the best validation Dice (if equal, the lower). Ablations of BiPVL-Seg take its rate.
"""

import csv
from functools import cache
from pathlib import Path
from typing import Any

from bipvl.engine.profiles import get_profile
from bipvl.engine.variants import get_variant

PATH = Path(__file__).with_name("learning_rates.csv")
"""Columns profile, dataset, variant, cohort, seed, steps, lr, val_dice, chosen: one row per training."""
RATES = (0.005, 0.01, 0.02)
"""Peak rates of the vision network; the language rate keeps the ratio to it that the profile gives."""
SHARE = 3
"""The grid's trainings have the profile's epochs divided by this."""
BASE = "bipvlseg"
"""The variant whose rate those with language take that were not tuned themselves."""


def rate_settings(profile: str | Path, dataset: str, rate: float) -> dict[str, float]:
    """The learning rates of a training with the peak rate ``rate``, for ``training`` in a run's settings."""
    training = get_profile(profile, dataset).training
    return {"lr": rate, "language_lr": rate * training.language_lr / training.lr}


def is_tuned(variant: str) -> bool:
    """Whether a variant has its own rate: a baseline, BiPVL-Seg, or that with another head or backbone."""
    chosen = get_variant(variant)
    own = {"head", "backbone"} & chosen.options.keys() if chosen.language else chosen.share == 1
    return variant == BASE or bool(own)


def tuned_settings(profile: str, dataset: str, variant: str) -> dict[str, Any]:
    """What tuning changes in a run's settings; empty where nothing was tuned.

    Args:
        profile: a profile's name; your own takes no rates from the one that it extends.
    """
    chosen = get_variant(variant)
    tuned_as = (variant, chosen.network, BASE if chosen.language else "")
    rates = _chosen_rates()
    rate = next((rates[key] for name in tuned_as if (key := (profile, dataset, name)) in rates), None)
    return {} if rate is None else {"training": rate_settings(profile, dataset, rate)}


@cache
def _chosen_rates() -> dict[tuple[str, str, str], float]:
    """The chosen rate of every profile, data set and variant that was tuned."""
    with PATH.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["chosen"] == "True"]
    return {(row["profile"], row["dataset"], row["variant"]): float(row["lr"]) for row in rows}
