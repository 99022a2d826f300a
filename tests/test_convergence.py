"""Whether a training had stopped improving, and how the main table shows it."""

import pandas as pd
import pytest

from bipvl.analysis.convergence import still_improved, with_convergence
from bipvl.analysis.tables import main_table_latex, main_table_markdown
from bipvl.common.files import write_csv, write_json


def history(validated: dict[int, float], steps: int = 100) -> pd.DataFrame:
    """A history of so many steps with validation Dice after some of them."""
    return pd.DataFrame({"step": range(1, steps + 1)}).assign(val_dice=lambda t: t["step"].map(validated))


@pytest.mark.parametrize(
    ("validated", "improved"),
    [
        ({25: 0.5, 50: 0.6, 75: 0.7, 100: 0.706}, True),
        ({25: 0.5, 50: 0.6, 75: 0.7, 100: 0.704}, False),
        ({25: 0.5, 50: 0.8, 75: 0.7, 100: 0.79}, False),  # compared with the best before
        ({25: 0.5, 50: 0.6, 80: 0.7, 100: 0.4}, True),  # the best of the quarter
        ({100: 0.9}, True),  # nothing before
    ],
)
def test_the_last_quarter_is_compared_with_the_best_before(validated, improved):
    assert still_improved(history(validated)) is improved


def test_the_main_table_marks_methods_with_a_training_that_still_improved(tmp_path):
    runs = {("unet", 0): False, ("unet", 1): True, ("dynunet", 0): False}
    for (variant, seed), improved in runs.items():
        folder = tmp_path / variant / f"seed{seed}"
        write_json(folder / "config.json", {"variant": variant})
        write_csv(folder / "history.csv", history({50: 0.5, 100: 0.6 if improved else 0.5}))
    write_json(tmp_path / "other" / "config.json", {"variant": "nnunet"})  # has no training
    row = {"cohort": "real", "profile": "laptop", "dataset": "mmwhs_ct", "seeds": "0", "grid": "scan"}
    row |= {f"{metric}{end}": 0.5 for metric in ("dice", "hd95_mm", "nsd") for end in ("", "_low", "_high")}
    row |= {"missed": 0, "cases": 4}
    table = pd.DataFrame([row | {"variant": name} for name in ("unet", "dynunet", "nnunet")])
    shown = with_convergence(table, {"mmwhs_ct": [p.parent for p in sorted(tmp_path.rglob("config.json"))]})
    assert list(shown["improving"]) == [True, False, False]
    first, *others = main_table_markdown(shown).splitlines()[2:5]
    assert "| UNet † |" in first and not any("†" in line for line in others)
    assert "†: not trained to the end, since validation Dice still rose by more than 0.5 points" in (
        main_table_markdown(shown)
    )
    assert r"UNet $\dagger$ &" in main_table_latex(shown)
    assert "†" not in main_table_markdown(shown.assign(improving=False))
