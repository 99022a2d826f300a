"""Write made-up files of runs, for the tests of tables and figures."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from bipvl.analysis.studies import Study
from bipvl.data.spec import load_spec
from tools import bench

COLUMNS = ["case", "class", "metric", "grid", "value", "flag"]


def study(datasets: Iterable[str] = ("mmwhs_ct",), seeds: tuple[int, ...] = (0,), **changes) -> Study:
    """The study "main" with two variants at profile quick."""
    fields = {
        "name": "main",
        "profile": "quick",
        "title": "Main",
        "question": "?",
        "datasets": tuple(datasets),
        "variants": ("bipvlseg", "swin_unetr_v2"),
        "external": (),
        "seeds": seeds,
        "notebooks": (),
    }
    return Study(**fields | changes)


def write_metrics(root: Path, dataset: str, variant: str, rows: list[tuple], seed: int = 0, **config) -> Path:
    """A run folder with config.json and metrics.csv; rows of (case, class, metric, value[, flag])."""
    folder = root / "quick" / dataset / variant / f"seed{seed}"
    folder.mkdir(parents=True)
    basic = {"dataset": dataset, "variant": variant, "profile": "quick", "seed": seed, "cohort": "synthetic"}
    if variant != "mean_atlas":
        (folder / "config.json").write_text(json.dumps(basic | config))
    full = [(*row[:3], grid, *(*row[3:], "")[:2]) for row in rows for grid in ("scan", "working")]
    pd.DataFrame(full, columns=COLUMNS).to_csv(folder / "metrics.csv", index=False)
    return folder


def write_runs(root: Path, dataset: str, cases: int = 4) -> None:
    """Two variants and the mean atlas with random scores of all classes, and the networks' histories."""
    random = np.random.default_rng(len(dataset))
    for variant, level in (("bipvlseg", 0.7), ("swin_unetr_v2", 0.6), ("mean_atlas", 0.3)):
        rows = [
            (f"case_{i}", c.name, metric, scale * float(np.clip(random.normal(level, 0.1), 0, 1)))
            for i in range(cases)
            for c in load_spec(dataset).classes
            for metric, scale in (("dice", 1), ("hd95_mm", 20), ("nsd", 1))
        ]
        folder = write_metrics(root, dataset, variant, rows)
        if variant != "mean_atlas":
            write_history(folder, language=variant == "bipvlseg")


def write_history(folder: Path, language: bool, steps: int = 130) -> pd.DataFrame:
    """A history.csv with all loss terms, and validations every 50 steps and at the end."""
    step = np.arange(steps)
    terms = {"total": 2.0, "segmentation": 1.0}
    if language:
        terms |= {"class_embedding": 3.0, "global_alignment": 2.0, "local_alignment": 1.0, "alignment": 3.0}
    table = {"step": step, "lr": 1e-3 * (1 - step / steps)} | {k: v / (1 + step) for k, v in terms.items()}
    if language:
        weighted = ("segmentation", "class_embedding", "alignment")
        table |= {f"log_variance_{name}": -0.001 * step for name in weighted}
    validated = ((step + 1) % 50 == 0) | (step + 1 == steps)
    history = pd.DataFrame(table | {"val_dice": np.where(validated, 0.5, np.nan)})
    history.to_csv(folder / "history.csv", index=False)
    return history


def measurements() -> pd.DataFrame:
    """A table of ``make bench`` with made-up values."""
    paper = [("paper", q, 2.0, 4.0) for q in (bench.INFERENCE, bench.TRAINING, bench.MEMORY)]
    plain = [(bench.PLAIN, q, 3.0, 4.0) for q in (bench.TRAINING, bench.MEMORY)]
    grown = [
        (case, q, i + 2.0, i + 1.0)
        for i, case in enumerate(bench.GROWTH)
        for q in (bench.INFERENCE, bench.MEMORY)
    ]
    table = pd.DataFrame([*paper, *plain, *grown], columns=["case", "quantity", "ours", "reference"])
    return table.assign(ratio=table["ours"] / table["reference"])
