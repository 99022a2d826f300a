"""Scores of trained networks with prompts that they were not trained with (paper, prompt quality)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from monai.data import MetaTensor
from torch import Tensor
from tqdm.auto import tqdm

from bipvl.analysis.statistics import LONG, case_means, read_runs
from bipvl.data.labels import encode
from bipvl.data.layouts import Case
from bipvl.data.prompt_edits import EDITS, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.data.transforms import load_native
from bipvl.engine.evaluate import test_cases
from bipvl.engine.metrics import class_masks, dice_scores
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run
from bipvl.engine.scan_grid import label_scan
from bipvl.engine.variants import get_variant


def prompt_robustness(
    folders: Mapping[str, Sequence[Path]], data_root: str | Path, *, progress: bool = True
) -> pd.DataFrame:
    """Dice of every test case with every edit of the prompts.

    Variants that were trained with the full prompts are tested with every edit. Variants that were trained
    with an edit keep their own scores.

    Args:
        folders: a study's run folders by data set.

    Returns:
        Columns of ``statistics.case_means``, and ``prompts`` (the edit in the test) and ``trained`` (the edit
        in training).
    """
    parts = []
    for group in folders.values():
        runs = [Run.open(folder) for folder in group]
        for run in runs:
            if run.variant.prompts == "full":
                for edit, rows in _test_with_edits(run, data_root, progress).items():
                    parts.append(case_means(rows).assign(prompts=edit, trained="full"))
        trained = case_means(read_runs({runs[0].spec.name: group}))
        for variant, rows in trained.groupby("variant", sort=False):
            if variant.startswith("prompts-"):
                edit = get_variant(variant).prompts
                parts.append(rows.assign(prompts=edit, trained=edit))
    return pd.concat(parts, ignore_index=True)


def _test_with_edits(run: Run, data_root: str | Path, progress: bool) -> dict[str, pd.DataFrame]:
    """A run's Dice on the scan's own grid: one long table per edit of its data set's prompts."""
    spec, texts, segmenter = run.spec, default_prompts(run.spec).segments(), Segmenter(run=run)
    segmenters = {edit: segmenter.with_texts(edited(texts, edit)) for edit in EDITS}
    rows: dict[str, list[dict]] = {edit: [] for edit in EDITS}
    title = f"{spec.name} · {run.variant.title} · prompts"
    for case in tqdm(test_cases(run, data_root), title, unit="case", disable=not progress):
        image, truth = segmenter.prepare({"image": case.paths["image"]})["image"], load_native(case)["label"]
        for edit, other in segmenters.items():
            dice = _dice(other.predict(image), image, truth, case, spec)
            rows[edit] += [{"case": case.id, "class": name, "value": value} for name, value in dice.items()]
    origin = {key: run.config[key] for key in ("cohort", "profile", "variant", "seed")}
    origin |= {"dataset": spec.name, "metric": "dice", "grid": "scan", "flag": ""}
    return {edit: pd.DataFrame(table).assign(**origin)[LONG] for edit, table in rows.items()}


def _dice(
    logits: Tensor, image: MetaTensor, codes: MetaTensor, case: Case, spec: DatasetSpec
) -> dict[str, float]:
    """Dice by class on the scan's own grid, without classes that are in neither, as in the evaluation."""
    labels = label_scan(spec, logits, image).labels
    truth = torch.from_numpy(encode(spec, codes[0].numpy(), str(case.label)))
    scores = dice_scores(class_masks(labels, spec), class_masks(truth, spec)).tolist()
    return {c.name: dice for c, dice in zip(spec.classes, scores, strict=True) if not math.isnan(dice)}
