"""Accuracy and cost: the table from runs, and labels that do not overlap in the figure."""

import json
import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from bipvl import figures
from bipvl.analysis.efficiency import OF_MACHINE, efficiency, trained_runs
from bipvl.common.errors import BipvlError
from bipvl.engine.build import load_network
from bipvl.engine.variants import variant_title
from bipvl.figures.labels import SIZE, place_labels


@pytest.fixture
def folders(smoke_runs):
    """Both smoke runs, by data set."""
    home = smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset
    return {smoke_runs.dataset: [home / name / "seed0" for name in ("bipvlseg", "swin_unetr_v2")]}


def test_table_has_the_values_of_manifests_and_networks(folders):
    from bipvl.engine.run import Run

    table = efficiency(trained_runs(folders)).set_index("variant")
    assert list(table.index) == ["bipvlseg", "swin_unetr_v2"]
    assert list(table["language"]) == [True, False]
    for folder in folders["mmwhs_ct"]:
        run, row = Run.open(folder), table.loc[folder.parent.name]
        phases = json.loads((folder / "manifest.json").read_text())["phases"]
        scores = pd.read_csv(folder / "metrics.csv")
        dice = scores[(scores["metric"] == "dice") & (scores["grid"] == "scan")]
        network = load_network(run.variant, run.model_folder)
        assert row["parameters"] == sum(p.numel() for p in network.parameters())
        assert row["seconds"] == pytest.approx(phases["evaluate"]["seconds"] / scores["case"].nunique())
        assert row["memory_gib"] == phases["train"]["peak_memory_gib"]
        assert row["dice"] == pytest.approx(dice.groupby("case")["value"].mean().mean())
        assert row["operations"] > 0 and row["machine"]
    assert table["operations"]["bipvlseg"] > table["operations"]["swin_unetr_v2"]


def test_seconds_are_over_all_processes_and_memory_is_the_maximum_over_seeds(folders, tmp_path):
    dataset = tmp_path / "runs" / "smoke" / "mmwhs_ct"
    source = folders["mmwhs_ct"][1]
    shutil.copytree(source.parents[1] / "mean_atlas", dataset / "mean_atlas")
    for seed, (seconds, processes, memory) in enumerate([(6.0, 2, 1.5), (4.0, 1, 2.5)]):
        folder = dataset / "swin_unetr_v2" / f"seed{seed}"
        folder.mkdir(parents=True)
        shutil.copy(source / "metrics.csv", folder)
        config = json.loads((source / "config.json").read_text()) | {"seed": seed}
        (folder / "config.json").write_text(json.dumps(config))
        manifest = json.loads((source / "manifest.json").read_text())
        manifest["phases"]["evaluate"] |= {"seconds": seconds, "processes": processes}
        manifest["phases"]["train"]["peak_memory_gib"] = memory
        (folder / "manifest.json").write_text(json.dumps(manifest))
    seeds = sorted((dataset / "swin_unetr_v2").iterdir())
    (row,) = efficiency({"mmwhs_ct": seeds}).itertuples()
    assert (row.seconds, row.memory_gib, row.seeds) == (8.0, 2.5, "0 1")  # (6 · 2 + 4) / 2, one test case
    del manifest["phases"]["train"]
    (seeds[1] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        BipvlError, match=r"seed1/manifest\.json: has no time and memory of 'train'; delete .*seed1"
    ):
        efficiency({"mmwhs_ct": seeds})


def test_predictions_of_other_tools_have_no_costs(folders, tmp_path):
    other = tmp_path / "seed0"
    other.mkdir()
    (other / "config.json").write_text('{"external": {"folder": "x"}}')
    both = {"mmwhs_ct": [*folders["mmwhs_ct"], other], "mmwhs_mr": [other]}
    assert trained_runs(both) == folders


def test_figure_labels_every_variant_in_every_panel(folders, tmp_path):
    table = efficiency(folders)
    counted = table.drop(columns=OF_MACHINE)  # what is committed must not need what differs from run to run
    for name, of_figure in (("efficiency-mmwhs_ct", counted), ("runtime-mmwhs_ct", table)):
        figure = figures.draw(name, of_figure)
        assert len(figure.axes) == 2
        for axes in figure.axes:
            shown = [text.get_text() for text in axes.texts if text.get_text()]
            assert sorted(shown) == sorted(variant_title(v) for v in table["variant"])
        text = figure.get_supxlabel().replace("\n", " ")
        assert "Synthetic cohort, profile smoke, seed 0" in text
        assert (table["machine"][0] in text) == (name == "runtime-mmwhs_ct")
        assert figures.write(name, of_figure, tmp_path).is_file()


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_each_other_nor_a_point(seed):
    random = np.random.default_rng(seed)
    x, y = 10 ** random.uniform(0, 1, 12), np.clip(random.normal(0.7, 0.02, 12), 0.66, 0.74)
    names = [f"Network {'of some length '[: random.integers(0, 15)]}{i}" for i in range(12)]
    figure = Figure(figsize=(3.5, 2.8))
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(0.8, 12), ylim=(0.64, 0.76))
    figure.draw_without_rendering()
    place_labels(axes, x, y, names, ["black"] * 12)
    texts = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a, b in combinations([box.shrunk(0.98, 0.98) for box in boxes], 2))
    reach = SIZE * figure.dpi / 72 / 2
    for place in axes.transData.transform(np.column_stack([x, y])):
        assert not any(box.padded(reach).contains(*place) for box in boxes)
    assert all(axes.bbox.padded(1).contains(*corner) for box in boxes for corner in (box.p0, box.p1))
