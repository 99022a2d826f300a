"""Eighteen findings on the public release (December 2025), measured on this package's own code.

Each row of ``findings()`` states what the released code does, what is correct, and the measured difference;
``measure(row)`` returns one row with its numbers. None of the authors' code is run or contained here: the
preset ``released`` (``bipvl.model.deviations``) reproduces its behaviour.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

import pandas as pd
import torch

from bipvl.analysis.tables import markdown

from . import data, network, objective, practice, schedule
from .finding import COLUMNS, Finding

__all__ = ["ROWS", "Finding", "findings", "measure", "table_markdown"]

ROWS: dict[int, Callable[[], dict[str, Any]]] = {
    1: network.untrained_fusion,
    2: network.decoder_before_fusion,
    3: network.unfused_concepts,
    4: network.erased_text,
    5: network.prompt_order,
    6: network.attended_padding,
    7: objective.easy_negatives,
    8: objective.weights_over_classes,
    9: data.numeric_code_order,
    10: data.wrong_enhancing_label,
    11: objective.background_row,
    12: schedule.schedule_by_iteration,
    13: objective.doubled_penalty,
    14: data.misleading_scores,
    15: data.unrecorded_cases,
    16: practice.repeated_text_work,
    17: practice.other_settings,
    18: practice.installation,
}
"""Row → function that measures its numbers."""


@cache
def measure(row: int) -> Finding:
    """Measure one row, 1 to 18, without changing the caller's random state."""
    with torch.random.fork_rng():
        torch.manual_seed(row)
        return Finding.fill(row, ROWS[row]())


def findings() -> pd.DataFrame:
    """All rows: columns row, what, released, right, difference, quoted, shown_on."""
    return pd.DataFrame([asdict(measure(row)) for row in ROWS])[list(COLUMNS)]


def table_markdown(table: pd.DataFrame) -> str:
    """Markdown of ``findings()``."""
    header = [COLUMNS[name] for name in table]
    return markdown(header, table.astype(str).values.tolist(), words=len(header))
