"""Log a training for TensorBoard, if it is installed: ``scalars/`` in the run's folder.

The log is not a result: neither the manifest nor any figure reads it. ``history.csv`` has the same numbers.
"""

import importlib.util
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

FOLDER = "scalars"


def tracker() -> str | None:
    """The value of ``Accelerator(log_with=…)``: TensorBoard, or None if it is not installed."""
    # Not tensorboardX, which accelerate accepts too: its writer waits forever when a disk is full.
    return "tensorboard" if importlib.util.find_spec("tensorboard") else None


def begin(accelerator: Accelerator, rows: Iterable[Mapping[str, Any]]) -> None:
    """Start a new log with the history so far, so that a resumed training has each step once."""
    if accelerator.is_main_process:
        shutil.rmtree(Path(accelerator.project_dir) / FOLDER, ignore_errors=True)
    accelerator.init_trackers(FOLDER)
    for row in rows:
        log(accelerator, row)


def log(accelerator: Accelerator, row: Mapping[str, Any]) -> None:
    """Log one row of the history, except values that are NaN (no validation in that step)."""
    values = {name: value for name, value in row.items() if name != "step" and value == value}
    accelerator.log(values, step=row["step"])


def end(accelerator: Accelerator) -> None:
    """Close the log; ``Accelerator.end_training`` would also destroy the process group."""
    for each in accelerator.trackers:
        each.finish()
