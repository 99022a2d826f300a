"""A training's scalars for TensorBoard, where that is installed: ``scalars/`` in the run's folder.

No result: neither the manifest nor any figure reads it. ``history.csv`` holds the same numbers.
"""

import importlib.util
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

FOLDER = "scalars"


def tracker() -> str | None:
    """What ``Accelerator(log_with=…)`` takes: TensorBoard, or nothing where it is not installed."""
    # Not tensorboardX, which accelerate takes too: its writer waits for ever where a disk is full.
    return "tensorboard" if importlib.util.find_spec("tensorboard") else None


def begin(accelerator: Accelerator, rows: Iterable[Mapping[str, Any]]) -> None:
    """Begin the log anew with the history so far, so that a training gone on with has each step once."""
    if accelerator.is_main_process:
        shutil.rmtree(Path(accelerator.project_dir) / FOLDER, ignore_errors=True)
    accelerator.init_trackers(FOLDER)
    for row in rows:
        log(accelerator, row)


def log(accelerator: Accelerator, row: Mapping[str, Any]) -> None:
    """Log one row of the history; a value that it has not (no validation in that step) is NaN."""
    values = {name: value for name, value in row.items() if name != "step" and value == value}
    accelerator.log(values, step=row["step"])


def end(accelerator: Accelerator) -> None:
    """Close the log; ``Accelerator.end_training`` would take the processes' group away as well."""
    for each in accelerator.trackers:
        each.finish()
