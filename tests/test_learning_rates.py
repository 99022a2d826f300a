"""Tuned learning rates: which variants are tuned, what a run takes, and the table that `make tune` writes."""

import pandas as pd
import pytest

from bipvl.data.spec import load_spec
from bipvl.engine import learning_rates
from bipvl.engine.learning_rates import is_tuned, tuned_settings
from bipvl.engine.profiles import dataset_settings
from bipvl.engine.run import Run
from bipvl.figures import draw
from tools import tune

TABLE = """\
profile,dataset,variant,cohort,seed,steps,lr,val_dice,chosen
laptop,msd_hippocampus,bipvlseg,real,0,188,0.005,0.8,False
laptop,msd_hippocampus,bipvlseg,real,0,188,0.02,0.85,True
laptop,msd_hippocampus,swin_unetr_v2,real,0,188,0.005,0.84,True
laptop,msd_hippocampus,universal,real,0,188,0.02,0.84,True
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    path = tmp_path / "learning_rates.csv"
    path.write_text(TABLE, encoding="utf-8")
    monkeypatch.setattr(learning_rates, "PATH", path)
    learning_rates._chosen_rates.cache_clear()
    yield path
    learning_rates._chosen_rates.cache_clear()


def rate(variant, dataset="msd_hippocampus", profile="laptop"):
    return tuned_settings(profile, dataset, variant).get("training", {}).get("lr")


def test_a_network_takes_its_own_rate_and_an_ablation_that_of_bipvlseg(table):
    assert {v: rate(v) for v in ("bipvlseg", "no_fusion", "prompts-names", "text-frozen")} == dict.fromkeys(
        ("bipvlseg", "no_fusion", "prompts-names", "text-frozen"), 0.02
    )
    assert rate("swin_unetr_v2") == rate("swin_unetr_v2-25_percent") == 0.005
    assert rate("universal") == 0.02
    assert rate("unet") is rate("bipvlseg", "openkbp") is rate("bipvlseg", profile="quick") is None


def test_the_language_rate_keeps_its_ratio_to_the_vision_rate(table):
    usual = dataset_settings("laptop", load_spec("msd_hippocampus"))["training"]
    tuned = tuned_settings("laptop", "msd_hippocampus", "bipvlseg")["training"]
    assert tuned["language_lr"] / tuned["lr"] == pytest.approx(usual["language_lr"] / usual["lr"])


def plan(tmp_path, **overrides):
    return Run.plan(
        profile="laptop",
        dataset="msd_hippocampus",
        variant="swin_unetr_v2",
        seed=0,
        data_root=tmp_path,
        root=tmp_path,
        overrides={"training": overrides},
    ).config["training"]


def test_a_run_takes_the_tuned_rate_unless_it_is_set(table, tmp_path):
    assert plan(tmp_path)["lr"] == 0.005
    assert plan(tmp_path, lr=0.1)["lr"] == 0.1


def test_networks_are_tuned_and_ablations_are_not():
    for variant in ("bipvlseg", "bipvlseg-prompted", "bipvlseg-conv", "universal", "dynunet", "unet"):
        assert is_tuned(variant)
    for variant in ("no_fusion", "late_fusion", "prompts-names", "segmentation_alone", "text-random"):
        assert not is_tuned(variant)
    assert not is_tuned("swin_unetr_v2-25_percent")


def test_the_grid_trains_a_third_of_the_epochs_beside_the_final_run(table, tmp_path):
    run = tune.plan_training("laptop", "msd_hippocampus", "dynunet", 0.01, tmp_path)
    final = dataset_settings("laptop", load_spec("msd_hippocampus"))["training"]
    assert run.config["training"]["epochs"] * 3 == final["epochs"]
    assert run.config["training"]["lr"] == 0.01
    assert run.directory.parts[-2:] == ("dynunet", "tuning-0.01")
    assert run.split_path.parts[-2:] == ("msd_hippocampus", "split.json")


def test_every_network_of_the_studies_is_in_the_grid():
    pairs = tune.tuned_networks("laptop", "all")
    assert ("msd_hippocampus", "unet") in pairs and ("openkbp", "bipvlseg-prompted") in pairs
    assert not [v for _, v in pairs if v in ("no_fusion", "prompts-names")]


def test_the_built_in_table_has_one_chosen_rate_per_network_the_best():
    table = pd.read_csv(learning_rates.PATH)
    for _, rows in table.groupby(["profile", "dataset", "variant"]):
        assert rows["chosen"].sum() == 1
        assert rows.loc[rows["chosen"], "val_dice"].item() == rows["val_dice"].max()


def test_the_figure_shows_every_network_and_marks_the_choice(table):
    figure = draw("learning_rates", pd.read_csv(table))
    (axes,) = [a for a in figure.axes if a.get_lines()]
    labels = [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert labels == ["BiPVL-Seg", "SwinUNETR-V2", "CLIP-Driven Universal Model"]
    chosen = [line.get_xdata()[0] for line in axes.get_lines() if line.get_label().startswith("_")]
    assert chosen == [0.02, 0.005, 0.02]
    assert "Real cohort, profile laptop, seed 0" in figure.get_supxlabel().replace("\n", " ")
