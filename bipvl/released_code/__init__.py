"""Where the public release (December 2025) departs from the paper, proven on this package's own code.

Eighteen rows: what the released code does, what is right, and the difference, measured. ``proofs()`` gives
all as a table, ``prove(row)`` one of them with its bare numbers. Nothing of the authors' code is run or
contained; the preset ``released`` computes what theirs computes (``bipvl.model.deviations``).
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache

import pandas as pd
import torch

from bipvl.analysis.tables import markdown

from . import data, network, objective, practice, schedule
from .finding import COLUMNS, Proof

__all__ = ["ROWS", "Proof", "proofs", "prove", "table_markdown"]

ROWS: dict[int, Callable[[], Proof]] = {
    1: network.fusion_never_trained,
    2: network.decoder_before_fusion,
    3: network.concepts_never_fused,
    4: network.fusion_erases_text,
    5: network.order_of_prompts,
    6: network.padding_attended,
    7: objective.easy_negatives,
    8: objective.weights_over_classes,
    9: data.numeric_order_of_codes,
    10: data.wrong_enhancing_label,
    11: objective.background_row_kept,
    12: schedule.rate_by_iteration,
    13: objective.doubled_penalty,
    14: data.scores_that_mislead,
    15: data.nobody_knows_the_cases,
    16: practice.prompts_read_again,
    17: practice.other_settings,
    18: practice.installable,
}
"""What measures each row."""


@cache
def prove(row: int) -> Proof:
    """Measure one row, 1 to 18; the caller's random numbers are left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(row)
        return ROWS[row]()


def proofs() -> pd.DataFrame:
    """All rows as a table: columns row, what, released, right, difference, quoted, shown_on."""
    return pd.DataFrame([asdict(prove(row)) for row in ROWS])[list(COLUMNS)]


def table_markdown(table: pd.DataFrame) -> str:
    """Markdown of ``proofs()``."""
    header = [COLUMNS[name] for name in table]
    return markdown(header, table.astype(str).values.tolist(), words=len(header))
