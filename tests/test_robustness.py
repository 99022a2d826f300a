"""Tests with prompts that a network was not trained with, and their figure."""

import pandas as pd
import pytest
from score_files import write_metrics

from bipvl import figures
from bipvl.analysis.prompt_robustness import prompt_robustness
from bipvl.analysis.statistics import case_means, read_runs
from bipvl.data.prompt_edits import EDITS
from bipvl.data.spec import load_spec
from bipvl.engine.profiles import dataset_settings


@pytest.fixture(scope="module")
def table(smoke_runs) -> pd.DataFrame:
    folder = smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset / "bipvlseg" / "seed0"
    return prompt_robustness({smoke_runs.dataset: [folder]}, smoke_runs.data_root, progress=False)


def test_every_edit_is_tested_on_every_case_and_full_prompts_give_the_scores_of_the_run(table, smoke_runs):
    folder = smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset / "bipvlseg" / "seed0"
    own = case_means(read_runs({smoke_runs.dataset: [folder]}))
    own = own[own["variant"] == "bipvlseg"].set_index("case")["value"]
    assert list(dict.fromkeys(table["prompts"])) == list(EDITS)
    assert (table.groupby("prompts")["case"].nunique() == len(own)).all()
    full = table[table["prompts"] == "full"].set_index("case")["value"]
    pd.testing.assert_series_equal(full, own, check_exact=False, rtol=1e-6)
    assert table[table["prompts"] == "empty"].set_index("case")["value"].sub(own).abs().max() > 0


def test_variants_trained_with_an_edit_keep_their_own_scores(tmp_path, smoke_runs, monkeypatch):
    monkeypatch.setattr(
        "bipvl.analysis.prompt_robustness._test_with_edits",
        lambda run, *rest: dict.fromkeys(EDITS, _scores(run.config["variant"])),
    )
    rows = [("a", "left ventricle", "dice", 0.25), ("b", "left ventricle", "dice", 0.75)]
    whole = dataset_settings("quick", load_spec("mmwhs_ct"))
    config = {key: whole[key] for key in ("spacing", "crop", "network", "language", "training", "overlap")}
    folders = [write_metrics(tmp_path, "mmwhs_ct", v, rows, **config) for v in ("bipvlseg", "prompts-names")]
    found = prompt_robustness({"mmwhs_ct": folders}, tmp_path, progress=False)
    trained = found[found["trained"] != "full"]
    assert trained[["prompts", "trained", "case", "value"]].to_numpy().tolist() == [
        ["names", "names", "a", 0.25],
        ["names", "names", "b", 0.75],
    ]
    assert (found.loc[found["trained"] == "full", "value"] == 0.5).all()
    png = figures.write("prompt_robustness-prompts", found, tmp_path)
    first = png.read_bytes()
    figures.redraw(tmp_path)
    assert png.read_bytes() == first


def _scores(variant: str) -> pd.DataFrame:
    origin = {"cohort": "synthetic", "profile": "quick", "dataset": "mmwhs_ct", "variant": variant, "seed": 0}
    row = {"class": "left ventricle", "metric": "dice", "grid": "scan", "value": 0.5, "flag": ""}
    return pd.DataFrame([origin | row | {"case": case} for case in "ab"])
