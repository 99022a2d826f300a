"""Whether trainings had stopped improving, from their validation Dice."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bipvl.data.layouts import read_json

RISE = 0.005
"""Dice: half of the difference that a verdict calls equivalent."""


def still_improved(history: pd.DataFrame) -> bool:
    """Whether validation Dice rose by more than RISE in the last quarter of a training (``history.csv``).

    That is, its best value there compared with its best value before; true if nothing was validated before.
    """
    dice = history.dropna(subset="val_dice")
    late = dice["step"] > 0.75 * history["step"].max()
    before, after = dice.loc[~late, "val_dice"], dice.loc[late, "val_dice"]
    return not before.max() >= after.max() - RISE


def with_convergence(table: pd.DataFrame, folders: Mapping[str, Sequence[Path]]) -> pd.DataFrame:
    """``statistics.main_table`` with a column improving: whether a run of the row still improved.

    Args:
        folders: run folders by data set; those without a history.csv (mean atlas, external) do not count.
    """
    improving = {
        (dataset, read_json(folder / "config.json")["variant"])
        for dataset, group in folders.items()
        for folder in group
        if (folder / "history.csv").is_file() and still_improved(pd.read_csv(folder / "history.csv"))
    }
    rows = zip(table["dataset"], table["variant"], strict=True)
    return table.assign(improving=[row in improving for row in rows])
