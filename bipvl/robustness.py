"""What a trained network makes of prompts that it was not trained with (paper, prompt quality)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from bipvl.data.labels import encode
from bipvl.data.prompt_edits import EDITS, edited
from bipvl.data.prompts import default_prompts
from bipvl.data.transforms import load_native, prepare_transform
from bipvl.evaluate import test_cases
from bipvl.infer import make_predictor, predict_volume, to_grid
from bipvl.metrics import class_masks, dice_scores
from bipvl.runs import Run
from bipvl.statistics import LONG, case_means, read_runs
from bipvl.variants import get_variant, load_network


def prompt_robustness(
    folders: Mapping[str, Sequence[Path]], data_root: str | Path, *, progress: bool = True
) -> pd.DataFrame:
    """Dice of every test case under every edit of the prompts, for two ways to train.

    Args:
        folders: a study's run folders by dataset; the variants that were trained with the full prompts are
            tested with every edit, and those that were trained with an edit stand beside them with their own
            scores.

    Returns:
        Columns of ``statistics.case_means``, and ``prompts`` (the edit at the test) and ``trained`` (the edit
        in training).
    """
    parts = []
    for group in folders.values():
        runs = [Run.open(folder) for folder in group]
        for run in runs:
            if run.variant.prompts == "full":
                tested = _tested(run, data_root, progress)
                parts += [
                    case_means(rows).assign(prompts=edit, trained="full") for edit, rows in tested.items()
                ]
        trained = case_means(read_runs({runs[0].spec.name: group}))
        for variant, rows in trained.groupby("variant", sort=False):
            if variant.startswith("prompts-"):
                edit = get_variant(variant).prompts
                parts.append(rows.assign(prompts=edit, trained=edit))
    return pd.concat(parts, ignore_index=True)


def _tested(run: Run, data_root: str | Path, progress: bool) -> dict[str, pd.DataFrame]:
    """A run's Dice on the scan's own grid under every edit of its dataset's prompts, each a long table."""
    spec, texts, device = run.spec, default_prompts(run.spec).segments(), Accelerator().device
    network = load_network(run.variant, run.model_folder).to(device)
    predictors = {edit: make_predictor(network, run.variant, edited(texts, edit)) for edit in EDITS}
    prepare = prepare_transform(spec, run.config["spacing"])
    origin = {key: run.config[key] for key in ("cohort", "profile", "variant", "seed")} | {
        "dataset": spec.name
    }
    rows: dict[str, list[dict]] = {edit: [] for edit in EDITS}
    title = f"{spec.name} · {run.variant.title} · prompts"
    for case in tqdm(test_cases(run, data_root), title, unit="case", disable=not progress):
        image = prepare({"image": str(case.image)})["image"]
        native = load_native(case)["label"]
        truth = class_masks(torch.from_numpy(encode(spec, native[0].numpy(), str(case.label))), spec)
        for edit, predictor in predictors.items():
            settings = {
                "crop": run.config["crop"],
                "overlap": run.config["overlap"]["test"],
                "device": device,
            }
            logits = predict_volume(predictor, image, **settings)
            place = (image.affine, native.affine, native.shape[1:])
            labels = to_grid(logits, *place, overlapping=spec.overlapping)
            scores = dice_scores(class_masks(labels, spec), truth).tolist()
            rows[edit] += [
                origin | {"case": case.id, "class": c.name, "metric": "dice", "grid": "scan", "value": dice}
                for c, dice in zip(spec.classes, scores, strict=True)
                if not math.isnan(dice)  # a class in neither is no score, as in the evaluation
            ]
    return {edit: pd.DataFrame(table).assign(flag="")[LONG] for edit, table in rows.items()}
