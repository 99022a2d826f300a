"""What a trained network makes of prompts that it was not trained with (paper, prompt quality)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bipvl.data.prompt_edits import EDITS, edited
from bipvl.data.prompts import default_prompts
from bipvl.evaluate import score_cases, test_cases
from bipvl.infer import Segmenter
from bipvl.runs import Run
from bipvl.statistics import LONG, case_means, read_runs
from bipvl.variants import get_variant


def prompt_robustness(
    folders: Mapping[str, Sequence[Path]], data_root: str | Path, *, progress: bool = True
) -> pd.DataFrame:
    """Dice of every test case under every edit of the prompts, for two ways to train.

    Args:
        folders: a study's run folders by dataset; its first variant is tested with every edit, and those
            variants that were trained with an edit stand beside it with their own scores.

    Returns:
        Columns of ``statistics.case_means``, and ``prompts`` (the edit at the test) and ``trained`` (the edit
        in training).
    """
    parts = []
    for group in folders.values():
        runs = [Run.open(folder) for folder in group]
        own = [run for run in runs if run.config["variant"] == runs[0].config["variant"]]
        for edit in EDITS:
            tested = pd.concat([_tested(run, edit, data_root, progress) for run in own])
            parts.append(case_means(tested).assign(prompts=edit, trained="full"))
        trained = case_means(read_runs({runs[0].spec.name: group}))
        for variant, rows in trained.groupby("variant", sort=False):
            if variant.startswith("prompts-"):
                edit = get_variant(variant).prompts
                parts.append(rows.assign(prompts=edit, trained=edit))
    return pd.concat(parts, ignore_index=True)


def _tested(run: Run, edit: str, data_root: str | Path, progress: bool) -> pd.DataFrame:
    """A run's scores under an edit of its dataset's prompts, as a long table."""
    texts = edited(default_prompts(run.spec).segments(), edit)
    segmenter, title = Segmenter(run=run, texts=texts), f"{run.spec.name} · prompts {edit.replace('_', ' ')}"
    spacing = run.config["spacing"]
    table = score_cases(
        test_cases(run, data_root), run.spec, spacing, segmenter.predict, title=title, progress=progress
    )
    origin = {key: run.config[key] for key in ("cohort", "profile", "variant", "seed")}
    return table.assign(**origin, dataset=run.spec.name)[LONG]
